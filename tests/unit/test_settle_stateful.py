"""The settle protocol once more, driven by hypothesis: it chooses what happens next, and makes what goes wrong small.

The kernel and the promises are those of test_settle_protocol.py. A run is like any other, so that it finds fault with a
change and not with chance; `NUMATRACE_STATES=1000` tries a thousand others, and what has gone wrong is tried first the
next time.
"""

from __future__ import annotations

import os
from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.unit.settle_cases import EVERYTHING, KERNELS, OPERATIONS, PLACES_REACHED, Draw
from tests.unit.settle_tracer import Refresh, Tracer, play
from tests.unit.settle_world import NODES, PLACES, UNITS, World, page

AREAS = (EVERYTHING, ((0, 3), (3, 5), (6, 8)), ((0, 4), (6, 8)))
NAMES = sorted(OPERATIONS)


class Protocol(RuleBasedStateMachine):
    """Threads of the target and of others do things, and the tracer looks, in any order, and in the midst of each
    other. In the end all come to rest."""

    tracer: Tracer

    @initialize(
        kernel=st.sampled_from(sorted(KERNELS)),
        areas=st.sampled_from(AREAS),
        pages=st.dictionaries(st.integers(0, PLACES - 1), st.tuples(st.integers(0, NODES - 1), st.booleans())),
        kinds=st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True),
        share=st.sampled_from((0.02, 0.3)),
        random=st.randoms(use_true_random=False),
    )
    def begins(
        self,
        kernel: str,
        areas: tuple[tuple[int, int], ...],
        pages: dict[int, tuple[int, bool]],
        kinds: list[str],
        share: float,
        random: Random,
    ) -> None:
        """There is a target with some pages, and it is looked at for the first time."""
        world = World(KERNELS[kernel], areas)
        mapped = {unit for start, end in areas for unit in range(start, end)}
        assert mapped <= set(range(UNITS))
        for place, (node, writable) in pages.items():
            if place >> 1 in mapped:
                world.entries[place] = page(node, writable)
        world.begin()
        self.tracer = Tracer(world, share=share)
        self.kinds = kinds
        self.first = random.randrange(UNITS - 1)
        self.tracer.refresh(Refresh())

    def draw(self, random: Random) -> Draw:
        """What happens next has its place where the rest happens, so that things meet."""
        it = Draw(random, self.kinds)
        it.first = self.first
        return it

    @rule(random=st.randoms(use_true_random=False))
    def something_happens(self, random: Random) -> None:
        self.tracer.go(self.draw(random).go())

    @rule(
        random=st.randoms(use_true_random=False),
        places=st.lists(st.integers(0, PLACES_REACHED - 1), max_size=3),
        swaps=st.booleans(),
    )
    def it_is_looked_at(self, random: Random, places: list[int], swaps: bool) -> None:
        """And more happens in the midst of that."""
        draw = self.draw(random)
        self.tracer.refresh(Refresh(tuple((place, draw.go()) for place in sorted(places)), swaps))

    @rule()
    def the_epoch_ends(self) -> None:
        self.tracer.swap()

    def teardown(self) -> None:
        """All come to rest, with the sleeping faults asleep, and once more after they have ended."""
        if hasattr(self, "tracer"):
            play(self.tracer, ())


STATES = int(os.environ.get("NUMATRACE_STATES", "0"))

TestProtocol = Protocol.TestCase
TestProtocol.settings = settings(max_examples=STATES or 60, stateful_step_count=20, derandomize=not STATES)

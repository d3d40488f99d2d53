"""Cases for the settle protocol: a kernel, what is mapped at first, and what happens; drawn at random, or told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import NamedTuple

from tests.unit.settle_tracer import Go, Refresh, Script, Swap, Tracer, Wrong, play
from tests.unit.settle_world import NODES, PLACES, REGIONS, UNITS, Kernel, Op, World, page
from tracer.session_settle import Settler

__all__ = [
    "EVERYTHING",
    "KERNELS",
    "OPERATIONS",
    "PLACES_REACHED",
    "Case",
    "Draw",
    "random_case",
    "run",
    "smallest",
]

KERNELS = {
    "6.1": Kernel("none", batched=True, exact=True),
    "6.6": Kernel("plain"),
    "6.6, exact RSS": Kernel("plain", exact=True),
    "6.18": Kernel("count"),
    "6.18, exact RSS": Kernel("count", exact=True),
    "6.18, short logs": Kernel("count", log=2),
}
EVERYTHING = ((0, UNITS),)
PLACES_REACHED = 40  # of a refresh, more or less


class Case(NamedTuple):
    """pages: place, node and whether it is writable. leaves: region and node of huge pages. share: of a CPU, for
    audits."""

    kernel: Kernel
    script: Script
    areas: tuple[tuple[int, int], ...] = EVERYTHING
    pages: tuple[tuple[int, int, bool], ...] = ()
    leaves: tuple[tuple[int, int], ...] = ()
    share: float = 0.3


def run(case: Case, kind: type[Settler] = Settler) -> Tracer:
    """Play a case; raises `Wrong`."""
    world = World(case.kernel, case.areas)
    for place, node, writable in case.pages:
        world.entries[place] = page(node, writable)
    for region, node in case.leaves:
        world.leaves[region] = page(node)
    world.begin()
    tracer = Tracer(world, kind, case.share)
    play(tracer, case.script)
    return tracer


def smallest(case: Case, kind: type[Settler] = Settler) -> Case:
    """What is left of a case that goes wrong when nothing more can be left out. It is printed as well."""
    again = True
    while again:
        again = False
        for less in _with_less(case):
            if _goes_wrong(less, kind):
                case, again = less, True
                break
    print(case)
    return case


def _goes_wrong(case: Case, kind: type[Settler]) -> bool:
    try:
        run(case, kind)
    except Wrong:
        return True
    return False


def _with_less(case: Case) -> Iterator[Case]:
    """The same without one of its parts."""
    for at, it in enumerate(case.script):
        before, after = case.script[:at], case.script[at + 1 :]
        yield case._replace(script=(*before, *after))
        if isinstance(it, Refresh):
            for i in range(len(it.meanwhile)):
                less = it._replace(meanwhile=(*it.meanwhile[:i], *it.meanwhile[i + 1 :]))
                yield case._replace(script=(*before, less, *after))
    for at in range(len(case.pages)):
        yield case._replace(pages=(*case.pages[:at], *case.pages[at + 1 :]))
    for at in range(len(case.leaves)):
        yield case._replace(leaves=(*case.leaves[:at], *case.leaves[at + 1 :]))


# --- at random ---


def random_case(random: Random, kernel: Kernel, kinds: Sequence[str] = ()) -> Case:
    """Some happenings and refreshes, with more happenings in the midst of those. Only a few kinds of them (the given
    ones), and mostly in one part of the memory, so that they meet."""
    draw = Draw(random, kinds or random.sample(sorted(OPERATIONS), random.choice((1, 2, 3, 4))))
    script: list[Go | Refresh | Swap] = [Refresh()]
    for _ in range(random.randint(2, 8)):
        script += [draw.go() for _ in range(random.randint(0, 4))]
        script += [Swap()] * (random.random() < 0.1)
        script.append(Refresh(draw.meanwhile(), random.random() < 0.1))
    areas = random.choice((EVERYTHING, ((0, 3), (3, 5), (6, 8)), ((0, 4), (6, 8))))
    inside = {unit for start, end in areas for unit in range(start, end)}
    leaves = [it for it in range(REGIONS) if random.random() < 0.2 and {it * 2, it * 2 + 1} <= inside]
    pages = [it for it in range(PLACES) if random.random() < 0.5 and it >> 2 not in leaves and it >> 1 in inside]
    return Case(
        kernel,
        tuple(script),
        areas,
        tuple((it, random.randrange(NODES), random.random() < 0.5) for it in pages),
        tuple((it, random.randrange(NODES)) for it in leaves),
        random.choice((0.02, 0.3)),
    )


class Draw:
    """What the happenings of one case have in common."""

    def __init__(self, random: Random, kinds: Sequence[str]) -> None:
        self._random, self._kinds = random, kinds
        self.first = random.randrange(UNITS - 1)
        self._wide = random.random() < 0.3

    def meanwhile(self) -> tuple[tuple[int | str, Go], ...]:
        """Happenings in the midst of a refresh; often one after the other, at the same place."""
        random = self._random
        places = [random.randrange(random.choice((12, PLACES_REACHED))) for _ in range(random.choice((0, 0, 1, 1, 2)))]
        return tuple((at, self.go()) for at in sorted(places) for _ in range(random.choice((1, 1, 2, 3))))

    def go(self) -> Go:
        """A thread does something, or goes on with what it is doing."""
        random = self._random
        if random.random() < 0.2:
            what = random.choice(("move", "move", "wake", "wake", "kill", "busy"))
            return Go(random.choice("ABC"), Op(what, random.randrange(2)))
        kind = random.choice(self._kinds)
        actor = "X" if kind in ("reclaim", "write") else random.choice("ABC")
        return Go(actor, OPERATIONS[kind](self), random.choice((1, 2, 3, 4, 6, 9, 1000, 1000, 1000, 1000)))

    def unit(self) -> int:
        """One of two neighbours, or any."""
        return self._random.randrange(UNITS) if self._wide else self.first + self._random.randrange(2)

    def place(self) -> int:
        """A place of a unit."""
        return self.unit() * 2 + self._random.randrange(2)

    def units(self) -> tuple[int, int]:
        """A range of units."""
        at = self.unit()
        return at, min(UNITS, at + self._random.randint(1, 4))

    def node(self) -> int:
        """A node, or whether it is to write."""
        return self._random.randrange(2)

    def one_of(self, *words: str) -> str:
        """A variant."""
        return self._random.choice(words)


def _fault(draw: Draw) -> Op:
    how = draw.one_of("anon", "anon", "file", "around", "huge") + draw.one_of("", "", "!")
    return Op("fault", draw.place(), draw.node(), draw.node(), how)


OPERATIONS: dict[str, Callable[[Draw], Op]] = {
    "fault": _fault,
    "sleeping fault": lambda draw: Op("fault", draw.place(), 1, draw.node(), draw.one_of("anon!", "around!")),
    "discard": lambda draw: Op("discard", *draw.units()),
    "unmap": lambda draw: Op("unmap", *draw.units(), how=draw.one_of("", "whole")),
    "map": lambda draw: Op("map", *draw.units(), draw.node(), draw.one_of("", "fixed", "populate", "fixed populate")),
    "split": lambda draw: Op("split", draw.unit()),
    "remap": lambda draw: Op("remap", draw.unit(), draw.node() * 3 + 2),
    "migrate": lambda draw: Op("migrate", draw.place(), 0, draw.node()),
    "reclaim": lambda draw: Op("reclaim", draw.place()),
    "write": lambda draw: Op("write", draw.place(), 0, draw.node()),
}

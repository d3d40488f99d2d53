"""What a session says of policies, against what was done and where move_pages(2) says that the pages are.

A model of three lines knows for each page under which policy it was touched. With it, the number of misplaced pages of
each cause is known by construction: on machines with several nodes these are many, on one with a single node none.
"""

from __future__ import annotations

import mmap
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import pytest

from tests.kernel import machine
from tests.kernel.frames import placed
from tests.kernel.target import Target
from tests.kernel.traced import Traced, traced_with
from tests.kernel.world import HUGE, PAGE, World
from tracer.model.cause import Cause
from tracer.model.policies import Policies, PolicyChange
from tracer.model.policy import Mode, Policy
from tracer.model.snapshot import Snapshot
from tracer.session import Options, Session

HOOKED = Options(hooks="tracepoint", reader="walk", policies=True)
NO_HUGE_PAGE = 15
MOVE = 2  # MPOL_MF_MOVE
PAGES = 1024
LENGTH = PAGES * PAGE


@pytest.fixture(scope="module")
def traced(quiet_machine: None) -> Iterator[Traced]:
    with traced_with(HOOKED) as it:
        yield it


@pytest.fixture
def world(traced: Traced, nodes: list[int], files: object) -> Iterator[World]:
    it = World(traced.target, nodes, files)  # type: ignore[arg-type]
    it.pin(min(machine.cpu_of_each_node().values()))
    yield it
    it.clear()
    traced.session.refresh()


def look(session: Session, pid: int) -> tuple[Snapshot, Policies]:
    (snapshot,) = (it for it in session.refresh().snapshots if it.pid == pid)
    assert snapshot.policies is not None
    return snapshot, snapshot.policies


def causes(snapshot: Snapshot, start: int, end: int) -> Counter[Cause]:
    """Misplaced pages in a range of addresses."""
    assert snapshot.policies is not None
    it = snapshot.policies.misplaced
    sums: Counter[Cause] = Counter()
    for row, cause, pages in zip(it.vma.tolist(), it.cause.tolist(), it.pages.tolist(), strict=True):
        if start <= snapshot.vmas[row].start < end:
            sums[Cause(cause)] += pages
    return sums


@dataclass
class Page:
    """policy: (mode, nodes) of the VMA when it was touched, None for none. node: where it is, -1 if it is not there."""

    policy: tuple[int, tuple[int, ...]] | None = None
    node: int = -1
    moved: bool = False


@dataclass
class Model:
    """What was done to the pages of a slot."""

    world: World
    pages: list[Page] = field(default_factory=lambda: [Page() for _ in range(PAGES)])
    policies: list[tuple[int, tuple[int, ...]] | None] = field(default_factory=lambda: [None] * PAGES)

    def expected_node(self, number: int) -> int | None:
        """By the rules of mm/mempolicy.c: interleave goes by address; None for no policy."""
        policy = self.policies[number]
        if policy is None:
            return None
        mode, nodes = policy
        if mode == Mode.INTERLEAVE:
            return nodes[((self.world.address(0) >> 12) + number) % len(nodes)]
        return nodes[0]

    def causes(self) -> Counter[Cause]:
        sums: Counter[Cause] = Counter()
        for number, page in enumerate(self.pages):
            expected = self.expected_node(number)
            if page.node < 0 or expected in (None, page.node):
                continue
            if page.policy != self.policies[number]:
                sums[Cause.BEFORE_POLICY] += 1
            else:
                sums[Cause.MOVED if page.moved else Cause.UNKNOWN] += 1
        return sums


def do_one(model: Model, dice: random.Random) -> str:
    """One random operation on a random range."""
    world, first, count = model.world, dice.randrange(PAGES), dice.randrange(1, 300)
    count = min(count, PAGES - first)
    there = range(first, first + count)
    what = dice.choice(["touch", "touch", "lock", "bind", "bind", "free", "move", "unbind"])
    offset, length = first * PAGE, count * PAGE
    if what in ("touch", "lock"):
        if what == "touch":
            world.write(offset, length)
        else:  # no page fault
            world.ask("lock", world.slot, offset, length)
            world.ask("unlock", world.slot, offset, length)
        for number in there:
            if model.pages[number].node < 0:
                model.pages[number] = Page(model.policies[number], 0)
    elif what == "bind":
        mode = dice.choice([Mode.INTERLEAVE, Mode.INTERLEAVE, Mode.BIND, Mode.PREFERRED])
        # Kernels before 6.7 cut the number of a page to 32 bits, which is seen with three nodes (offset_il_node()).
        few = 1 if mode != Mode.INTERLEAVE else dice.choice([n for n in (1, 2, 4) if n <= len(world.nodes)])
        nodes = tuple(sorted(dice.sample(world.nodes, few)))
        world.bind(offset, length, mode, sum(1 << node for node in nodes))
        for number in there:
            model.policies[number] = (mode, nodes)
    elif what == "unbind":
        world.bind(offset, length, Mode.DEFAULT, 0)
        for number in there:
            model.policies[number] = None
    elif what == "free":
        world.advise(offset, length, 4)  # MADV_DONTNEED
        for number in there:
            model.pages[number] = Page()
    else:
        node = dice.choice(world.nodes)
        world.ask("move", world.slot, offset, length, node)
        for number in there:
            page = model.pages[number]
            if page.node >= 0 and page.node != node:
                page.policy, page.moved = model.policies[number], True
    found = placed(world.pid, world.address(0), LENGTH).nodes.tolist()
    for page, node in zip(model.pages, found, strict=True):
        assert (page.node >= 0) == (node >= 0)
        page.node = node
    return f"{what} {first} {count}"


@pytest.mark.parametrize("seed", range(4))
def test_every_misplaced_page_has_the_cause_that_it_had(world: World, traced: Traced, seed: int) -> None:
    dice = random.Random(seed)
    world.map(0, LENGTH)
    world.advise(0, LENGTH, NO_HUGE_PAGE)
    model = Model(world)
    done = []
    for _ in range(30):
        done.append(do_one(model, dice))
        snapshot, policies = look(traced.session, world.pid)
        assert causes(snapshot, world.address(0), world.address(LENGTH)) == model.causes(), done
        for row, vma in enumerate(snapshot.vmas):
            if world.address(0) <= vma.start < world.address(LENGTH) and vma.policy.mode:
                first = vma.start - world.address(0) >> 12
                there = [n for n in range(first, first + (vma.end - vma.start >> 12)) if model.pages[n].node >= 0]
                wanted = Counter(model.expected_node(number) for number in there)
                assert dict(zip(snapshot.node_ids, policies.rule[row].tolist(), strict=True)) == {
                    node: wanted[node] for node in snapshot.node_ids
                }, done


def test_changes_say_what_was_set_where(world: World, traced: Traced) -> None:
    world.map(0, LENGTH)
    look(traced.session, world.pid)
    world.bind(0, LENGTH // 2, Mode.INTERLEAVE, world.mask)
    world.policy(Mode.PREFERRED, 1 << world.last)
    _, policies = look(traced.session, world.pid)
    spread, near = Policy(Mode.INTERLEAVE, nodes=tuple(world.nodes)), Policy(Mode.PREFERRED, nodes=(world.last,))
    told = {(it.start, it.end, it.thread): (it.old and it.old.text(), it.new) for it in policies.changes}
    assert told == {
        (world.address(0), world.address(LENGTH // 2), 0): (None, spread),
        (0, 0, world.pid): ("default", near),
    }
    assert not any(it.exact or it.call for it in policies.changes)
    assert policies.threads[0].policy == near
    assert not look(traced.session, world.pid)[1].changes
    world.policy(Mode.DEFAULT, 0)
    world.bind(0, LENGTH // 4, Mode.DEFAULT, 0)
    _, policies = look(traced.session, world.pid)
    assert [(it.old, it.new and it.new.text()) for it in policies.changes if it.end] == [(spread, None)]
    assert [it.new.text() for it in policies.changes if it.new and not it.end] == ["default"]


def test_own_tells_a_vmas_policy_from_its_tasks(world: World, traced: Traced) -> None:
    world.map(0, LENGTH)
    world.write(0, LENGTH)
    world.bind(0, LENGTH // 2, Mode.BIND, world.mask)
    world.policy(Mode.INTERLEAVE, world.mask)
    snapshot, policies = look(traced.session, world.pid)
    mine = {
        vma.start: (vma.policy.text().partition(":")[0], bool(policies.own[row]))
        for row, vma in enumerate(snapshot.vmas)
        if world.address(0) <= vma.start < world.address(LENGTH)
    }
    assert mine == {world.address(0): ("bind", True), world.address(LENGTH // 2): ("interleave", False)}


def test_a_thread_of_its_own_policy_is_told_from_the_rest(world: World, traced: Traced) -> None:
    """The thread was there before the policy was, so what it touches is not interleaved."""
    world.map(0, LENGTH)
    world.advise(0, LENGTH, NO_HUGE_PAGE)
    thread = world.pinned(0, PAGE, min(machine.cpu_of_each_node().values()))
    world.policy(Mode.INTERLEAVE, world.mask)
    _, policies = look(traced.session, world.pid)
    assert {it.thread: it.policy.text().partition(":")[0] for it in policies.threads} == {
        world.pid: "interleave",
        thread: "default",
    }


def test_huge_pages_count_as_one_decision_each(world: World, traced: Traced) -> None:
    world.map(0, 4 * HUGE)
    world.bind(0, 4 * HUGE, Mode.INTERLEAVE, world.mask)
    world.advise(0, 2 * HUGE, 14)
    world.advise(2 * HUGE, 2 * HUGE, NO_HUGE_PAGE)
    world.write(0, 4 * HUGE)
    snapshot, policies = look(traced.session, world.pid)
    rows = {vma.start: row for row, vma in enumerate(snapshot.vmas)}
    large, small = rows[world.address(0)], rows[world.address(2 * HUGE)]
    assert world.transparent_huge(0) == 2 * HUGE
    assert (int(policies.huge[large]), int(policies.huge[small])) == (1024, 0)
    assert (policies.units[large], policies.units[small]) == (2, 1024)
    assert not causes(snapshot, world.address(0), world.address(4 * HUGE))
    assert np.array_equal(policies.rule[large], snapshot.pages[large])
    assert np.array_equal(policies.rule[small], snapshot.pages[small])


def test_a_cached_file_is_not_governed_by_its_mappings_policy(world: World, traced: Traced) -> None:
    world.open(LENGTH)
    world.map(0, LENGTH, mmap.MAP_PRIVATE, file=True)
    world.bind(0, LENGTH, Mode.INTERLEAVE, world.mask)
    world.read(0, LENGTH)
    snapshot, policies = look(traced.session, world.pid)
    (row,) = (row for row, vma in enumerate(snapshot.vmas) if vma.start == world.address(0))
    assert not policies.governed[row]
    nodes = placed(world.pid, world.address(0), LENGTH).nodes
    turn = np.array(world.nodes)[np.arange(PAGES) % len(world.nodes)]
    elsewhere = int((nodes != turn).sum())
    assert causes(snapshot, world.address(0), world.address(LENGTH)) == Counter(
        {Cause.PAGE_CACHE: elsewhere} if elsewhere else {}
    )
    world.write(0, LENGTH // 2)  # its own copies
    snapshot, policies = look(traced.session, world.pid)
    assert policies.governed[row]


def test_a_target_at_rest_shows_the_same_object(world: World, traced: Traced) -> None:
    world.map(0, LENGTH)
    world.bind(0, LENGTH, Mode.INTERLEAVE, world.mask)
    world.write(0, LENGTH)
    for _ in range(4):
        _, before = look(traced.session, world.pid)
    _, after = look(traced.session, world.pid)
    assert after is before


def test_calls_are_told_with_their_time_and_thread(quiet_machine: None, nodes: list[int], files: object) -> None:
    with Target() as target, Session(target.pid, Options(policies=True, policy_calls=True)) as session:
        world = World(target, nodes, files)  # type: ignore[arg-type]
        world.map(0, LENGTH)
        world.advise(0, LENGTH, NO_HUGE_PAGE)
        session.refresh()
        began = datetime.now().astimezone()
        world.write(0, LENGTH // 4)
        world.bind(0, LENGTH, Mode.INTERLEAVE, world.mask)
        world.write(LENGTH // 4, LENGTH // 4)
        world.policy(Mode.BIND, world.mask)
        ended = datetime.now().astimezone()
        snapshot, policies = look(session, target.pid)
        mbind, set_mempolicy = policies.changes
        expected = Policy(Mode.INTERLEAVE, nodes=tuple(nodes))
        assert mbind == PolicyChange(
            mbind.time, True, target.pid, world.address(0), world.address(LENGTH), None, expected, "mbind"
        )
        assert (set_mempolicy.call, set_mempolicy.thread, set_mempolicy.exact) == ("set_mempolicy", target.pid, True)
        assert set_mempolicy.new == Policy(Mode.BIND, nodes=tuple(nodes))
        assert began <= mbind.time < set_mempolicy.time <= ended
        turn = np.array(nodes)[np.arange(PAGES // 4) % len(nodes)]
        there = placed(target.pid, world.address(0), LENGTH // 4).nodes
        elsewhere = int((there != turn).sum())
        assert causes(snapshot, world.address(0), world.address(LENGTH)) == Counter(
            {Cause.BEFORE_POLICY: elsewhere} if elsewhere else {}
        )

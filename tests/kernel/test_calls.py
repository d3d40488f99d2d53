"""System calls that set policies, as the hooks tell them: who called with what; which pages came before and after."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.target import CommandFailed, Target
from tests.kernel.test_placed import NO_HUGE_PAGE, Followed, followed
from tests.kernel.world import HUGE, PAGE, World
from tracer.kernel.btf import Btf
from tracer.kernel.epoch import PolicyCall
from tracer.kernel.machinery import Options
from tracer.model.policy import F_STATIC_NODES, Mode

MPOL_MF_MOVE = 2
LENGTH = 64 * PAGE


@pytest.fixture(scope="module", params=["functions", "every call"])
def hooked(quiet_machine: None, request: pytest.FixtureRequest) -> Iterator[Followed]:
    """Both ways to see the calls: the second one is all that a kernel has that lets nobody attach to its functions."""
    with pytest.MonkeyPatch.context() as patched:
        if request.param == "every call":
            patched.setattr(Btf, "function", lambda *_: None)
        with followed(Options(hooks="tracepoint", reader="walk", policy_calls=True)) as it:
            assert it.hooks.slows_calls or request.param == "functions"
            yield it


@pytest.fixture
def world(hooked: Followed, nodes: list[int], files: Path) -> Iterator[World]:
    it = World(hooked.target, nodes, files)
    it.map(0, LENGTH)
    it.advise(0, LENGTH, NO_HUGE_PAGE)
    hooked.drained()
    yield it
    it.clear()
    hooked.drained()


def last(hooked: Followed) -> PolicyCall:
    (call,) = hooked.drained().calls
    return call


def test_mbind(hooked: Followed, world: World) -> None:
    before = time.monotonic_ns()
    world.bind(PAGE, 5 * PAGE, Mode.BIND | F_STATIC_NODES, world.mask, MPOL_MF_MOVE)
    after = time.monotonic_ns()
    call = last(hooked)
    assert before < call.time_ns < after
    assert call[1:9] == (
        world.pid,
        "mbind",
        world.address(PAGE),
        world.address(6 * PAGE),
        Mode.BIND,
        F_STATIC_NODES,
        tuple(world.nodes),
        0,
    )
    assert call.mbind_flags == MPOL_MF_MOVE


def test_a_policy_without_nodes(hooked: Followed, world: World) -> None:
    world.bind(0, LENGTH, Mode.DEFAULT, 0)
    call = last(hooked)
    assert (call.call, call.mode, call.flags, call.nodes) == ("mbind", Mode.DEFAULT, 0, ())


def test_set_mempolicy(hooked: Followed, world: World) -> None:
    world.policy(Mode.INTERLEAVE, world.mask)
    call = last(hooked)
    assert (call.thread, call.call, call.start, call.end) == (world.pid, "set_mempolicy", 0, 0)
    assert (call.mode, call.nodes, call.result) == (Mode.INTERLEAVE, tuple(world.nodes), 0)


def test_a_home_node(hooked: Followed, world: World) -> None:
    world.bind(0, LENGTH, Mode.BIND, world.mask)
    world.ask("home", world.slot, 0, LENGTH, world.last)
    bound, call = hooked.drained().calls
    assert bound.call == "mbind"
    assert (call.call, call.start, call.end) == ("set_mempolicy_home_node", world.address(0), world.address(LENGTH))
    assert (call.nodes, call.result) == ((world.last,), 0)
    assert call.sequence == (bound.sequence + 1) % 4096


def test_a_call_that_fails_changes_nothing(hooked: Followed, world: World) -> None:
    world.policy(Mode.DEFAULT, 0)
    first = last(hooked)
    with pytest.raises(CommandFailed):
        world.target.ask("policy", 99, world.mask)
    world.write(0, PAGE)
    drained = hooked.drained()
    (call,), (rows,) = drained.calls, drained.placed
    assert (call.mode, call.result, call.sequence) == (99, -errno.EINVAL, first.sequence)
    assert set(rows.sequence.tolist()) == {first.sequence}


def test_pages_before_and_after_a_call_are_told_apart(hooked: Followed, world: World) -> None:
    """Within one epoch, and in one area."""
    world.write(0, 10 * PAGE)
    world.bind(0, LENGTH, Mode.INTERLEAVE, world.mask)
    world.write(10 * PAGE, 10 * PAGE)
    world.bind(0, LENGTH, Mode.BIND, 1 << world.last)
    world.write(20 * PAGE, 10 * PAGE)
    drained = hooked.drained()
    one, other = drained.calls
    assert other.sequence == (one.sequence + 1) % 4096
    told = {}
    for rows in drained.placed:
        for address, sequence, pages in zip(rows.address.tolist(), rows.sequence.tolist(), rows.pages, strict=True):
            if address == world.address(0):
                told[sequence] = pages.nonzero()[0].tolist()
    first, second, third = (one.sequence - 1) % 4096, one.sequence, other.sequence
    assert told == {first: list(range(10)), second: list(range(10, 20)), third: list(range(20, 30))}


def test_calls_of_all_epochs_are_in_order(hooked: Followed, world: World) -> None:
    modes = [Mode.BIND, Mode.PREFERRED, Mode.INTERLEAVE, Mode.DEFAULT]
    for mode in modes:
        world.policy(mode, 0 if mode == Mode.DEFAULT else 1 << world.last)
    calls = hooked.drained().calls
    assert [call.mode for call in calls] == modes
    assert [call.sequence for call in calls] == [(calls[0].sequence + i) % 4096 for i in range(len(modes))]


def test_calls_of_others_are_not_told(hooked: Followed, world: World) -> None:
    with Target() as other:
        there = World(other, world.nodes, Path("/nowhere"))
        there.map(0, HUGE)
        there.bind(0, HUGE, Mode.BIND, world.mask)
        there.policy(Mode.INTERLEAVE, world.mask)
    assert hooked.drained().calls == []


def test_they_are_told_only_when_they_are_asked_for(quiet_machine: None, nodes: list[int]) -> None:
    with followed(Options(hooks="tracepoint", reader="walk", policies=True)) as it:
        world = World(it.target, nodes, Path("/nowhere"))
        world.map(0, LENGTH)
        world.advise(0, LENGTH, NO_HUGE_PAGE)
        it.drained()
        world.bind(0, LENGTH, Mode.BIND, world.mask)
        world.write(0, PAGE)
        drained = it.drained()
        assert not it.hooks.slows_calls
        assert drained.calls == []
        assert {sequence for rows in drained.placed for sequence in rows.sequence.tolist()} == {0}

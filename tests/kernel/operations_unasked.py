"""Operations: pages that the kernel moves or replaces by itself, though nobody has touched them."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.kernel import cgroups, machine
from tests.kernel.world import PAGE, KernelLacks, Operation, Step, World
from tracer.kernel.tiers import memory_tiers
from tracer.model.policy import Mode

__all__ = ["UNASKED"]

_SMALL = 64 * PAGE
_MERGEABLE, _UNMERGEABLE, _NO_HUGE_PAGE = 12, 13, 15
_KSM_RUN = Path("/sys/kernel/mm/ksm/run")
_NODES = Path("/sys/devices/system/node")
_DEMOTION = Path("/sys/kernel/mm/numa/demotion_enabled")

_EVENTS = "each page that moved is told, wherever it is"
_UNMERGED = "the kernel did it"


def _spread(w: World, offset: int, length: int) -> None:
    """Small pages, spread over all nodes, under no policy of their own any more."""
    w.map(offset, length)
    w.advise(offset, length, _NO_HUGE_PAGE, lacking=(errno.EINVAL,))
    w.bind(offset, length, Mode.INTERLEAVE, w.mask)
    w.write(offset, length)
    w.bind(offset, length, Mode.DEFAULT, 0)


def _merge(w: World) -> Iterator[Step]:
    """Equal pages become one page, which is on one node."""
    if not _KSM_RUN.exists():
        raise KernelLacks("no KSM")
    _spread(w, 0, 2 * _SMALL)
    w.advise(0, 2 * _SMALL, _MERGEABLE, lacking=(errno.EINVAL,))
    yield Step("equal pages on all nodes", 128)
    with machine.same_page_merging():
        pass
    assert len(w.where(0, 2 * _SMALL)) == 1
    yield Step("merged", 128)
    w.write(0, 32 * PAGE)
    yield Step("32 written", 128)
    w.advise(_SMALL, _SMALL, _UNMERGEABLE)
    yield Step("half of them made unmergeable", 128, audited=_UNMERGED)
    with machine.setting(_KSM_RUN, "2"):
        pass
    yield Step("all unmerged", 128, audited=_UNMERGED)


def _balance(w: World) -> Iterator[Step]:
    """Two threads on the first and the last node with a CPU want the same pages near them."""
    cpus = machine.cpu_of_each_node()
    if len(cpus) < 2:
        raise KernelLacks("one node with CPUs")
    pages = 256
    w.map(0, pages * PAGE)
    w.advise(0, pages * PAGE, _NO_HUGE_PAGE, lacking=(errno.EINVAL,))
    w.write(0, pages * PAGE)
    yield Step("touched", pages)
    moved = machine.vmstat("numa_pages_migrated")
    with machine.numa_balancing():
        w.ask("fight", w.slot, 0, pages * PAGE, cpus[min(cpus)], cpus[max(cpus)], 8, 3000)
    assert machine.vmstat("numa_pages_migrated") > moved, "nothing was moved"
    yield Step("fought over by two threads", pages, audited=_EVENTS)


def _compact(w: World) -> Iterator[Step]:
    length = 1024 * PAGE
    w.map(0, length)
    w.advise(0, length, _NO_HUGE_PAGE, lacking=(errno.EINVAL,))
    w.bind(0, length, Mode.PREFERRED, 1 << w.last)
    w.write(0, length)
    w.ask("sieve", w.slot, 0, length)
    yield Step("every second page", 512)
    (_NODES / f"node{w.last}/compact").write_text("1")
    yield Step("the node compacted", 512, audited=_EVENTS)


def _unplug(w: World) -> Iterator[Step]:
    """Takes the block of memory away in which the target has its pages, and gives it back."""
    length = 1024 * PAGE
    with machine.movable_block(w.last) as state:
        w.map(0, length)
        w.advise(0, length, _NO_HUGE_PAGE, lacking=(errno.EINVAL,))
        w.bind(0, length, Mode.PREFERRED, 1 << w.last)
        w.write(0, length)
        yield Step("on the last node", 1024)
        before = _frames(w, length)
        here = before // np.uint64(machine.frames_per_block()) == int(state.parent.name.removeprefix("memory"))
        assert here.any()
        state.write_text("offline")
        assert (_frames(w, length)[here] != before[here]).all()
        yield Step("a block taken away", 1024, audited=_EVENTS)
        state.write_text("online_movable")
        yield Step("and given back", 1024)
        w.ask("move", w.slot, 0, length, w.nodes[0])
        yield Step("all moved to the first node", 1024)


def _frames(w: World, length: int) -> npt.NDArray[np.uint64]:
    """Page frame numbers, as pagemap tells them."""
    with open(f"/proc/{w.pid}/pagemap", "rb", buffering=0) as pagemap:
        pagemap.seek(w.address(0) // PAGE * 8)
        return np.frombuffer(pagemap.read(length // PAGE * 8), np.uint64) & np.uint64((1 << 55) - 1)


def _demote(w: World) -> Iterator[Step]:
    tiers = memory_tiers()
    if len(set(tiers.values())) < 2:
        raise KernelLacks("one tier of memory")
    slow = max(tiers, key=lambda node: tiers[node])
    with cgroups.reclaimable(w.pid) as reclaim, machine.setting(_DEMOTION, "true"):
        length = 1024 * PAGE
        w.map(0, length)
        w.advise(0, length, _NO_HUGE_PAGE, lacking=(errno.EINVAL,))
        w.bind(0, length, Mode.INTERLEAVE, w.mask & ~(1 << slow))
        w.write(0, length)
        w.bind(0, length, Mode.DEFAULT, 0)
        yield Step("on fast nodes", 1024)
        machine.until(lambda: reclaim(length // 2) and slow in w.where(0, length), "reclaim demotes pages")
        yield Step("demoted", 1024, audited=_EVENTS)


UNASKED: dict[str, Operation] = {
    "KSM": _merge,
    "NUMA balancing": _balance,
    "compaction": _compact,
    "memory hot-unplug": _unplug,
    "demotion": _demote,
}

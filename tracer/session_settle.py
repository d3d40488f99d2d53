"""Keeping the counters of one address space exact: events say which regions to read again, a reader reads them.

The rules (docs/architecture.md): attach before the seed; a region is read in the epoch after the one that touched it,
and once more in the next; a fault that is not known to be finished keeps its region dirty; a read is valid only if
nothing touched the region meanwhile; what no event explains is found by an audit of everything.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tracer.errors import NumatraceError
from tracer.kernel.detail_walk import details_of_lines, read_details
from tracer.kernel.hooks import Drained, Pending, merge
from tracer.kernel.machinery import Machinery
from tracer.kernel.memory import Glance, Layout, WalkedMemory
from tracer.kernel.numa_maps import read_numa_maps
from tracer.kernel.pagemap import Pagemap
from tracer.kernel.procfs import TargetGone, read_maps, resident_pages
from tracer.kernel.walk import Survey
from tracer.model.policy import DEFAULT, Policy
from tracer.model.snapshot import Details, Trust
from tracer.model.spans import RESTLESS, SpanTable
from tracer.model.state import State

__all__ = ["Settler"]

Int64s = npt.NDArray[np.int64]
Uint64s = npt.NDArray[np.uint64]
NONE = np.empty(0, np.int64)
REGION = 1 << 21

EXEC_PATIENCE_S = 10.0
LIST_PATIENCE_S = 2.0  # how long the first VMA list of a target that maps and unmaps all the time is tried for
SEED_BY_WALK_PAGES = 1 << 18  # 1 GiB: from here on the seed walks, and a sample is checked against pagemap
SAMPLE = 8  # regions of such a sample, one page of each span
AUDIT_CREDIT_S = 2.0  # CPU seconds of audits that may be saved up
SETTLE_TRIES = 4  # reads of a region that keeps changing, within one refresh
PROGRESS_STEP = 16384  # regions read between two calls of the progress function
NAMES_AGE_S = 5.0  # how long a file may be renamed or unlinked before its new name shows
PRESENT, WRITABLE = 1, 2


class Settler:
    """Counters of one target. gone(seconds): whether the target exits within that time."""

    def __init__(
        self, machinery: Machinery, pid: int, gone: Callable[[float], bool], progress: Callable[[str, int, int], None]
    ) -> None:
        assert machinery.hooks is not None
        assert machinery.tables is not None
        self._machinery, self._hooks, self._tables = machinery, machinery.hooks, machinery.tables
        self._pid, self._gone, self._progress = pid, gone, progress
        self.reader = machinery.reader
        self._nodes = machinery.topology.nr_node_ids
        self._pagemap = Pagemap(pid)
        self._target = -1
        self._waiting_for_exec = False
        self._credit, self._credited = AUDIT_CREDIT_S, time.monotonic()
        self._drift = 0
        self._saved: dict[int, Drained] = {}
        self._policy = DEFAULT
        self._calm = b""
        self._still: State
        self._forget_all()

    def _forget_all(self) -> None:
        """A new address space: nothing is known yet."""
        self._table = SpanTable(self._nodes)
        self._layout: Layout | None = None
        self._lists: tuple[int, ...] | None = None
        self._again = NONE
        self._dirty = NONE
        self._restless = NONE, NONE
        self._finished: set[tuple[int, int]] = set()
        self._unexplained = 0
        self._lost = 0
        self._settling = 0
        self._list_settling = False
        self._rss_offset: int | None = None
        self._confirmed = self._named = time.monotonic()
        self._regions_read = 0

    # --- begin and end ---

    def begin(self, held: bool) -> None:
        """Trace the target's address space, and seed the counters unless it is about to execute another program."""
        self._open()
        self._waiting_for_exec = held
        if not held:
            self._seed()

    def _open(self) -> None:
        mm = self._mm_behind(self._pagemap)
        self._memory = WalkedMemory(self._tables, self._pagemap, self._machinery.frames, mm, self.reader)
        self._target = self._hooks.add(mm, self._memory.pgd, self._pid)

    def _mm_behind(self, pagemap: Pagemap) -> int:
        entries = read_maps(self._pid)
        if not entries:
            raise TargetGone(f"process {self._pid} has no memory of its own (it is exiting)")
        return self._tables.find_mm(pagemap.fileno(), entries[0].start)

    def close(self) -> None:
        """Stop tracing."""
        if self._target >= 0:
            self._hooks.remove(self._target)
            self._target = -1
        self._pagemap.close()

    # --- the loop's body ---

    def refresh(self) -> State:
        """Bring the counters up to date. Raises TargetGone when the target ends meanwhile."""
        self._regions_read = 0
        if self._waiting_for_exec:
            self._await_exec()
        now = time.monotonic()
        fresh_names = self._machinery.options.details or now - self._named > NAMES_AGE_S
        # Before anything else is looked at: what changes from here on makes the next token another one.
        token = self._token()
        if token == self._calm and not fresh_names:
            self._confirmed = now
            return self._still
        glance = self._memory.glance()
        self._policy = glance.policy
        pending = self._unfinished()
        idle = self._idle(glance, pending)
        if not idle:
            self._work_off(glance, pending)
        self._calm = token if idle else b""
        if not self._doubt():
            self._confirmed = time.monotonic()
        if self._layout is not None and fresh_names:
            self._layout, self._named = self._memory.renamed(self._layout), now
        self._still = self._state(self._policy)
        return self._still

    def _token(self) -> bytes:
        """Everything that would have to change for anything to have changed: the hooks' counters and the glance."""
        return self._hooks.token() + self._memory.token()

    def _idle(self, glance: Glance, pending: Int64s) -> bool:
        return (
            self._layout is not None
            and glance.lists is not None
            and glance.lists == self._lists
            and not len(pending)
            and not len(self._again)
            and not len(self._restless[0])
            and not len(self._dirty)
            and not self._saved
            and self._hooks.quiet()
            and not self._doubt()
            and not self._huge_doubt(glance)
            and not self._rss_doubt(glance)
        )

    def _doubt(self) -> bool:
        return self._hooks.unexplained() != self._unexplained or self._hooks.lost() != self._lost

    def _huge_doubt(self, glance: Glance) -> bool:
        """hugetlb pages come and go without RSS events; the mm's own count of them tells."""
        if glance.hugetlb_pages < 0 or self._layout is None:
            return False
        v = self._table.vmas
        return bool((self._table.totals.sum(axis=1) * (v.huge >> 12)).sum() != glance.hugetlb_pages)

    def _rss_doubt(self, glance: Glance) -> bool:
        """Where a thread's own RSS changes show late (6.1), the exact RSS is compared with what we count.

        The offset (reserved pages such as the vDSO's, which are in RSS) is learnt by the seed and each audit.
        """
        return glance.rss >= 0 and self._rss_offset is not None and glance.rss - self._counted() != self._rss_offset

    def _learn_rss_offset(self, before: int) -> None:
        """After everything was read: what RSS holds beyond what we count, unless it was changing meanwhile."""
        rss = self._memory.glance().rss
        if rss >= 0 and rss == before and self._hooks.quiet() and not len(self._dirty):
            self._rss_offset = rss - self._counted()

    def _counted(self) -> int:
        return int(self._table.totals[self._table.vmas.huge == 0].sum())

    def _work_off(self, glance: Glance, pending: Int64s) -> None:
        doubtful = self._hooks.unexplained(), self._hooks.lost()
        # Nothing to take away needs no waiting for a grace period: on kernels without mm_lock_seq we come here always.
        busy = self._saved or not self._hooks.quiet() or self._doubt()
        drained = self._drain() if busy else {}
        if self._new_program(drained):
            self._seed()
            self._policy = self._memory.glance().policy
            return
        mine = drained.get(self._target) or Drained(NONE, NONE.reshape(0, 1))
        ranges = [self._regions_in(start, end) for start, end in mine.ranges]
        touched = np.unique(np.concatenate([mine.regions, self._dirty, *ranges]))
        dirty = np.unique(np.concatenate([touched, self._again, pending]))
        self._again = touched
        if glance.lists is None or glance.lists != self._lists:
            dirty = np.union1d(dirty, self._follow_vmas())
        if len(self._restless[0]):
            dirty = np.union1d(dirty, self._memory.survey(*self._restless).regions)
        if self._huge_doubt(glance):
            dirty = np.union1d(dirty, self._huge_regions())
        self._settle(dirty)
        if doubtful != (self._unexplained, self._lost) or self._rss_doubt(self._memory.glance()):
            self._audit(doubtful)
        elif self._rss_offset is None:
            self._learn_rss_offset(glance.rss)

    def _drain(self) -> dict[int, Drained]:
        """What happened since the last time, with what `relieve` has taken meanwhile."""
        drained, self._saved = self._saved, {}
        return merge(drained, self._hooks.swap())

    def relieve(self) -> None:
        """Between two refreshes: take the events away before a log is full."""
        if self._hooks.pressure() > 0.5:
            self._saved = merge(self._saved, self._hooks.swap())

    # --- reading ---

    def _settle(self, regions: Int64s, leaves: Uint64s | None = None) -> None:
        """Read regions and put their counts in place; regions that change while they are read stay dirty."""
        self._dirty = NONE
        for _ in range(SETTLE_TRIES):
            if not len(regions):
                break
            self._read(regions, leaves)
            leaves = None
            regions = np.intersect1d(self._hooks.touched_now(self._target), regions)
        self._settling = len(regions)
        self._dirty = regions

    def _read(self, regions: Int64s, leaves: Uint64s | None = None, what: str = "") -> None:
        """Read regions (ascending, unique), with the huge page entries that a survey has just found for them."""
        for at in range(0, len(regions), PROGRESS_STEP):
            part = regions[at : at + PROGRESS_STEP]
            spans = self._table.spans(part)
            found = None
            if leaves is not None and leaves[at : at + PROGRESS_STEP].any():
                # The region of a 1 GiB page is its first one, which need not be among those asked for.
                where = np.minimum(np.searchsorted(part, spans.region), len(part) - 1)
                known = (part[where] == spans.region) & (spans.end - spans.start == REGION)
                found = np.where(known, leaves[at : at + PROGRESS_STEP][where], np.uint64(0))
            self._table.replace(part, spans, self._memory.counts(spans, found))
            if what:
                self._progress(what, at + len(part), len(regions))
        self._regions_read += len(regions)

    def _everything(self) -> Survey:
        """All regions that are populated or were."""
        v = self._table.vmas
        found = self._memory.survey(v.start, v.end)
        known = np.union1d(self._table.known_regions(), self._dirty)
        if not len(known):
            return found
        regions = np.union1d(found.regions, known)
        leaves = np.zeros(len(regions), np.uint64)
        leaves[np.searchsorted(regions, found.regions)] = found.leaves
        return Survey(regions, leaves)

    def _regions_in(self, start: int, end: int) -> Int64s:
        found = self._memory.survey(np.array([start], np.int64), np.array([end], np.int64))
        return np.union1d(found.regions, self._table.known_regions(start, end))

    def _huge_regions(self) -> Int64s:
        v = self._table.vmas
        at = v.huge > 0
        known = self._table.known_regions()
        inside = v.index_of(known << 21)
        was_huge = known[(inside >= 0) & (v.huge[inside] > 0)]
        return np.union1d(self._memory.survey(v.start[at], v.end[at]).regions, was_huge)

    # --- VMAs ---

    def _follow_vmas(self) -> Int64s:
        """Take the present VMA list; gives the regions that have to be read for it."""
        torn, starts, ends = self._take_vmas()
        return np.union1d(torn, self._memory.survey(starts, ends).regions) if len(starts) else torn

    def _take_vmas(self) -> tuple[Int64s, Int64s, Int64s]:
        """The answer of `SpanTable.remap` to the present VMA list: torn regions, starts and ends of new ranges."""
        limit = time.monotonic() + LIST_PATIENCE_S
        while True:
            before = self._memory.glance()
            layout = self._memory.layout()
            after = self._memory.glance()
            if layout is not None or self._layout is not None or time.monotonic() > limit:
                break
        self._list_settling = layout is None or before.lists != after.lists
        if layout is None:
            self._lists = None  # try again at the next refresh
            if self._layout is None:
                raise NumatraceError(
                    f"the VMA list of process {self._pid} changes faster than it can be read",
                    "try again when the target is quieter",
                )
            return NONE, NONE, NONE
        self._lists = after.lists if before.lists == after.lists else None
        self._named = time.monotonic()
        self._layout = layout
        restless = (layout.spans.special & RESTLESS) != 0
        self._restless = layout.spans.start[restless], layout.spans.end[restless]
        return self._table.remap(layout.spans)

    # --- faults in flight ---

    def _unfinished(self) -> Int64s:
        """Regions of faults that were not seen to be finished, now including those that have just been."""
        pending = [it for it in self._hooks.pending(self._target) if it.key not in self._finished]
        self._finished &= {it.key for it in self._hooks.pending(self._target)}
        if not pending:
            return NONE
        entries = self._tables.entries(self._memory.pgd, np.array([it.address for it in pending], np.int64))
        for it, entry in zip(pending, entries.tolist(), strict=True):
            if entry & PRESENT and (entry & WRITABLE or not it.write):
                self._finished.add(it.key)
            elif it.key[0] > 0 and self._thread_gone(it):
                self._hooks.forget(it.key[0])
        return np.unique(np.array([it.address >> 21 for it in pending], np.int64))

    def _thread_gone(self, it: Pending) -> bool:
        return not os.path.exists(f"/proc/{self._pid}/task/{it.key[0]}")

    # --- exec ---

    def _await_exec(self) -> None:
        """The held command was released: wait until its exec has given it a new address space, and seed that."""
        limit = time.monotonic() + EXEC_PATIENCE_S
        while not self._new_program(self._drain()):
            if self._gone(0.002):
                raise TargetGone(f"process {self._pid} exited before it executed its program")
            if time.monotonic() > limit:
                raise NumatraceError(
                    f"process {self._pid} does not execute its program", "start it by itself and use `-p PID`"
                )
        self._waiting_for_exec = False
        self._seed()

    def _new_program(self, drained: dict[int, Drained]) -> bool:
        """Whether the target has executed another program; if so, its new address space is opened."""
        executed = self._executed(drained)
        if executed is None:
            return False
        limit = time.monotonic() + EXEC_PATIENCE_S
        self._reopen()
        while self._mm_behind(self._pagemap) != executed[1]:
            # It has gone on to yet another program, whose record follows.
            executed = self._executed(self._drain()) or executed
            self._reopen()
            if self._gone(0.002) or time.monotonic() > limit:
                raise TargetGone(
                    f"process {self._pid} executes one program after the other", "trace the last one by its PID"
                )
        number, mm = executed
        self._hooks.remove(self._target)
        self._hooks.adopt()
        self._target = number
        self._forget_all()
        self._memory = WalkedMemory(self._tables, self._pagemap, self._machinery.frames, mm, self.reader)
        return True

    def _executed(self, drained: dict[int, Drained]) -> tuple[int, int] | None:
        """(target number, mm) of the last program that the target has executed in an epoch."""
        found = [(number, mm) for number, it in drained.items() for mm, tgid in it.executed if tgid == self._pid]
        return max(found, default=None)

    def _reopen(self) -> None:
        self._pagemap.close()
        self._pagemap = Pagemap(self._pid)

    # --- seed and audit ---

    def _seed(self) -> None:
        """Read everything once. With the hooks attached, what changes meanwhile is read again by the first refresh."""
        doubtful = self._hooks.unexplained(), self._hooks.lost()
        rss = self._memory.glance().rss
        self._take_vmas()
        by_walk = self._seed_by_walk()
        reader, self._memory.reader = self._memory.reader, "walk" if by_walk else "pagemap"
        try:
            found = self._everything()
            self._read(found.regions, found.leaves, "seed")
        finally:
            self._memory.reader = reader
        if by_walk:
            self._check_sample(found.regions)
        self._unexplained, self._lost = doubtful
        self._learn_rss_offset(rss)
        self._confirmed = time.monotonic()

    def _seed_by_walk(self) -> bool:
        choice = self._machinery.options.seed
        if choice == "auto":
            return self.reader == "walk" and resident_pages(self._pid) > SEED_BY_WALK_PAGES
        return choice == "walk"

    def _check_sample(self, regions: Int64s) -> None:
        """Random pages of what the walk has counted must be the pages that pagemap shows there."""
        random = np.random.default_rng()
        chosen = random.choice(regions, min(SAMPLE, len(regions)), replace=False)
        spans = self._table.spans(np.sort(chosen))
        plain = (spans.huge == 0) & (spans.special == 0)
        pages = (spans.end - spans.start)[plain] >> 12
        addresses = spans.start[plain] + (random.integers(0, 1 << 20, len(pages)) % np.maximum(pages, 1) << 12)
        off = self._memory.differing_frames(addresses) if len(addresses) else np.zeros(0, bool)
        off &= ~np.isin(addresses >> 21, self._hooks.touched_now(self._target))
        if off.any() and self._machinery.options.seed == "auto":
            self._drift += int(off.sum())
            self.reader = self._memory.reader = "pagemap"
            self._machinery.notes.append(
                f"walk and pagemap differ in {off.sum()} of {len(off)} sampled pages; reading pagemap instead"
            )
            self._read(regions)

    def _audit(self, doubtful: tuple[int, int]) -> None:
        """Read everything again, if the CPU budget allows, because something changed that no event located."""
        now = time.monotonic()
        share = self._machinery.options.audit_cpu
        self._credit = min(AUDIT_CREDIT_S, self._credit + (now - self._credited) * share)
        self._credited = now
        if self._credit <= 0:
            return
        began = time.thread_time()
        rss = self._memory.glance().rss
        found = self._everything()
        self._settle(found.regions, found.leaves)
        self._credit -= time.thread_time() - began
        self._unexplained, self._lost = doubtful
        self._learn_rss_offset(rss)

    # --- results ---

    def _state(self, policy: Policy) -> State:
        assert self._layout is not None
        trust = Trust(
            settling=self._settling + self._list_settling,
            unexplained=self._hooks.unexplained() - self._unexplained,
            lost=self._hooks.lost(),
            drift=self._drift,
            oldest_read_s=time.monotonic() - self._confirmed,
        )
        task = policy if policy.mode else DEFAULT
        totals = self._table.totals.copy()
        return State(self._layout.vmas, self._layout.own_policy, task, totals, trust, self._regions_read)

    def details(self) -> Details:
        """Fields that no counter can hold, read now."""
        if self.reader == "walk":
            return read_details(self._memory, self._table, self._machinery.frames.zero_pages.huge_pfn)
        lines = {line.start: line for line in read_numa_maps(self._pid)}
        assert self._layout is not None
        return details_of_lines([lines[v.start] for v in self._layout.vmas])

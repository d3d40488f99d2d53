"""Keeping the counters of one address space exact: events say which regions to read again, a reader reads them.

The rules (docs/architecture.md): attach before the seed; a region is read in the epoch after the one that touched it,
and once more in the next; a fault that is not known to be finished keeps its region dirty; a read is valid only if
nothing touched the region meanwhile; what no event explains is found by an audit of everything.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tracer.errors import NumatraceError
from tracer.kernel import pauses
from tracer.kernel.detail_walk import details_of_lines, read_details
from tracer.kernel.epoch import Drained
from tracer.kernel.hooks import Pending
from tracer.kernel.machinery import Machinery
from tracer.kernel.memory import Glance, Layout, WalkedMemory
from tracer.kernel.numa_maps import read_numa_maps
from tracer.kernel.pagemap import Pagemap
from tracer.kernel.procfs import TargetGone, major_faults, resident_pages
from tracer.kernel.walk import Survey
from tracer.model.policy import DEFAULT, Policy
from tracer.model.snapshot import Details, Regions, Trust
from tracer.model.spans import FILLED, RESTLESS, SHARING, SpanTable, VmaList, union_of_ranges
from tracer.model.state import State
from tracer.session_check import Checker, Drift, Unsettled

__all__ = ["Budget", "Settler", "TakenDown"]

Int64s = npt.NDArray[np.int64]
Uint64s = npt.NDArray[np.uint64]
NONE = np.empty(0, np.int64)
REGION = 1 << 21

SEED_BY_WALK_PAGES = 1 << 18  # 1 GiB: from here on the seed walks, and a sample is checked against pagemap
SAMPLE = 8  # regions of such a sample, one page of each span
AUDIT_CREDIT_S = 2.0  # CPU seconds of audits that may be saved up
AUDIT_SLICE_S = 0.5  # CPU seconds that audits may take of one refresh
AUDIT_STEP = 2048  # regions between two looks at the clock: 4 GiB, some 3 ms
SETTLE_TRIES = 4  # reads of a region that keeps changing, within one refresh
PROGRESS_STEP = 16384  # regions read between two calls of the progress function
FIRST_LIST_S = 5.0  # how long to go on until there is a first VMA list of a target that never stands still
NAMES_AGE_S = 5.0  # how long a file may be renamed or unlinked before its new name shows
PRESENT, WRITABLE = 1, 2


class TakenDown(Exception):
    """The target's memory is not used any more. That it has come to its end is told later."""


class Budget:
    """CPU time for audits, shared by all targets. share: fraction of one CPU, saved up to AUDIT_CREDIT_S."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._credit = self._slice = AUDIT_CREDIT_S
        self._credited = time.monotonic()

    def begin(self) -> None:
        """At the start of a refresh."""
        now = time.monotonic()
        self._credit = min(AUDIT_CREDIT_S, self._credit + (now - self._credited) * self._share)
        self._credited = now
        self._slice = min(self._credit, AUDIT_SLICE_S)

    @property
    def left(self) -> bool:
        """Whether an audit may go on."""
        return self._slice > 0

    def charge(self, seconds: float) -> None:
        """An audit took that much CPU time."""
        self._credit -= seconds
        self._slice -= seconds


class _Seen(NamedTuple):
    """Counts of unexplained changes and of lost events, RSS, and the count of grace periods, when they were looked at.

    A change may be counted a moment before its page is there, but under the same spinlock. So what was counted is
    found by a walk that begins after the next grace period.
    """

    unexplained: int
    lost: int
    rss: int
    graces: int


@dataclass(slots=True)
class _Audit:
    """A walk over everything that does not wait for events, a part at a time. at: how many regions are done.

    doubts: what it will have cleared up: the counts of unexplained changes and of lost events. rss: of the target when
    it had these.
    """

    found: Survey
    doubts: tuple[int, int]
    rss: int
    began: float
    at: int = 0


class Settler:
    """Counters of one address space that the hooks trace already under `number`.

    pagemap: that of the process, opened while it had this mm. budget: for audits. memory: what reads the target, made
    here if none is given.
    """

    def __init__(
        self,
        machinery: Machinery,
        pagemap: Pagemap,
        mm: int,
        number: int,
        budget: Budget,
        progress: Callable[[str, int, int], None],
        memory: WalkedMemory | None = None,
    ) -> None:
        assert machinery.hooks is not None
        assert machinery.tables is not None
        self._machinery, self._hooks, self._tables = machinery, machinery.hooks, machinery.tables
        self.number, self.mm = number, mm
        self._budget, self._progress = budget, progress
        self._pagemap, self.pid = pagemap, pagemap.pid
        self.reader = machinery.reader
        self.memory = memory or WalkedMemory(self._tables, pagemap, machinery.frames, mm, self.reader)
        self._nodes = machinery.topology.nr_node_ids
        self._drift = 0
        self._policy = DEFAULT
        self._regions_shown: Regions | None = None
        self._regions_of: VmaList | None = None
        self._calm = b""
        self._token = b""
        self._glance: Glance | None = None
        self._pending = NONE
        self._still: State | None = None
        self._audit: _Audit | None = None
        self._table = SpanTable(self._nodes)
        self.layout: Layout | None = None
        self._lists: tuple[int, ...] | None = None
        self._again = NONE
        self._dirty = NONE
        self._restless = NONE, NONE
        self._unproven = NONE, NONE  # starts and ends of what was new in lists that were being changed
        self._sharing = False
        self._moved = 0  # times that pages may have been moved by userfaultfd
        self._finished: set[tuple[int, int]] = set()
        self._unexplained = 0
        self._lost = 0
        self._settling = 0
        self._list_settling = False
        self._rss_offset: int | None = None
        self._rss_off = False
        self._confirmed = self._named = time.monotonic()
        self._regions_read = 0
        self._just_read: list[Int64s] = []
        share = machinery.options.check
        self._checker = Checker(share, self.memory, machinery.frames, pagemap) if share else None
        self._touched, self._listed, self._audited = NONE, False, False
        self._seen = self._see(self.memory.glance())

    def close(self) -> None:
        """Stop tracing."""
        self._hooks.remove(self.number)
        self._pagemap.close()

    # --- the loop's body ---

    def look(self, token: bytes, pending: list[Pending]) -> None:
        """Before the epoch ends: glance at the mm, and see which faults are in flight.

        token: `Hooks.token`, taken before `pending`.
        """
        self._regions_read = 0
        self._touched, self._listed, self._audited = NONE, False, False
        # Before anything else is looked at: what changes from here on makes the next token another one.
        self._token = token + self.memory.token()
        self._glance = None
        if self._token == self._calm and not self._fresh_names():
            return
        self._glance = self.memory.glance()
        self._seen = self._see(self._glance)
        self._policy = self._glance.policy
        self._pending = self._unfinished(pending)

    def _fresh_names(self) -> bool:
        return self._machinery.options.details or time.monotonic() - self._named > NAMES_AGE_S

    def work(self, drained: Drained | None) -> State:
        """Bring the counters up to date, after `look` and the end of the epoch. drained: what that held for us.

        Raises TakenDown when the memory was being taken down meanwhile: what was read then is a part of what was there.
        """
        now = time.monotonic()
        drift = self._judge(drained or Drained())
        if self._glance is None and self._still is not None and drained is None and drift is None:
            self._confirmed = now
            self._check_some()
            return self._still
        glance = self._glance or self.memory.glance()
        self._policy = glance.policy  # it may have come after the others were looked at
        idle = drained is None and drift is None and self._idle(glance)
        if self.layout is None:
            self.seed()
        elif not idle:
            self._work_off(glance, drained or Drained(), drift)
        self._calm = self._token if idle else b""
        if not self._doubt():
            self._confirmed = time.monotonic()
        if self.layout is not None and self._fresh_names():
            self.layout, self._named = self.memory.renamed(self.layout), now
        self._check_some()
        if self.memory.is_dying():
            raise TakenDown
        self._still = self._state()
        return self._still

    def _idle(self, glance: Glance) -> bool:
        return (
            self.layout is not None
            and glance.lists is not None
            and glance.lists == self._lists
            and not len(self._pending)
            and not len(self._again)
            and not len(self._restless[0])
            and not self._sharing
            and not len(self._dirty)
            and not self._list_settling
            and not self._doubt()
            and not self._huge_doubt(glance)
            and not self._rss_doubt(glance)
        )

    def _doubt(self) -> bool:
        return self._rss_off or self._doubts() != (self._unexplained, self._lost)

    def _doubts(self) -> tuple[int, int]:
        return self._hooks.unexplained(self.number) + self._moved, self._hooks.lost()

    def _see(self, glance: Glance) -> _Seen:
        return _Seen(self._hooks.unexplained(self.number), self._hooks.lost(), glance.rss, self._hooks.graces)

    def _before_walk(self) -> tuple[tuple[int, int], int]:
        """The doubts that a walk of everything will have cleared up if it begins now, and RSS when they were these."""
        if self._hooks.graces == self._seen.graces:  # else somebody has waited: one does for all targets
            self._hooks.grace()
        return (self._seen.unexplained + self._moved, self._seen.lost), self._seen.rss

    def _huge_doubt(self, glance: Glance) -> bool:
        """hugetlb pages come and go without RSS events; the mm's own count of them tells."""
        if glance.hugetlb_pages < 0 or self.layout is None:
            return False
        v = self._table.vmas
        return bool((self._table.totals.sum(axis=1) * (v.huge >> 12)).sum() != glance.hugetlb_pages)

    def _rss_doubt(self, glance: Glance) -> bool:
        """Where the exact RSS is known, it is compared with what we count: a thread's own changes show late on 6.1, and
        pages that mremap() moves make no event, so that what goes with the place they came to is not missed.

        The offset (reserved pages such as the vDSO's, which are in RSS) is learnt by the seed and each audit; until one
        of them was able to, there is doubt.
        """
        return glance.rss >= 0 and glance.rss - self._counted() != self._rss_offset

    def _learn_rss_offset(self, before: int) -> None:
        """After everything was read: what RSS holds beyond what we count, unless it was changing meanwhile.

        RSS and page tables are changed together, under a lock; a grace period lets go on who holds one.
        """
        if before < 0 or len(self._dirty) or self.memory.glance().rss != before:
            return
        self._hooks.grace()
        if self.memory.glance().rss == before and not len(self._hooks.touched_now(self.number)):
            self._rss_offset = before - self._counted()

    def _counted(self) -> int:
        return int(self._table.totals[self._table.vmas.huge == 0].sum())

    def _work_off(self, glance: Glance, mine: Drained, drift: Drift | None) -> None:
        doubts, filled = self._doubts(), self._filled()
        ranges = [self._regions_in(start, end) for start, end in mine.ranges]
        touched = np.unique(np.concatenate([mine.regions, self._dirty, *ranges]))
        dirty = np.unique(np.concatenate([touched, self._again, self._pending]))
        self._again = self._touched = touched
        if drift is not None:
            dirty = np.union1d(dirty, drift.regions)
        if glance.lists is None or glance.lists != self._lists:
            dirty = np.union1d(dirty, self._follow_vmas())
        if len(self._restless[0]):
            dirty = np.union1d(dirty, self.memory.survey(*self._restless).regions)
        if self._sharing:
            dirty = np.union1d(dirty, self._huge_regions())
        self._dirty = self._settle(dirty)
        if self._huge_doubt(glance):  # now that what has come is counted: as much may have gone elsewhere
            self._dirty = np.union1d(self._dirty, self._settle(self._huge_regions()))
        if drift is not None:
            self._count(drift)
        self._settling = len(self._dirty)
        if self._filled() != filled or self._table.vmas.any_marked_in(touched, FILLED):
            self._moved += 1
            doubts = doubts[0] + 1, doubts[1]
        after = self.memory.glance()
        if after.rss == glance.rss:  # else the target goes on, and what it counts now is not what was read
            self._rss_off = self._rss_doubt(after)
        if self._audit is not None or self._rss_off or doubts != (self._unexplained, self._lost):
            self._go_on_auditing()

    def _filled(self) -> int:
        """Pages where userfaultfd fills: when they become more, others may have become fewer."""
        return int(self._table.totals[self._table.vmas.marked(FILLED)].sum())

    # --- reading ---

    def _settle(self, regions: Int64s, leaves: Uint64s | None = None) -> Int64s:
        """Read regions and put their counts in place; gives those that changed each time they were read."""
        for _ in range(SETTLE_TRIES):
            if not len(regions):
                break
            self._read(regions, leaves)
            leaves = None
            regions = np.intersect1d(self._hooks.touched_now(self.number), regions)
        return regions

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
            pauses.pause("chosen")
            counts = self.memory.counts(spans, found)
            pauses.pause("read")
            self._table.replace(part, spans, counts)
            pauses.pause("replaced")
            if what:
                self._progress(what, at + len(part), len(regions))
        self._regions_read += len(regions)
        if self._machinery.options.policies:
            self._just_read.append(regions)

    def _everything(self) -> Survey:
        """All regions that are populated or were."""
        v = self._table.vmas
        found = self.memory.survey(v.start, v.end)
        pauses.pause("surveyed")
        known = np.union1d(self._table.known_regions(), self._dirty)
        if not len(known):
            return found
        regions = np.union1d(found.regions, known)
        leaves = np.zeros(len(regions), np.uint64)
        leaves[np.searchsorted(regions, found.regions)] = found.leaves
        return Survey(regions, leaves)

    def _regions_in(self, start: int, end: int) -> Int64s:
        found = self.memory.survey(np.array([start], np.int64), np.array([end], np.int64))
        return np.union1d(found.regions, self._table.known_regions(start, end))

    def _huge_regions(self) -> Int64s:
        v = self._table.vmas
        at = v.huge > 0
        known = self._table.known_regions()
        inside = v.index_of(known << 21)
        was_huge = known[(inside >= 0) & (v.huge[inside] > 0)]
        return np.union1d(self.memory.survey(v.start[at], v.end[at]).regions, was_huge)

    # --- VMAs ---

    def _follow_vmas(self) -> Int64s:
        """Take the present VMA list; gives the regions that have to be read for it."""
        torn, starts, ends = self._take_vmas()
        pauses.pause("compared")
        return np.union1d(torn, self.memory.survey(starts, ends).regions) if len(starts) else torn

    def _with_unproven(self, torn: Int64s, starts: Int64s, ends: Int64s) -> tuple[Int64s, Int64s, Int64s]:
        """What is new, and once the list has come to rest also what was new while it had not.

        mremap puts the new VMA in place first and moves the pages then, which is no event. Who looks meanwhile sees a
        part of them, and later a list in which this VMA is not new any more.
        """
        new = np.concatenate((starts, torn << 21)), np.concatenate((ends, torn + 1 << 21))
        if not len(self._unproven[0]) and not self._list_settling:
            return torn, starts, ends
        ranges = union_of_ranges(*(np.concatenate(pair) for pair in zip(self._unproven, new, strict=True)))
        self._unproven = ranges if self._list_settling else (NONE, NONE)
        return (torn, starts, ends) if self._list_settling else (torn, *ranges)

    def _take_vmas(self) -> tuple[Int64s, Int64s, Int64s]:
        """The answer of `SpanTable.remap` to the present VMA list: torn regions, starts and ends of new ranges.

        A list that changes faster than it can be read is taken as it was read, and looked at again next time.
        """
        self._listed = True
        before, layout, after = self._read_list()
        limit = time.monotonic() + FIRST_LIST_S
        while layout is None and self.layout is None and time.monotonic() < limit:
            before, layout, after = self._read_list()
        self._list_settling = layout is None or not layout.consistent or before.lists != after.lists
        self._lists = None if self._list_settling else after.lists
        if layout is None:
            if self.layout is None:
                raise NumatraceError(
                    f"the VMA list of process {self.pid} changes faster than it can be read",
                    "try again when the target is quieter",
                )
            return NONE, NONE, NONE
        self._named = time.monotonic()
        self.layout = layout
        restless = layout.spans.marked(RESTLESS | FILLED)
        self._restless = layout.spans.start[restless], layout.spans.end[restless]
        self._sharing = bool(layout.spans.marked(SHARING).any())
        return self._with_unproven(*self._table.remap(layout.spans))

    def _read_list(self) -> tuple[Glance, Layout | None, Glance]:
        """The present VMA list, with a look before and one after it."""
        before = self.memory.glance()
        pauses.pause("listing")
        layout = self.memory.layout()
        pauses.pause("listed")
        return before, layout, self.memory.glance()

    # --- checks ---

    def unsettled(self) -> Unsettled:
        """What changed between the epoch before the last refresh and that refresh."""
        everything = "changes that no event located" if self._audited or self._doubt() else ""
        return Unsettled(np.union1d(self._touched, self._dirty), self._listed or self._list_settling, everything)

    def _check_some(self) -> None:
        """Hold a part of the counters against pagemap, where that is asked for; the next refresh judges."""
        if self._checker is None or self._doubt() or self._audit is not None or self._list_settling:
            return
        if self._table.vmas.marked(FILLED).any():  # pages may leave any other part without an event
            return
        doubtful = np.unique(np.concatenate((self._again, self._dirty, self._pending)))
        try:
            self._checker.take(self._table, doubtful, self._still_holds)
        except TargetGone:  # the refresh finds that out by itself
            self._checker.forget()

    def _still_holds(self, glance: Glance) -> bool:
        """Whether what no event need belong to is as it was counted."""
        if self._huge_doubt(glance):
            return False
        if glance.lists is not None:
            return glance.lists == self._lists
        # Such a kernel may also tell of RSS changes late.
        layout = self.memory.layout()
        same = layout is not None and layout.consistent and layout.spans is self._table.vmas
        return same and not self._rss_doubt(glance)

    def _judge(self, drained: Drained) -> Drift | None:
        """What the last check has found wrong, now that the events since then are known."""
        if self._checker is None or not self._checker.suspects:
            return None
        if self._doubt() or self._audit is not None:
            self._checker.forget()
            return None
        touched = np.unique(np.concatenate((drained.regions, self._dirty, self._pending)))
        return self._checker.judge(self._table, touched, drained.ranges)

    def _count(self, drift: Drift) -> None:
        """The regions in which counters were wrong have been read again. A walk that says the same again is wrong
        itself: go on with pagemap."""
        self._drift += drift.pages
        fresh = np.isin(drift.regions, self._hooks.touched_now(self.number), invert=True)
        if self.reader == "walk" and fresh.all() and Checker.walk_is_wrong(self._table, drift):
            self.reader = self.memory.reader = "pagemap"
            self._machinery.notes.append(
                f"process {self.pid}: walk and pagemap differ in {drift.pages} pages; reading pagemap instead"
            )
            self._dirty = self._settle(self._everything().regions)

    # --- faults in flight ---

    def _unfinished(self, pending: list[Pending]) -> Int64s:
        """Regions of faults that were not seen to be finished, now including those that have just been."""
        if self._hooks.detail.follows_faults:
            self._count_finished(pending)
        self._finished &= {it.key for it in pending}
        pending = [it for it in pending if it.key not in self._finished]
        if not pending:
            return NONE
        entries = self._tables.entries(self.memory.pgd, np.array([it.address for it in pending], np.int64))
        for it, entry in zip(pending, entries.tolist(), strict=True):
            if entry & PRESENT and (entry & WRITABLE or not it.write):
                self._finished.add(it.key)
            elif it.key[0] > 0 and self._thread_gone(it):
                self._hooks.forget(it.key[0])
        return np.unique(np.array([it.address >> 21 for it in pending], np.int64))

    def _count_finished(self, pending: list[Pending]) -> None:
        """Have faults counted that no other has followed on their CPU: now, so that this epoch holds them."""
        for it in pending:
            majors = major_faults(self.pid, it.thread)
            self._hooks.count_finished(it, majors is None, majors)

    def _thread_gone(self, it: Pending) -> bool:
        return not os.path.exists(f"/proc/{self.pid}/task/{it.key[0]}")

    # --- seed and audit ---

    def seed(self) -> None:
        """Read everything once. With the hooks attached, what changes meanwhile is read again by the first refresh."""
        doubts, rss = self._before_walk()
        self._take_vmas()
        by_walk = self._seed_by_walk()
        reader, self.memory.reader = self.memory.reader, "walk" if by_walk else "pagemap"
        try:
            found = self._everything()
            self._read(found.regions, found.leaves, "seed")
        finally:
            self.memory.reader = reader
        if by_walk:
            self._check_sample(found.regions)
        self._unexplained, self._lost = doubts
        self._learn_rss_offset(rss)
        self._confirmed = time.monotonic()

    def _seed_by_walk(self) -> bool:
        choice = self._machinery.options.seed
        if choice == "auto":
            return self.reader == "walk" and resident_pages(self.pid) > SEED_BY_WALK_PAGES
        return choice == "walk"

    def _check_sample(self, regions: Int64s) -> None:
        """Random pages of what the walk has counted must be the pages that pagemap shows there."""
        random = np.random.default_rng()
        chosen = random.choice(regions, min(SAMPLE, len(regions)), replace=False)
        spans = self._table.spans(np.sort(chosen))
        plain = (spans.huge == 0) & (spans.special == 0)
        pages = (spans.end - spans.start)[plain] >> 12
        addresses = spans.start[plain] + (random.integers(0, 1 << 20, len(pages)) % np.maximum(pages, 1) << 12)
        off = self.memory.differing_frames(addresses) if len(addresses) else np.zeros(0, bool)
        off &= ~np.isin(addresses >> 21, self._hooks.touched_now(self.number))
        if off.any() and self._machinery.options.seed == "auto":
            self._drift += int(off.sum())
            self.reader = self.memory.reader = "pagemap"
            self._machinery.notes.append(
                f"walk and pagemap differ in {off.sum()} of {len(off)} sampled pages; reading pagemap instead"
            )
            self._read(regions)

    def _go_on_auditing(self) -> None:
        """Read everything again because something changed that no event located: as much as the CPU budget allows,
        and the rest in the refreshes that follow. What is doubted meanwhile waits for the next audit.
        """
        began = time.thread_time()
        self._audited = True
        fresh = self._audit is None
        while self._budget.left:
            if self._audit is None:
                doubts, rss = self._before_walk()
                self._audit = _Audit(self._everything(), doubts, rss, time.monotonic())
            audit = self._audit
            part = slice(audit.at, audit.at + AUDIT_STEP)
            # Huge pages that an earlier refresh found may have moved since.
            unsettled = self._settle(audit.found.regions[part], audit.found.leaves[part] if fresh else None)
            self._dirty = np.union1d(self._dirty, unsettled)
            self._settling = len(self._dirty)
            audit.at += AUDIT_STEP
            now = time.thread_time()
            self._budget.charge(now - began)
            began = now
            if audit.at >= len(audit.found.regions):
                self._end_audit(audit)
                # What an earlier refresh has read of it may be off by now.
                self._rss_off = not fresh and self._rss_doubt(self.memory.glance())
                return

    def _end_audit(self, audit: _Audit) -> None:
        self._audit = None
        self._unexplained, self._lost = audit.doubts
        self._confirmed = audit.began
        self._learn_rss_offset(audit.rss)

    # --- results ---

    def _state(self) -> State:
        assert self.layout is not None
        trust = Trust(
            settling=self._settling + self._list_settling,
            unexplained=self._doubts()[0] - self._unexplained + self._rss_off,
            lost=self._hooks.lost(),
            drift=self._drift,
            oldest_read_s=time.monotonic() - self._confirmed,
        )
        totals = self._table.totals.copy()
        layout = self.layout
        return State(
            layout.vmas, layout.own_policy, self.task_policy, totals, trust, self._regions_read, self._regions()
        )

    def _regions(self) -> Regions | None:
        """The counts of each region, where they are asked for: the same object as long as they are the same."""
        if not self._machinery.options.regions:
            return None
        if self._regions_shown is None or self._regions_read or self._regions_of is not self._table.vmas:
            self._regions_of = self._table.vmas
            self._regions_shown = Regions(self._table.address.copy(), self._table.counts.copy())
        return self._regions_shown

    @property
    def task_policy(self) -> Policy:
        """Of the main thread; DEFAULT where it has none."""
        return self._policy if self._policy.mode else DEFAULT

    @property
    def totals(self) -> Int64s:
        """Pages per VMA of the layout and node id: not to be written to."""
        return self._table.totals

    def known_regions(self, start: int | None = None, end: int | None = None) -> Int64s:
        """Regions with pages that count, all or those that touch [start, end)."""
        return self._table.known_regions(start, end)

    def has_just_read(self) -> bool:
        """Whether `take_just_read` has anything to give."""
        return bool(self._just_read)

    def take_just_read(self) -> Int64s:
        """Regions that were read since this was last asked, ascending; kept where policies are wanted."""
        parts, self._just_read = self._just_read, []
        return np.unique(np.concatenate(parts)) if parts else NONE

    def vma_rows(self, addresses: Int64s) -> Int64s:
        """The row of the VMA that holds each address, -1 where none does."""
        return self._table.vmas.index_of(addresses)

    def details(self) -> Details:
        """Fields that no counter can hold, read now."""
        if self.reader == "walk":
            return read_details(self.memory, self._table, self._machinery.frames.zero_pages.huge_pfn)
        lines = {line.start: line for line in read_numa_maps(self.pid)}
        assert self.layout is not None
        return details_of_lines([lines[v.start] for v in self.layout.vmas])

"""Policies of one target: who set them, what they promise, and how each page that lies elsewhere came there.

The settler says which regions changed; their pages are read one by one, and a ledger remembers of each how it came
(`tracer.model.ledger`). What happened since the last look comes from the epoch's events.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tracer.kernel.epoch import Drained, PolicyCall
from tracer.kernel.machinery import Machinery
from tracer.kernel.memory import Layout
from tracer.kernel.pages import PageReader
from tracer.kernel.pressure import allowed_nodes
from tracer.kernel.shared_memory import shared_memory_devices
from tracer.kernel.threads import thread_policies
from tracer.model.cause import Cause
from tracer.model.events import Kind as FaultKind
from tracer.model.ledger import Arrival, Events, Key, PageLedger, Sums
from tracer.model.origin import ANYWHERE, Area, How, Origin, Standing, same_policy
from tracer.model.placement import apportion, expectation
from tracer.model.policies import Misplaced, Policies, PolicyChange, Pressure
from tracer.model.policy import DEFAULT, Mode, Policy
from tracer.model.rule import Backing
from tracer.model.spans import RESTLESS, gather_ranges
from tracer.model.vma import Kind, Vma
from tracer.session_events import Attribution
from tracer.session_machine import Machine
from tracer.session_owned import Owned, Tasks, change_by_call, differences, policy_by_calls
from tracer.session_settle import Settler

__all__ = ["PolicyWatch"]

Int64s = npt.NDArray[np.int64]
PROMISELESS = (Mode.DEFAULT, Mode.LOCAL)
PAGE = 4096
REGION_SHIFT = 21
REGION = 1 << REGION_SHIFT


class PolicyWatch:
    """Gives `Policies` of one address space. born: it was seen to be forked: all that it began with is its parent's."""

    def __init__(
        self, machinery: Machinery, machine: Machine, work: Settler, attribution: Attribution, born: bool
    ) -> None:
        assert machinery.tables is not None
        self._machinery, self._machine, self._work, self._attribution = machinery, machine, work, attribution
        self._pid, self._born = work.pid, born
        self._reader = PageReader(work.memory, machinery.frames)
        self._ledger = PageLedger(machinery.topology.nr_node_ids)
        self._owned, self._tasks = Owned(), Tasks()
        self._layout: Layout | None = None
        self._areas: list[Area] = []
        self._made: dict[int, tuple[Vma, Area]] = {}
        self._fresh: set[int] = set()
        self._recent: set[int] = set()
        self._looks = 0
        self._unsure = np.empty(0, np.int64)
        self._allowed: tuple[int, ...] = ()
        self._pressure: Pressure | None = None
        self._weights: tuple[int, ...] | None = None
        self.policies: Policies | None = None
        """As last found, without the changes."""

    # --- a look ---

    def look(self, drained: Drained | None) -> Policies | None:
        """Bring it up to date, after the settler has done its work. None while there is no VMA list."""
        layout = self._work.layout
        if layout is None:
            return None
        tables = self._machinery.tables
        assert tables is not None
        tasks = Tasks.of(thread_policies(tables, self._work.mm, self._pid))
        allowed = allowed_nodes(self._pid) or self._allowed
        if self.policies is not None and self._still(layout, tasks, allowed, drained):
            return self.policies
        before, self._tasks, self._allowed = self._tasks, tasks, allowed
        owned = Owned.of(layout) if layout is not self._layout else self._owned
        changes = self._changes(before, owned, drained) if self._looks else ()
        self._take_pages(layout, before, drained or Drained())
        self._layout, self._owned = layout, owned
        self._looks += 1
        self._pressure, self._weights = self._machine.pressure, self._machine.weights
        found = self._policies(layout)
        self.policies = found
        return replace(found, changes=changes) if changes else found

    def _still(self, layout: Layout, tasks: Tasks, allowed: tuple[int, ...], drained: Drained | None) -> bool:
        """Nothing has happened that could change what was found at the last look."""
        return (
            self._looks > 1
            and drained is None
            and layout is self._layout
            and not self._recent
            and not len(self._unsure)
            and not self._work.has_just_read()
            and tasks == self._tasks
            and allowed == self._allowed
            and self._pressure is self._machine.pressure
            and self._weights == self._machine.weights
            and not any(area.page_pages > 1 for area in self._areas)
        )

    @cached_property
    def _shared_devices(self) -> frozenset[str]:
        return shared_memory_devices(self._pid)

    # --- areas ---

    def _areas_of(self, layout: Layout) -> list[Area]:
        task = self._work.task_policy
        restless = (layout.spans.special & RESTLESS) != 0
        bias = layout.spans.bias.tolist()
        known, self._made = self._made, {}
        areas, fresh = [], set()
        for row, vma in enumerate(layout.vmas):
            own = bool(layout.own_policy[row])
            policy = vma.policy if own else task
            existed, was = self._owned.at(vma.start)
            if self._looks and own and not (existed and same_policy(was, policy)):
                fresh.add(vma.start)
            made = known.get(vma.start)
            if made is None or made[0] is not vma or made[1].policy != policy or made[1].own != own:
                made = vma, self._area(vma, policy, own, bias[row], bool(restless[row]))
            areas.append(made[1])
            self._made[vma.start] = made
        self._recent, self._fresh = fresh | self._fresh, fresh
        return areas

    def _area(self, vma: Vma, policy: Policy, own: bool, bias: int, restless: bool) -> Area:
        shared = vma.kind is Kind.FILE and not vma.hugetlb and vma.device in self._shared_devices
        return Area(
            vma.start,
            vma.end,
            policy,
            own,
            Backing(vma.start, (vma.start >> 12) + bias, vma.inode if shared else None, self._machinery.counts_by_ilx),
            shared=shared,
            file=vma.kind is Kind.FILE and not vma.hugetlb and not shared,
            page_pages=vma.page_kb * 1024 // PAGE if vma.hugetlb else 1,
            mergeable=restless,
        )

    # --- pages ---

    def _take_pages(self, layout: Layout, before: Tasks, drained: Drained) -> None:
        ledger = self._ledger
        self._areas = self._areas_of(layout)
        ledger.cover(self._areas)
        ledger.weights = self._machine.weights_of()
        populated = ledger.covered(self._work.known_regions())
        wanted = np.union1d(ledger.covered(self._work.take_just_read()), ledger.unknown(populated))
        wanted = np.union1d(wanted, ledger.covered(self._unsure))
        if len(wanted):
            pages = self._reader.read(wanted, layout)
            ledger.take(wanted, pages.node, pages.file, pages.huge, self._events(before, drained))
        pools = {area.page_pages for area in self._areas if area.page_pages > 1}
        ledger.judge(
            Standing(
                frozenset(self._allowed),
                {it.thread: it.policy for it in self._tasks.shown},
                {size: self._machine.empty_pools(size) for size in pools},
            )
        )
        self._unsure = self._differing(layout, wanted)

    def _differing(self, layout: Layout, regions: Int64s) -> Int64s:
        """Of what was read: regions whose pages are not those that were counted, as they changed in between."""
        spans = layout.spans
        first = np.searchsorted(spans.end, regions << REGION_SHIFT, "right")
        last = np.searchsorted(spans.start, regions + 1 << REGION_SHIFT, "left")
        parts = []
        for row in np.unique(gather_ranges(first, last)).tolist():
            sums, total = self._ledger.sums.get(int(spans.start[row])), self._work.totals[row]
            if total.any() if sums is None else not np.array_equal(sums.present, total):
                parts.append(self._work.known_regions(int(spans.start[row]), int(spans.end[row])))
        return np.unique(np.concatenate(parts)) if parts else np.empty(0, np.int64)

    # --- what happened ---

    def _events(self, before: Tasks, drained: Drained) -> Events:
        return Events(
            list(self._arrivals(before, drained)),
            self._moves(drained),
            self._found,
            self._appeared,
            self._reader.merged,
            self._reader.large,
        )

    def _arrivals(self, before: Tasks, drained: Drained) -> Iterator[Arrival]:
        starts = np.array([area.start for area in self._areas], np.int64)
        ends = np.array([area.end for area in self._areas], np.int64)
        for rows in drained.placed:
            base = rows.address & -REGION
            first, last = np.searchsorted(ends, base, "right"), np.searchsorted(starts, base + REGION, "left")
            columns = (base, rows.kind, rows.sequence, rows.policy, rows.thread, first, last)
            for row, values in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
                begin, kind, sequence, hashed, thread, low, high = values
                task = self._tasks.by_hash.get(hashed, before.by_hash.get(hashed)) if hashed else DEFAULT
                how = How.COPIED if kind == FaultKind.COW else How.FAULT
                # One span then may be several now: setting a policy splits VMAs.
                for area in self._areas[low:high]:
                    pages = _within(rows.pages[row], begin, area)
                    if pages.any():
                        address = begin + (int(pages.argmax()) << 12)
                        origins = self._origins(area, address, sequence, task, thread, how, drained.calls)
                        yield Arrival(begin >> REGION_SHIFT, pages, origins, kind == FaultKind.HUGE)

    def _origins(
        self,
        area: Area,
        address: int,
        sequence: int,
        task: Policy | None,
        thread: int,
        how: How,
        calls: list[PolicyCall],
    ) -> tuple[Origin, ...]:
        """Under which policy a fault of this epoch was: the VMA's, when it had one then, or the thread's."""
        existed, was = self._owned.at(address)
        now = area.policy if area.own else None
        traced = policy_by_calls(calls, address, sequence, was)
        if traced is not None:
            (own,) = traced
            own = now if same_policy(own, now) else own
            return (self._origin(area, how, own or task, own is not None, thread),)
        if now is None and was is None:
            return (self._origin(area, how, task, False, thread),)
        present = self._origin(area, how, now or task, now is not None, thread)
        if existed and same_policy(was, now):
            return (present,)
        return present, self._origin(area, how, was or task, was is not None, thread)

    def _origin(self, area: Area, how: How, policy: Policy | None, own: bool, thread: int) -> Origin:
        weights: tuple[tuple[int, int], ...] = ()
        if policy is not None and policy.mode == Mode.WEIGHTED_INTERLEAVE:
            weights = tuple(sorted(self._machine.weights_of().items()))
        recent = own and area.start in self._recent
        return Origin(how, policy, own, thread, weights, self._machine.full, recent=recent)

    def _moves(self, drained: Drained) -> dict[tuple[int, int, int], Counter[int]]:
        moves: dict[tuple[int, int, int], Counter[int]] = {}
        rows = self._attribution.moves(drained)
        for address, source, destination, reason, pages, _ in zip(*(column.tolist() for column in rows), strict=True):
            if pages:
                moves.setdefault((address >> REGION_SHIFT, source, destination), Counter())[reason] += pages
        return moves

    def _found(self, area: Area) -> Origin:
        """The origin of pages that no event tells of, in a region that was never looked at."""
        if self._looks:
            return self._appeared(area)  # or moved here by mremap()
        return Origin(How.INHERITED) if self._born else Origin(How.FOUND, area.policy, area.own)

    def _appeared(self, area: Area) -> Origin:
        """The same in a region that is known. Nobody knows which thread it was: the main thread is the best guess."""
        return self._origin(area, How.APPEARED, area.policy, area.own, 0)

    # --- changes ---

    def _changes(self, before: Tasks, owned: Owned, drained: Drained | None) -> tuple[PolicyChange, ...]:
        """What was set since the last look: as the system calls said, where they are traced, and as it shows."""
        now = datetime.now(UTC)
        calls = [
            change_by_call(call, self._owned, before) for call in (drained.calls if drained else ()) if not call.result
        ]
        told = {(it.thread if not it.end else 0, it.start) for it in calls}
        seen = [
            PolicyChange(now, False, it.thread, 0, 0, before.by_thread[it.thread], it.policy)
            for it in self._tasks.shown
            if it.thread in before.by_thread and before.by_thread[it.thread] != it.policy and (it.thread, 0) not in told
        ]
        if owned is not self._owned:
            seen += [
                PolicyChange(now, False, 0, start, end, old, new)
                for start, end, old, new in differences(self._owned, owned)
                if not any(call.start <= start < call.end for call in calls)
            ]
        return tuple(sorted((*calls, *seen), key=lambda it: it.time))

    # --- results ---

    def _policies(self, layout: Layout) -> Policies:
        node_ids = list(self._machine.node_ids)
        count = len(layout.vmas)
        rule, units = np.zeros((count, len(node_ids)), np.int64), np.zeros(count)
        huge, governed = np.zeros(count, np.int64), np.ones(count, bool)
        misplaced: list[tuple[int, Key, int]] = []
        rows = layout.spans.index_of(np.array([area.start for area in self._areas], np.int64))
        for area, row in zip(self._areas, rows.tolist(), strict=True):
            sums = self._ledger.sums.get(area.start)
            if sums is None or area.policy.mode in PROMISELESS:
                continue
            pages = int(sums.present.sum())
            rule[row], huge[row] = sums.rule[node_ids], sums.huge
            units[row] = pages * pages / sums.squares if sums.squares else 0.0
            governed[row] = not (area.own and pages and int(sums.file.sum()) == pages)
            misplaced += [(row, key, number) for key, number in sums.misplaced.items()]
            misplaced += [(row, key, number) for key, number in self._surplus(area, sums)]
        found = Policies(
            own=layout.own_policy,
            governed=governed,
            allowed=tuple(node for node in self._machine.node_ids if node in self._allowed),
            weights=self._machine.weights,
            threads=self._tasks.shown,
            changes=(),
            rule=rule,
            units=units,
            huge=huge,
            misplaced=_misplaced(misplaced, self._attribution.reasons),
            pressure=self._machine.pressure,
            observed=self._looks > 1 or self._born,
        )
        return self.policies if self.policies is not None and _equal(self.policies, found) else found

    def _surplus(self, area: Area, sums: Sums) -> list[tuple[Key, int]]:
        """Of the page cache, which goes by the policy of the thread that read it, and by turn: whatever there is more
        of on a node than its share was read by somebody else."""
        total = int(sums.file.sum())
        if area.own or not total:
            return []
        ids = self._machine.node_ids
        shares = expectation(area.policy, ids, self._machine.weights_of() or None).shares
        if shares is None:
            return []
        more = sums.file[list(ids)] - apportion(shares, total)
        elsewhere = {key.node: pages for key, pages in sums.misplaced.items() if key.cause == Cause.PAGE_CACHE}
        return [
            (Key(node, ANYWHERE, Cause.PAGE_CACHE, -1), left)
            for node, surplus in zip(ids, more.tolist(), strict=True)
            if (left := surplus - elsewhere.get(node, 0)) > 0
        ]


def _within(pages: npt.NDArray[np.bool_], begin: int, area: Area) -> npt.NDArray[np.bool_]:
    """Those of the pages of a region, which begins at an address, that lie in an area."""
    low, high = max(0, area.start - begin >> 12), max(0, area.end - begin >> 12)
    if low == 0 and high >= len(pages):
        return pages
    inside = np.zeros_like(pages)
    inside[low:high] = pages[low:high]
    return inside


def _misplaced(rows: list[tuple[int, Key, int]], reasons: tuple[str, ...]) -> Misplaced:
    table = sorted((row, key.node, key.expected, int(key.cause), key.reason, pages) for row, key, pages in rows)
    columns = np.array(table, np.int64).reshape(-1, 6)
    return Misplaced(reasons, *(np.ascontiguousarray(columns[:, at]) for at in range(6)))


def _equal(one: Policies, other: Policies) -> bool:
    """Whether nothing changed, so that the same object may be shown again."""
    plain = ("allowed", "weights", "threads", "observed")
    if any(getattr(one, name) != getattr(other, name) for name in plain) or one.pressure is not other.pressure:
        return False
    arrays = ("own", "governed", "rule", "units", "huge")
    if not all(np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays):
        return False
    columns = ("vma", "node", "expected", "cause", "reason", "pages")
    return all(np.array_equal(getattr(one.misplaced, name), getattr(other.misplaced, name)) for name in columns)

"""From rows back to samples: the reverse of `tracer.record.rows`.

A `Decoder` goes through chunks of rows in order and keeps of every target what the rows so far say of it. What does
not change from one sample to the next stays the same object.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import numpy.typing as npt

from tracer.model.events import Faults, Flows
from tracer.model.policies import Policies
from tracer.model.policy import Spelling
from tracer.model.sample import Sample
from tracer.model.snapshot import Details, Refresh, Regions, Snapshot, Trust
from tracer.record.chunk import ENDED, MACHINE, Chunk, Spread
from tracer.record.happened import Happened, Reasons
from tracer.record.heads import Head, Life, lives, read_heads
from tracer.record.known_vmas import SPELLINGS, KnownVmas
from tracer.record.ledger import Ledger, common
from tracer.record.policy_decode import PolicyRows, Promises
from tracer.record.schema import DETAILS, Info
from tracer.record.words import raw_bytes

__all__ = ["Decoder"]

Int64s = npt.NDArray[np.int64]
Uint64s = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.intp]

_NONE = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class _Shown:
    """What is kept of a target, and what snapshots got of it. `spans` is None where regions are not counted, and
    `promises` where policies are not read."""

    vmas: Ledger
    spans: Ledger | None
    promises: Promises | None
    pages: Int64s
    details: Details | None
    regions: Regions | None


class _Opened:
    """A chunk with its heads and events taken apart. policies: None where there are none."""

    def __init__(self, chunk: Chunk, reasons: Reasons, policies: PolicyRows | None) -> None:
        self.chunk = chunk
        self.heads = read_heads(chunk)
        self.flows = Happened.flows(chunk, reasons)
        self.faults = Happened.faults(chunk)
        self.policies = policies


class Decoder:
    """Makes samples of the rows of one recording. node_ids: those that all samples get."""

    def __init__(self, info: Info, node_ids: Sequence[int]) -> None:
        self._node_ids = tuple(node_ids)
        self._shown: dict[int, _Shown] = {}
        self._vmas = KnownVmas()
        self._untraced = 0
        self._counted = False
        self.use(info)

    def use(self, info: Info) -> None:
        """The rows that follow are of a file with this metadata, and begin with a key frame."""
        self._info = info
        self._reasons = Reasons(info.reasons)
        self._no_flows: Flows | None = None
        self._no_faults = Faults(_NONE, _NONE, _NONE, _NONE, _NONE, _NONE)

    def samples(self, chunk: Chunk) -> Iterator[Sample]:
        """Every sample of the chunk, which goes on where the rows so far ended, or begins with a key frame."""
        opened = self._opened(chunk)
        begins = chunk.heads.begins.tolist()
        for index in range(len(chunk)):
            yield self._sample(opened, index, opened.heads[begins[index] : begins[index + 1]])

    def _opened(self, chunk: Chunk) -> _Opened:
        own = self._info.node_ids
        policies = PolicyRows(chunk, self._reasons, self._node_ids, own) if self._info.policies else None
        return _Opened(chunk, self._reasons, policies)

    def _sample(self, opened: _Opened, index: int, heads: list[Head]) -> Sample:
        key, time = opened.chunk.keys[index], opened.chunk.times[index]
        if key:
            self._vmas.grow_old()
        before = self._shown
        # Another dictionary for each sample, so that in a key frame what came before can still be used again.
        now = self._shown = {} if key else dict(before)
        ended, live = [], []
        machine = None
        for head in heads:
            if head.event == MACHINE:
                machine = self._machine(opened, head)
                continue
            shown = self._show(opened, head, now.get(head.pid), before.get(head.pid))
            snapshot = self._snapshot(opened, head, shown, time)
            if head.event == ENDED:
                now.pop(head.pid, None)
                ended.append(snapshot)
            else:
                now[head.pid] = shown
                live.append(snapshot)
        migrated, failed = machine or self._nothing_migrated()
        reasons = self._reasons.names if self._counted else ()
        return Sample(time, self._node_ids, tuple(live), tuple(ended), self._untraced, reasons, migrated, failed)

    def _machine(self, opened: _Opened, head: Head) -> tuple[Int64s, Int64s] | None:
        """Take in a row of the machine; gives the pages migrated and failed by reason, where it counts any."""
        self._untraced, self._counted = head.untraced, head.counted
        if not head.counted:
            return None
        _, _, reason, pages, failed = opened.flows.elsewhere(head.number)
        migrated, not_migrated = np.zeros((2, len(self._reasons.names)), np.int64)
        np.add.at(migrated, reason, pages)
        np.add.at(not_migrated, reason, failed)
        return migrated, not_migrated

    def _nothing_migrated(self) -> tuple[Int64s, Int64s] | tuple[None, None]:
        if not self._counted:
            return None, None
        none = np.zeros(len(self._reasons.names), np.int64)
        return none, none

    # --- one target ---

    def _show(self, opened: _Opened, head: Head, base: _Shown | None, old: _Shown | None) -> _Shown:
        """What is to be shown of it now. base: what its rows are changes to. old: what to share what is equal with."""
        vmas = self._updated_vmas(opened, head, base.vmas if base else None)
        spans = self._updated_spans(opened, head, base.spans if base else None)
        if base is None and old is not None:
            vmas = vmas.like(old.vmas)
            if spans is not None and old.spans is not None:
                spans = spans.like(old.spans)
        promises = None
        if opened.policies is not None:
            before = (it.promises if it else None for it in (base, old))
            promises = opened.policies.after(head, *before)
        return self._shared(vmas, spans, promises, head.has_details and self._info.details, old)

    def _shared(
        self, vmas: Ledger, spans: Ledger | None, promises: Promises | None, has_details: bool, old: _Shown | None
    ) -> _Shown:
        """What snapshots get of these, as far as possible the very objects that the one before got."""
        same = old is not None and vmas is old.vmas and spans is old.spans and promises is old.promises
        if old is not None and same and has_details == (old.details is not None):
            return old
        nodes = len(self._node_ids)
        pages = vmas.counts[:, :nodes]
        if old is not None and np.array_equal(pages, old.pages):
            pages = old.pages
        details = Details(*vmas.counts[:, nodes:].T) if has_details else None
        regions = None
        if spans is not None:
            kept = old is not None and old.spans is spans
            regions = old.regions if old is not None and kept else Regions(spans.starts.astype(np.int64), spans.counts)
        return _Shown(vmas, spans, promises, pages, details, regions)

    def _updated_vmas(self, opened: _Opened, head: Head, base: Ledger | None) -> Ledger:
        base = base or Ledger.empty(len(self._node_ids) + (len(DETAILS) if self._info.details else 0))
        (first, last), (gone, end) = head.vmas, head.gone
        if first == last and gone == end:
            return base
        rows = opened.chunk.vmas
        things = self._vmas.of(rows, range(first, last), head.spelling)
        removed = opened.chunk.gone.starts[gone:end]
        return base.updated(rows.starts[first:last], self._vma_counts(rows)[first:last], things, removed)

    def _vma_counts(self, rows: Spread) -> Int64s:
        return rows.pages_and_details if self._info.details else rows.pages

    def _updated_spans(self, opened: _Opened, head: Head, base: Ledger | None) -> Ledger | None:
        if not head.has_regions:
            return None
        base = base or Ledger.empty(len(self._node_ids))
        rows = opened.chunk.spans
        part = slice(*head.spans)
        return _with_spans(base, rows.starts[part], rows.pages[part])

    def _snapshot(self, opened: _Opened, head: Head, shown: _Shown, time: datetime) -> Snapshot:
        return Snapshot(
            time=time,
            pid=head.pid,
            comm=raw_bytes(head.comm, head.comm_raw),
            hooks=head.hooks,
            reader=head.reader,
            trust=Trust(head.settling, head.unexplained, head.lost, head.drift, head.oldest_read_s),
            refresh=Refresh(head.regions_read, head.cpu_ns),
            vmas=shown.vmas.things,
            node_ids=self._node_ids,
            pages=shown.pages,
            details=shown.details,
            spelling=SPELLINGS.get(head.spelling, Spelling.NAMED),
            namespace_pid=head.ns_pid,
            flows=self._flows(opened, head, shown.vmas) if self._info.flows else None,
            faults=self._faults(opened, head, shown.vmas) if self._info.faults or self._info.threads else None,
            regions=shown.regions,
            policies=self._policies(opened, head, shown.promises),
        )

    def _policies(self, opened: _Opened, head: Head, promises: Promises | None) -> Policies | None:
        if opened.policies is None or promises is None:
            return None
        changes = opened.policies.changes(head)
        return replace(promises.policies, changes=changes) if changes else promises.policies

    def _flows(self, opened: _Opened, head: Head, vmas: Ledger) -> Flows:
        columns = opened.flows.rows(head.number, *head.vmas, vmas.rows(opened.chunk.vmas.starts[slice(*head.vmas)]))
        if columns is not None:
            return Flows(self._reasons.names, *columns)
        if self._no_flows is None or self._no_flows.reasons is not self._reasons.names:
            self._no_flows = Flows(self._reasons.names, _NONE, _NONE, _NONE, _NONE, _NONE, _NONE)
        return self._no_flows

    def _faults(self, opened: _Opened, head: Head, vmas: Ledger) -> Faults:
        columns = opened.faults.rows(head.number, *head.vmas, vmas.rows(opened.chunk.vmas.starts[slice(*head.vmas)]))
        return self._no_faults if columns is None else Faults(*columns)

    # --- many samples at once ---

    def skip(self, chunk: Chunk) -> None:
        """As if all samples of the chunk had been made, but at the cost of their end. It begins with a key frame."""
        opened = self._opened(chunk)
        self._shown = {}
        for life in lives(chunk, opened.heads).values():
            self._shown[life.head.pid] = self._skipped(opened, life)
        for head in reversed(opened.heads):
            if head.event == MACHINE:
                self._untraced, self._counted = head.untraced, head.counted
                break

    def _skipped(self, opened: _Opened, life: Life) -> _Shown:
        chunk, head = opened.chunk, life.head
        kept = _last_of_each(chunk.vmas, chunk.gone, head.pid, life.begin)
        things = self._vmas.of(chunk.vmas, kept.tolist(), head.spelling)
        columns = self._vma_counts(chunk.vmas)
        none = np.empty(0, np.uint64)
        vmas = Ledger.empty(columns.shape[1]).updated(chunk.vmas.starts[kept], columns[kept], things, none)
        spans = None
        if head.has_regions:
            rows = _last_of_each(chunk.spans, None, head.pid, life.begin_of_spans)
            empty = Ledger.empty(len(self._node_ids))
            spans = _with_spans(empty, chunk.spans.starts[rows], chunk.spans.pages[rows])
        promises = opened.policies.at_end(life, kept) if opened.policies is not None else None
        return self._shared(vmas, spans, promises, head.has_details and self._info.details, None)


def _with_spans(base: Ledger, starts: Uint64s, pages: Int64s) -> Ledger:
    """A span without pages is gone."""
    there = np.any(pages, axis=1)
    return base.updated(starts[there], pages[there], (), starts[~there])


def _last_of_each(rows: Spread, gone: Spread | None, pid: int, begin: int) -> Rows:
    """Of the rows of this target from `begin` on the last one for each address, unless that is gone after it."""
    starts, last = _by_start(rows, pid, begin)
    if gone is None:
        return last
    gone_starts, left = _by_start(gone, pid, begin)
    here, there = common(starts, gone_starts)
    keep = np.ones(len(last), np.bool_)
    keep[here] = rows.at[last[here]] > gone.at[left[there]]
    return last[keep]


def _by_start(rows: Spread, pid: int, begin: int) -> tuple[Uint64s, Rows]:
    """The addresses, ascending, and the last row of each."""
    mine = rows.of_pid(pid)
    mine = mine[np.searchsorted(rows.at[mine], begin) :]
    starts, place = np.unique(rows.starts[mine][::-1], return_index=True)
    return starts, mine[len(mine) - 1 - place]

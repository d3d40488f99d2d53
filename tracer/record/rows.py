"""From samples to the rows of a recording: only what changed, and everything again in each key frame.

The order of rows and their meaning are in docs/recording.md. What was written of a target is remembered by the very
objects that its snapshot had: snapshots share them as long as nothing changes, so an unchanged target costs little
more than its one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tracer.model.events import Faults, Flows
from tracer.model.policy import Policy, Spelling, format_nodes
from tracer.model.sample import Sample
from tracer.model.snapshot import Regions, Snapshot
from tracer.model.vma import Vma
from tracer.record.ledger import common
from tracer.record.schema import DETAILS, TIME_TYPE, Info, arrow_schema, node_column
from tracer.record.words import FAULT_WORDS, VMA_WORDS, policy_text, text_and_raw

__all__ = ["RowMaker"]

Int64s = npt.NDArray[np.int64]
Uint64s = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
Columns = dict[str, Any]

KEY_US = 60_000_000
"""Time between two key frames..."""
KEY_VMAS = 10_000
"""... for each so many VMAs, so that they stay a small part of a recording."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Where rows stand among those of their target: a live one begins with its own row, an ended one ends with it.
_TARGET, _UNMAPPED, _VMA, _REGION, _ENDED, _RANKS = range(6)


@dataclass(slots=True)
class _Written:
    """What the rows so far say about an address space. details: int64 of shape (VMAs, 6), None where not read."""

    vmas: tuple[Vma, ...]
    starts: Uint64s
    pages: Int64s
    details: Int64s | None
    spelling: Spelling
    regions: Regions | None


class RowMaker:
    """Makes the rows of one recording, sample by sample."""

    def __init__(self, info: Info) -> None:
        self._schema = arrow_schema(info)
        self._node_ids = info.node_ids
        self._written: dict[int, _Written] = {}
        self._time = -1
        self._key_time: int | None = None
        self._untraced = 0
        self._counted = False

    def key_frame_next(self) -> None:
        """The next batch repeats everything, as at the start of a file."""
        self._key_time = None

    def batch(self, sample: Sample) -> Any:
        """The `pyarrow.RecordBatch` with the rows of this sample, at least one.

        Times ascend: where the clock was set back, a sample is written one microsecond after the one before.
        ValueError when the sample has other nodes than the recording.
        """
        if sample.node_ids != self._node_ids:
            raise ValueError(f"a sample of nodes {sample.node_ids} in a recording of nodes {self._node_ids}")
        self._time = max((sample.time - _EPOCH) // timedelta(microseconds=1), self._time + 1)
        key = self._key_due(sample)
        if key:
            self._written.clear()
            self._key_time = self._time
        rows = _Rows(self._node_ids)
        self._machine(rows, sample, key)
        for snapshot in sample.ended:
            self._target(rows, snapshot, ended=True)
            self._written.pop(snapshot.pid, None)
        for snapshot in sample.snapshots:
            self._target(rows, snapshot, ended=False)
        live = {snapshot.pid for snapshot in sample.snapshots}
        for pid in self._written.keys() - live:
            del self._written[pid]
        return rows.batch(self._schema, self._time, key)

    def _key_due(self, sample: Sample) -> bool:
        if self._key_time is None:
            return True
        vmas = sum(len(snapshot.vmas) for snapshot in sample.snapshots)
        return self._time - self._key_time >= KEY_US * max(1, vmas // KEY_VMAS)

    def _machine(self, rows: _Rows, sample: Sample, key: bool) -> None:
        flows = _machine_flows(sample)
        counted = flows is not None
        says = flows or sample.untraced != self._untraced or counted != self._counted or not sample.snapshots
        if says or key:
            self._untraced, self._counted = sample.untraced, counted
            rows.head(_TARGET, {"event": "machine", "untraced": sample.untraced, "flows": flows})

    def _target(self, rows: _Rows, snapshot: Snapshot, ended: bool) -> None:
        rows.next_target(snapshot)
        known = self._written.get(snapshot.pid)
        details = _details(snapshot)
        flows = _Grouped.flows(snapshot.flows, len(snapshot.vmas))
        faults = _Grouped.faults(snapshot.faults, len(snapshot.vmas))
        starts, changed, gone = _changes(known, snapshot, details)
        rows.gone(*gone)
        write = np.flatnonzero(changed | flows.happened | faults.happened)
        if len(write):
            rows.vmas(write, details, flows, faults)
        counted = self._regions(rows, snapshot, known)
        head = _head(snapshot, self._node_ids, details)
        head.update(
            event="ended" if ended else "target", regions=counted, flows=flows.elsewhere, faults=faults.elsewhere
        )
        rows.head(_ENDED if ended else _TARGET, head)
        self._written[snapshot.pid] = _Written(
            snapshot.vmas, starts, snapshot.pages, details, snapshot.spelling, snapshot.regions
        )

    def _regions(self, rows: _Rows, snapshot: Snapshot, known: _Written | None) -> int | None:
        """Write the spans that changed; gives the number of all."""
        regions = snapshot.regions
        if regions is None:
            return None
        before = known.regions if known is not None else None
        kept: Bools = np.any(regions.pages, axis=1)
        if regions is not before:
            rows.regions(*_region_changes(before, regions, kept))
        return int(kept.sum())


# --- what changed ---


def _changes(
    known: _Written | None, now: Snapshot, details: Int64s | None
) -> tuple[Uint64s, Bools, tuple[Uint64s, Uint64s]]:
    """Starts of all VMAs, which of them have to be written, and `start` and `end` of those that are gone."""
    if known is None:
        return _starts(now.vmas), np.ones(len(now.vmas), np.bool_), _bounds(())
    if now.vmas is known.vmas:
        starts, gone = known.starts, _bounds(())
        changed = np.zeros(len(starts), np.bool_)
        here = there = np.arange(len(starts))
    else:
        starts = _starts(now.vmas)
        here, there = common(starts, known.starts)
        changed = np.ones(len(starts), np.bool_)
        changed[here] = _differ(now.vmas, here, known.vmas, there)
        gone = _bounds([known.vmas[row] for row in _others(there, len(known.vmas))])
    if now.pages is not known.pages:
        changed[here] |= (now.pages[here] != known.pages[there]).any(axis=1)
    if details is not None and known.details is not None:
        changed[here] |= (details[here] != known.details[there]).any(axis=1)
    if (details is not None and known.details is None) or known.spelling is not now.spelling:
        changed[:] = True
    return starts, changed, gone


def _region_changes(before: Regions | None, now: Regions, kept: Bools) -> tuple[Int64s, Int64s]:
    """Addresses and counts of the spans to be written; counts of 0 for those that are gone."""
    address, pages = now.address[kept], now.pages[kept]
    if before is None:
        return address, pages
    here, there = common(address, before.address)
    changed = np.ones(len(address), np.bool_)
    changed[here] = (pages[here] != before.pages[there]).any(axis=1)
    gone = _others(there, len(before.address))
    gone = [row for row in gone if before.pages[row].any()]
    none = np.zeros((len(gone), pages.shape[1]), np.int64)
    address = np.concatenate((address[changed], before.address[gone]))
    return address, np.concatenate((pages[changed], none))


def _others(rows: npt.NDArray[np.intp], count: int) -> list[int]:
    """Those of `count` rows that are not among `rows`."""
    left = np.ones(count, np.bool_)
    left[rows] = False
    return np.flatnonzero(left).tolist()


def _differ(
    new: Sequence[Vma], here: npt.NDArray[np.intp], old: Sequence[Vma], there: npt.NDArray[np.intp]
) -> list[bool]:
    pairs = zip(here.tolist(), there.tolist(), strict=True)
    return [new[a] is not old[b] and new[a] != old[b] for a, b in pairs]


def _starts(vmas: Sequence[Vma]) -> Uint64s:
    return np.fromiter((vma.start for vma in vmas), np.uint64, len(vmas))


def _bounds(vmas: Sequence[Vma]) -> tuple[Uint64s, Uint64s]:
    return _starts(vmas), np.fromiter((vma.end for vma in vmas), np.uint64, len(vmas))


def _details(snapshot: Snapshot) -> Int64s | None:
    details = snapshot.details
    return None if details is None else np.column_stack([getattr(details, name) for name in DETAILS])


# --- what happened ---


@dataclass(slots=True)
class _Grouped:
    """Flows or faults of one target, VMA by VMA.

    counts: rows of each VMA. values: the fields of Arrow's struct, in the order of the VMAs. elsewhere: those of no
    known VMA, as dictionaries; None where there are none.
    """

    counts: Int64s
    values: Columns
    elsewhere: list[dict[str, Any]] | None

    @property
    def happened(self) -> Bools:
        """The VMAs that have any."""
        return self.counts > 0

    def of(self, rows: npt.NDArray[np.intp]) -> _Grouped:
        """Of these VMAs only, in ascending order; nothing may have happened in the others."""
        return _Grouped(self.counts[rows], self.values, None)

    @staticmethod
    def flows(flows: Flows | None, vmas: int) -> _Grouped:
        if flows is None or not len(flows.vma):
            return _Grouped(np.zeros(vmas, np.int64), {}, None)
        reasons = np.array(flows.reasons, object)[flows.reason]
        columns = {"source": flows.source, "destination": flows.destination, "reason": reasons}
        return _Grouped._of(flows.vma, columns | {"pages": flows.pages, "failed": flows.failed}, vmas)

    @staticmethod
    def faults(faults: Faults | None, vmas: int) -> _Grouped:
        if faults is None or not len(faults.vma):
            return _Grouped(np.zeros(vmas, np.int64), {}, None)
        kinds = np.array(FAULT_WORDS, object)[faults.kind]
        columns = {"cpu_node": faults.cpu_node, "page_node": faults.page_node, "kind": kinds}
        return _Grouped._of(faults.vma, columns | {"thread": faults.thread, "count": faults.count}, vmas)

    @staticmethod
    def _of(vma: Int64s, columns: Columns, vmas: int) -> _Grouped:
        order = np.argsort(vma, kind="stable")
        unknown = int((vma < 0).sum())
        first = {name: column[order[:unknown]].tolist() for name, column in columns.items()}
        elsewhere = [dict(zip(first, row, strict=True)) for row in zip(*first.values(), strict=True)]
        values = {name: column[order[unknown:]] for name, column in columns.items()}
        return _Grouped(np.bincount(vma[vma >= 0], minlength=vmas), values, elsewhere or None)


def _machine_flows(sample: Sample) -> list[dict[str, Any]] | None:
    """None where the machine's migrations are not counted; an empty list where there were none."""
    if sample.migrated is None or sample.failed is None:
        return None
    counts = zip(sample.reasons, sample.migrated.tolist(), sample.failed.tolist(), strict=True)
    return [
        {"source": -1, "destination": -1, "reason": reason, "pages": pages, "failed": failed}
        for reason, pages, failed in counts
        if pages or failed
    ]


# --- rows ---


def _head(snapshot: Snapshot, node_ids: tuple[int, ...], details: Int64s | None) -> dict[str, Any]:
    """What a target's own row says; flows, faults and regions are added by the caller."""
    comm, raw = text_and_raw(snapshot.comm)
    totals = snapshot.pages.sum(axis=0).tolist()
    trust, refresh = snapshot.trust, snapshot.refresh
    head = {
        "pid": snapshot.pid,
        "ns_pid": snapshot.namespace_pid,
        "comm": comm,
        "comm_raw": raw,
        "hooks": snapshot.hooks,
        "reader": snapshot.reader,
        "spelling": snapshot.spelling.value,
        "pages": sum(totals),
        "settling": trust.settling,
        "unexplained": trust.unexplained,
        "lost": trust.lost,
        "drift": trust.drift,
        "oldest_read_s": trust.oldest_read_s,
        "regions_read": refresh.regions_read,
        "cpu_ns": refresh.cpu_ns,
    }
    head.update((node_column(node), total) for node, total in zip(node_ids, totals, strict=True))
    if details is not None:
        sums = details.sum(axis=0)
        highest = DETAILS.index("mapmax")
        sums[highest] = details[:, highest].max(initial=0)
        head.update(zip(DETAILS, sums.tolist(), strict=True))
    return head


class _Part:
    """Rows of one kind, from all targets of a sample: blocks of columns, each a list or an array."""

    def __init__(self) -> None:
        self._orders: list[Int64s] = []
        self._blocks: list[Columns] = []

    def add(self, order: int, count: int, columns: Columns) -> None:
        """Blocks of one part all have the same columns. order: where these rows stand in the sample."""
        if count:
            self._orders.append(np.full(count, order, np.int64))
            self._blocks.append(columns)

    def __len__(self) -> int:
        return sum(map(len, self._orders))

    def order(self) -> Int64s:
        """A number for each row."""
        return np.concatenate(self._orders) if self._orders else np.empty(0, np.int64)

    def arrays(self, schema: Any) -> Columns:
        """Arrow's arrays of the columns that these rows have."""
        if not self._blocks:
            return {}
        return {name: self._array(name, schema.field(name).type) for name in self._blocks[0]}

    def _array(self, name: str, kind: Any) -> Any:
        pieces = [block[name] for block in self._blocks]
        if isinstance(pieces[0], _Grouped):
            return _list_array(pieces, kind)
        if all(isinstance(piece, np.ndarray) for piece in pieces):
            return pa.array(pieces[0] if len(pieces) == 1 else np.concatenate(pieces), kind)
        return pa.array([value for piece in pieces for value in piece], kind)


class _Rows:
    """Collects the rows of one sample."""

    def __init__(self, node_ids: tuple[int, ...]) -> None:
        self._nodes = [node_column(node) for node in node_ids]
        self._heads: list[tuple[int, dict[str, Any]]] = []
        self._parts = {_UNMAPPED: _Part(), _VMA: _Part(), _REGION: _Part()}
        self._policies: dict[Policy, tuple[str, str]] = {}
        self._ordinal = 0

    def next_target(self, snapshot: Snapshot) -> None:
        """What is added from now on belongs to this one."""
        self._ordinal += 1
        self._snapshot = snapshot
        self._comm = text_and_raw(snapshot.comm)[0]
        self._policies = {}

    def head(self, rank: int, values: dict[str, Any]) -> None:
        """The row of the target, or of the machine."""
        self._heads.append((self._ordinal * _RANKS + rank, values))

    def gone(self, starts: Uint64s, ends: Uint64s) -> None:
        """VMAs that are there no more."""
        self._add(_UNMAPPED, "unmapped", len(starts), {"start": starts, "end": ends})

    def regions(self, addresses: Int64s, pages: Int64s) -> None:
        """Spans with new counts."""
        self._add(_REGION, "region", len(addresses), {"start": addresses, **self._counts(pages)})

    def vmas(self, rows: npt.NDArray[np.intp], details: Int64s | None, flows: _Grouped, faults: _Grouped) -> None:
        """These VMAs of the snapshot. What happened in others must be nothing."""
        snapshot = self._snapshot
        vmas = [snapshot.vmas[row] for row in rows.tolist()]
        columns = self._vma_columns(vmas) | self._counts(snapshot.pages[rows])
        for index, name in enumerate(DETAILS):
            columns[name] = details[rows, index] if details is not None else [None] * len(vmas)
        columns["flows"], columns["faults"] = flows.of(rows), faults.of(rows)
        self._add(_VMA, "vma", len(vmas), columns)

    def _vma_columns(self, vmas: Sequence[Vma]) -> Columns:
        names = [text_and_raw(vma.path) for vma in vmas]
        policies = [self._policy(vma.policy) for vma in vmas]
        return {
            "start": _starts(vmas),
            "end": [vma.end for vma in vmas],
            "perms": [vma.perms for vma in vmas],
            "offset": [vma.offset for vma in vmas],
            "device": [vma.device for vma in vmas],
            "inode": [vma.inode for vma in vmas],
            "kind": [VMA_WORDS[vma.kind] for vma in vmas],
            "name": [text for text, _ in names],
            "name_raw": [raw for _, raw in names],
            "huge": [vma.hugetlb for vma in vmas],
            "page_kb": [vma.page_kb for vma in vmas],
            "policy": [text for text, _ in policies],
            "policy_mode": [vma.policy.mode for vma in vmas],
            "policy_flags": [vma.policy.flags for vma in vmas],
            "policy_nodes": [nodes for _, nodes in policies],
        }

    def _policy(self, policy: Policy) -> tuple[str, str]:
        words = self._policies.get(policy)
        if words is None:
            words = policy_text(policy, self._snapshot.spelling), format_nodes(policy.nodes)
            self._policies[policy] = words
        return words

    def _counts(self, pages: Int64s) -> Columns:
        return {"pages": pages.sum(axis=1), **dict(zip(self._nodes, pages.T, strict=True))}

    def _add(self, rank: int, event: str, count: int, columns: Columns) -> None:
        common = {"event": [event] * count, "pid": [self._snapshot.pid] * count, "comm": [self._comm] * count}
        self._parts[rank].add(self._ordinal * _RANKS + rank, count, common | columns)

    def batch(self, schema: Any, time: int, key: bool) -> Any:
        """All of it in its order. time: microseconds since 1970."""
        parts = [self._heads_part(), *(part for part in self._parts.values() if len(part))]
        order = np.concatenate([part.order() for part in parts])
        count = len(order)
        blocks = [part.arrays(schema) for part in parts]
        same = {
            "time": pa.array(np.full(count, time, "datetime64[us]"), TIME_TYPE),
            "key": pa.array(np.full(count, key)),
        }
        lengths = [len(part) for part in parts]
        columns = [same[it.name] if it.name in same else _joined(it, blocks, lengths) for it in schema]
        batch = pa.RecordBatch.from_arrays(columns, schema=schema)
        if (order[1:] < order[:-1]).any():
            batch = batch.take(pa.array(np.argsort(order, kind="stable")))
        return batch

    def _heads_part(self) -> _Part:
        part = _Part()
        names = dict.fromkeys(name for _, values in self._heads for name in values)
        for order, values in self._heads:
            part.add(order, 1, {name: [values.get(name)] for name in names})
        return part


def _joined(column: Any, blocks: list[Columns], lengths: list[int]) -> Any:
    """One column of all parts; null in those that do not have it."""
    pieces = [
        block[column.name] if column.name in block else pa.nulls(length, column.type)
        for block, length in zip(blocks, lengths, strict=True)
    ]
    return pieces[0] if len(pieces) == 1 else pa.concat_arrays(pieces)


def _list_array(pieces: Sequence[_Grouped], kind: Any) -> Any:
    """Arrow's array of lists, null where there is nothing."""
    counts = np.concatenate([piece.counts for piece in pieces])
    full = [piece for piece in pieces if piece.values]
    if not full:
        return pa.nulls(len(counts), kind)
    item = kind.value_type
    values = [pa.array(np.concatenate([piece.values[it.name] for piece in full]), it.type) for it in item]
    offsets = pa.array(np.concatenate(([0], np.cumsum(counts))), pa.int32())
    structs = pa.StructArray.from_arrays(values, fields=list(item))
    return pa.ListArray.from_arrays(offsets, structs, type=kind, mask=pa.array(counts == 0))

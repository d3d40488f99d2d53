"""Puts the rows of one sample together, column by column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tracer.model.policies import Policies
from tracer.model.policy import Policy, format_nodes
from tracer.model.snapshot import Snapshot
from tracer.model.vma import Vma
from tracer.record.changes import starts_of
from tracer.record.grouped import Grouped, list_array
from tracer.record.policy_rows import vma_columns
from tracer.record.schema import DETAILS, TIME_TYPE, node_column
from tracer.record.words import VMA_WORDS, policy_text, text_and_raw

__all__ = ["ENDED", "TARGET", "Rows"]

Int64s = npt.NDArray[np.int64]
Uint64s = npt.NDArray[np.uint64]
Columns = dict[str, Any]

TARGET, UNMAPPED, VMA, REGION, ENDED, RANKS = range(6)
"""Where rows stand among those of their target: a live one begins with its own row, an ended one ends with it."""


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
        if isinstance(pieces[0], Grouped):
            return list_array(pieces, kind)
        if all(isinstance(piece, np.ndarray) for piece in pieces):
            return pa.array(pieces[0] if len(pieces) == 1 else np.concatenate(pieces), kind)
        return pa.array([value for piece in pieces for value in piece], kind)


class Rows:
    """Collects the rows of one sample. policies: they have the columns for these."""

    def __init__(self, node_ids: tuple[int, ...], policies: bool) -> None:
        self._nodes = [node_column(node) for node in node_ids]
        self._heads: list[tuple[int, dict[str, Any]]] = []
        self._parts = {UNMAPPED: _Part(), VMA: _Part(), REGION: _Part()}
        self._with_policies = policies
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
        self._heads.append((self._ordinal * RANKS + rank, values))

    def gone(self, starts: Uint64s, ends: Uint64s) -> None:
        """VMAs that are there no more."""
        self._add(UNMAPPED, "unmapped", len(starts), {"start": starts, "end": ends})

    def regions(self, addresses: Int64s, pages: Int64s) -> None:
        """Spans with new counts."""
        self._add(REGION, "region", len(addresses), {"start": addresses, **self._counts(pages)})

    def vmas(
        self,
        rows: npt.NDArray[np.intp],
        details: Int64s | None,
        flows: Grouped,
        faults: Grouped,
        policies: Policies | None,
    ) -> None:
        """These VMAs of the snapshot. What happened in others must be nothing."""
        if not len(rows):
            return
        snapshot = self._snapshot
        vmas = [snapshot.vmas[row] for row in rows.tolist()]
        columns = self._vma_columns(vmas) | self._counts(snapshot.pages[rows])
        for index, name in enumerate(DETAILS):
            columns[name] = details[rows, index] if details is not None else [None] * len(vmas)
        columns["flows"], columns["faults"] = flows.of(rows), faults.of(rows)
        if self._with_policies:
            columns |= vma_columns(policies, rows, len(snapshot.vmas))
        self._add(VMA, "vma", len(vmas), columns)

    def _vma_columns(self, vmas: Sequence[Vma]) -> Columns:
        names = [text_and_raw(vma.path) for vma in vmas]
        policies = [self._policy(vma.policy) for vma in vmas]
        return {
            "start": starts_of(vmas),
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
        self._parts[rank].add(self._ordinal * RANKS + rank, count, common | columns)

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

"""Flows, faults and misplaced pages as the rows have them: each in a list at its VMA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tracer.model.cause import Cause
from tracer.model.events import Faults, Flows
from tracer.model.policies import Misplaced
from tracer.record.words import FAULT_WORDS

__all__ = ["Grouped", "list_array"]

Int64s = npt.NDArray[np.int64]
Columns = dict[str, Any]
Bools = npt.NDArray[np.bool_]

_CAUSES = np.array([cause.word for cause in Cause], object)
"""In the order of their numbers."""


@dataclass(slots=True)
class Grouped:
    """Flows, faults or misplaced pages of one target, VMA by VMA.

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

    def of(self, rows: npt.NDArray[np.intp]) -> Grouped:
        """Of these VMAs only, in ascending order; nothing may have happened in the others."""
        return Grouped(self.counts[rows], self.values, None)

    @staticmethod
    def flows(flows: Flows | None, vmas: int) -> Grouped:
        """vmas: how many the snapshot has."""
        if flows is None or not len(flows.vma):
            return Grouped(np.zeros(vmas, np.int64), {}, None)
        reasons = np.array(flows.reasons, object)[flows.reason]
        columns = {"source": flows.source, "destination": flows.destination, "reason": reasons}
        return Grouped._of(flows.vma, columns | {"pages": flows.pages, "failed": flows.failed}, vmas)

    @staticmethod
    def faults(faults: Faults | None, vmas: int) -> Grouped:
        """vmas: how many the snapshot has."""
        if faults is None or not len(faults.vma):
            return Grouped(np.zeros(vmas, np.int64), {}, None)
        kinds = np.array(FAULT_WORDS, object)[faults.kind]
        columns = {"cpu_node": faults.cpu_node, "page_node": faults.page_node, "kind": kinds}
        return Grouped._of(faults.vma, columns | {"thread": faults.thread, "count": faults.count}, vmas)

    @staticmethod
    def misplaced(misplaced: Misplaced | None, rows: npt.NDArray[np.intp], vmas: int) -> Grouped:
        """Of these VMAs only, in ascending order. vmas: how many the snapshot has."""
        if misplaced is None or not len(misplaced.vma):
            return Grouped(np.zeros(len(rows), np.int64), {}, None)
        wanted = np.zeros(vmas, np.bool_)
        wanted[rows] = True
        of = wanted[misplaced.vma]
        reasons = np.array([*misplaced.reasons, None], object)[misplaced.reason[of]]
        columns = {"cause": _CAUSES[misplaced.cause[of]], "reason": reasons, "node": misplaced.node[of]}
        columns |= {"expected": misplaced.expected[of], "pages": misplaced.pages[of]}
        grouped = Grouped._of(misplaced.vma[of], columns, vmas)
        return Grouped(grouped.counts[rows], grouped.values, None)

    @staticmethod
    def _of(vma: Int64s, columns: Columns, vmas: int) -> Grouped:
        order = np.argsort(vma, kind="stable")
        unknown = int((vma < 0).sum())
        first = {name: column[order[:unknown]].tolist() for name, column in columns.items()}
        elsewhere = [dict(zip(first, row, strict=True)) for row in zip(*first.values(), strict=True)]
        values = {name: column[order[unknown:]] for name, column in columns.items()}
        return Grouped(np.bincount(vma[vma >= 0], minlength=vmas), values, elsewhere or None)


def list_array(pieces: Sequence[Grouped], kind: Any) -> Any:
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

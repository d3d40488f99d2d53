"""A range of rows of a recording, taken apart: numbers as arrays, words as lists, rows by what they are about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tracer.record.buffers import dictionary, numpy_array, row_numbers
from tracer.record.schema import DETAILS, node_column

__all__ = ["ENDED", "MACHINE", "TARGET", "Chunk", "Heads", "Lists", "Spread"]

Int64s = npt.NDArray[np.int64]
Uint64s = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.intp]

MACHINE, ENDED, TARGET, VMA, UNMAPPED, REGION, UNKNOWN = range(7)
"""Events as numbers."""
_EVENTS = {"machine": MACHINE, "ended": ENDED, "target": TARGET, "vma": VMA, "unmapped": UNMAPPED, "region": REGION}

_VMA_WORDS = ("perms", "device", "kind", "name", "name_raw", "policy_nodes", "policy")
_VMA_FIELDS = (
    *("start", "end", "perms", "offset", "device", "inode", "kind", "name", "name_raw", "huge", "page_kb"),
    *("policy_mode", "policy_flags", "policy_nodes", "policy"),
)


@dataclass(frozen=True, slots=True)
class Lists:
    """A column of lists of structs. offsets: of each row's first element, and one more; values: by field."""

    offsets: Int64s
    values: dict[str, Any]


class Spread:
    """The rows of some kind of event. at: their row numbers in the chunk, ascending."""

    def __init__(self, columns: dict[str, Any], at: Rows, node_ids: Sequence[int]) -> None:
        self.at = at
        self._columns, self._rows, self._node_ids = columns, row_numbers(at), node_ids

    def __len__(self) -> int:
        return len(self.at)

    def _column(self, name: str) -> Any:
        return self._columns[name].take(self._rows)

    def numbers(self, name: str) -> npt.NDArray[Any]:
        """In the column's own dtype; 0 where it is null."""
        return numpy_array(self._column(name))

    def words(self, name: str) -> list[Any]:
        """Strings or bytes; None where they are null."""
        words, indices = dictionary(self._column(name))
        listed: list[Any] = np.array(words, object)[indices].tolist()
        return listed

    def has(self, name: str) -> list[bool]:
        """Where the column is not null; nowhere, where there is no such column."""
        if name not in self._columns:
            return [False] * len(self)
        column: list[bool] = self._column(name).is_valid().to_pylist()
        return column

    def scalars(self, name: str) -> Any:
        """A `pyarrow.Array`, to look at single values."""
        return self._column(name)

    def lists(self, name: str) -> Lists:
        """A null is an empty list."""
        column = self._column(name)
        lengths = numpy_array(column.value_lengths())
        offsets = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
        items = column.flatten()
        return Lists(offsets, {field.name: items.field(field.name) for field in items.type})

    @cached_property
    def starts(self) -> Uint64s:
        """Addresses."""
        return self.numbers("start")

    @cached_property
    def _by_pid(self) -> tuple[Int64s, Rows]:
        pids = self.numbers("pid").astype(np.int64)
        order = np.argsort(pids, kind="stable")
        return pids[order], order

    def of_pid(self, pid: int) -> Rows:
        """Those of a target, in their order."""
        pids, order = self._by_pid
        return order[np.searchsorted(pids, pid) : np.searchsorted(pids, pid, side="right")]

    @cached_property
    def pages(self) -> Int64s:
        """int64 of shape (rows, nodes); 0 for a node that the file does not know."""
        none = np.zeros(len(self), np.int64)
        names = [node_column(node) for node in self._node_ids]
        columns = [self.numbers(name) if name in self._columns else none for name in names]
        return np.column_stack(columns) if columns else np.zeros((len(self), 0), np.int64)

    @cached_property
    def pages_and_details(self) -> Int64s:
        """Both, side by side."""
        return np.column_stack((self.pages, *(self.numbers(name) for name in DETAILS)))

    @cached_property
    def flows(self) -> Lists:
        """Of every row."""
        return self.lists("flows")

    @cached_property
    def faults(self) -> Lists:
        """Of every row."""
        return self.lists("faults")

    @cached_property
    def vma_fields(self) -> list[tuple[Any, ...]]:
        """All that describes each VMA, in the order of `_VMA_FIELDS`."""
        columns = [self.words(it) if it in _VMA_WORDS else self.numbers(it).tolist() for it in _VMA_FIELDS]
        return list(zip(*columns, strict=True))


class Heads(Spread):
    """The rows of targets and of the machine, and which others belong to each: those from `first` to before `last`.

    events: what each is. begins: for each sample which of the heads is its first, and one more. bounds: as for a chunk.
    """

    def __init__(
        self, columns: dict[str, Any], at: Rows, node_ids: Sequence[int], events: Int64s, bounds: Int64s
    ) -> None:
        super().__init__(columns, at, node_ids)
        self.events = events[at]
        # Rows follow their live target, and come before one that ended.
        ended = self.events == ENDED
        sample = np.searchsorted(bounds, at, side="right")
        begin, end = bounds[sample - 1], bounds[np.minimum(sample, len(bounds) - 1)]
        before = np.concatenate(([-1], at[:-1])) if len(at) else at
        after = np.concatenate((at[1:], bounds[-1:])) if len(at) else at
        self.first: Int64s = np.where(ended, np.maximum(before + 1, begin), at)
        self.last: Int64s = np.where(ended, at, np.minimum(after, end))
        self.begins = np.searchsorted(at, bounds)


class Chunk:
    """Rows of whole samples. bounds: the row where each sample begins, and one more. times: of the samples."""

    def __init__(self, table: Any, bounds: Int64s, times: npt.NDArray[np.datetime64], node_ids: Sequence[int]) -> None:
        self._columns = {name: _one_array(table.column(name)) for name in table.column_names}
        self._node_ids = node_ids
        self.bounds = bounds
        self.times: list[datetime] = [time.replace(tzinfo=UTC) for time in times.astype("datetime64[us]").tolist()]
        everything = Spread(self._columns, np.arange(table.num_rows), node_ids)
        self._events = _event_numbers(self._columns["event"])
        self.keys: list[bool] = everything.numbers("key")[bounds[:-1]].tolist()
        self.heads = Heads(self._columns, np.flatnonzero(self._events <= TARGET), node_ids, self._events, bounds)

    def __len__(self) -> int:
        return len(self.times)

    def _of(self, event: int) -> Spread:
        return Spread(self._columns, np.flatnonzero(self._events == event), self._node_ids)

    @cached_property
    def vmas(self) -> Spread:
        """New and changed VMAs, and those that something happened in."""
        return self._of(VMA)

    @cached_property
    def gone(self) -> Spread:
        """VMAs that are there no more."""
        return self._of(UNMAPPED)

    @cached_property
    def spans(self) -> Spread:
        """New and changed counts by region."""
        return self._of(REGION)


def _event_numbers(column: Any) -> Int64s:
    words, indices = dictionary(column)
    return np.array([_EVENTS.get(word, UNKNOWN) for word in words], np.int64)[indices]


def _one_array(column: Any) -> Any:
    joined = column.combine_chunks()
    return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined

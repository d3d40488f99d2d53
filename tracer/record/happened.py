"""Flows and faults of a chunk of rows: from lists of structs to the arrays of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.model.events import Kind
from tracer.record.buffers import dictionary, numpy_array
from tracer.record.chunk import Chunk, Lists
from tracer.record.words import FAULT_WORDS

__all__ = ["Happened", "Reasons"]

Int64s = npt.NDArray[np.int64]
Columns = list[Int64s]

_FAULTS = {word: number for number, word in enumerate(FAULT_WORDS)}


class Reasons:
    """The reasons of flows as numbers. A word that the metadata does not have gets the next one."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self._numbers = {name: number for number, name in enumerate(names)}

    def number(self, name: str) -> int:
        """Of this reason."""
        number = self._numbers.get(name)
        if number is None:
            number = self._numbers[name] = len(self.names)
            self.names = (*self.names, name)
        return number


class Happened:
    """What happened in each target: its own rows have what belongs to no known VMA, its VMAs' rows the rest."""

    def __init__(self, of_heads: tuple[Lists, Columns], of_vmas: tuple[Lists, Columns]) -> None:
        self._heads, self._head_columns = of_heads[0].offsets.tolist(), of_heads[1]
        self._vmas, self._vma_columns = of_vmas[0].offsets, of_vmas[1]

    @staticmethod
    def flows(chunk: Chunk, reasons: Reasons) -> Happened:
        """source, destination, reason, pages, failed."""
        parts = chunk.heads.flows, chunk.vmas.flows
        return Happened(*((lists, _flow_columns(lists, reasons)) for lists in parts))

    @staticmethod
    def faults(chunk: Chunk) -> Happened:
        """cpu_node, page_node, kind, thread, count."""
        parts = chunk.heads.faults, chunk.vmas.faults
        return Happened(*((lists, _fault_columns(lists)) for lists in parts))

    def elsewhere(self, head: int) -> Columns:
        """Of this head row alone."""
        first, last = self._heads[head], self._heads[head + 1]
        return [column[first:last] for column in self._head_columns]

    def rows(self, head: int, first: int, last: int, vmas: Int64s) -> Columns | None:
        """Of this head row and of the VMA rows from first to last, which are the snapshot's VMAs `vmas`: first comes
        the column with these, -1 for the head. None where nothing happened."""
        unknown = self._heads[head + 1] - self._heads[head]
        counts = np.diff(self._vmas[first : last + 1])
        if not unknown and not counts.any():
            return None
        part = slice(self._vmas[first], self._vmas[last])
        own = (column[part] for column in self._vma_columns)
        joined = [np.concatenate(pair) for pair in zip(self.elsewhere(head), own, strict=True)]
        return [np.concatenate((np.full(unknown, -1, np.int64), np.repeat(vmas, counts))), *joined]


def _flow_columns(lists: Lists, reasons: Reasons) -> Columns:
    names = ("source", "destination", "reason", "pages", "failed")
    return [_coded(lists.values[it], reasons.number) if it == "reason" else _int64s(lists.values[it]) for it in names]


def _fault_columns(lists: Lists) -> Columns:
    names = ("cpu_node", "page_node", "kind", "thread", "count")
    return [_coded(lists.values[it], _fault) if it == "kind" else _int64s(lists.values[it]) for it in names]


def _fault(word: str) -> int:
    """A kind that this version does not know is one of the others."""
    return _FAULTS.get(word, int(Kind.OTHER))


def _int64s(values: Any) -> Int64s:
    return numpy_array(values).astype(np.int64)


def _coded(values: Any, code: Callable[[str], int]) -> Int64s:
    words, indices = dictionary(values)
    return np.array([*(code(word) for word in words[:-1]), 0], np.int64)[indices]

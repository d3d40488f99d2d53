"""Columns of a recording's rows as numpy arrays. The rows are Arrow tables, but this room does not import pyarrow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Rows"]

Int64s = npt.NDArray[np.int64]


class Rows:
    """table: a `pyarrow.Table` as `Recording.rows` gives it. A column that it does not have is null everywhere."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self._names = set(table.schema.names)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def times(self) -> npt.NDArray[np.datetime64]:
        """datetime64[us]."""
        times: npt.NDArray[np.datetime64] = self._table.column("time").to_numpy()
        return times.astype("datetime64[us]")

    def numbers(self, name: str) -> Int64s:
        """int64, with 0 for null. Addresses of processes fit."""
        if name not in self._names:
            return np.zeros(len(self), np.int64)
        filled: npt.NDArray[Any] = self._table.column(name).fill_null(0).to_numpy()
        return filled.astype(np.int64, copy=False)

    def seconds(self, name: str) -> npt.NDArray[np.float64]:
        """float64, with 0 for null."""
        if name not in self._names:
            return np.zeros(len(self))
        filled: npt.NDArray[np.float64] = self._table.column(name).fill_null(0.0).to_numpy()
        return filled

    def flags(self, name: str) -> npt.NDArray[np.bool_]:
        """bool, False for null."""
        if name not in self._names:
            return np.zeros(len(self), np.bool_)
        filled: npt.NDArray[np.bool_] = self._table.column(name).fill_null(False).to_numpy()
        return filled.astype(np.bool_)

    def words(self, name: str) -> npt.NDArray[np.object_]:
        """Text, "" for null; equal words are one object."""
        if name not in self._names:
            return np.full(len(self), "", np.object_)
        return _words(self._table.column(name).combine_chunks())

    def lists(self, name: str) -> tuple[Int64s, dict[str, npt.NDArray[Any]]]:
        """A column of lists of structs: the row of each struct, and each of its fields (text as objects)."""
        if name not in self._names:
            return np.zeros(0, np.int64), {}
        column = self._table.column(name).combine_chunks()
        lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        rows = np.repeat(np.arange(len(self), dtype=np.int64), lengths)
        structs = column.flatten()
        names: Sequence[str] = [field.name for field in structs.type]
        return rows, {name: _plain(field) for name, field in zip(names, structs.flatten(), strict=True)}

    def listed(self, name: str) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """The rows that have a list there, each with its structs as Python's objects: for what is rare."""
        if name not in self._names:
            return
        column = self._table.column(name).combine_chunks()
        lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(lengths).tolist():
            yield row, column[row].as_py()


def _plain(array: Any) -> npt.NDArray[Any]:
    if str(array.type) in ("string", "large_string") or str(array.type).startswith("dictionary"):
        return _words(array)
    numbers: npt.NDArray[Any] = array.fill_null(0).to_numpy(zero_copy_only=False)
    return numbers.astype(np.int64, copy=False)


def _words(array: Any) -> npt.NDArray[np.object_]:
    encoded = array if str(array.type).startswith("dictionary") else array.dictionary_encode()
    words = np.array([*encoded.dictionary.to_pylist(), ""], np.object_)
    # Null is the index after the last word.
    codes: npt.NDArray[Any] = encoded.indices.fill_null(len(words) - 1).to_numpy(zero_copy_only=False)
    chosen: npt.NDArray[np.object_] = words[codes]
    return chosen

"""Rows of a recording as plain columns for whoever computes with them: no nulls, no dictionaries, no lists.

Called by the Python interface, which knows numpy and pandas but not Arrow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["arrays", "exploded"]

Array = npt.NDArray[Any]


def exploded(table: Any, column: str, prefix: str = "") -> Any:
    """The `pyarrow.Table` with a row for each element of `column`, a list of structs, in their order.

    The fields of the structs take the place of that column, with `prefix` before their names; fields of a struct in
    them have its name before their own (`old_policy`). All other columns are repeated. Rows whose list is null or empty
    give none.
    """
    at = table.schema.get_field_index(column)
    lists = table.column(at).combine_chunks()
    elements = lists.flatten()
    rows = table.remove_column(at).take(pc.list_parent_indices(lists))
    for name, path in _fields(elements.type):
        rows = rows.append_column(prefix + name, pc.struct_field(elements, path))
    return rows


def _fields(struct: Any) -> Iterator[tuple[str, list[int]]]:
    """Names of all that is in a struct, and where it is."""
    for index, field in enumerate(struct):
        if pa.types.is_struct(field.type):
            yield from ((f"{field.name}_{name}", [index, *path]) for name, path in _fields(field.type))
        else:
            yield field.name, [index]


def arrays(table: Any, missing: Mapping[str, Any] | None = None) -> dict[str, Array]:
    """Each column as one numpy array: whole numbers int64 (those from 2**63 on become negative), reals float64, times
    datetime64[us] (UTC), text object.

    missing: by column what a null becomes; otherwise 0, not a number, false or the empty text. A null time is an error:
    every row has one.
    """
    missing = missing or {}
    return {name: _array(table.column(name), missing.get(name)) for name in table.column_names}


def _array(column: Any, missing: Any) -> Array:
    kind = column.type
    if pa.types.is_timestamp(kind):
        times = column.cast(pa.timestamp("us", kind.tz)).cast(pa.int64())
        if times.null_count:
            raise ValueError("a row has no time")
        return np.asarray(times.to_numpy()).astype("datetime64[us]")
    if pa.types.is_boolean(kind):
        return np.asarray(column.fill_null(bool(missing)).to_numpy(), np.bool_)
    if pa.types.is_integer(kind):
        return np.asarray(column.cast(pa.int64(), safe=False).fill_null(missing or 0).to_numpy())
    if pa.types.is_floating(kind):
        return np.asarray(column.fill_null(np.nan if missing is None else missing).to_numpy(), np.float64)
    return _texts(column, "" if missing is None else missing)


def _texts(column: Any, missing: str) -> Array:
    """Through a dictionary: recordings repeat the same few words, and each becomes one Python object."""
    if not len(column):
        return np.empty(0, object)
    encoded = column.combine_chunks().cast(pa.string()).dictionary_encode()
    words = np.array([*encoded.dictionary.to_pylist(), missing], object)
    words_at: Array = words[np.asarray(encoded.indices.fill_null(len(words) - 1).to_numpy(zero_copy_only=False))]
    return words_at

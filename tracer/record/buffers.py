"""Between numpy and Arrow by their common memory.

pyarrow's own conversions import pandas, which takes longer than to open a recording and to find a moment in it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["dictionary", "numpy_array", "row_numbers"]


def numpy_array(array: Any, missing: int = 0) -> npt.NDArray[Any]:
    """The values of a `pyarrow.Array` of numbers or truth values, not to be written to; `missing` where it is null."""
    if pa.types.is_boolean(array.type):
        return numpy_array(array.cast(pa.uint8()), missing).view(np.bool_)
    dtype = np.dtype({"double": "float64", "float": "float32"}.get(str(array.type), str(array.type)))
    buffer = array.buffers()[1]
    if not len(array) or buffer is None:
        return np.full(len(array), missing, dtype)
    values = np.frombuffer(buffer, dtype, len(array), array.offset * dtype.itemsize)
    if array.null_count:
        values = np.where(numpy_array(array.is_valid()), values, dtype.type(missing))
    return values


def dictionary(array: Any) -> tuple[list[Any], npt.NDArray[np.intp]]:
    """The different words of an array of strings or bytes, and None as the last; and which of them is in each row."""
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    words = [*array.dictionary.to_pylist(), None]
    return words, numpy_array(array.indices, len(words) - 1)


def row_numbers(rows: npt.NDArray[np.intp]) -> Any:
    """The `pyarrow.Array` of these numbers."""
    return pa.Array.from_buffers(pa.int64(), len(rows), [None, pa.py_buffer(np.ascontiguousarray(rows, np.int64))])

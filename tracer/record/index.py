"""Where each sample of a file begins, and which of them are key frames."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tracer.record.buffers import numpy_array
from tracer.record.schema import TIME_TYPE

__all__ = ["Index"]

Int64s = npt.NDArray[np.int64]


class Index:
    """times: of the samples, ascending, datetime64[us]. bounds: the row where each of them begins, and one more.

    batches: all rows of the file, a part at a time so that a long recording does not have to fit into memory, with the
    columns `time` and `key`. ValueError, with a reason for the user, where no recording can be like that.
    """

    def __init__(self, batches: Iterable[Any]) -> None:
        found = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.bool_))]
        rows, last = 0, None
        for batch in batches:
            times = _times(batch.column("time"))
            if not len(times):
                continue
            if batch.column("key").null_count:
                raise ValueError("a row does not say whether it is part of a key frame")
            before = np.concatenate(([times[0] - 1 if last is None else last], times[:-1]))
            if (times < before).any():
                raise ValueError("its rows are not in the order of time")
            first = np.flatnonzero(times != before)
            found.append((first + rows, times[first], numpy_array(batch.column("key"))[first]))
            rows, last = rows + len(times), times[-1]
        firsts, starts, keys = (np.concatenate(parts) for parts in zip(*found, strict=True))
        self.times: npt.NDArray[np.datetime64] = starts.view("datetime64[us]")
        self.bounds: Int64s = np.append(firsts, rows)
        self._keys = np.flatnonzero(keys)
        if len(firsts) and not keys[0]:
            raise ValueError("it does not begin with a key frame")

    def key_before(self, sample: int) -> int:
        """The last key frame that is not after this sample."""
        return int(self._keys[np.searchsorted(self._keys, sample, side="right") - 1])

    def last_within(self, first: int, last: int, rows: int) -> int:
        """Up to which sample, at most `last`, the samples from `first` on have no more than so many rows; `first`
        itself may have more."""
        upto = int(np.searchsorted(self.bounds, self.bounds[first] + rows, side="right")) - 2
        return min(last, max(first, upto))


def _times(column: Any) -> Int64s:
    """Microseconds since 1970. As whole numbers: for times pyarrow would import pandas."""
    if column.null_count:
        raise ValueError("a row has no time")
    return numpy_array(column.cast(TIME_TYPE).cast(pa.int64()))

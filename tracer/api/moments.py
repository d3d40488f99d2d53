"""Which sample is meant: by its number, by a time, or by text as the command line takes it."""

from __future__ import annotations

import operator
from datetime import UTC, datetime
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from tracer.errors import NumatraceError
from tracer.model.moments import parse_moment

__all__ = ["Moment", "find"]

Times = npt.NDArray[np.datetime64]
Moment = datetime | np.datetime64 | str | SupportsIndex
"""What `at`, `since` and `until` take; a pandas.Timestamp is a datetime."""


def find(moment: Moment, times: Times) -> int:
    """Index of the sample that `moment` means; of a time, the last sample at or before it.

    times: datetime64[us], UTC, ascending. NumatraceError where there is none, for a datetime without time zone, and as
    `parse_moment` says for text; TypeError for what is no moment at all.
    """
    if not len(times):
        raise NumatraceError("there is no sample yet")
    if isinstance(moment, str):
        return parse_moment(moment, _Samples(times))
    if isinstance(moment, datetime | np.datetime64):
        return _at_or_before(_utc(moment), times, str(moment))
    return _numbered(moment, len(times))


class _Samples:
    """The times as `parse_moment` asks for them."""

    def __init__(self, times: Times) -> None:
        self._times = times

    def __len__(self) -> int:
        return len(self._times)

    def time(self, index: int) -> datetime:
        taken: datetime = self._times[index].item()
        return taken.replace(tzinfo=UTC)

    def index_at(self, moment: datetime) -> int:
        return _at_or_before(_utc(moment), self._times, str(moment))


def _numbered(number: SupportsIndex, count: int) -> int:
    """As of a list: negative ones count from the end."""
    if isinstance(number, bool):
        raise TypeError("a moment is a time, text or the number of a sample, not a bool")
    index = operator.index(number)
    if not -count <= index < count:
        raise NumatraceError(f"there is no sample {index}", f"there are {count}: 0 to {count - 1}")
    return index % count


def _at_or_before(time: np.datetime64, times: Times, said: str) -> int:
    index = int(np.searchsorted(times, time, side="right")) - 1
    if index < 0:
        raise NumatraceError(f"{said} is before the first sample", f"that was taken at {times[0]}Z")
    return index


def _utc(time: datetime | np.datetime64) -> np.datetime64:
    """numpy's times have no zone and are in UTC, as all of ours are; a datetime without one may be meant as local."""
    if isinstance(time, np.datetime64):
        converted: np.datetime64 = time.astype("datetime64[us]")
    elif time.tzinfo is None:
        raise NumatraceError(f"{time} has no time zone", "add one: tzinfo=datetime.UTC")
    else:
        converted = np.datetime64(time.astimezone(UTC).replace(tzinfo=None), "us")
    if np.isnat(converted):
        raise NumatraceError(f"{time} is no time", "give a datetime, text, or the number of a sample")
    return converted

"""Which sample is meant: by its number, by a time, or by seconds from the start or before the end."""

from __future__ import annotations

import operator
import re
from datetime import UTC, datetime
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from tracer.errors import NumatraceError

__all__ = ["Moment", "find"]

Moment = datetime | np.datetime64 | str | SupportsIndex
"""What `at`, `since` and `until` take; a pandas.Timestamp is a datetime."""

_OFFSET = re.compile(r"(?P<sign>[+-])(?P<number>\d+(?:\.\d*)?|\.\d+)(?P<unit>ms|s|m|min|h|d)", re.ASCII)
_CLOCK = re.compile(r"[T ]\d\d:?\d\d(?P<second>:?\d\d)?(?:[.,](?P<fraction>\d+))?", re.ASCII)
_UNIT_US = {"ms": 1e3, "s": 1e6, "m": 60e6, "min": 60e6, "h": 3600e6, "d": 86_400e6}
_FAR_US = 1e16
"""Three hundred years: farther than anybody recorded, and still a time that numpy can add."""
_FORMS = "give RFC 3339 such as 2025-03-01T12:00:00Z, an offset such as +90s (from the start) or -10s (before the end)"


def find(moment: Moment, times: npt.NDArray[np.datetime64]) -> int:
    """Index of the sample that `moment` means; of a time, the last sample at or before it.

    A time as text stands for all of the second (or fraction) that was written: the first sample within it, if there is
    one, so that a time that was printed finds its sample again.

    times: datetime64[us], UTC, ascending. NumatraceError where there is none, and for a time that cannot be understood
    or has no time zone; TypeError for what is no moment at all.
    """
    if not len(times):
        raise NumatraceError("there is no sample yet")
    if isinstance(moment, str):
        return _said(moment, times)
    if isinstance(moment, datetime | np.datetime64):
        return _at_or_before(_utc(moment, str(moment)), times, str(moment))
    return _numbered(moment, len(times))


def _numbered(number: SupportsIndex, count: int) -> int:
    """As of a list: negative ones count from the end."""
    if isinstance(number, bool):
        raise TypeError("a moment is a time, text or the number of a sample, not a bool")
    index = operator.index(number)
    if not -count <= index < count:
        raise NumatraceError(f"there is no sample {index}", f"there are {count}: 0 to {count - 1}")
    return index % count


def _at_or_before(time: np.datetime64, times: npt.NDArray[np.datetime64], said: str) -> int:
    index = int(np.searchsorted(times, time, side="right")) - 1
    if index < 0:
        raise NumatraceError(f"{said} is before the first sample", f"that was taken at {times[0]}Z")
    return index


def _said(said: str, times: npt.NDArray[np.datetime64]) -> int:
    words = said.strip()
    if words in ("start", "end"):
        return 0 if words == "start" else len(times) - 1
    if offset := _OFFSET.fullmatch(words):
        span = np.timedelta64(round(min(float(offset["number"]) * _UNIT_US[offset["unit"]], _FAR_US)), "us")
        return _at_or_before(times[0] + span if offset["sign"] == "+" else times[-1] - span, times, said)
    try:
        time = _utc(datetime.fromisoformat(words), said)
    except ValueError:
        raise NumatraceError(f"{said!r} is no time", _FORMS) from None
    first = int(np.searchsorted(times, time))
    if first < len(times) and times[first] < time + _written_to(words):
        return first
    return _at_or_before(time, times, said)


def _written_to(words: str) -> np.timedelta64:
    """The length of the second, or part of one, that a time was written to; of a minute where it has no seconds."""
    clock = _CLOCK.search(words)
    if clock is None or clock["second"] is None:
        return np.timedelta64(60, "s")
    return np.timedelta64(10 ** (6 - len((clock["fraction"] or "")[:6])), "us")


def _utc(time: datetime | np.datetime64, said: str) -> np.datetime64:
    """numpy's times have no zone and are in UTC, as all of ours are; a datetime without one may be meant as local."""
    if isinstance(time, np.datetime64):
        converted: np.datetime64 = time.astype("datetime64[us]")
    elif time.tzinfo is None:
        raise NumatraceError(f"{said} has no time zone", "add one: Z at the end of text, or tzinfo=datetime.UTC")
    else:
        converted = np.datetime64(time.astimezone(UTC).replace(tzinfo=None), "us")
    if np.isnat(converted):
        raise NumatraceError(f"{said} is no time", _FORMS)
    return converted

"""Moments of a recording, as users write them: `14:30`, `2025-03-01T12:00:00Z`, `+90s`, `-10s`, `start`, `end`.

A time stands for the sample that tells of it: the first one within the minute, second or fraction that was written,
and where there is none the last one before. So the time that an output prints of a sample finds that sample again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from typing import Protocol

from tracer.errors import NumatraceError, UsageError

__all__ = ["FORMS", "Samples", "check_moment", "parse_moment", "span"]

FORMS = "14:30:05, 2025-03-01T12:00:00Z, +90s (from the start), -10s (before the end), start, end"
"""Examples of all ways to write one."""

_OFFSET = re.compile(r"([+-])((?:\d+(?:\.\d*)?|\.\d+)(?:ms|s|m|h|d)?(?:\d+(?:\.\d*)?(?:ms|s|m|h|d))*)", re.ASCII)
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ms|s|m|h|d)?", re.ASCII)
_UNITS = {"ms": 1e-3, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_CLOCK = re.compile(
    r"(?:(?P<date>\d{4}-\d\d-\d\d)[Tt ])?"
    r"(?P<hour>\d\d?):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,](?P<fraction>\d{1,9}))?)?"
    r"(?P<zone> ?(?:[Zz]|[+-]\d\d:?\d\d))?",
    re.ASCII,
)
_OFFSET_MAX_S = 1e9
_MICROSECOND = timedelta(microseconds=1)
_LEAST_GRACE = timedelta(seconds=1)


class Samples(Protocol):
    """What is asked of a recording."""

    def __len__(self) -> int: ...

    def time(self, index: int) -> datetime: ...

    def index_at(self, moment: datetime) -> int: ...


@dataclass(frozen=True, slots=True)
class _Offset:
    """Seconds from the start, or before the end."""

    seconds: float
    from_end: bool


@dataclass(frozen=True, slots=True)
class _Clock:
    """A time of day. day: None for the first such time that the recording has. unit: what it is exact to.

    zone: None for local time.
    """

    day: date | None
    time: time
    unit: timedelta
    zone: tzinfo | None


def parse_moment(text: str, recording: Samples) -> int:
    """Index of the sample that `text` stands for.

    UsageError where it is no moment, NumatraceError where the recording does not reach to it.
    """
    what = _parse(text)
    if not len(recording):
        raise NumatraceError("the recording has no samples", "choose another one")
    if isinstance(what, _Offset):
        return _at_offset(text, what, recording)
    return _at_clock(text, what, recording)


def check_moment(text: str) -> None:
    """UsageError where `parse_moment` would understand it for no recording."""
    _parse(text)


def span(recording: Samples) -> str:
    """From when to when it is, in local time, in words for a message."""
    first, last = (recording.time(index).astimezone() for index in (0, len(recording) - 1))
    return f"from {first:%Y-%m-%d %H:%M:%S} to {last:%Y-%m-%d %H:%M:%S %z}"


def _parse(text: str) -> _Offset | _Clock:
    word = text.strip().lower()
    if word in ("start", "end"):
        return _Offset(0.0, word == "end")
    what = _parse_offset(word) or _parse_clock(word)
    if what is None:
        raise UsageError(f"{text!r} is not a moment", f"give one such as {FORMS}")
    return what


def _parse_offset(word: str) -> _Offset | None:
    match = _OFFSET.fullmatch(word)
    if match is None:
        return None
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(match[2]))
    return _Offset(seconds, match[1] == "-") if seconds <= _OFFSET_MAX_S else None


def _parse_clock(word: str) -> _Clock | None:
    match = _CLOCK.fullmatch(word)
    if match is None:
        return None
    second, fraction = match["second"] or "0", (match["fraction"] or "")[:6]
    if match["fraction"]:
        unit = _MICROSECOND * 10 ** (6 - len(fraction))
    else:
        unit = timedelta(seconds=1) if match["second"] else timedelta(minutes=1)
    try:
        day = date.fromisoformat(match["date"]) if match["date"] else None
        clock = time(int(match["hour"]), int(match["minute"]), int(second), int(fraction.ljust(6, "0")))
        return _Clock(day, clock, unit, _zone(match["zone"]))
    except ValueError:
        return None


def _zone(text: str | None) -> tzinfo | None:
    """Of `z`, `+01:00` or `-0130`. ValueError for more than a day."""
    if text is None:
        return None
    digits = text.strip().replace(":", "")
    if digits == "z":
        return UTC
    offset = timedelta(hours=int(digits[1:3]), minutes=int(digits[3:5]))
    return timezone(-offset if digits[0] == "-" else offset)


def _at_offset(text: str, offset: _Offset, recording: Samples) -> int:
    start, end = recording.time(0), recording.time(len(recording) - 1)
    distance = timedelta(seconds=offset.seconds)
    try:
        when = end - distance if offset.from_end else start + distance
    except OverflowError:
        raise _outside(text, recording) from None
    if not start <= when <= end + _grace(recording):
        raise _outside(text, recording)
    return recording.index_at(when)


def _at_clock(text: str, clock: _Clock, recording: Samples) -> int:
    for when in _instants(clock, recording):
        index = _index_of(when, clock.unit, recording)
        if index is not None:
            return index
    raise _outside(text, recording)


def _instants(clock: _Clock, recording: Samples) -> Iterator[datetime]:
    """The times that it may be, in order: one of each day; two where the clocks were set back."""
    if clock.day is not None:
        days = [clock.day]
    else:
        first, last = (recording.time(index).astimezone(clock.zone).date() for index in (0, len(recording) - 1))
        days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    for day in days:
        for fold in (0, 1):
            when = datetime.combine(day, clock.time.replace(fold=fold), clock.zone)
            try:
                yield when.astimezone(UTC)
            except (OverflowError, ValueError):
                return


def _index_of(when: datetime, unit: timedelta, recording: Samples) -> int | None:
    """None where the recording does not reach to that time."""
    start, end = recording.time(0), recording.time(len(recording) - 1)
    last = when + unit - _MICROSECOND
    if last < start or when > end + _grace(recording):
        return None
    if when <= start:
        return 0
    before = recording.index_at(when - _MICROSECOND)
    following = before + 1
    return following if following < len(recording) and recording.time(following) <= last else before


def _grace(recording: Samples) -> timedelta:
    """How long after its last sample a recording is still believed: as long as from the sample before to it."""
    count = len(recording)
    return max(_LEAST_GRACE, recording.time(count - 1) - recording.time(count - 2)) if count > 1 else _LEAST_GRACE


def _outside(text: str, recording: Samples) -> NumatraceError:
    return NumatraceError(f"{text} is not within the recording", f"it goes {span(recording)}")

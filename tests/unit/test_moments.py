"""Moments of a recording as users write them."""

from __future__ import annotations

import argparse
import bisect
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.cli import options
from tracer.errors import NumatraceError, UsageError
from tracer.model.moments import parse_moment
from tracer.render.timestamp import timestamp


class Times:
    """As much of a recording as has times."""

    def __init__(self, times: Sequence[datetime]) -> None:
        self.times = list(times)

    def __len__(self) -> int:
        return len(self.times)

    def time(self, index: int) -> datetime:
        return self.times[index]

    def index_at(self, moment: datetime) -> int:
        index = bisect.bisect_right(self.times, moment) - 1
        if index < 0:
            raise NumatraceError("asked for a time before the first sample")
        return index


def every_second(start: datetime, count: int = 60) -> Times:
    return Times([start + timedelta(seconds=number) for number in range(count)])


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The local time zone."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield "Europe/Berlin"
    time.tzset()


# 23:59:50.25 in Berlin: midnight is after ten seconds.
LATE = every_second(datetime(2025, 3, 1, 22, 59, 50, 250_000, tzinfo=UTC))


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("start", 0),
        ("end", 59),
        ("End", 59),
        ("+0", 0),
        ("+5s", 5),
        ("+5.999s", 5),
        ("+1500ms", 1),
        ("+0.5m", 30),
        ("+1m", 59),
        ("-0s", 59),
        ("-10", 49),
        ("-10s", 49),
        ("-0.5s", 58),
        ("-59s", 0),
        ("23:59", 0),
        ("23:59:51", 1),
        ("00:00", 10),
        ("0:00", 10),
        ("00:00:05", 15),
        ("00:00:05.25", 15),
        ("00:00:05.2", 15),
        ("00:00:05,3", 15),
        ("00:00:05.1", 14),
        ("00:00:05.250000", 15),
        ("00:00:05.249999", 14),
        ("00:00:05.250001", 15),
        ("2025-03-01T22:59:52Z", 2),
        ("2025-03-01t22:59:52z", 2),
        ("2025-03-01T22:59:52.250000Z", 2),
        ("2025-03-01T23:59:52+01:00", 2),
        ("2025-03-01T17:59:52-0500", 2),
        ("2025-03-01 23:59:52", 2),
        ("2025-03-02 00:00", 10),
        ("22:59:53Z", 3),
        ("23:00:00Z", 10),
    ],
)
def test_moments(text: str, index: int, zone: str) -> None:
    assert parse_moment(text, LATE) == index
    assert options.moment(text) == text


@pytest.mark.parametrize("text", ["-1m", "+62s", "+1h30m", "12:00", "23:58", "00:01", "2024-03-01T22:59:52Z", "+9d"])
def test_what_lies_outside_is_said_with_the_span(text: str, zone: str) -> None:
    with pytest.raises(NumatraceError) as caught:
        parse_moment(text, LATE)
    assert caught.value.exit_code == 1
    assert caught.value.message == f"{text} is not within the recording"
    assert caught.value.hint == "it goes from 2025-03-01 23:59:50 to 2025-03-02 00:00:49 +0100"


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "+", "-", "+s", "+5x", "5", "25:00", "12:60", "12", "1:2", "2025-02-30T10:00", "2025-03-01", "+1e3"),
        *("now", "12:00 o'clock", "12:00+25:00", "+9" * 40, "+99999999999999", "\N{ARABIC-INDIC DIGIT ONE}2:00"),
        "+5s\n1",
    ],
)
def test_what_is_no_moment_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match="is not a moment") as caught:
        parse_moment(text, LATE)
    assert "14:30:05" in caught.value.hint
    with pytest.raises(argparse.ArgumentTypeError):
        options.moment(text)


def test_time_of_day_is_the_first_in_the_recording(zone: str) -> None:
    days = Times([datetime(2025, 3, 1, 10, tzinfo=UTC) + timedelta(minutes=number) for number in range(3 * 24 * 60)])
    assert parse_moment("11:00", days) == 0
    assert parse_moment("10:59", days) == 24 * 60 - 1
    assert parse_moment("2025-03-02 11:30", days) == 24 * 60 + 30


@pytest.mark.parametrize("text", ["02:30", "02:30:00"])
def test_clocks_that_are_set_back_show_a_time_twice(text: str, zone: str) -> None:
    """On 26 October 2025, at 3:00, it was 2:00 again in Berlin."""
    first = datetime(2025, 10, 26, 0, 30, tzinfo=UTC)
    assert parse_moment(text, every_second(first - timedelta(seconds=5))) == 5
    assert parse_moment(text, every_second(first + timedelta(hours=1, seconds=-5))) == 5


def test_recording_of_one_sample() -> None:
    one = every_second(datetime(2025, 3, 1, 12, tzinfo=UTC), 1)
    for text in ("start", "end", "+0s", "-0s", "2025-03-01T12:00:00Z", "+1s"):
        assert parse_moment(text, one) == 0
    with pytest.raises(NumatraceError):
        parse_moment("+2s", one)


def test_rare_samples_are_believed_until_the_next_would_have_come() -> None:
    rare = Times([datetime(2025, 3, 1, 12, tzinfo=UTC) + timedelta(minutes=10 * number) for number in range(3)])
    assert parse_moment("2025-03-01T12:29:59Z", rare) == 2
    with pytest.raises(NumatraceError):
        parse_moment("2025-03-01T12:31Z", rare)


def test_recording_without_samples() -> None:
    with pytest.raises(NumatraceError, match="no samples"):
        parse_moment("start", Times([]))


@st.composite
def series(draw: st.DrawFn) -> Times:
    start = draw(st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))
    gaps = draw(st.lists(st.integers(1, 10**8), max_size=20))
    times = [start]
    for gap in gaps:
        times.append(times[-1] + timedelta(microseconds=gap))
    return Times(times)


@given(series(), st.data())
def test_time_that_an_output_prints_finds_its_sample(times: Times, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(times) - 1))
    assert parse_moment(timestamp(times.times[index]), times) == index
    # Cut to milliseconds, as text prints it: the first sample of that millisecond.
    found = parse_moment(timestamp(times.times[index], "milliseconds"), times)
    assert timestamp(times.times[found], "milliseconds") == timestamp(times.times[index], "milliseconds")
    assert found <= index


@given(series(), st.floats(0, 1))
def test_offset_finds_the_last_sample_up_to_it(times: Times, part: float) -> None:
    length = (times.times[-1] - times.times[0]).total_seconds()
    seconds = round(length * part, 6)
    if seconds > length:
        return
    index = parse_moment(f"+{seconds:.6f}s", times)
    limit = times.times[0] + timedelta(seconds=seconds)
    assert times.times[index] <= limit
    assert index == len(times) - 1 or times.times[index + 1] > limit

"""`numatrace replay FILE` on a terminal, with recordings of made-up samples."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from tests.unit.live_fakes import NODES, at, process
from tests.unit.live_terminal import Terminal
from tests.unit.snapshots import REASONS, TIME
from tracer.cli.main import main
from tracer.cli.replay import _Tape
from tracer.errors import NumatraceError
from tracer.record.recorder import Recorder
from tracer.record.recording import Recording, open_recording
from tracer.record.schema import Info

COUNT = 200
QUIT = "q"


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`COUNT` samples, a second apart."""
    path = tmp_path_factory.mktemp("recordings") / "run.parquet"
    recorder = Recorder(str(path), Info(node_ids=NODES, reasons=REASONS, flows=True, faults=True, every_s=1.0))
    for second in range(COUNT):
        recorder.write(at(second, process(second, pid=5, comm=b"other"), process(second)))
    recorder.close()
    return path


def replay(*words: str) -> list[str]:
    return [sys.executable, "-m", "tracer.cli.main", *words]


@pytest.fixture
def opened(recording: Path) -> Iterator[Recording]:
    with open_recording(recording) as it:
        yield it


def tape(opened: Recording, *pids: int) -> _Tape:
    return _Tape("run.parquet", opened, Namespace(pid=list(pids), name=None))


# What the view reads


def test_samples_are_those_that_were_recorded(opened: Recording) -> None:
    reel = tape(opened, 4711)
    assert len(reel) == COUNT
    for first, last in [(0, 0), (1, 5), (6, 6), (100, 103), (99, 104), (COUNT - 1, COUNT - 1), (0, 2)]:
        for second, sample in zip(range(first, last + 1), reel.samples(first, last), strict=True):
            assert sample.time == TIME + timedelta(seconds=second) == reel.time(second)
            assert np.array_equal(sample.only.pages, process(second).pages)


def test_reading_on_does_not_look_up_again(opened: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    reel = tape(opened)
    asked: list[int] = []
    samples = reel._recording.samples

    def watched(first: int = 0, last: int | None = None) -> object:
        asked.append(first)
        return samples(first, last)

    monkeypatch.setattr(reel._recording, "samples", watched)
    for index in range(50, 60):
        list(reel.samples(index, index))
    assert asked == [50]


def test_activity(opened: Recording) -> None:
    reel = tape(opened)
    activity = reel.activity(0, COUNT - 1)
    assert activity.moved.tolist() == [0] + [10] * (COUNT - 1)
    assert activity.faults.tolist() == [0] + [20] * (COUNT - 1)
    part = reel.activity(100, 109)
    assert part.moved.tolist() == [10] * 10


def test_moments(opened: Recording) -> None:
    reel = tape(opened)
    assert reel.moment("+90s") == 90
    assert reel.moment("end") == COUNT - 1
    with pytest.raises(NumatraceError, match="not a moment"):
        reel.moment("noonish")


# On a terminal


def test_replay(recording: Path) -> None:
    with Terminal(replay("replay", str(recording))) as terminal:
        terminal.until_text("2025-03-01 12:00:00", "2 targets: 5 other, 4711 postgres", "  1/200", "faults")
        terminal.type("\x1b[F")
        terminal.until_text("200/200", "12:03:19")
        terminal.type("\x1b[D")
        terminal.until_text("199/200")
        terminal.type("g")
        terminal.until_text("Go to:")
        terminal.type("12:01:30\r")
        terminal.until_text(" 91/200", "2025-03-01 12:01:30")
        terminal.type("/heap\r")
        terminal.until_text(str(1501 + 900))
        terminal.type(QUIT)
        assert terminal.wait() == 0
        assert terminal.is_restored()
        assert terminal.after.strip() == ""


@pytest.mark.parametrize("verb", ["live", "replay"])
def test_live_of_a_file_is_replay(verb: str, recording: Path) -> None:
    with Terminal(replay(verb, str(recording), "-p", "5")) as terminal:
        terminal.until_text("numatrace  5 other", "1/200")
        terminal.type(QUIT)
        assert terminal.wait() == 0


def test_at_and_speed(recording: Path) -> None:
    with Terminal(replay("replay", str(recording), "--at", "+190s", "--speed", "20")) as terminal:
        terminal.until_text("200/200", "x20")
        terminal.type(QUIT)
        assert terminal.wait() == 0
        assert b"192/200" in terminal.output or b"193/200" in terminal.output or b"191/200" in terminal.output


def test_no_color(recording: Path) -> None:
    with Terminal(replay("replay", str(recording), "--no-color")) as terminal:
        terminal.until_text("1/200", "00112233")
        terminal.type(QUIT)
        assert terminal.wait() == 0
        assert terminal.colours() <= {49}


def test_any_moment_is_at_hand(opened: Recording) -> None:
    reel = tape(opened)
    began = time.perf_counter()
    for index in (0, COUNT - 1, COUNT // 2, 59, 60, 61):
        list(reel.samples(max(0, index - 30), index))
    assert time.perf_counter() - began < 6


# Wrong usage


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("replay", 2, "there is nothing to play"),
        ("replay a.parquet b.parquet", 2, "one recording at a time"),
        ("replay a.parquet --speed 0", 2, "'0' is not a speed"),
        ("replay a.parquet --speed fast", 2, "'fast' is not a speed"),
        ("replay a.parquet --at noonish", 2, "noonish"),
        ("replay a.parquet --name=", 2, "--name is empty"),
        ("replay a.parquet -- true", 2, "replay runs no command"),
        ("replay a.parquet", 2, "needs a terminal"),
    ],
)
def test_wrong_usage(words: str, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == code
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("/no/such.parquet",), b"/no/such.parquet"),
        (("FILE", "--at", "+1h"), b"+1h is not within the recording"),
        (("FILE", "-p", "77"), b"process 77 is not in the recording"),
    ],
)
def test_trouble_with_the_file_is_one_line(words: tuple[str, ...], said: bytes, recording: Path) -> None:
    with Terminal(replay("replay", *(str(recording) if word == "FILE" else word for word in words))) as terminal:
        assert terminal.wait() == 1
        assert terminal.output.startswith(b"numatrace: ")
        assert said in terminal.output.replace(b"\r\n", b"")
        assert b"1049h" not in terminal.output

"""The verb `record` from its words to its exit code, with a session that plays back a script."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.unit.fake_session import Script, session_module
from tests.unit.snapshots import TIME, faults, flows, sample, snapshot, vma
from tracer.cli import record_view
from tracer.cli.main import main
from tracer.cli.record_view import progress_line, summary
from tracer.errors import HooksMissing, NumatraceError
from tracer.kernel.procfs import TargetGone
from tracer.model.events import Kind
from tracer.model.sample import Sample
from tracer.record.recorder import Recorder, Written
from tracer.record.recording import open_recording
from tracer.record.schema import Info

Capture = pytest.CaptureFixture[str]
Play = Callable[[Script], Script]

HEAP = vma(path=b"[heap]")
GONE = TargetGone("process 42 is gone", "choose one that runs")


def shot(seconds: int, **fields: Any) -> Sample:
    now = TIME + timedelta(seconds=seconds)
    moved, touched = flows([(0, 0, 1, 1, 5, 0)]), faults([(0, 0, 1, Kind.NEW, 0, 3)])
    given = snapshot([HEAP], [(seconds, 7)], time=now, flows=moved, faults=touched)
    return sample(given, time=now, reasons=moved.reasons, **fields)


LAST = sample(time=TIME + timedelta(seconds=9), ended=(shot(9).only,))


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Play:
    """Makes the command line use a session that follows the script given, in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def use(script: Script) -> Script:
        monkeypatch.setitem(sys.modules, "tracer.session", session_module(script))
        return script

    return use


@pytest.fixture(autouse=True)
def handlers_are_put_back() -> Iterator[None]:
    ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in ends]
    yield
    assert [signal.getsignal(number) for number in ends] == before


def steps(*more: Any, count: int = 3) -> list[Any]:
    return [*(shot(second) for second in range(count)), *more]


def info(path: str = "x.parquet") -> Info:
    with open_recording(path) as it:
        return it.info


# --- what is written ---


def test_until_the_target_ends(capfd: Capture, play: Play) -> None:
    play(Script(steps=steps(LAST, GONE)))
    assert main(["record", "-p", "42", "-o", "x.parquet"]) == 0
    out, err = capfd.readouterr()
    assert out == ""
    first, second = err.splitlines()
    size = os.stat("x.parquet").st_size
    assert first == f"numatrace: recorded 4 samples in 0:00:09 to x.parquet ({size / 1000:.3g} kB)"
    assert second.split("open it with: ")[1] == (
        'numatrace replay x.parquet   or in Python: pandas.read_parquet("x.parquet")'
    )
    with open_recording("x.parquet") as it:
        assert [it.at(index).only.pages.tolist() for index in range(3)] == [[[index, 7]] for index in range(3)]
        assert it.at(1).only.faults == shot(1).only.faults
        assert it.at(3).snapshots == ()
    assert os.listdir() == ["x.parquet"]


def test_the_file_says_how_it_was_made(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["numatrace", "record", "\udcff"])
    script = play(Script(steps=steps(GONE)))
    words = ["--every", "0.5", "--full", "--threads", "--regions", "--follow-forks", "--name", "post*", "-q"]
    assert main(["record", "-p", "42", "-p", "43", "-o", "x.parquet", *words]) == 0
    options = script.events[0][2]
    assert (options.details, options.flows, options.faults, options.threads, options.regions) == (True,) * 5
    it = info()
    assert (it.details, it.flows, it.faults, it.threads, it.regions) == (True,) * 5
    assert (it.every_s, it.complete, it.ended_by) == (0.5, True, "the targets ended")
    assert it.targets == ("process 42", "process 43", "processes named post*", "and their children")
    assert it.command_line == ("numatrace", "record", "\udcff")
    assert (it.host, it.kernel, it.node_ids) == (os.uname().nodename, os.uname().release, (0, 1))
    assert it.reasons == ("compaction", "syscall", "numa_misplaced")
    assert it.started == "2025-03-01T12:00:00.250000Z"
    assert len(it.distances) == 2
    assert it.cpus


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("", (True, True, False)),
        ("--no-flows", (False, True, False)),
        ("--no-faults", (True, False, False)),
        ("--no-flows --no-faults", (False, False, False)),
        ("--threads --no-flows", (False, True, True)),
    ],
)
def test_flows_and_faults_are_recorded_unless_told_otherwise(words: str, wanted: Any, play: Play) -> None:
    script = play(Script(steps=steps(GONE)))
    assert main(["record", "-q", "-p", "42", "-o", "x.parquet", *words.split()]) == 0
    options = script.events[0][2]
    assert (options.flows, options.faults, options.threads) == wanted
    it = info()
    assert (it.flows, it.faults, it.threads) == wanted


@pytest.mark.parametrize("words", [["--hooks", "none"], ["--reader", "numa_maps"]])
def test_without_hooks_the_rest_is_recorded(words: list[str], capfd: Capture, play: Play) -> None:
    script = play(Script(steps=steps(GONE)))
    assert main(["record", "-p", "42", "-o", "x.parquet", *words]) == 0
    assert f"not recorded: {' '.join(words)} cannot see them" in capfd.readouterr().err
    assert not script.events[0][2].flows
    assert not info().faults
    assert main(["record", "-p", "42", "-o", "y.parquet", *words, "--no-flows", "--no-faults"]) == 0
    assert "not recorded" not in capfd.readouterr().err
    for more in ("--threads", "--regions"):
        assert main(["record", "-p", "42", "-o", "z.parquet", *words, more]) == 2
        assert f"{more} needs the hooks" in capfd.readouterr().err


def without_rights(script: Script) -> None:
    """Sessions that may not use hooks: as the real one, they refuse what only hooks can tell."""

    def start(_: object) -> None:
        options = [event[2] for event in script.events if event[0] == "open"][-1]
        if options.flows or options.faults or options.threads:
            raise HooksMissing("flows and faults are seen by the hooks only", "run as root")
        script.notes.append("polling instead")

    script.start = start


@pytest.mark.parametrize("words", [["-p", "42"], ["--", "true"]])
def test_where_hooks_cannot_be_used_the_rest_is_recorded(words: list[str], capfd: Capture, play: Play) -> None:
    script = Script(steps=steps(GONE))
    without_rights(script)
    play(script)
    assert main(["record", "-o", "x.parquet", "--full", *words]) == 0
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "numatrace: page moves and page faults are not recorded: they are seen by the hooks only"
    assert lines[1] == "numatrace: polling instead"
    assert lines[2].startswith("numatrace: recorded 3 samples")
    assert (info().flows, info().faults, info().details) == (False, False, True)


def test_where_hooks_cannot_be_used_threads_are_an_error(capfd: Capture, play: Play) -> None:
    script = Script(steps=steps(GONE))
    without_rights(script)
    play(script)
    assert main(["record", "-o", "x.parquet", "--threads", "-p", "42"]) == 1
    assert capfd.readouterr().err == "numatrace: flows and faults are seen by the hooks only; run as root\n"
    assert os.listdir() == []


# --- how it ends ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_end_is_success(number: int, capfd: Capture, play: Play) -> None:
    def wait(seconds: float) -> bool:
        if len(waits := [it for it in script.events if it[0] == "wait"]) == 15:
            os.kill(os.getpid(), number)
        return len(waits) < 100

    script = play(Script(steps=steps(count=9), wait=wait))
    assert main(["record", "-p", "42", "-o", "x.parquet"]) == 0
    assert "recorded 3 samples" in capfd.readouterr().err
    assert (info().complete, info().ended_by) == (True, "the user")


def test_a_second_request_while_it_is_finished_changes_nothing(
    capfd: Capture, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    def close(self: Recorder, ended_by: str, real: Any = Recorder.close) -> Written:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), number)
        return real(self, ended_by)  # type: ignore[no-any-return]

    monkeypatch.setattr(Recorder, "close", close)
    play(Script(steps=steps(GONE)))
    assert main(["record", "-p", "42", "-o", "x.parquet"]) == 0
    assert info().complete


def test_a_duration(capfd: Capture, play: Play) -> None:
    def wait(seconds: float) -> bool:
        time.sleep(seconds)
        return True

    play(Script(steps=steps(count=9), wait=wait))
    assert main(["record", "-p", "42", "-o", "x.parquet", "--every", "0.01", "--duration", "0.02"]) == 0
    assert info().ended_by == "the time was over"


def test_an_error_of_the_session_ends_with_a_file(capfd: Capture, play: Play) -> None:
    play(Script(steps=steps(NumatraceError("the kernel has had enough", "ask it"))))
    assert main(["record", "-p", "42", "-o", "x.parquet"]) == 1
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].startswith("numatrace: recorded 3 samples")
    assert lines[-1] == "numatrace: the kernel has had enough; ask it"
    assert (info().complete, info().ended_by) == (True, "the kernel has had enough")


def test_a_bug_ends_with_a_file_that_tells_of_it(play: Play) -> None:
    play(Script(steps=steps(ZeroDivisionError("oh"))))
    with pytest.raises(ZeroDivisionError):
        main(["record", "-q", "-p", "42", "-o", "x.parquet"])
    assert info().ended_by == "a bug: ZeroDivisionError('oh')"


def test_a_second_request_ends_it_at_once_and_with_a_file(play: Play) -> None:
    play(Script(steps=steps(KeyboardInterrupt())))
    assert main(["record", "-q", "-p", "42", "-o", "x.parquet"]) == 0
    assert info().complete


def test_nothing_is_begun_where_standard_output_is_closed(
    capfd: Capture, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(Script(steps=steps(GONE)))
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["record", "--format", "json", "-p", "42", "-o", "x.parquet"]) == 1
    assert "standard output is closed" in capfd.readouterr().err
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("first", "code"), [(GONE, 1), (NumatraceError("no"), 1), (KeyboardInterrupt(), 130), (sample(), 1)]
)
def test_nothing_is_left_where_nothing_was_seen(first: Any, code: int, play: Play) -> None:
    play(Script(steps=[first, GONE]))
    assert main(["record", "-p", "42", "-o", "x.parquet"]) == code
    assert os.listdir() == []


def test_nobody_of_that_name_is_a_recording_too(play: Play) -> None:
    play(Script(steps=[sample(), KeyboardInterrupt()]))
    assert main(["record", "--name", "nobody", "-o", "x.parquet"]) == 0
    with open_recording("x.parquet") as it:
        assert it.at(0).snapshots == ()


def test_json_is_one_object(capfd: Capture, play: Play) -> None:
    play(Script(steps=steps(GONE)))
    assert main(["record", "-q", "--format", "json", "-p", "42", "-o", "x.parquet"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert json.loads(out) == {
        "type": "recording",
        "version": 1,
        "path": "x.parquet",
        "samples": 3,
        "rows": 7,
        "bytes": os.stat("x.parquet").st_size,
        "seconds": 2.0,
        "files": 1,
        "ended_by": "the targets ended",
        "recovered": None,
    }


def test_quiet_says_nothing(capfd: Capture, play: Play) -> None:
    play(Script(steps=steps(GONE), notes=["by the way"]))
    assert main(["record", "-q", "-p", "42", "-o", "x.parquet"]) == 0
    assert capfd.readouterr() == ("", "")


# --- no room ---


def full_after(monkeypatch: pytest.MonkeyPatch, count: int, words: str = "no space left") -> None:
    """The recorder writes so many samples, saves them, and raises."""

    def write(self: Recorder, it: Sample, real: Any = Recorder.write) -> None:
        if self.samples == count:
            self.close(words)
            raise NumatraceError(words, "free some")
        real(self, it)

    monkeypatch.setattr(Recorder, "write", write)


@pytest.mark.parametrize("words", [["-p", "42"], ["--", "true"]])
def test_no_room_is_a_failure_with_a_recording(
    words: list[str], capfd: Capture, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_after(monkeypatch, 2)
    play(Script(steps=steps(count=9)))
    assert main(["record", "-o", "x.parquet", "--format", "json", *words]) == 1
    out, err = capfd.readouterr()
    assert err == "numatrace: no space left; free some\n"
    (line,) = out.splitlines()
    assert (json.loads(line)["samples"], json.loads(line)["ended_by"]) == (2, "no space left")
    with open_recording("x.parquet") as it:
        assert len(it) == 2


def test_no_room_for_the_first_sample(capfd: Capture, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    full_after(monkeypatch, 0)
    play(Script(steps=steps(count=9)))
    assert main(["record", "-o", "x.parquet", "-p", "42"]) == 1
    assert capfd.readouterr().err == "numatrace: no space left; free some\n"
    assert os.listdir() == []


# --- a command ---


@pytest.mark.parametrize(("code", "more"), [(0, []), (7, []), (7, ["--duration", "0.001"])])
def test_the_exit_code_is_that_of_the_command(code: int, more: list[str], capfd: Capture, play: Play) -> None:
    play(Script(steps=steps(LAST, GONE)))
    assert main(["record", "-o", "x.parquet", *more, "--", "sh", "-c", f"exit {code}"]) == code
    assert "recorded" in capfd.readouterr().err
    assert info().complete
    assert info().targets == (f"command sh -c 'exit {code}'",)


@pytest.mark.parametrize("output", ["old.parquet", "none/x.parquet", "x.csv", "-", "link.parquet"])
def test_where_nothing_can_be_written_no_command_is_run(output: str, capfd: Capture, play: Play) -> None:
    script = play(Script(steps=steps(GONE)))
    Path("old.parquet").write_bytes(b"old")
    Path("link.parquet").symlink_to("elsewhere")
    assert main(["record", "-o", output, "--", "touch", "ran"]) in (1, 2)
    assert capfd.readouterr().err.count("\n") == 1
    assert script.events == []
    assert sorted(os.listdir()) == ["link.parquet", "old.parquet"]


def test_without_pyarrow_no_command_is_run(capfd: Capture, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    play(Script(steps=steps(GONE)))
    assert main(["record", "-o", "x.parquet", "--", "touch", "ran"]) == 1
    assert capfd.readouterr().err == "numatrace: cannot record: there is no pyarrow; pip install pyarrow\n"
    assert os.listdir() == []


# --- old files ---


def test_an_old_file_stays_until_the_end(play: Play) -> None:
    seen = []

    def look() -> Sample:
        seen.append(Path("x.parquet").read_bytes())
        return shot(3)

    play(Script(steps=steps(look, GONE)))
    Path("x.parquet").write_bytes(b"old")
    assert main(["record", "-q", "-f", "-p", "42", "-o", "x.parquet"]) == 0
    assert seen == [b"old"]
    assert info().complete


def test_what_was_left_behind_is_recovered_first(capfd: Capture, play: Play) -> None:
    play(Script(steps=steps(GONE)))
    killed = Recorder("x.parquet", Info(node_ids=(0, 1)))
    killed.write(shot(0))
    killed._claim.close()
    assert main(["record", "-p", "42", "-o", "x.parquet"]) == 1
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].startswith("numatrace: x.parquet: recovered 1 sample up to 2025-03-01T12:00:00Z")
    assert lines[1].startswith("numatrace: x.parquet exists")
    assert not info().complete
    os.unlink("x.parquet")
    killed = Recorder("x.parquet", Info(node_ids=(0, 1)))
    killed.write(shot(0))
    killed._claim.close()
    assert main(["record", "-f", "-p", "42", "-o", "x.parquet", "--format", "json", "-q"]) == 0
    assert "recovered 1 sample" in json.loads(capfd.readouterr().out)["recovered"]
    assert info().complete


def test_one_that_is_still_at_work(capfd: Capture, play: Play) -> None:
    play(Script(steps=steps(GONE)))
    running = Recorder("x.parquet", Info(node_ids=(0, 1)))
    running.write(shot(0))
    assert main(["record", "-f", "-p", "42", "-o", "x.parquet"]) == 1
    assert f"still being recorded by process {os.getpid()}" in capfd.readouterr().err
    running.close()


def test_rotation(capfd: Capture, play: Play) -> None:
    later = [shot(second) for second in (0, 50, 70, 130)]
    play(Script(steps=[*later, GONE]))
    assert main(["record", "-p", "42", "-o", "many", "--rotate", "1m"]) == 0
    first = capfd.readouterr().err.splitlines()[0]
    assert first.startswith("numatrace: recorded 4 samples in 0:02:10 to 3 files in many (")
    with open_recording("many") as it:
        assert len(it) == 4
    assert main(["record", "-p", "42", "-o", "many", "--rotate", "soon"]) == 2
    assert "'soon' is neither a time" in capfd.readouterr().err


# --- what is shown ---


def test_the_line_tells_how_far_it_is() -> None:
    it = sample(snapshot([HEAP], [(1_234_567, 89)]))
    line = progress_line(3723.4, 1, 123_456, it)
    assert line == "1:02:03  1 sample  1 target  123 kB  pages N0=1.23M N1=89"


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (99_950, "100 kB"), (5_250_000, "5.25 MB"), (10**16, "1e+04 TB")],
)
def test_sizes(size: int, text: str) -> None:
    written = Written("x", 1, 1, size, 0.0, 1)
    assert summary(written, rotated=False)[0].endswith(f"({text})")


def test_a_path_can_be_copied_into_a_shell_and_into_python(capfd: Capture) -> None:
    from tracer.cli.messages import note

    written = Written("a b'\"\x1b[2J\n.parquet", 1, 1, 1, 0.0, 1)
    for line in summary(written, rotated=False):
        note(line)
    err = capfd.readouterr().err
    assert err.count("\n") == 2
    assert "\x1b" not in err
    assert r"""pandas.read_parquet("a b'\"\u001b[2J\n.parquet")""" in err


class Terminal(io.StringIO):
    """Standard error that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_line_is_shown_and_taken_away(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(record_view, "_LINE_S", 0.0)
    play(Script(steps=steps(GONE)))
    assert main(["record", "-p", "42", "-o", "x.parquet"]) == 0
    shown = terminal.getvalue().split("numatrace: recorded")[0].split("\r")
    assert sum(" samples  1 target" in it for it in shown) == 2
    assert "  pages N0=2 N1=7" in terminal.getvalue()
    assert shown[-1] == ""
    assert shown[-2].strip() == "", "the last line was taken away"
    assert all(len(it) < 80 for it in shown)


def test_no_line_elsewhere(capfd: Capture, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_view, "_LINE_S", 0.0)
    play(Script(steps=steps(GONE)))
    assert main(["record", "-p", "42", "-o", "x.parquet"]) == 0
    assert "\r" not in capfd.readouterr().err

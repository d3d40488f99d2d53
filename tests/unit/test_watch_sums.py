"""The verbs `flows` and `faults` from their words to their exit code, with a session that plays back a script."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.unit.fake_session import Script, session_module
from tests.unit.snapshots import faults, flows, sample, snapshot, vma
from tracer.cli import interrupts
from tracer.cli.main import build_parser, main
from tracer.cli.options import Target
from tracer.cli.watch import Pace, Watch
from tracer.errors import NumatraceError
from tracer.kernel.procfs import TargetGone
from tracer.model.events import Kind
from tracer.model.sample import Sample
from tracer.model.selection import Selection

Capture = pytest.CaptureFixture[str]
Play = Callable[[Script], Script]

HEAP = vma(path=b"[heap]")
GONE = TargetGone("process 42 is gone", "choose one that runs")


def moved(pages: int, ended: bool = False, **fields: Any) -> Sample:
    """A sample in which `pages` pages have moved from node 0 to node 1, and as many faults happened."""
    shot = snapshot(
        [HEAP],
        [(0, pages)],
        flows=flows([(0, 0, 1, 1, pages, 0)]),
        faults=faults([(0, 0, 1, Kind.NEW, 7, pages)]),
    )
    shots = () if ended else (shot,)
    return sample(*shots, ended=(shot,) if ended else (), **fields)


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Makes the command line use a session that follows the script given."""

    def use(script: Script) -> Script:
        monkeypatch.setitem(sys.modules, "tracer.session", session_module(script))
        return script

    return use


@pytest.fixture(autouse=True)
def handlers_are_put_back() -> Iterator[None]:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def until(count: int, then: Callable[[], bool]) -> Callable[[float], bool]:
    """Waits that return at once; the one with this number does something else."""
    waits = 0

    def wait(seconds: float) -> bool:
        nonlocal waits
        waits += 1
        return then() if waits == count else True

    return wait


def headings(out: str) -> list[str]:
    """The first line of each report, without its time."""
    lines = [line for line in out.splitlines() if line.startswith(("# flows", "# faults"))]
    return [line.split(" of ")[0] + ":" + line.split("Z:")[1] for line in lines]


@pytest.mark.parametrize(
    ("words", "wants"),
    [
        ("flows -p 42", (True, False, False)),
        ("faults -p 42", (False, True, False)),
        ("faults -p 42 --threads --node N1", (False, True, True)),
    ],
)
def test_only_what_is_shown_is_asked_for(words: str, wants: tuple[bool, ...], play: Play) -> None:
    script = play(Script(steps=[moved(1), GONE], wait=lambda seconds: False))
    assert main([*words.split(), "-q"]) == 0
    options = script.events[0][2]
    assert (options.flows, options.faults, options.threads, options.details) == (*wants, False)


def test_all_until_the_end_is_one_sum(capfd: Capture, play: Play) -> None:
    """Also what the last sample tells of a process that is no more."""
    script = Script(steps=[moved(1), moved(2), moved(4, ended=True), GONE])
    script.wait = until(15, lambda: False)
    play(script)
    assert main(["flows", "-p", "42"]) == 0
    out, err = capfd.readouterr()
    assert headings(out) == ["# flows: 7 pages moved (28 KiB), 0 failed, 1 target"]
    assert err.startswith("# pid=42 ns_pid=42 comm=target ")
    assert err.endswith(" ended\n")
    assert err.count("\n") == 1
    assert script.events[-1] == "close"


@pytest.mark.parametrize(
    ("pace", "shows", "waits"),
    [
        # A sum is sampled every second, however long the interval is, and in whole steps of it.
        (Pace(sums=True, duration_s=2.5), [], [1.0, 1.0, 0.5]),
        (Pace(3.0, 2, sums=True), [3.0, 6.0], [1.0] * 6),
        (Pace(2.5, 1, sums=True), [2.5], [2.5 / 3] * 3),
        (Pace(0.5, 3, sums=True), [0.5, 1.0, 1.5], [0.5] * 3),
        # The last one is at the end of the time, and left to the report at the end.
        (Pace(1.0, duration_s=2.0, sums=True), [1.0], [1.0, 1.0]),
        (Pace(1.0, duration_s=2.5, sums=True), [1.0, 2.0], [1.0, 1.0, 0.5]),
    ],
)
def test_pace_of_a_sum(pace: Pace, shows: list[float], waits: list[float], play: Play) -> None:
    now = 0.0
    asked: list[float] = [0.0]
    shown: list[float] = []
    taken: list[float] = []
    lengths: list[float] = []

    def wait(seconds: float) -> bool:
        nonlocal now
        now += seconds
        asked[-1] += seconds
        return True

    class View:
        def take(self, sample: Sample, seconds: float) -> bool:
            taken.append(now)
            lengths.append(seconds)
            asked.append(0.0)
            return True

        def show(self) -> None:
            shown.append(now)

        def finish(self) -> None:
            shown.append(-1.0)

    play(Script(steps=[moved(1)], wait=wait))
    arguments = build_parser().parse_args(["flows", "-q"])
    assert Watch(Target(Selection((42,))), pace, arguments, View(), clock=lambda: now).run() == 0
    assert shown == pytest.approx([*shows, -1.0])
    assert asked[1:-1] == pytest.approx(waits)
    assert taken == pytest.approx([sum(waits[:index]) for index in range(len(waits) + 1)])
    assert lengths == pytest.approx([0.0, *waits])


def test_intervals_and_their_sum(capfd: Capture, play: Play) -> None:
    steps: list[Any] = [moved(1), moved(2), moved(4), moved(8, ended=True), GONE]
    waits = iter([True, True, False])
    play(Script(steps=steps, wait=lambda seconds: next(waits)))
    assert main(["flows", "-p", "42", "-q", "--every", "0.05"]) == 0
    out, err = capfd.readouterr()
    assert headings(out) == [
        "# flows: 3 pages moved (12 KiB), 0 failed, 1 target",
        "# flows: 4 pages moved (16 KiB), 0 failed, 1 target",
        "# flows: 8 pages moved (32 KiB), 0 failed, 1 target",
        "# flows, sum: 15 pages moved (60 KiB), 0 failed, 1 target",
    ]
    assert err == ""


def test_json_has_the_intervals_and_no_sum(capfd: Capture, play: Play) -> None:
    steps: list[Any] = [moved(1), moved(2), moved(4, ended=True), GONE]
    waits = iter([True, False])
    play(Script(steps=steps, wait=lambda seconds: next(waits)))
    assert main(["faults", "-p", "42", "--every", "0.05", "--format", "json", "--threads"]) == 0
    out, err = capfd.readouterr()
    reports = [json.loads(line) for line in out.splitlines()]
    assert [[(row["thread"], row["count"]) for row in report["faults"]] for report in reports] == [[(7, 3)], [(7, 4)]]
    assert err == ""


def test_count_ends_after_intervals(capfd: Capture, play: Play) -> None:
    play(Script(steps=[moved(1)]))
    assert main(["flows", "-p", "42", "-q", "--every", "0.05", "--count", "2"]) == 0
    assert [line.split(":")[0] for line in headings(capfd.readouterr().out)] == ["# flows", "# flows", "# flows, sum"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("form", ["text", "json"])
def test_interrupt_gives_the_report_with_the_last_events(
    number: signal.Signals, form: str, capfd: Capture, play: Play
) -> None:
    def interrupt() -> bool:
        os.kill(os.getpid(), number)
        return True

    script = play(Script(steps=[moved(1), moved(6)], wait=until(2, interrupt)))
    assert main(["faults", "-p", "42", "-q", "--format", form]) == 0
    out, err = capfd.readouterr()
    if form == "text":
        assert headings(out) == ["# faults: 7 faults, which placed 7 pages, 1 target"]
    else:
        assert [row["count"] for row in json.loads(out)["faults"]] == [7]
    assert err == ""
    assert script.events[-2:] == ["refresh", "close"]
    assert script.events.count("refresh") == 2, "it waits no second longer"


def test_second_interrupt_does_not_wait_for_the_last_events(capfd: Capture, play: Play) -> None:
    def refresh() -> Sample:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second interrupt was not heard")

    play(Script(steps=[moved(5), refresh], wait=lambda seconds: True))
    assert main(["flows", "-p", "42", "-q"]) == 0
    assert headings(capfd.readouterr().out) == ["# flows: 5 pages moved (20 KiB), 0 failed, 1 target"]


def test_interrupt_before_anything_was_seen(capfd: Capture, play: Play) -> None:
    def interrupt(progress: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    script = play(Script(steps=[moved(5)], start=interrupt))
    assert main(["flows", "-p", "42"]) == 130
    assert capfd.readouterr() == ("", "")
    assert "refresh" not in script.events


def test_processes_that_may_come_are_waited_for(capfd: Capture, play: Play) -> None:
    def interrupt() -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        return True

    steps = [sample(), moved(3), sample(ended=moved(4).snapshots), sample()]
    play(Script(steps=steps, wait=until(35, interrupt)))
    assert main(["flows", "--cgroup", "x", "-q"]) == 0
    assert headings(capfd.readouterr().out) == ["# flows: 7 pages moved (28 KiB), 0 failed, 1 target"]


def test_nobody_came(capfd: Capture, play: Play) -> None:
    play(Script(steps=[sample()]))
    assert main(["flows", "--name", "x", "--duration", "0.05"]) == 0
    out, err = capfd.readouterr()
    assert headings(out) == ["# flows: 0 pages moved (0 KiB), 0 failed, 0 targets"]
    assert err == "numatrace: no process has a name like x yet; waiting for one (Ctrl-C ends it)\n"


def test_target_gone_before_anything_was_seen_is_failure(capfd: Capture, play: Play) -> None:
    play(Script(steps=[GONE]))
    assert main(["flows", "-p", "42"]) == 1
    assert capfd.readouterr() == ("", "numatrace: process 42 is gone; choose one that runs\n")


def test_target_that_ended_at_once_is_told_of(capfd: Capture, play: Play) -> None:
    play(Script(steps=[moved(3, ended=True), GONE]))
    assert main(["flows", "-p", "42", "-q"]) == 0
    assert headings(capfd.readouterr().out) == ["# flows: 3 pages moved (12 KiB), 0 failed, 1 target"]


def test_last_events_may_come_in_pieces(capfd: Capture, play: Play) -> None:
    """What was in a log that was being written when the last target ended is in the next one."""
    steps: list[Any] = [moved(1), moved(2, ended=True), moved(4, ended=True), GONE]
    play(Script(steps=steps, wait=lambda seconds: False))
    assert main(["flows", "-p", "42", "-q"]) == 0
    assert headings(capfd.readouterr().out) == ["# flows: 7 pages moved (28 KiB), 0 failed, 1 target"]


def test_process_that_executes_another_program_is_still_watched(capfd: Capture, play: Play) -> None:
    """For a moment it has no address space that is known."""
    steps: list[Any] = [moved(1), moved(2, ended=True), moved(4), GONE]
    play(Script(steps=steps, wait=lambda seconds: True))
    assert main(["flows", "-p", "42", "-q"]) == 0
    assert headings(capfd.readouterr().out) == ["# flows: 7 pages moved (28 KiB), 0 failed, 1 target"]


def test_error_after_something_was_seen_follows_the_report(capfd: Capture, play: Play) -> None:
    play(Script(steps=[moved(3), NumatraceError("the reader failed", "report it")]))
    assert main(["flows", "-p", "42", "-q"]) == 1
    out, err = capfd.readouterr()
    assert headings(out) == ["# flows: 3 pages moved (12 KiB), 0 failed, 1 target"]
    assert err == "numatrace: the reader failed; report it\n"


# A command


def test_command_gives_its_exit_code(capfd: Capture, play: Play) -> None:
    play(Script(steps=[moved(3), moved(4, ended=True), GONE], wait=lambda seconds: False))
    assert main(["flows", "-q", "--", "sh", "-c", "exit 7"]) == 7
    assert headings(capfd.readouterr().out) == ["# flows: 7 pages moved (28 KiB), 0 failed, 1 target"]


def test_report_comes_when_the_time_is_over_and_the_command_goes_on(capfd: Capture, play: Play) -> None:
    play(Script(steps=[moved(3)]))
    # What the command prints comes after the report, so it was still running.
    code = main(["flows", "-q", "--duration", "0.05", "--", "sh", "-c", "sleep 1; echo last; exit 8"])
    assert code == 8
    out = capfd.readouterr().out
    assert headings(out) == ["# flows: 6 pages moved (24 KiB), 0 failed, 1 target"]
    assert out.endswith("\nlast\n")


def test_command_too_quick_to_see_is_said(capfd: Capture, play: Play) -> None:
    play(Script(steps=[GONE]))
    assert main(["flows", "--", "sh", "-c", "exit 4"]) == 4
    assert capfd.readouterr() == ("", "numatrace: sh ended before its placement could be read\n")


def test_error_of_ours_after_the_start_leaves_the_command_alone(capfd: Capture, play: Play) -> None:
    play(Script(steps=[moved(3), NumatraceError("the reader failed", "report it")]))
    assert main(["flows", "-q", "--", "sh", "-c", "exit 5"]) == 5
    out, err = capfd.readouterr()
    assert headings(out) == ["# flows: 3 pages moved (12 KiB), 0 failed, 1 target"]
    assert err == "numatrace: the reader failed; report it\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_goes_to_the_command_and_its_end_brings_the_report(
    number: signal.Signals, capfd: Capture, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupts, "_in_foreground", lambda: False)

    def wait(seconds: float) -> bool:
        os.kill(os.getpid(), number)
        return False

    play(Script(steps=[moved(3), moved(4, ended=True), GONE], wait=wait))
    assert main(["flows", "-q", "--", "sleep", "60"]) == 128 + number
    assert headings(capfd.readouterr().out) == ["# flows: 7 pages moved (28 KiB), 0 failed, 1 target"]


def test_children_that_outlive_the_command_are_watched_until_the_interrupt(capfd: Capture, play: Play) -> None:
    script = Script(steps=[moved(3), moved(4)])

    def wait(seconds: float) -> bool:
        os.waitid(os.P_PID, script.events[0][1].pids[0], os.WEXITED | os.WNOWAIT)
        os.kill(os.getpid(), signal.SIGINT)
        return True

    script.wait = wait
    play(script)
    assert main(["flows", "-q", "--follow-forks", "--", "sh", "-c", "exit 6"]) == 6
    assert script.events[0][1].follow_forks
    assert headings(capfd.readouterr().out) == ["# flows: 7 pages moved (28 KiB), 0 failed, 1 target"]

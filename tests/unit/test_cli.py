"""The command line from its words to its exit code, with a session that plays back a script."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import tracer.render
from tests.unit.fake_session import Options, Script, script_with, session_module
from tests.unit.snapshots import details, sample, snapshot, vma
from tracer import __version__
from tracer.cli import interrupts, options
from tracer.cli.main import VERBS, build_parser, main
from tracer.cli.options import Target
from tracer.cli.progress import Progress
from tracer.cli.watch import Pace, Watch
from tracer.errors import NumatraceError
from tracer.kernel.procfs import TargetGone
from tracer.model.sample import Sample
from tracer.model.selection import Selection
from tracer.model.vma import Kind

ROOT = Path(__file__).parents[2]
SHOT = snapshot([vma(kind=Kind.HEAP)], [(3, 4)], details=details([(7, 7, 1, 0, 7, 0)]))
LINE = "7f0000000000 default heap N0=3 N1=4 kernelpagesize_kB=4\n"
FULL_LINE = "7f0000000000 default heap anon=7 dirty=7 N0=3 N1=4 kernelpagesize_kB=4\n"
LINE_2005 = "7f0000000000 default MaxRef=1 Pages=7 Mapped=7 Anon=7 N0=3 N1=4\n"
PLACEMENT = json.loads((Path(tracer.render.__file__).parent / "placement.schema.json").read_text())
GONE = TargetGone("process 42 is gone", "choose one that runs")

Capture = pytest.CaptureFixture[str]
Play = Callable[[Script], Script]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Makes the command line use a session that follows the script given."""

    def use(script: Script) -> Script:
        monkeypatch.setitem(sys.modules, "tracer.session", session_module(script))
        return script

    return use


# Words and options


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("", ["VERB"]),
        ("bogus", ["bogus", "maps"]),
        ("maps", ["nothing to watch", "-p PID", "-- CMD"]),
        ("maps --", ["no command after --"]),
        ("maps -p 1 -- true", ["both -p and a command"]),
        ("maps --cgroup x -- true", ["both --cgroup and a command"]),
        ("maps --name x -- true", ["both --name and a command"]),
        ("maps --follow-forks", ["nothing to watch", "--follow-forks", "-p PID"]),
        ("maps --follow-forks --", ["no command after --"]),
        ("maps --name=", ["--name is empty"]),
        ("maps --cgroup=", ["--cgroup is empty"]),
        ("maps --name= -p 1", ["--name is empty"]),
        ("maps -p 1 -p x", ["'x'"]),
        ("maps -p 0", ["-p", "'0'", "above 0"]),
        ("maps -p -3", ["-p", "'-3'"]),
        ("maps -p 99999999999", ["99999999999"]),
        ("maps -p x", ["'x'"]),
        ("maps -p 1 --every 0", ["--every", "'0'", "above 0"]),
        ("maps -p 1 --every -1", ["--every", "'-1'"]),
        ("maps -p 1 --every nan", ["--every", "'nan'"]),
        ("maps -p 1 --every inf", ["--every", "'inf'"]),
        ("maps -p 1 --every 1e9", ["--every", "86400"]),
        ("maps -p 1 --every", ["--every", "argument"]),
        ("maps -p 1 --count 0", ["--count", "'0'"]),
        ("maps -p 1 --count 1.5", ["--count", "'1.5'"]),
        ("maps -p 1 --audit-cpu 0", ["--audit-cpu", "'0'", "above 0"]),
        ("maps -p 1 --audit-cpu 101", ["--audit-cpu", "'101'", "up to 100"]),
        ("maps -p 1 --audit-cpu nan", ["--audit-cpu", "'nan'"]),
        ("maps -p 1 --audit-cpu 5%", ["--audit-cpu", "'5%'", "without %"]),
        ("maps -p 1 --duration 5", ["--duration"]),
        ("flows", ["nothing to watch"]),
        ("flows -p 1 --duration 0", ["--duration", "'0'"]),
        ("flows -p 1 --duration 1e9", ["--duration", "a duration"]),
        ("flows -p 1 --vmas -1", ["--vmas"]),
        ("flows -p 1 --vmas all", ["--vmas", "'all'", "0 for all"]),
        ("flows -p 1 --format kernel", ["kernel", "text", "json"]),
        ("flows -p 1 --hooks none", ["flows", "--hooks none", "hooks"]),
        ("flows -p 1 --node 1", ["--node"]),
        ("faults -p 1 --reader numa_maps", ["faults", "--reader numa_maps", "hooks"]),
        ("faults -p 1 --node x", ["--node", "'x'", "numactl"]),
        ("faults -p 1 --node -1", ["--node"]),
        ("maps -p 1 --format xml", ["xml", "kernel", "2005", "json"]),
        ("maps -p 1 --reader magic", ["magic", "pagemap"]),
        ("maps -p 1 --bogus", ["--bogus", "--help"]),
        ("maps -p 1 --ful", ["--ful"]),
        ("maps sleep 10", ["sleep 10", "goes after --"]),
        ("completion fish", ["fish", "bash"]),
        ("completion bash -- true", ["completion", "no command"]),
    ],
)
def test_wrong_usage_is_one_clear_line(words: str, parts: list[str], capfd: Capture, play: Play) -> None:
    script = play(Script(steps=[SHOT]))
    assert main(words.split()) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("numatrace: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err
    assert script.events == [], "nothing may be started"


def test_options_reach_the_session(play: Play) -> None:
    script = play(Script(steps=[SHOT]))
    assert (
        main(["maps", "-p", "42", "--hooks", "none", "--reader", "pagemap", "--seed", "walk", "-q", "--no-color"]) == 0
    )
    assert script.events[0] == ("open", Selection((42,)), Options("none", "pagemap", "walk"), False)


@pytest.mark.parametrize(
    ("words", "selection"),
    [
        ("-p 7 -p 8 -p 7", Selection((7, 8))),
        ("-p 7 --follow-forks", Selection((7,), follow_forks=True)),
        ("--cgroup /sys/fs/cgroup/x", Selection(cgroup="/sys/fs/cgroup/x")),
        ("--name post* --every 1 --count 1", Selection(name="post*")),
        ("--name a --cgroup b -p 3 --follow-forks", Selection((3,), True, "b", "a")),
    ],
)
def test_selection_reaches_the_session(words: str, selection: Selection, play: Play) -> None:
    script = play(Script(steps=[SHOT]))
    assert main(["maps", "-q", *words.split()]) == 0
    assert script.events[0][1] == selection


@pytest.mark.parametrize(("words", "fraction"), [("", 0.05), ("--audit-cpu 0.5", 0.005), ("--audit-cpu 100", 1.0)])
def test_audit_budget_is_a_fraction(words: str, fraction: float, play: Play) -> None:
    script = play(Script(steps=[SHOT]))
    assert main(["maps", "-p", "42", *words.split()]) == 0
    assert script.events[0][2].audit_cpu == pytest.approx(fraction)


@pytest.mark.parametrize(("words", "wanted"), [("--full", True), ("--format 2005", True), ("--format json", False)])
def test_details_are_read_only_where_they_are_shown(words: str, wanted: bool, play: Play) -> None:
    script = play(Script(steps=[SHOT]))
    assert main(["maps", "-p", "42", *words.split()]) == 0
    assert script.events[0][2].details is wanted


def test_words_are_understood_without_loading_what_is_slow() -> None:
    code = (
        "import sys; from tracer.cli.main import main; code = main(['maps', '-p', '1', '--every', '0']); "
        "print(code, sorted({'numpy', 'bcc', 'shtab', 'tracer.session', 'tracer.kernel'} & sys.modules.keys()))"
    )
    done = run([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert done.stdout == b"2 []\n"


def test_help_and_version(capfd: Capture) -> None:
    assert main(["--version"]) == 0
    assert capfd.readouterr().out == f"numatrace {__version__}\n"
    for verb in VERBS:
        assert main([verb.name, "--help"]) == 0
        assert verb.usage in capfd.readouterr().out


# What is printed


@pytest.mark.parametrize(("words", "text"), [("", LINE), ("--full", FULL_LINE), ("--format 2005", LINE_2005)])
def test_text_formats(words: str, text: str, capfd: Capture, play: Play) -> None:
    script = play(Script(steps=[SHOT]))
    assert main(["maps", "-p", "42", *words.split()]) == 0
    out, err = capfd.readouterr()
    assert out == text
    assert err.startswith("# 2025-03-01T12:00:00.250Z pid=42 ")
    assert err.count("\n") == 1
    assert script.events[1:] == ["start", "refresh", "close"]


def test_json(capfd: Capture, play: Play) -> None:
    play(Script(steps=[SHOT]))
    assert main(["maps", "-p", "42", "--format", "json", "--count", "2"]) == 0
    out, err = capfd.readouterr()
    lines = out.splitlines()
    assert len(lines) == 2
    for line in lines:
        jsonschema.Draft202012Validator(PLACEMENT).validate(json.loads(line))
    assert err == ""


def test_several_snapshots_are_separated_by_an_empty_line(capfd: Capture, play: Play) -> None:
    script = play(Script(steps=[SHOT]))
    assert main(["maps", "-p", "42", "--every", "0.5", "--count", "3"]) == 0
    out, err = capfd.readouterr()
    assert out == "\n".join([LINE] * 3)
    assert err.count("# ") == err.count("\n") == 3
    assert len([event for event in script.events if event[0] == "wait"]) == 2, "no wait after the last"


def test_notes_are_said_once_and_not_when_quiet(capfd: Capture, play: Play) -> None:
    script = Script(steps=[SHOT], notes=["the walk is off; pagemap is used"])

    def wait(seconds: float) -> bool:
        script.notes.append("a \x1b[31mnew\nnote")
        return True

    script.wait = wait
    play(script)
    assert main(["maps", "-p", "42", "--every", "1", "--count", "2"]) == 0
    notes = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("# ")]
    assert notes == ["numatrace: the walk is off; pagemap is used", r"numatrace: a \033[31mnew note"]
    assert main(["maps", "-p", "42", "-q"]) == 0
    assert capfd.readouterr().err == ""


class Log:
    """A view that says what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def take(self, sample: Sample, seconds: float) -> bool:
        self.said.append("take")
        return True

    def show(self) -> None:
        self.said.append("show")

    def finish(self) -> None:
        self.said.append("finish")


# Several targets

PAIR = [
    snapshot([vma(kind=Kind.HEAP)], [(3, 4)], pid=42, details=details([(7, 7, 1, 0, 7, 0)])),
    snapshot([vma(kind=Kind.HEAP)], [(10, 0)], pid=1043, namespace_pid=7, comm=b"a\x1b b"),
]
SAMPLE = sample(*PAIR)


@pytest.mark.parametrize("words", ["-p 42 -p 1043", "-p 42 --follow-forks", "--cgroup x", "--name x"])
def test_lines_of_several_targets_are_told_apart(words: str, capfd: Capture, play: Play) -> None:
    play(Script(steps=[SAMPLE]))
    assert main(["maps", *words.split()]) == 0
    out, err = capfd.readouterr()
    assert out.splitlines() == [
        "# PID 42 target",
        LINE[:-1],
        r"# PID 1043 (7 in its namespace) a\033 b",
        "7f0000000000 default heap N0=10 kernelpagesize_kB=4",
        "# total of 2 targets N0=13 N1=4 (a page that several map counts in each)",
    ]
    first, second = err.splitlines()
    assert "pid=42 ns_pid=42 comm=target " in first
    assert r"pid=1043 ns_pid=7 comm=a\033\040b " in second


def test_one_of_several_is_still_named(capfd: Capture, play: Play) -> None:
    play(Script(steps=[sample(PAIR[0])]))
    assert main(["maps", "-q", "--name", "x", "--every", "1", "--count", "2"]) == 0
    text = f"# PID 42 target\n{LINE}# total of 1 target N0=3 N1=4\n"
    assert capfd.readouterr() == (f"{text}\n{text}", "")


def test_json_of_several_targets_has_an_object_for_all(capfd: Capture, play: Play) -> None:
    play(Script(steps=[sample(*PAIR, ended=(snapshot(pid=50),), untraced=3)]))
    assert main(["maps", "--format", "json", "-p", "42", "-p", "1043"]) == 0
    first, second, both = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    for value in (first, second, both):
        jsonschema.Draft202012Validator(PLACEMENT).validate(value)
    assert [(one["pid"], one["ns_pid"], one["totals"]) for one in (first, second)] == [
        (42, 42, {"0": 3, "1": 4}),
        (1043, 7, {"0": 10, "1": 0}),
    ]
    assert both == {
        "type": "session",
        "version": 1,
        "time": "2025-03-01T12:00:00.250000Z",
        "targets": 2,
        "totals": {"0": 13, "1": 4},
        "untraced": 3,
        "ended": [50],
    }


@pytest.mark.parametrize("words", ["-p 42", "-p 42 --format json", "--name x", "--name x --format json"])
def test_untraced_processes_are_said_in_every_form(words: str, capfd: Capture, play: Play) -> None:
    play(Script(steps=[sample(PAIR[0], untraced=3)]))
    assert main(["maps", *words.split()]) == 0
    out, err = capfd.readouterr()
    if "json" in words:
        assert all(json.loads(line)["untraced"] == 3 for line in out.splitlines())
    else:
        assert "# untraced: 3 processes are missing" in (out if "--name" in words else err)
        assert words != "-p 42" or out == LINE


def test_single_look_at_nobody_is_an_error(capfd: Capture, play: Play) -> None:
    script = play(Script(steps=[sample()]))
    assert main(["maps", "--cgroup", "web", "--name", "post*"]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err == (
        "numatrace: no process is in the control group web or has a name like post* at present; "
        "check what ps -e shows, or give --every SEC to wait for one\n"
    )
    assert script.events[-1] == "close"


def test_nobody_yet_is_waited_for(capfd: Capture, play: Play) -> None:
    play(Script(steps=[sample(), SAMPLE, sample(ended=tuple(PAIR))]))
    assert main(["maps", "-q", "--name", "x", "--every", "1", "--count", "3"]) == 0
    empty = ["# total of 0 targets N0=0 N1=0"]
    parts = [part.splitlines() for part in capfd.readouterr().out.split("\n\n")]
    assert [parts[0], parts[2]] == [empty, empty]
    assert len(parts[1]) == 5


def test_all_of_several_ended(capfd: Capture, play: Play) -> None:
    play(Script(steps=[SAMPLE, sample(ended=tuple(PAIR)), GONE], wait=lambda seconds: False))
    assert main(["maps", "-q", "-p", "42", "-p", "1043", "--every", "1"]) == 0
    assert capfd.readouterr().out.count("# total of") == 1, "nobody is left of whom there is a placement"


def test_json_says_who_ended_last(capfd: Capture, play: Play) -> None:
    play(Script(steps=[SAMPLE, sample(ended=tuple(PAIR)), GONE], wait=lambda seconds: False))
    assert main(["maps", "--format", "json", "-p", "42", "-p", "1043", "--every", "1"]) == 0
    last = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (last["targets"], last["ended"]) == (0, [42, 1043])


@pytest.mark.parametrize("form", ["kernel", "json"])
def test_end_of_a_single_target_adds_nothing(form: str, capfd: Capture, play: Play) -> None:
    play(Script(steps=[SHOT, sample(ended=(SHOT,)), GONE], wait=lambda seconds: False))
    assert main(["maps", "-q", "-p", "42", "--every", "1", "--format", form]) == 0
    assert capfd.readouterr().out.count("\n") == 1


@pytest.mark.parametrize("words", ["-p 42", "-p 42 -p 43"])
def test_targets_that_end_before_the_first_look(words: str, capfd: Capture, play: Play) -> None:
    play(Script(steps=[sample(ended=(SHOT,)), GONE], wait=lambda seconds: False))
    assert main(["maps", *words.split()]) == 1
    assert capfd.readouterr() == ("", "numatrace: process 42 is gone; choose one that runs\n")


@pytest.mark.parametrize("words", ["", "--every 1 --count 1"])
def test_process_that_executes_another_program_is_looked_at_again(words: str, capfd: Capture, play: Play) -> None:
    """Just then it has no placement, and that is not shown as one."""
    script = play(Script(steps=[sample(ended=(SHOT,)), SHOT]))
    assert main(["maps", "-q", "-p", "42", *words.split()]) == 0
    assert capfd.readouterr() == (LINE, "")
    assert script.events.count("refresh") == 2


def test_json_says_who_ended_while_nothing_was_shown(capfd: Capture, play: Play) -> None:
    play(Script(steps=[sample(ended=(SHOT,)), SHOT]))
    assert main(["maps", "--format", "json", "--follow-forks", "-p", "42"]) == 0
    placement, session = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert (placement["pid"], session["targets"], session["ended"]) == (42, 1, [42])


# How it ends


def test_target_that_ends_after_a_snapshot_is_success(capfd: Capture, play: Play) -> None:
    play(Script(steps=[SHOT, GONE]))
    assert main(["maps", "-p", "42", "--every", "1", "-q"]) == 0
    assert capfd.readouterr() == (LINE, "")


def test_target_that_ends_while_we_wait_is_success(play: Play) -> None:
    script = play(Script(steps=[SHOT], wait=lambda seconds: False))
    assert main(["maps", "-p", "42", "--every", "1"]) == 0
    assert script.events[-1] == "close"


def test_target_that_is_gone_before_a_snapshot_is_failure(capfd: Capture, play: Play) -> None:
    play(Script(steps=[GONE]))
    assert main(["maps", "-p", "42", "--every", "1"]) == 1
    assert capfd.readouterr() == ("", "numatrace: process 42 is gone; choose one that runs\n")


def test_error_is_one_line_with_what_to_do(capfd: Capture, play: Play) -> None:
    script = play(Script(steps=[NumatraceError("BPF was\nrefused.", "run it with sudo")]))
    assert main(["maps", "-p", "42"]) == 1
    assert capfd.readouterr() == ("", "numatrace: BPF was refused; run it with sudo\n")
    assert script.events[-1] == "close"


@pytest.mark.parametrize(("steps", "code"), [([KeyboardInterrupt()], 130), ([SHOT, KeyboardInterrupt()], 0)])
def test_interrupt(steps: list[Any], code: int, capfd: Capture, play: Play) -> None:
    script = play(Script(steps=steps))
    assert main(["maps", "-p", "42", "--every", "1", "-q"]) == code
    assert capfd.readouterr().err == ""
    assert script.events[-1] == "close"


def test_beat_is_fixed_and_missed_beats_are_skipped(play: Play) -> None:
    now = 100.0
    waits: list[float] = []
    costs = iter([0.25, 0.0, 3.25, 0.0])

    def refresh() -> Any:
        nonlocal now
        now += next(costs)
        return SHOT

    def wait(seconds: float) -> bool:
        nonlocal now
        now += seconds
        waits.append(seconds)
        return True

    play(Script(steps=[refresh], wait=wait))
    arguments = build_parser().parse_args(["maps", "-q"])
    log = Log()
    code = Watch(Target(Selection((42,))), Pace(1.0, 4), arguments, log, clock=lambda: now).run()
    assert code == 0
    assert log.said == ["take", "show"] * 4 + ["finish"]
    # The third took 3.25 s: the beats at 3, 4 and 5 s are past, the next one is in 0.75 s.
    assert waits == [0.75, 1.0, 0.75]


# A command


def test_command_is_released_after_the_start_and_gives_its_exit_code(play: Play, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    seen_at_start = []
    script = Script(steps=[SHOT, GONE])
    script.start = lambda progress: seen_at_start.append(mark.exists())
    play(script)
    assert main(["maps", "-q", "--", "sh", "-c", f"touch {mark}; exit 7"]) == 7
    assert seen_at_start == [False]
    assert mark.exists()
    kind, selection, _, expect_exec = script.events[0]
    assert (kind, expect_exec) == ("open", True)
    assert selection == Selection(selection.pids)
    assert selection.pids not in [(), (os.getpid(),)]
    assert ("wait", pytest.approx(1.0, abs=0.2)) in script.events, "a command is watched every second by default"


def test_options_after_the_dashes_belong_to_the_command(play: Play, tmp_path: Path) -> None:
    play(Script(steps=[SHOT, GONE]))
    out = tmp_path / "out"
    words = ["--every", "0", "--", "-p", "1"]
    assert main(["maps", "-q", "--", "sh", "-c", f'printf "%s|" "$@" > {out}', "x", *words]) == 0
    assert out.read_text() == "--every|0|--|-p|1|"


def test_command_goes_on_after_the_count(play: Play) -> None:
    script = play(Script(steps=[SHOT]))
    assert main(["maps", "-q", "--count", "1", "--", "sh", "-c", "exit 3"]) == 3
    assert script.events[1:] == ["start", "refresh", "close"]


def test_command_too_quick_to_read_is_said(play: Play, capfd: Capture) -> None:
    play(Script(steps=[GONE]))
    assert main(["maps", "--", "sh", "-c", "exit 4"]) == 4
    assert capfd.readouterr().err == "numatrace: sh ended before its placement could be read\n"


def test_command_survives_an_error_of_ours(play: Play, capfd: Capture) -> None:
    play(Script(steps=[SHOT, NumatraceError("the reader failed", "report it")]))
    assert main(["maps", "-q", "--", "sh", "-c", "exit 5"]) == 5
    assert capfd.readouterr().err == "numatrace: the reader failed; report it\n"


def test_command_is_not_run_when_we_cannot_start(play: Play, capfd: Capture, tmp_path: Path) -> None:
    def refuse(progress: object) -> None:
        raise NumatraceError("BPF was refused", "run it with sudo")

    play(Script(steps=[SHOT], start=refuse))
    mark = tmp_path / "ran"
    assert main(["maps", "--", "touch", str(mark)]) == 1
    assert not mark.exists()
    assert capfd.readouterr().err == "numatrace: BPF was refused; run it with sudo\n"


@pytest.mark.parametrize(("name", "code"), [("no-such-command-anywhere", 127), ("/etc/passwd", 126)])
def test_command_that_cannot_run(name: str, code: int, play: Play, capfd: Capture) -> None:
    script = play(Script(steps=[SHOT]))
    assert main(["maps", "--", name]) == code
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert name in err
    assert script.events[-1] == "close"


def test_interrupt_after_the_command_has_ended_ends_the_watch(play: Play, tmp_path: Path) -> None:
    """Its children may live on, and are watched with --follow-forks; but nobody else is left to interrupt."""
    script = Script(steps=[SHOT])

    def wait(seconds: float) -> bool:
        os.waitid(os.P_PID, script.events[0][1].pids[0], os.WEXITED | os.WNOWAIT)
        os.kill(os.getpid(), signal.SIGINT)
        return True

    script.wait = wait
    play(script)
    assert main(["maps", "-q", "--follow-forks", "--", "sh", "-c", "exit 9"]) == 9
    assert script.events[-1] == "close"
    assert script.events.count("refresh") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_go_to_the_command(number: signal.Signals, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(number)
    monkeypatch.setattr(interrupts, "_in_foreground", lambda: False)

    def wait(seconds: float) -> bool:
        os.kill(os.getpid(), number)
        return False

    play(Script(steps=[SHOT], wait=wait))
    assert main(["maps", "-q", "--", "sleep", "60"]) == 128 + number
    assert signal.getsignal(number) is before


def test_ctrl_c_is_not_sent_twice(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "_in_foreground", lambda: True)
    script = Script(steps=[SHOT])

    def wait(seconds: float) -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(script.events[0][1].pids[0], signal.SIGKILL)
        return False

    script.wait = wait
    play(script)
    assert main(["maps", "-q", "--", "sleep", "60"]) == 128 + signal.SIGKILL


def test_interrupt_before_the_command_runs_ends_it_unrun(play: Play, tmp_path: Path) -> None:
    def interrupt(progress: object) -> None:
        raise KeyboardInterrupt

    play(Script(steps=[SHOT], start=interrupt))
    mark = tmp_path / "ran"
    assert main(["maps", "--", "touch", str(mark)]) == 130
    assert not mark.exists()


# Whole processes: closed and full outputs, terminals


def driver(path: bytes, count: int, *words: str) -> list[str]:
    """A command line that runs numatrace with a session that gives `count` snapshots of a file mapping `path`."""
    code = (
        "import sys; from tests.unit.fake_session import install, script_with; "
        f"install(script_with({path!r}, {count})); from tracer.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    return [sys.executable, "-c", code, *words]


def run(argv: list[str], **extra: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(argv, cwd=ROOT, stderr=subprocess.PIPE, timeout=60, **extra)


@pytest.mark.parametrize("words", [["-p", "42"], ["-p", "42", "--format", "json"]])
def test_reader_that_has_seen_enough_is_no_error(words: list[str]) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    argv = driver(b"/x", 100_000, "maps", "-q", "--every", "0.001", *words)
    done = run(argv, stdout=write_end)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (0, b"")


def test_reader_that_has_seen_enough_does_not_end_the_command() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = run(driver(b"/x", 3, "maps", "-q", "--", "sh", "-c", "exit 6"), stdout=write_end)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (6, b"")


def test_full_disk_is_an_error() -> None:
    with open("/dev/full", "wb") as full:
        done = run(driver(b"/x", 1, "maps", "-q", "-p", "42"), stdout=full)
    assert done.returncode == 1
    assert done.stderr.startswith(b"numatrace: cannot write to standard output: No space left")
    assert done.stderr.count(b"\n") == 1


def test_closed_output_is_an_error() -> None:
    argv = driver(b"/x", 1, "maps", "-q", "-p", "42")
    done = run(["sh", "-c", 'exec "$@" >&-', "sh", *argv])
    assert done.returncode == 1
    assert done.stderr.startswith(b"numatrace: standard output is closed;")


def test_closed_standard_error_hurts_nobody() -> None:
    argv = driver(b"/x", 1, "maps", "-p", "42")
    done = run(["sh", "-c", 'exec "$@" 2>&-', "sh", *argv], stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (0, b"7f0000000000 default file=/x N0=1 N1=2 kernelpagesize_kB=4\n")


HOSTILE = b"/\x1b]0;title\x07 \xff\xc2\x9b"


def test_pipe_gets_the_bytes_of_the_kernel() -> None:
    done = run(driver(HOSTILE, 1, "maps", "-q", "-p", "42"), stdout=subprocess.PIPE)
    expected = rb"7f0000000000 default file=" + HOSTILE.replace(b" ", rb"\040") + b" N0=1 N1=2 kernelpagesize_kB=4\n"
    assert done.stdout == expected


class Terminal:
    """A process on a pseudo-terminal of its own, which is its controlling terminal."""

    def __init__(self, argv: list[str]) -> None:
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            os.execv(argv[0], argv)
        self.seen = b""

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def read_until(self, mark: bytes) -> None:
        while mark not in self.seen and self._read():
            pass
        assert mark in self.seen, self.seen

    def finish(self) -> int:
        while self._read():
            pass
        os.close(self._master)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self) -> bool:
        try:
            piece = os.read(self._master, 4096)
        except OSError:
            return False  # how Linux says that the other end is closed
        self.seen += piece
        return bool(piece)


def test_terminal_gets_nothing_that_acts() -> None:
    terminal = Terminal(driver(HOSTILE, 1, "maps", "-p", "42"))
    assert terminal.finish() == 0
    assert rb"file=/\033]0;title\007\040\377\302\233 N0=1" in terminal.seen
    assert not set(terminal.seen) & (set(range(0x20)) | set(range(0x7F, 0x100))) - {0x0D, 0x0A}


def test_ctrl_c_on_a_terminal_ends_the_command_once_and_gives_its_code() -> None:
    # The command takes one interrupt and then waits a moment for a second, which must not come.
    code = (
        "import signal, sys; mask = {signal.SIGINT}; signal.pthread_sigmask(signal.SIG_BLOCK, mask); "
        "print('ready', flush=True); signal.sigwait(mask); "
        "sys.exit(41 if signal.sigtimedwait(mask, 0.3) is None else 42)"
    )
    terminal = Terminal(driver(b"/x", 1, "maps", "-q", "--", sys.executable, "-c", code))
    terminal.read_until(b"ready")
    terminal.type(b"\x03")
    assert terminal.finish() == 41


# Progress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def progress_on(stream: Any, monkeypatch: pytest.MonkeyPatch, quiet: bool = False) -> tuple[Progress, Clock]:
    monkeypatch.setattr(sys, "stderr", stream)
    clock = Clock()
    return Progress(quiet, clock), clock


class Screen:
    """What `sys.stderr` is on a terminal, for as much as progress uses."""

    def __init__(self, terminal: bool = True) -> None:
        self.terminal = terminal
        self.text = ""

    def isatty(self) -> bool:
        return self.terminal

    def fileno(self) -> int:
        raise OSError("no descriptor")

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def test_progress_shows_nothing_in_the_first_second(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    progress, clock = progress_on(screen, monkeypatch)
    for done in range(10):
        clock.now = done / 10
        progress("reading", done, 10)
    progress.clear()
    assert screen.text == ""


def test_progress_overwrites_itself_and_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    progress, clock = progress_on(screen, monkeypatch)
    progress("reading", 0, 200)
    for clock.now, done in [(1.0, 20), (1.05, 21), (2.0, 200)]:
        progress("reading", done, 200)
    progress.clear()
    progress.clear()
    assert screen.text == "\rreading: 10 %\rreading: 100 %\r" + " " * 14 + "\r"


def test_progress_without_a_total(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    progress, clock = progress_on(screen, monkeypatch)
    progress("waiting", 0, 0)
    clock.now = 1.5
    progress("waiting", 5, 0)
    assert screen.text == "\rwaiting ..."


@pytest.mark.parametrize(("terminal", "quiet"), [(False, False), (True, True)])
def test_progress_is_for_terminals_and_not_when_quiet(
    terminal: bool, quiet: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen(terminal)
    progress, clock = progress_on(screen, monkeypatch, quiet)
    progress("reading", 0, 10)
    clock.now = 5.0
    progress("reading", 5, 10)
    assert screen.text == ""


# Completions


def test_completion_for_bash_is_a_script_that_knows_the_options(capfd: Capture) -> None:
    assert main(["completion", "bash"]) == 0
    script = capfd.readouterr().out
    subprocess.run(["bash", "-n"], input=script.encode(), check=True, timeout=30)
    for word in (
        "maps",
        "flows",
        "faults",
        "policy",
        "completion",
        "--follow-forks",
        "--cgroup",
        "--vmas",
        "--format",
        "2005",
        "--reader",
        "pagemap",
        "maps_pos_0_COMPGEN=_shtab_compgen_files",
        "diff_pos_0_COMPGEN=_shtab_compgen_files",
        "policy_pos_0_COMPGEN=_shtab_compgen_files",
        "--trace-policy",
    ):
        assert word in script


def test_completion_for_bash_finds_recordings(tmp_path: Path, capfd: Capture) -> None:
    assert main(["completion", "bash"]) == 0
    script = capfd.readouterr().out
    (tmp_path / "day.parquet").touch()
    for words in ("maps d", "maps --at +3s d", "flows -q d", "policy --all d", "diff day.parquet d"):
        ask = f"COMP_WORDS=(numatrace {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _shtab_numatrace; "
        code = f"{script}\n{ask} echo ${{COMPREPLY[@]}}"
        done = subprocess.run(["bash", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=30)
        assert done.stdout == "day.parquet\n", words


def test_shared_options_are_those_of_the_design() -> None:
    arguments = build_parser().parse_args(["maps", "-p", "1"])
    assert (arguments.hooks, arguments.reader, arguments.seed) == ("auto", "auto", "auto")
    assert (arguments.quiet, arguments.no_color) == (False, False)
    arguments.command = None
    assert options.target(arguments) == Target(Selection((1,)))


def test_script_with_says_gone_at_the_end() -> None:
    """The driver of the tests above relies on it."""
    assert isinstance(script_with(b"/x", 2).steps[-1], TargetGone)

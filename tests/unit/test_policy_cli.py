"""The verb `policy` from its words to its exit code, with a session that plays back a script."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.unit.fake_session import Script, Step, session_module
from tests.unit.policy_reports import HEAP, KEPT, asked, broken, change, report
from tests.unit.recordings import info_of, spaced, with_policies, write_recording
from tests.unit.snapshots import TIME, sample, snapshot
from tracer.cli.main import build_parser, main
from tracer.cli.policy_view import PolicyView
from tracer.errors import HooksMissing, NumatraceError
from tracer.kernel.procfs import TargetGone
from tracer.model.sample import Sample
from tracer.model.selection import Selection
from tracer.model.snapshot import Snapshot
from tracer.model.verdict import SIGNIFICANCE, TOLERANCE
from tracer.record.recording import open_recording
from tracer.render import policy, policy_json

Capture = pytest.CaptureFixture[str]
Play = Callable[[Script], Script]

GONE = TargetGone("process 42 is gone", "choose one that runs")


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


def expected(shot: Snapshot, *, most: int = 20, everything: bool = False, **fields: Any) -> str:
    """What is printed of one target."""
    return "".join(line + "\n" for line in policy.lines(report(shot, **fields), most, everything))


def waits(script: Script) -> list[float]:
    return [event[1] for event in script.events if event[0] == "wait"]


def objects(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


# One look


def test_one_look(capfd: Capture, play: Play) -> None:
    script = play(Script(steps=[broken()]))
    assert main(["policy", "-p", "42"]) == 0
    out, err = capfd.readouterr()
    assert out == expected(broken())
    assert err.startswith("# 2025-03-01T12:00:00.250Z pid=42 ns_pid=42 comm=target hooks=tracepoint reader=walk ")
    assert err.count("\n") == 1
    assert script.events.count("refresh") == 1
    kind, selection, options, expect_exec = script.events[0]
    assert (kind, selection, expect_exec) == ("open", Selection((42,)), False)
    assert (options.policies, options.policy_calls, options.flows, options.faults) == (True, False, False, False)


def test_one_look_in_json(capfd: Capture, play: Play) -> None:
    play(Script(steps=[sample(broken(), untraced=3)]))
    assert main(["policy", "-p", "42", "--format", "json"]) == 0
    assert capfd.readouterr() == (policy_json.line(report(broken()), 3) + "\n", "")


def test_several_targets_follow_each_other(capfd: Capture, play: Play) -> None:
    inner = broken(1043, namespace_pid=7, comm=b"a\x1b b")
    play(Script(steps=[sample(broken(), inner, untraced=2)]))
    assert main(["policy", "-p", "42", "-p", "1043"]) == 0
    out, err = capfd.readouterr()
    missing = "# untraced: 2 processes are missing, for lack of room in the table of targets\n"
    assert out == expected(broken()) + "\n" + expected(inner) + missing
    assert [line.split()[2] for line in err.splitlines()] == ["pid=42", "pid=1043"]


def test_options_of_the_report(capfd: Capture, play: Play) -> None:
    for words, fields in (
        ("--vmas 1", {"most": 1}),
        ("--vmas 0 --all", {"most": 0, "everything": True}),
        ("--as bind=1", {"what_if": asked(broken(), "bind=1")}),
        ("--as weighted=0:3,1:1", {"what_if": asked(broken(), "weighted=0:3,1:1")}),
    ):
        play(Script(steps=[broken()]))
        assert main(["policy", "-q", "-p", "42", *words.split()]) == 0
        assert capfd.readouterr() == (expected(broken(), **fields), "")


@pytest.mark.parametrize(
    ("words", "verdict"), [("", "skewed"), ("--tolerance 0.4", "as-promised"), ("--significance 1e-99", "as-promised")]
)
def test_limits_decide_about_the_verdict(words: str, verdict: str, capfd: Capture, play: Play) -> None:
    play(Script(steps=[broken()]))
    assert main(["policy", "-p", "42", "--format", "json", *words.split()]) == 0
    (found,) = objects(capfd.readouterr().out)
    assert found["vmas"][2]["verdict"] == verdict
    given = dict(zip(words.split()[::2], words.split()[1::2], strict=True))
    assert found["limits"] == {
        "significance": float(given.get("--significance", SIGNIFICANCE)),
        "tolerance": float(given.get("--tolerance", TOLERANCE)),
    }


def test_help_tells_the_limits_that_are_the_defaults(capfd: Capture) -> None:
    assert main(["policy", "--help"]) == 0
    text = " ".join(capfd.readouterr().out.split())
    assert f"less often than this (default: {SIGNIFICANCE})" in text
    assert f"however certain it is (default: {TOLERANCE})" in text
    assert "--trace-policy" in text


@pytest.mark.parametrize("words", ["--hooks none", "--reader numa_maps"])
def test_without_hooks_it_says_what_is_missing(words: str, capfd: Capture, play: Play) -> None:
    shot = broken()
    assert shot.policies is not None
    polled = replace(shot, hooks="none", policies=replace(shot.policies, observed=False))
    for given, missing in (
        (polled, "most causes are unknown"),
        (replace(polled, policies=None), "every cause is unknown"),
    ):
        play(Script(steps=[given]))
        assert main(["policy", "-p", "42", *words.split()]) == 0
        assert missing in capfd.readouterr().out.splitlines()[1]


def test_single_look_at_nobody_is_an_error(capfd: Capture, play: Play) -> None:
    play(Script(steps=[sample()]))
    assert main(["policy", "--name", "x"]) == 1
    assert capfd.readouterr().err.startswith("numatrace: no process has a name like x at present; ")


# Watching


def test_it_watches_and_tells_at_the_end(capfd: Capture, play: Play) -> None:
    """Changes of policies are those of all looks, the placement is that of the last one."""
    first, second = (
        broken(changes=[change(0)]),
        broken(changes=[change(1), change(2)], time=TIME + timedelta(seconds=2)),
    )
    script = play(Script(steps=[first, second, GONE]))
    assert main(["policy", "-q", "-p", "42", "--duration", "60"]) == 0
    out, _ = capfd.readouterr()
    assert out == expected(second, changes=[change(0), change(1), change(2)])
    assert waits(script)[0] <= 0.2, "a policy that changes is known to within a fifth of a second"


def test_it_watches_for_as_long_as_it_is_told(play: Play, capfd: Capture) -> None:
    script = play(Script(steps=[broken()]))
    assert main(["policy", "-q", "-p", "42", "--duration", "2", "--format", "json"]) == 0
    assert len(objects(capfd.readouterr().out)) == 1
    assert 1 < script.events.count("refresh") <= 11, "five looks a second, where the machine is fast enough"


def test_an_interrupt_ends_it_with_a_report(capfd: Capture, play: Play) -> None:
    def interrupt() -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        return True

    play(Script(steps=[broken()], wait=until(2, interrupt)))
    assert main(["policy", "-q", "-p", "42", "--duration", "3600"]) == 0
    assert capfd.readouterr().out == expected(broken())


def test_intervals_and_the_end(capfd: Capture, play: Play) -> None:
    """Each report has the changes since the one before; what was just printed is not printed again."""
    shots = [broken(changes=[change(at)], time=TIME + timedelta(seconds=at)) for at in range(4)]
    play(Script(steps=[*shots, GONE]))
    assert main(["policy", "-q", "-p", "42", "--every", "0.01", "--format", "json"]) == 0
    found = objects(capfd.readouterr().out)
    assert sum(len(it["changes"]) for it in found) == 4
    assert found[-1]["time"] == "2025-03-01T12:00:03.250000Z"
    assert len(found) in (1, 2, 3, 4)
    times = [it["time"] for it in found]
    assert times == sorted(set(times))


def test_count_ends_it(capfd: Capture, play: Play) -> None:
    play(Script(steps=[broken()]))
    assert main(["policy", "-q", "-p", "42", "--every", "0.001", "--count", "3"]) == 0
    out, _ = capfd.readouterr()
    assert out == "\n".join([expected(broken())] * 3)


def test_nobody_yet_is_waited_for(capfd: Capture, play: Play) -> None:
    play(Script(steps=[sample(), sample(broken()), GONE]))
    assert main(["policy", "--name", "x", "--duration", "60"]) == 0
    out, err = capfd.readouterr()
    assert out == expected(broken())
    assert "no process has a name like x yet; waiting for one" in err


def test_trace_policy_is_asked_for_only_by_name(capfd: Capture, play: Play) -> None:
    script = play(Script(steps=[broken()]))
    assert main(["policy", "-q", "-p", "42", "--trace-policy"]) == 0
    options = script.events[0][2]
    assert (options.policies, options.policy_calls) == (True, True)


def test_error_while_it_watches_comes_after_what_is_known(capfd: Capture, play: Play) -> None:
    play(Script(steps=[broken(), NumatraceError("the kernel said no", "try again")]))
    assert main(["policy", "-q", "-p", "42", "--duration", "60"]) == 1
    assert capfd.readouterr() == (expected(broken()), "numatrace: the kernel said no; try again\n")


# Commands, and who ends


def test_a_command_is_told_as_it_was_last_seen(capfd: Capture, play: Play) -> None:
    last = broken()
    script = Script(steps=[broken(changes=[change(0)]), sample(ended=(last,)), GONE])
    play(script)
    assert main(["policy", "-q", "--", "sh", "-c", "exit 3"]) == 3
    assert capfd.readouterr().out == expected(last, ended=True, changes=[change(0)])
    assert script.events[0][3] is True, "it is watched from its first page on"
    assert waits(script)[0] <= 0.2


def test_a_command_that_nobody_could_look_at(capfd: Capture, play: Play) -> None:
    play(Script(steps=[GONE]))
    assert main(["policy", "--", "true"]) == 0
    assert capfd.readouterr() == ("", "numatrace: true ended before its placement could be read\n")


def test_only_the_last_program_of_a_process_is_told(capfd: Capture, play: Play) -> None:
    """numactl executes another program: its own memory is of no interest."""
    numactl, program = snapshot([HEAP], [(3, 0)], comm=b"numactl"), broken()
    play(Script(steps=[numactl, sample(program, ended=(numactl,)), sample(ended=(program,)), GONE]))
    assert main(["policy", "-q", "--", "true"]) == 0
    assert capfd.readouterr().out == expected(program, ended=True)


def test_what_was_seen_is_kept_where_the_end_was_not(capfd: Capture, play: Play) -> None:
    play(Script(steps=[broken(), sample(ended=(with_policies(snapshot(comm=b"gone")),)), GONE]))
    assert main(["policy", "-q", "--", "true"]) == 0
    assert capfd.readouterr().out == expected(broken(), ended=True)


def test_children_are_told_when_they_have_ended(capfd: Capture, play: Play) -> None:
    child = broken(43)
    play(Script(steps=[sample(broken(), child), sample(broken(), ended=(child,)), broken(), GONE]))
    assert main(["policy", "-q", "-p", "42", "--follow-forks", "--duration", "60", "--format", "json"]) == 0
    assert [(it["pid"], it["ended"]) for it in objects(capfd.readouterr().out)] == [(42, False), (43, True)]


def test_one_that_left_the_group_is_forgotten(capfd: Capture, play: Play) -> None:
    play(Script(steps=[sample(broken(), broken(43)), sample(broken()), GONE]))
    assert main(["policy", "-q", "--cgroup", "x", "--duration", "60", "--format", "json"]) == 0
    assert [it["pid"] for it in objects(capfd.readouterr().out)] == [42]


def test_of_many_that_ended_the_largest_are_told(capfd: Capture, play: Play) -> None:
    children = [snapshot([KEPT], [(pid, pid)], pid=pid) for pid in range(100, 300)]
    play(Script(steps=[sample(ended=tuple(children)), GONE]))
    assert main(["policy", "-q", "--name", "x", "--duration", "60"]) == 0
    lines = capfd.readouterr().out.splitlines()
    told = [line for line in lines if line.startswith("# policies of PID ")]
    assert [int(line.split()[4].rstrip(",")) for line in told] == list(range(300 - 64, 300))
    assert "# 136 more that ended had fewer pages than these" in lines


def test_changes_do_not_pile_up(play: Play) -> None:
    arguments = build_parser().parse_args(["policy", "-p", "42", "-q"])
    view = PolicyView(arguments, False, None)
    for _ in range(3):
        view.take(sample(broken(changes=[change(at) for at in range(5000)])), 1.0)
    (seen,) = view._seen.values()
    assert (len(seen.changes), seen.left_out) == (10_000, 5_000)


# What if


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["--as", "interleave=0-3"]),
        ("sideways=1", ["sideways=1", "interleave=0-3"]),
        ("interleave", ["interleave"]),
        ("weighted=0", ["weighted", "0:3,1:1"]),
        ("bind=x", ["'x'"]),
        ("prefer=0-1", ["prefer"]),
    ],
)
def test_what_is_no_policy_is_one_clear_line(text: str, parts: list[str], capfd: Capture, play: Play) -> None:
    script = play(Script(steps=[broken()]))
    assert main(["policy", "-p", "42", f"--as={text}"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("numatrace: --as ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err
    assert script.events == [], "nothing may be started"


@pytest.mark.parametrize("words", ["-p 42", "-p 42 --duration 60", "--duration 60 -- true"])
def test_nodes_that_cannot_be_are_noticed_at_the_first_look(words: str, capfd: Capture, play: Play) -> None:
    script = play(Script(steps=[broken()]))
    assert main(["policy", "-q", "--as", "interleave=0-3", *words.split()]) == (0 if "--" in words.split() else 2)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("numatrace: --as interleave=0-3: ")
    assert "2-3" in err
    assert err.count("\n") == 1
    assert script.events.count("refresh") == 1


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("policy", ["nothing to watch"]),
        ("policy -p 1 --significance 0", ["--significance", "'0'", "above 0"]),
        ("policy -p 1 --significance 1", ["--significance", "below 1"]),
        ("policy -p 1 --significance nan", ["--significance", "'nan'"]),
        ("policy -p 1 --tolerance 1", ["--tolerance", "'1'", "0.01 for 1 %"]),
        ("policy -p 1 --tolerance -0.1", ["--tolerance"]),
        ("policy -p 1 --tolerance 1%", ["--tolerance", "'1%'"]),
        ("policy -p 1 --at +1s", ["--at", "none is given"]),
        ("policy -p 1 --trace-policy --hooks none", ["--trace-policy", "--hooks none"]),
        ("policy -p 1 --trace-policy --reader numa_maps", ["--trace-policy", "--reader numa_maps"]),
        ("policy -p 1 --vmas x", ["--vmas", "'x'"]),
        ("policy x.parquet --every 1", ["--every", "x.parquet is a recording"]),
        ("policy x.parquet --count 1", ["--count", "x.parquet is a recording"]),
        ("policy x.parquet --duration 1", ["--duration", "x.parquet is a recording"]),
        ("policy x.parquet --trace-policy", ["--trace-policy", "x.parquet is a recording"]),
        ("live x.parquet --policies", ["--policies", "x.parquet is a recording"]),
        ("record -p 1 -o x.parquet --trace-policy --hooks none", ["--trace-policy", "--hooks none"]),
    ],
)
def test_wrong_usage_is_one_clear_line(words: str, parts: list[str], capfd: Capture, play: Play) -> None:
    script = play(Script(steps=[broken()]))
    assert main(words.split()) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("numatrace: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err
    assert script.events == [], "nothing may be started"


# Recordings


def recorded(path: Path, samples: Sequence[Sample], *words: str) -> str:
    info = replace(info_of(samples), command_line=("numatrace", "record", *words))
    write_recording(path, samples, info)
    return str(path)


def series() -> list[Sample]:
    """A second each: a policy is set in the second one, the child is there in the first four, and then all end."""
    number_of_changes = (0, 1, 0, 2, 0)
    samples = []
    for at, count in enumerate(number_of_changes):
        its = [change(at + part / 10) for part in range(count)]
        child = broken(43, its[:1])
        samples.append(sample(broken(changes=its), *[child] * (at < 4), ended=(child,) * (at == 4)))
    return spaced([*samples, sample(ended=(broken(),))])


@pytest.mark.parametrize("words", [[], ["--format", "json"], ["--as", "bind=1", "--all"]])
def test_recording_is_told_as_the_live_process_was(
    words: list[str], tmp_path: Path, capfd: Capture, play: Play
) -> None:
    file = recorded(tmp_path / "x.parquet", series(), "--follow-forks")
    assert main(["policy", file, "--at", "+3s", *words]) == 0
    replayed = capfd.readouterr()
    steps: list[Step] = [*series()[:4], GONE]
    play(Script(steps=steps))
    assert main(["policy", "-p", "42", "--follow-forks", "--duration", "60", *words]) == 0
    assert capfd.readouterr() == replayed
    assert "7f1000000000" in replayed.out


def test_recording_without_a_moment_is_told_as_it_was_last_seen(tmp_path: Path, capfd: Capture) -> None:
    file = recorded(tmp_path / "x.parquet", series(), "--follow-forks")
    assert main(["policy", "-q", file]) == 0
    last = series()[4].snapshots[0]
    out, err = capfd.readouterr()
    assert (out, err) == (expected(last, changes=[change(1), change(3), change(3.1)]), "")
    assert main(["policy", "-q", file, "-p", "43", "--format", "json"]) == 0
    (found,) = objects(capfd.readouterr().out)
    assert (found["pid"], found["ended"], len(found["changes"])) == (43, False, 2)


def test_of_many_recorded_changes_the_last_are_read(tmp_path: Path, capfd: Capture) -> None:
    samples = spaced(sample(broken(changes=[change(at), change(at)])) for at in range(80))
    file = recorded(tmp_path / "x.parquet", samples)
    assert main(["policy", "-q", file, "--format", "json"]) == 0
    (found,) = objects(capfd.readouterr().out)
    assert (len(found["changes"]), found["changes_left_out"]) == (130, 30)
    assert [it["time"][17:19] for it in found["changes"][-2:]] == ["19", "19"]


def test_recording_without_policies_says_so(tmp_path: Path, capfd: Capture) -> None:
    samples = spaced([sample(replace(broken(), policies=None))])
    file = recorded(tmp_path / "x.parquet", samples)
    assert main(["policy", file]) == 0
    out, err = capfd.readouterr()
    assert f"{file} was recorded without --policies: all that lies elsewhere is of unknown cause" in err
    assert out == expected(samples[0].only)
    assert main(["policy", "-q", file, "--format", "json"]) == 0
    out, err = capfd.readouterr()
    assert (objects(out)[0]["observed"], err) == (False, "")


def test_moment_without_anybody_is_an_error(tmp_path: Path, capfd: Capture) -> None:
    file = recorded(tmp_path / "x.parquet", series())
    assert main(["policy", file, "--at", "end"]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert "none of the processes was there" in err
    assert main(["policy", file, "--at", "+1h"]) == 1
    assert main(["policy", file, "-p", "77"]) == 1
    assert main(["policy", file, "--as", "bind=5"]) == 2


# record and live ask for policies


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("", (False, False)),
        ("--policies", (True, False)),
        ("--trace-policy", (True, True)),
        ("--policies --trace-policy", (True, True)),
    ],
)
def test_record_asks_for_policies(words: str, wanted: Any, play: Play, tmp_path: Path) -> None:
    shots = [sample(broken(time=TIME + timedelta(seconds=at)), time=TIME + timedelta(seconds=at)) for at in range(2)]
    script = play(Script(steps=[*shots, GONE]))
    file = tmp_path / "x.parquet"
    assert main(["record", "-q", "-p", "42", "-o", str(file), *words.split()]) == 0
    options = script.events[0][2]
    assert (options.policies, options.policy_calls) == wanted
    with open_recording(file) as recording:
        assert recording.info.policies is wanted[0]
        assert (recording.at(1).only.policies is not None) is wanted[0]


@pytest.mark.parametrize("missing", [False, True])
def test_record_without_hooks_says_that_it_has_no_policies(
    missing: bool, capfd: Capture, play: Play, tmp_path: Path
) -> None:
    """Whether the user wants none, or the kernel has none."""

    def start(progress: object) -> None:
        if missing and script.events.count("start") == 1:
            raise HooksMissing("no hooks here", "use another kernel")

    shots = [sample(replace(broken(time=TIME + timedelta(seconds=at)), policies=None)) for at in range(2)]
    script = play(Script(steps=[*shots, GONE], start=start))
    file = tmp_path / "x.parquet"
    words = [] if missing else ["--hooks", "none"]
    assert main(["record", "-p", "42", "-o", str(file), "--policies", *words]) == 0
    assert "page faults, policies of threads and why pages lie elsewhere are not recorded: " in capfd.readouterr().err
    assert script.events[-1] == "close"
    with open_recording(file) as recording:
        assert not recording.info.policies

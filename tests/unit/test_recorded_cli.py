"""The verbs maps, flows and faults on recordings: what they print is what they printed of live processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.fake_session import Script, Step, session_module
from tests.unit.recordings import info_of, spaced, write_recording
from tests.unit.snapshots import REASONS, details, faults, flows, sample, snapshot, snapshots, vma
from tracer.cli.main import main
from tracer.cli.recorded import is_recording
from tracer.errors import NumatraceError
from tracer.kernel.procfs import TargetGone
from tracer.model.events import Kind as Fault
from tracer.model.policy import Mode, Policy
from tracer.model.sample import Sample
from tracer.model.snapshot import Snapshot, Trust
from tracer.model.vma import Kind

ROOT = Path(__file__).parents[2]
Capture = pytest.CaptureFixture[str]
Play = Callable[[Sequence[Sample]], None]

HEAP = vma(0x600000, 64, kind=Kind.HEAP, path=b"[heap]")
FILE = vma(0x400000, 16, Policy(Mode.BIND, 0, (0, 1)), Kind.FILE, b"/a b\x1b\xff")
HUGE = vma(0x7F0000000000, 1024, hugetlb=True, page_kb=2048)


def target(number: int, pid: int = 42, **fields: Any) -> Snapshot:
    """As it is in a sample of that number: pages move from node 0 to node 1."""
    vmas = [FILE, HEAP, HUGE][: 2 + number % 2]
    given: dict[str, Any] = {
        "trust": Trust(number % 3, 0, 0, 1, number / 8),
        "details": details([(1, 2, number, 0, 3, 0)] * len(vmas)),
        "flows": flows([(1, 0, 1, 1, 2, 0), (-1, 1, 1, 0, number, 1)] if number else []),
        "faults": faults([(1, 0, 1, Fault.NEW, 0, 3), (0, 1, -1, Fault.OTHER, 0, number)]),
        **fields,
    }
    return snapshot(vmas, [(5, 0), (60 - number, number), (1, 1)][: len(vmas)], pid=pid, **given)


def series(count: int = 8, **fields: Any) -> list[Sample]:
    machine = {"reasons": REASONS, "migrated": np.array([0, 9, 1]), "failed": np.array([0, 2, 0])}
    return spaced(sample(target(number, **fields), **machine) for number in range(count))


def family() -> list[Sample]:
    """A process, a child from the third sample to the sixth, and the end of all in the ninth."""
    samples = []
    for number in range(9):
        child = target(number, 1043, namespace_pid=7, comm=b"kid \x1b")
        shots = [target(number), *[child] * (2 <= number < 6)]
        samples.append(sample(*shots, ended=(child,) * (number == 6)))
    samples.append(sample(ended=(target(9),), node_ids=(0, 1)))
    return spaced(samples)


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Makes live processes give these samples."""

    def use(samples: Sequence[Sample]) -> None:
        steps: list[Step] = [*samples, TargetGone("process 42 is gone")]
        monkeypatch.setitem(sys.modules, "tracer.session", session_module(Script(steps=steps)))

    return use


def record(path: Path, samples: Sequence[Sample], *options: str, **fields: Any) -> str:
    """A recording of these samples that was made with these options."""
    info = replace(info_of(samples), command_line=("numatrace", "record", *options), **fields)
    write_recording(path, samples, info)
    return str(path)


def without_details(samples: Sequence[Sample]) -> list[Sample]:
    """As a session gives them that was not asked for details."""
    return [replace(one, snapshots=tuple(replace(it, details=None) for it in one.snapshots)) for one in samples]


# maps


@pytest.mark.parametrize("words", ["", "--full", "--format 2005", "--format json", "--format json --full"])
@pytest.mark.parametrize("index", [0, 3, 7])
def test_moment_is_what_live_maps_printed_then(
    words: str, index: int, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], play: Play
) -> None:
    samples = series()
    detailed = "--full" in words or "2005" in words
    play([samples[index] if detailed else without_details(samples)[index]])
    assert main(["maps", "-p", "42", *words.split()]) == 0
    live = capfdbinary.readouterr()
    file = record(tmp_path / "x.parquet", samples, "-p", "42")
    assert main(["maps", file, f"--at=+{index}s", *words.split()]) == 0
    assert capfdbinary.readouterr() == live
    assert b"600000" in live.out
    assert (b"# 2025-" in live.err) == ("json" not in words)


@pytest.mark.parametrize("words", ["", "--format json"])
@pytest.mark.parametrize("index", [1, 4, 6])
@pytest.mark.parametrize("options", [["-p", "42", "--follow-forks"], ["--name", "t*"]])
def test_moment_of_several_targets(
    words: str, index: int, options: list[str], tmp_path: Path, capfd: Capture, play: Play
) -> None:
    samples = family()
    live = without_details(samples)[index]
    play([live])
    assert main(["maps", *options, *words.split()]) == 0
    expected = capfd.readouterr()
    assert main(["maps", record(tmp_path / "x.parquet", samples, *options), "--at", f"+{index}s", *words.split()]) == 0
    assert capfd.readouterr() == expected
    assert "total" in expected.out


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(snapshots(with_details=True), min_size=1, max_size=4), st.data())
def test_any_snapshot_prints_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    capfdbinary: pytest.CaptureFixture[bytes],
    shots: list[Snapshot],
    data: st.DataObject,
) -> None:
    node_ids = shots[0].node_ids
    samples = spaced(sample(shot, node_ids=node_ids) for shot in shots if shot.node_ids == node_ids)
    file = record(tmp_path_factory.mktemp("any") / "x.parquet", samples, "-p", "42")
    index = data.draw(st.integers(0, len(samples) - 1))
    form = data.draw(st.sampled_from(["kernel", "2005", "json"]))
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, "tracer.session", session_module(Script(steps=[samples[index]])))
        assert main(["maps", "-p", "42", "--full", "--format", form]) == 0
    live = capfdbinary.readouterr()
    assert main(["maps", file, f"--at=+{index}s", "--full", "--format", form]) == 0
    assert capfdbinary.readouterr() == live


def test_without_a_moment_it_is_the_last_one_with_a_live_process(tmp_path: Path, capfd: Capture) -> None:
    file = record(tmp_path / "x.parquet", family(), "-p", "42", "--follow-forks")
    assert main(["maps", file]) == 0
    out, err = capfd.readouterr()
    assert "N0=52 N1=8" in out
    assert err.startswith("# 2025-03-01T12:00:08.250Z pid=42 ")
    assert main(["maps", file, "-p", "1043"]) == 0
    out, err = capfd.readouterr()
    assert "N0=55 N1=5" in out
    assert "# PID" not in out
    assert err.startswith("# 2025-03-01T12:00:05.250Z pid=1043 ")


def test_long_time_without_a_live_process_at_the_end(tmp_path: Path, capfd: Capture) -> None:
    samples = spaced([*family(), *[sample()] * 20])
    for words in ([], ["-p", "42"], ["--name", "target"]):
        assert main(["maps", record(tmp_path / "x.parquet", samples, "-p", "42"), *words]) == 0
        assert capfd.readouterr().err.startswith("# 2025-03-01T12:00:08.250Z pid=42 ")


@pytest.mark.parametrize(
    ("words", "pids"),
    [
        ("-p 42", [42]),
        ("-p 1043", [1043]),
        ("--name target", [42]),
        ("--name kid*", [1043]),
        ("-p 42 --name kid*", [42, 1043]),
        ("-p 42 -p 1043", [42, 1043]),
        ("", [42, 1043]),
    ],
)
def test_processes_are_chosen(words: str, pids: list[int], tmp_path: Path, capfd: Capture) -> None:
    file = record(tmp_path / "x.parquet", family(), "-p", "42", "--follow-forks")
    assert main(["maps", file, "--at", "+4s", *words.split()]) == 0
    out, err = capfd.readouterr()
    assert [int(line.split("pid=")[1].split()[0]) for line in err.splitlines()] == pids
    several = len(pids) > 1 or "--name" in words
    assert out.count("# PID") == (len(pids) if several else 0)
    assert (f"# total of {len(pids)} target" in out) == several


def test_all_samples_are_printed(tmp_path: Path, capfd: Capture, play: Play) -> None:
    samples = series()
    play(without_details(samples))
    assert main(["maps", "-p", "42", "--every", "1"]) == 0
    live = capfd.readouterr()
    file = record(tmp_path / "x.parquet", samples, "-p", "42")
    assert main(["maps", file, "--every", "1"]) == 0
    assert capfd.readouterr() == live
    assert main(["maps", file, "--from", "start"]) == 0
    assert capfd.readouterr() == live


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("--every 3", [0, 3, 6]),
        ("--every 3 --count 2", [0, 3]),
        ("--count 2", [0, 1]),
        ("--from +2s --to +4s", [2, 3, 4]),
        ("--from +1s --every 2", [1, 3, 5, 7]),
        ("--to -5.9s", [0, 1]),
        ("--every 0.1", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("--from +7s", [7]),
    ],
)
def test_samples_of_a_series(words: str, seconds: list[int], tmp_path: Path, capfd: Capture) -> None:
    # A little late, as samples are, and early, as their times may be.
    jitter = [0.0, 0.004, -0.004, 0.002, -0.001, 0.003, 0.01, 0.0]
    samples = [
        replace(one, time=one.time + timedelta(seconds=late)) for one, late in zip(series(), jitter, strict=True)
    ]
    samples = [replace(one, snapshots=tuple(replace(it, time=one.time) for it in one.snapshots)) for one in samples]
    assert main(["maps", record(tmp_path / "x.parquet", samples, "-p", "42"), "-q", *with_exact(words, samples)]) == 0
    texts = capfd.readouterr().out.split("\n\n")
    assert [int(text.split("heap ")[1].split("N1=")[1].split()[0]) if "N1=" in text else 0 for text in texts] == seconds


def with_exact(words: str, samples: Sequence[Sample]) -> list[str]:
    """The moments `+2s` as the time of the sample itself."""
    return [f"{samples[int(word[1:-1])].time.isoformat()}" if word[0] == "+" else word for word in words.split()]


def test_series_says_who_ended(tmp_path: Path, capfd: Capture, play: Play) -> None:
    samples = family()
    file = record(tmp_path / "x.parquet", samples, "-p", "42", "--follow-forks")
    assert main(["maps", file, "--every", "4", "--format", "json"]) == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    sessions = [line for line in lines if line["type"] == "session"]
    assert [(one["targets"], one["ended"]) for one in sessions] == [(1, []), (2, []), (1, [1043]), (0, [42])]


# flows and faults


def without_seconds(text: str) -> str:
    """What is played back live takes no time."""
    return re.sub(r'(of |"seconds":)[0-9.]+', r"\1", text)


@pytest.mark.parametrize("words", ["flows", "flows --format json", "flows --vmas 1", "faults", "faults --node 1"])
def test_sums_are_those_of_live_processes(words: str, tmp_path: Path, capfd: Capture, play: Play) -> None:
    samples = family()
    verb, *rest = words.split()
    play(samples)
    assert main([verb, "-p", "42", "--follow-forks", *rest]) == 0
    live = capfd.readouterr()
    assert main([verb, record(tmp_path / "x.parquet", samples, "-p", "42", "--follow-forks"), *rest]) == 0
    recorded = capfd.readouterr()
    assert (without_seconds(recorded.out), recorded.err) == (without_seconds(live.out), live.err)
    assert "42" in recorded.out


def summary(text: str) -> list[str]:
    """`seconds: pages` of each report."""
    found = re.findall(r"of ([0-9.]+) s until [^:]*:[^:]*:[^:]*: ([0-9]+) (?:pages moved|faults)", text)
    return [": ".join(pair) for pair in found]


@pytest.mark.parametrize(
    ("words", "reports"),
    [
        # Two pages a second, except in the first sample, plus its number in a place that is not known.
        ("flows", ["7.0: 42"]),
        ("flows --from start", ["7.0: 42"]),
        ("flows --from +1s", ["6.0: 39"]),
        ("flows --to +1s", ["1.0: 3"]),
        ("flows --from +2s --to +4s", ["2.0: 11"]),
        ("flows --every 3", ["3.0: 12", "3.0: 21", "1.0: 9", "7.0: 42"]),
        ("flows --every 3 --count 1", ["3.0: 12", "3.0: 12"]),
        ("flows --from +3s --every 2", ["2.0: 13", "2.0: 17", "4.0: 30"]),
        ("flows --every 7", ["7.0: 42", "7.0: 42"]),
        ("faults", ["7.0: 52"]),
        ("faults --from start", ["7.0: 49"]),
        ("faults --every 4 -p 42", ["4.0: 25", "3.0: 27", "7.0: 52"]),
    ],
)
def test_periods_of_a_recording(words: str, reports: list[str], tmp_path: Path, capfd: Capture) -> None:
    verb, *rest = words.split()
    assert main([verb, record(tmp_path / "x.parquet", series(), "-p", "42"), "-q", *rest]) == 0
    assert summary(capfd.readouterr().out) == reports


def test_first_interval_begins_when_the_recorder_did(tmp_path: Path, capfd: Capture) -> None:
    samples = series(3)
    started = samples[0].time - timedelta(seconds=0.5)
    for text, seconds in ((started.isoformat(), "2.5"), ("", "2.0"), ("soon", "2.0"), ("2035-01-01T00:00Z", "2.0")):
        file = record(tmp_path / "x.parquet", samples, "-p", "42", started=text)
        assert main(["flows", file, "-q"]) == 0
        assert f"# flows of {seconds} s until" in capfd.readouterr().out


def test_json_of_periods_has_no_sum(tmp_path: Path, capfd: Capture) -> None:
    file = record(tmp_path / "x.parquet", series(), "-p", "42")
    assert main(["flows", file, "--every", "3", "--format", "json"]) == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [(line["seconds"], sum(row["pages"] for row in line["flows"])) for line in lines] == [
        (3, 12),
        (3, 21),
        (1, 9),
    ]


def test_threads_are_told_apart_only_on_demand(tmp_path: Path, capfd: Capture) -> None:
    samples = series(4, faults=faults([(1, 0, 1, Fault.NEW, 7, 3), (1, 0, 1, Fault.NEW, 8, 2)]))
    file = record(tmp_path / "x.parquet", samples, "-p", "42", threads=True)
    rows = []
    for words in ([], ["--threads"]):
        assert main(["faults", file, "--format", "json", *words]) == 0
        rows.append([(row.get("thread"), row["count"]) for row in json.loads(capfd.readouterr().out)["faults"]])
    assert rows == [[(None, 20)], [(7, 12), (8, 8)]]


# What cannot be


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        ("maps FILE -- true", 2, ["a command after --", "FILE"]),
        ("maps FILE --cgroup x", 2, ["--cgroup is about live processes"]),
        ("maps FILE --follow-forks", 2, ["--follow-forks"]),
        ("maps FILE --hooks none", 2, ["--hooks"]),
        ("maps FILE --reader pagemap", 2, ["--reader"]),
        ("maps FILE --seed walk", 2, ["--seed"]),
        ("maps FILE --audit-cpu 1", 2, ["--audit-cpu"]),
        ("flows FILE --duration 1", 2, ["--duration"]),
        ("maps FILE --name=", 2, ["--name is empty"]),
        ("maps FILE FILE", 2, ["one recording at a time"]),
        ("maps sleep 10", 2, ["sleep 10", "goes after --"]),
        ("maps sleep", 1, ["there is no sleep", "goes after --"]),
        ("maps -", 2, ["standard input"]),
        ("maps -p 1 --at start", 2, ["--at is a moment of a recording", "give its FILE"]),
        ("flows -p 1 --from start", 2, ["--from is a moment"]),
        ("faults -p 1 --to end", 2, ["--to is a moment"]),
        ("maps FILE --at noon", 2, ["--at", "'noon' is not a moment", "14:30:05"]),
        ("maps FILE --at start --every 1", 2, ["--at is one moment"]),
        ("maps FILE --from +3s --to +2s", 2, ["--from lies after --to"]),
        ("flows FILE --from +3s --to +3s", 2, ["same sample"]),
        ("flows FILE --at +3s", 2, ["--at"]),
        ("maps FILE --at +1h", 1, ["+1h is not within the recording", "it goes from 2025-03-01"]),
        ("maps FILE --at end", 1, ["none of the processes was there", "without --at"]),
        ("maps FILE --from +9s", 1, ["none of the processes was there"]),
        ("maps FILE -p 1043 --at start", 1, ["none of the processes was there"]),
        ("maps FILE -p 7", 1, ["process 7 is not in the recording", "42 (target), 1043 (kid \\033)"]),
        ("maps FILE --name x*", 1, ["no process with a name like x*", "42 (target)"]),
        ("faults FILE --threads", 1, ["threads were not told apart", "record --threads"]),
        ("maps PLAIN --full", 1, ["--full needs details", "record --full"]),
        ("maps PLAIN --format 2005", 1, ["--format 2005 needs details", "record --full"]),
        ("flows PLAIN", 1, ["flows were not recorded", "without --no-flows"]),
        ("faults PLAIN", 1, ["faults were not recorded", "without --no-faults"]),
        ("maps EMPTY", 1, ["without any sample"]),
        ("maps /nowhere/x.parquet", 1, ["/nowhere/x.parquet"]),
        ("maps /etc/passwd", 1, ["/etc/passwd"]),
        ("maps /dev/null", 1, ["/dev/null"]),
        ("maps FOREIGN", 1, ["FOREIGN"]),
        ("maps DIRECTORY", 1, ["DIRECTORY"]),
    ],
)
def test_what_cannot_be_is_one_clear_line(
    words: str, code: int, parts: list[str], tmp_path: Path, capfd: Capture
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = {name: str(tmp_path / f"{name.lower()}.parquet") for name in ("FILE", "PLAIN", "EMPTY", "FOREIGN")}
    names["DIRECTORY"] = str(tmp_path / "empty")
    os.mkdir(names["DIRECTORY"])
    record(Path(names["FILE"]), family(), "-p", "42", "--follow-forks")
    plain = [replace(it, flows=None, faults=None, details=None) for one in series() for it in one.snapshots]
    record(Path(names["PLAIN"]), spaced(map(sample, plain)), "-p", "42")
    pq.write_table(pa.table({"time": [1, 2]}), names["FOREIGN"])
    pq.write_table(pq.read_table(names["FILE"]).slice(0, 0), names["EMPTY"])
    assert main([names.get(word, word) for word in words.split()]) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("numatrace: ")
    assert err.count("\n") == 1
    for part in parts:
        assert names.get(part, part) in err


def test_directory_is_one_recording(tmp_path: Path, capfd: Capture) -> None:
    samples = series()
    files = (
        ("day/host=a/date=2025-03-01/120000.parquet", samples[:4]),
        ("day/host=a/date=2025-03-01/120004.parquet", samples[4:]),
    )
    for name, part in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        record(tmp_path / name, part, "-p", "42")
    whole = record(tmp_path / "x.parquet", samples, "-p", "42")
    for words in (
        ["maps", "--every", "1"],
        ["maps", "--at", "+5s"],
        ["flows", "--every", "3"],
        ["faults"],
        ["diff", "-q"],
    ):
        texts = []
        for path in (whole, str(tmp_path / "day")):
            assert main([words[0], path, *words[1:]]) == 0
            texts.append(capfd.readouterr())
        assert texts[0] == texts[1]
        assert texts[0].out


def test_what_a_killed_recorder_left_is_recovered_and_said(
    tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.parquet"

    def recover(path: str) -> str | None:
        record(file, series(), "-p", "42")
        return f"{path}: recovered\n8 samples"

    monkeypatch.setattr("tracer.record.recover.recover", recover)
    assert main(["maps", str(file)]) == 0
    out, err = capfd.readouterr()
    assert "heap" in out
    assert err.splitlines()[0] == f"numatrace: {file}: recovered 8 samples"
    assert main(["maps", str(file), "-q"]) == 0
    assert capfd.readouterr() == (out, "")


def test_recording_that_is_still_being_written_is_left_alone(
    tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recover(path: str) -> str | None:
        raise NumatraceError(f"{path} is still being recorded by process 7", "wait until it has ended")

    monkeypatch.setattr("tracer.record.recover.recover", recover)
    assert main(["maps", str(tmp_path / "x.parquet")]) == 1
    assert "is still being recorded by process 7" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "is_one"),
    [("x.parquet", None, True), ("x", b"PAR1...", True), ("x", b"text", False), ("x", None, False), (".", None, True)],
)
def test_word_that_is_meant_as_a_recording(name: str, content: bytes | None, is_one: bool, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert is_recording(str(tmp_path / name)) is is_one


# What is loaded


def loaded(*words: str) -> set[str]:
    """Of what is slow, the modules that a command line needs."""
    slow = {"numpy", "pyarrow", "pandas", "bcc", "textual", "matplotlib", "jinja2", "tracer.session", "tracer.kernel"}
    code = (
        "import sys; from tracer.cli.main import main; main(sys.argv[1:]); "
        f"print('modules', *({slow!r} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, timeout=60)
    assert b"modules" in done.stdout, done.stderr
    return set(done.stdout.decode("latin-1").splitlines()[-1].split()[1:])


def test_recording_is_read_without_what_watches(tmp_path: Path) -> None:
    file = record(tmp_path / "x.parquet", series(), "-p", "42")
    for words in (["maps", file, "--at", "+2s"], ["flows", file], ["diff", file]):
        modules = loaded(*words)
        assert "pyarrow" in modules
        # pyarrow itself loads pandas where there is one.
        assert modules <= {"numpy", "pyarrow", "pandas"}


def test_watching_needs_nothing_that_reads_recordings() -> None:
    assert not loaded("maps", "-p", "4194304") & {"pyarrow", "pandas", "textual", "matplotlib", "jinja2"}


def test_wrong_usage_with_a_recording_needs_nothing_slow(tmp_path: Path) -> None:
    for words in (["maps", "x.parquet", "--at", "noon"], ["maps", "x.parquet", "--hooks", "none"], ["diff"]):
        assert loaded(*words) == set()


def test_offset_before_the_end_is_a_value_and_no_option(tmp_path: Path, capfd: Capture) -> None:
    file = record(tmp_path / "x.parquet", series(), "-p", "42")
    for words in (["--at", "-2s"], ["--at=-2s"], ["--at", "-2"], ["--at", "-.5s"]):
        assert main(["maps", file, *words]) == 0
        assert "N1=5" in capfd.readouterr().out.replace("N1=6", "N1=5")

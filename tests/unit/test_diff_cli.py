"""The verb diff from its words to its exit code, and its text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.recordings import info_of, spaced, write_recording
from tests.unit.snapshots import TIME, flows, sample, snapshot, snapshots, vma
from tracer.cli.main import main
from tracer.model.difference import compare
from tracer.model.policy import Mode, Policy
from tracer.model.sample import Sample
from tracer.model.snapshot import Snapshot
from tracer.model.vma import Kind, Vma
from tracer.render import diff

Capture = pytest.CaptureFixture[str]

BIND = Policy(Mode.BIND, 0, (1,))
HEAP = vma(0x600000, 64, kind=Kind.HEAP, path=b"[heap]")
FILE = vma(0x400000, 16, kind=Kind.FILE, path=b"/a b\x1b")
ARRAY = vma(0x7F0000000000, 32)


def squeezed(text: str) -> list[str]:
    """Lines with single blanks: how columns are aligned is not what is tested."""
    return [" ".join(line.split()) for line in text.splitlines()]


def shot(*areas: tuple[Vma, Sequence[int]], **fields: Any) -> Snapshot:
    return snapshot([area for area, _ in areas], [pages for _, pages in areas], **fields)


def series() -> list[Sample]:
    """The heap moves to node 1, a file goes away, an array appears and gets a policy for its second half."""
    left, right = replace(ARRAY, end=ARRAY.start + 65536), replace(ARRAY, start=ARRAY.start + 65536, policy=BIND)
    moved = flows([(0, 0, 1, 1, 20, 0), (0, 1, 0, 2, 5, 1)])
    return spaced(
        [
            sample(shot((FILE, (3, 1)), (HEAP, (40, 0)), flows=flows())),
            sample(shot((HEAP, (25, 15)), (ARRAY, (8, 0)), flows=moved)),
            sample(shot((HEAP, (25, 15)), (left, (4, 0)), (right, (0, 9)), flows=flows([(2, 0, 1, 1, 4, 0)]))),
            sample(ended=(shot((HEAP, (25, 15)), flows=flows([(-1, 0, 1, 1, 7, 0)])),), node_ids=(0, 1)),
        ]
    )


def record(path: Path, samples: Sequence[Sample], **fields: Any) -> str:
    info = replace(info_of(samples), command_line=("numatrace", "record", "-p", "42"), **fields)
    write_recording(path, samples, info)
    return str(path)


def test_text_of_two_moments(tmp_path: Path, capfd: Capture) -> None:
    assert main(["diff", record(tmp_path / "x.parquet", series()), "--to", "+2s"]) == 0
    out, err = capfd.readouterr()
    heading, *lines = squeezed(out)
    times = "from 2025-03-01T12:00:00.250Z to 2025-03-01T12:00:02.250Z"
    assert heading == f"# difference over 2.0 s, {times}: 9 pages more, 29 moved, 4 VMAs changed, 1 target"
    assert lines == [
        "# pages on each node",
        "when N0 N1 all",
        "before 43 1 44",
        "after 29 24 53",
        "change -14 +23 +9",
        "# pages that moved, by reason, node they left (rows) and node they reached (columns)",
        "reason from N0 N1 KiB",
        "all N0 0 24 96",
        "all N1 5 0 20",
        "numa_misplaced N1 5 0 20",
        "syscall N0 0 24 96",
        "# the VMAs that changed, weightiest first",
        "before after N0 N1 moved moves what PID VMA NAME",
        "40 40 -15 +15 25 N0>N1=20,N1>N0=5 moved 42 600000-640000 [heap]",
        "0 9 0 +9 4 N0>N1=4 appeared,moved 42 7f0000010000-7f0000020000",
        r"4 0 -3 -1 0 - disappeared 42 400000-410000 /a\040b\033",
        "0 4 +4 0 0 - appeared 42 7f0000000000-7f0000010000",
    ]
    assert [line.split()[1] for line in err.splitlines()] == ["2025-03-01T12:00:00.250Z", "2025-03-01T12:00:02.250Z"]


def test_policy_of_a_split_area(tmp_path: Path, capfd: Capture) -> None:
    assert main(["diff", record(tmp_path / "x.parquet", series()), "-q", "--from", "+1s"]) == 0
    out, err = capfd.readouterr()
    assert squeezed(out)[-2:] == [
        "before after N0 N1 moved moves what policy PID VMA NAME",
        "8 13 -4 +9 4 N0>N1=4 moved,grew,policy,split default>default+bind:1 42 7f0000000000-7f0000020000",
    ]
    assert err == ""


def test_flows_that_were_not_recorded(tmp_path: Path, capfd: Capture) -> None:
    plain = [
        replace(one, snapshots=tuple(replace(it, flows=None) for it in one.snapshots), ended=()) for one in series()
    ]
    assert main(["diff", record(tmp_path / "x.parquet", plain), "-q", "--vmas", "1"]) == 0
    lines = squeezed(capfd.readouterr().out)
    assert "9 pages more, 15 moved, 4 VMAs changed" in lines[0]
    assert lines[6:] == [
        "# moves were not recorded: moved is what in each VMA some nodes lost and others got",
        "# the VMAs that changed, weightiest first: 1 of 4 (--vmas 0 shows all)",
        "before after N0 N1 moved what PID VMA NAME",
        "40 40 -15 +15 15 moved 42 600000-640000 [heap]",
    ]


def test_json_of_two_moments(tmp_path: Path, capfd: Capture) -> None:
    file = record(tmp_path / "x.parquet", series())
    assert main(["diff", file, "--from", "+1s", "--to", "+2s", "--format", "json"]) == 0
    out, err = capfd.readouterr()
    assert (out.count("\n"), err) == (1, "")
    value = json.loads(out)
    (area,) = value.pop("vmas")
    process = {
        "pid": 42,
        "ns_pid": 42,
        "comm": "target",
        "hooks": "tracepoint",
        "reader": "walk",
        "trust": {"settling": 0, "unexplained": 0, "lost": 0, "drift": 0, "oldest_read_s": 0.0},
    }
    move = {"from": 0, "to": 1, "reason": "syscall", "pages": 4, "bytes": 16384}
    assert value == {
        "type": "difference",
        "version": 1,
        "from": {"time": "2025-03-01T12:00:01.250000Z", "file": file},
        "to": {"time": "2025-03-01T12:00:02.250000Z", "file": file},
        "same_run": True,
        "seconds": 1.0,
        "totals": {"from": {"0": 33, "1": 15}, "to": {"0": 29, "1": 24}, "change": {"0": -4, "1": 9}},
        "moved": 4,
        "moves": [move],
        "targets": [{"from": process, "to": process, "replaced": False}],
    }
    assert [len(area.pop(side)) for side in ("from", "to")] == [1, 2]
    assert area == {
        "pid": 42,
        "ns_pid": 42,
        "comm": "target",
        "changes": ["moved", "grew", "policy", "split"],
        "pages": 5,
        "bytes": 20480,
        "nodes": {"0": -4, "1": 9},
        "moved": 4,
        "moves": [move],
    }


def test_until_the_end_of_the_process(tmp_path: Path, capfd: Capture) -> None:
    """Without --to it is the last moment of its life; with it, all that it had is gone."""
    file = record(tmp_path / "x.parquet", series())
    assert main(["diff", file, "-q"]) == 0
    assert "to 2025-03-01T12:00:02.250Z" in capfd.readouterr().out
    assert main(["diff", file, "-q", "--from", "+2s", "--to", "end"]) == 0
    lines = squeezed(capfd.readouterr().out)
    assert "53 pages fewer, 7 moved, 3 VMAs changed, 1 target" in lines[0]
    assert all("disappeared" in line for line in lines[-3:])


def test_program_that_was_replaced_is_said(tmp_path: Path, capfd: Capture) -> None:
    before, after = shot((HEAP, (1, 2))), shot((HEAP, (1, 2)), comm=b"other")
    samples = spaced([sample(before), sample(after, ended=(before,)), sample(after)])
    file = record(tmp_path / "x.parquet", samples)
    assert main(["diff", file, "-q"]) == 0
    lines = squeezed(capfd.readouterr().out)
    assert lines[1] == "# process 42 executed another program in between: all of its memory is new"
    assert ["disappeared" in line or "appeared" in line for line in lines[-2:]] == [True, True]
    assert main(["diff", file, "-q", "--from", "+1s"]) == 0
    assert "0 VMAs changed" in capfd.readouterr().out


def test_processes_are_chosen(tmp_path: Path, capfd: Capture) -> None:
    other = [shot((HEAP, pages), pid=7, comm=b"kid") for pages in ((5, 0), (0, 5))]
    samples = spaced(sample(shot((HEAP, (1, number))), it) for number, it in enumerate(other))
    file = record(tmp_path / "x.parquet", samples)
    for words, pids in (([], [7, 42]), (["-p", "42"], [42]), (["--name", "k*"], [7])):
        assert main(["diff", file, "--format", "json", *words]) == 0
        assert sorted({area["pid"] for area in json.loads(capfd.readouterr().out)["vmas"]}) == pids
    assert main(["diff", file, "-q"]) == 0
    assert "COMMAND" in capfd.readouterr().out
    assert main(["diff", file, "-q", "-p", "7"]) == 0
    assert "COMMAND" not in capfd.readouterr().out


# Two recordings


def two(tmp_path: Path) -> tuple[str, str]:
    other = [
        sample(shot((replace(HEAP, start=0x900000, end=0x940000), (pages, 2)), pid=77, flows=flows()))
        for pages in (38, 39, 41)
    ]
    files = ((tmp_path / "a.parquet", series()), (tmp_path / "b.parquet", spaced(other)))
    first, second = (record(path, samples) for path, samples in files)
    return first, second


@pytest.mark.parametrize(
    ("words", "seconds", "change"),
    [
        ([], (2, 2), "change +12 -22 -10"),
        (["--at", "+1s"], (1, 1), "change +6 -13 -7"),
        (["--from", "start", "--to", "+1s"], (0, 1), "change -4 +1 -3"),
        (["--to", "start"], (2, 0), "change +9 -22 -13"),
    ],
)
def test_moments_of_two_recordings(
    words: list[str], seconds: tuple[int, int], change: str, tmp_path: Path, capfd: Capture
) -> None:
    first, second = two(tmp_path)
    assert main(["diff", first, second, "-q", *words]) == 0
    lines = squeezed(capfd.readouterr().out)
    one, other = seconds
    assert lines[0].startswith(
        f"# difference between {first} at 2025-03-01T12:00:0{one}.250Z and {second} at 2025-03-01T12:00:0{other}.250Z: "
    )
    assert lines[5] == change
    assert not any("moves" in line for line in lines)


def test_json_of_two_recordings(tmp_path: Path, capfd: Capture) -> None:
    first, second = two(tmp_path)
    assert main(["diff", first, second, "--format", "json", "--from", "start", "--to", "start"]) == 0
    value = json.loads(capfd.readouterr().out)
    assert (value["same_run"], value["seconds"], value["moves"]) == (False, None, None)
    assert [target["from"]["pid"] for target in value["targets"]] == [42]
    assert [target["to"]["pid"] for target in value["targets"]] == [77]
    heap = next(area for area in value["vmas"] if area["from"] and area["to"])
    assert (heap["from"][0]["start"], heap["to"][0]["start"], heap["nodes"]) == ("600000", "900000", {"0": -2, "1": 2})


def test_pids_of_two_runs(tmp_path: Path, capfd: Capture) -> None:
    first, second = two(tmp_path)
    assert main(["diff", first, second, "-q", "-p", "42", "-p", "77"]) == 0
    assert "1 target" in capfd.readouterr().out
    assert main(["diff", first, second, "-q", "-p", "42"]) == 1
    assert "process 42 is not in the recording" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        ("diff", 2, ["FILE"]),
        ("diff A A A", 2, ["3 recordings", "one, or two"]),
        ("diff A --at +1s", 2, ["--at is for two recordings"]),
        ("diff A A --at +1s --to +2s", 2, ["--at is a moment of both"]),
        ("diff A --from +2s --to +1s", 2, ["--from lies after --to"]),
        ("diff A --from +1s --to +1s", 2, ["same sample"]),
        ("diff A --from end", 2, ["--from lies after --to"]),
        ("diff A --name=", 2, ["--name is empty"]),
        ("diff A --hooks none", 2, ["--hooks"]),
        ("diff A -- true", 2, ["diff runs no command"]),
        ("diff A --vmas x", 2, ["--vmas"]),
        ("diff A --to +5m", 1, ["+5m is not within the recording"]),
        ("diff A -p 7", 1, ["process 7 is not in the recording"]),
        ("diff A A --at end", 1, ["at neither of the two moments"]),
        ("diff A nowhere", 1, ["nowhere"]),
    ],
)
def test_what_cannot_be_is_one_clear_line(
    words: str, code: int, parts: list[str], tmp_path: Path, capfd: Capture
) -> None:
    file = record(tmp_path / "x.parquet", series())
    assert main([file if word == "A" else word for word in words.split()]) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("numatrace: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err


# Whatever the samples are


@given(snapshots(), snapshots(), st.booleans(), st.booleans(), st.integers(0, 3))
def test_any_difference_is_lines_that_do_not_act(
    one: Snapshot, other: Snapshot, same_run: bool, several: bool, most: int
) -> None:
    moments = (diff.Moment(TIME, b"\xff\x1b"), diff.Moment(TIME, b"b"))
    difference = compare(sample(one), sample(other), same_run, flows=[] if same_run else None)
    lines = list(diff.lines(difference, *moments, same_run, most, several))
    assert all(line.isprintable() for line in lines)
    row = next(line for line in lines if line.startswith("change"))
    assert [int(cell) for cell in row.split()[1:]] == [*difference.delta, sum(difference.delta)]
    columns = next((line.split() for line in lines if line.startswith(" before") or " before " in line), None)
    assert (columns is not None) == bool(difference.changes)
    line = diff.json_line(difference, *moments, same_run)
    assert line.isascii()
    assert line.isprintable()

"""The reports of `flows` and `faults`: tables and JSON of a period."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tracer.render
from tests.unit.snapshots import REASONS, faults, flows, sample, snapshot, snapshots, undocumented, vma
from tracer.model.accumulate import FaultSums, FlowSums, Period, Seen
from tracer.model.events import Kind
from tracer.model.sample import Sample
from tracer.model.snapshot import Snapshot, Trust
from tracer.render import faults as faults_report
from tracer.render import flows as flows_report
from tracer.render import trust

SCHEMAS: dict[str, dict[str, Any]] = {
    name: json.loads((Path(tracer.render.__file__).parent / f"{name}.schema.json").read_text())
    for name in ("flows", "faults")
}
MACHINE = {"reasons": REASONS, "migrated": np.array([0, 9, 0]), "failed": np.array([0, 2, 1])}
HEAP = vma(0x7F0000000000, path=b"[heap]")
FILE = vma(0x7F1000000000, path=b"/a b\x1b")
SMALL = vma(0x7F2000000000)


def flows_of(*samples: Sample) -> Period[FlowSums]:
    period = Period(FlowSums())
    for one in samples:
        period.add(one, 2.0)
    return period


def faults_of(*samples: Sample) -> Period[FaultSums]:
    period = Period(FaultSums())
    for one in samples:
        period.add(one, 2.0)
    return period


def three(pid: int = 42, **events: Any) -> Snapshot:
    return snapshot([HEAP, FILE, SMALL], [(0, 0)] * 3, pid=pid, **events)


def squeezed(lines: Any) -> list[str]:
    """Lines with single blanks: how columns are aligned is not what is tested."""
    return [" ".join(line.split()) for line in lines]


def test_flows_text() -> None:
    moved = flows(
        [(0, 0, 1, 1, 40, 0), (0, 1, 1, 2, 0, 3), (1, 1, 0, 1, 5, 1), (2, 0, 1, 1, 2, 0), (-1, 0, 0, 0, 7, 0)]
    )
    assert squeezed(flows_report.lines(flows_of(sample(three(flows=moved), **MACHINE)))) == [
        "# flows of 2.0 s until 2025-03-01T12:00:00.250Z: 54 pages moved (216 KiB), 4 failed, 1 target",
        "# pages by reason, node they left (rows) and node they reached (columns); the failed ones stayed",
        "reason from N0 N1 failed",
        "all N0 7 42 0",
        "all N1 5 0 4",
        "compaction N0 7 0 0",
        "numa_misplaced N1 0 0 3",
        "syscall N0 0 42 0",
        "syscall N1 5 0 1",
        "# the VMAs behind it, most pages first",
        "pages KiB failed from to reason PID VMA NAME",
        "40 160 0 N0 N1 syscall 42 7f0000000000-7f0000010000 [heap]",
        "0 0 3 N1 N1 numa_misplaced 42 7f0000000000-7f0000010000 [heap]",
        "7 28 0 N0 N0 compaction 42 - (not mapped any more)",
        r"5 20 1 N1 N0 syscall 42 7f1000000000-7f1000010000 /a\040b\033",
        "2 8 0 N0 N1 syscall 42 7f2000000000-7f2000010000",
        "# pages that the whole machine migrated",
        "reason migrated failed",
        "syscall 9 2",
        "numa_misplaced 0 1",
    ]


def test_faults_text() -> None:
    touched = faults(
        [
            (0, 0, 1, Kind.NEW, 7, 40),
            (0, 1, 1, Kind.HINT, 8, 500),
            (1, 1, 0, Kind.HUGE, 7, 2),
            (2, 0, -1, Kind.OTHER, 7, 3),
        ]
    )
    assert squeezed(faults_report.lines(faults_of(sample(three(faults=touched))), "faults, sum", threads=True)) == [
        "# faults, sum of 2.0 s until 2025-03-01T12:00:00.250Z: 545 faults, which placed 1064 pages, 1 target",
        "# pages by kind of fault, node of the CPU that touched them (rows) and node they lie on (columns)",
        "kind CPU N0 N1 none faults",
        "placed N0 0 40 0 40",
        "placed N1 1024 0 0 2",
        "new N0 0 40 0 40",
        "huge N1 1024 0 0 2",
        "hint N1 0 500 0 500",
        "other N0 0 0 3 3",
        "# the VMAs behind it, most placed pages first",
        "pages KiB faults kind CPU page thread PID VMA NAME",
        r"1024 4096 2 huge N1 N0 7 42 7f1000000000-7f1000010000 /a\040b\033",
        "40 160 40 new N0 N1 7 42 7f0000000000-7f0000010000 [heap]",
        "500 2000 500 hint N1 N1 8 42 7f0000000000-7f0000010000 [heap]",
        "3 12 3 other N0 none 7 42 7f2000000000-7f2000010000",
    ]


def test_faults_of_one_node() -> None:
    touched = faults([(0, 0, 1, Kind.NEW, 0, 40), (0, 1, 0, Kind.NEW, 0, 6), (2, 0, -1, Kind.OTHER, 0, 3)])
    period = faults_of(sample(three(faults=touched)))
    lines = squeezed(faults_report.lines(period, node=0))
    assert lines[0].endswith(": 6 faults, which placed 6 pages on node 0, 1 target")
    assert lines[2:5] == ["kind CPU N0 faults", "placed N1 6 6", "new N1 6 6"]
    assert [row["count"] for row in json.loads(faults_report.json_line(period, node=0))["faults"]] == [6]
    assert len(list(faults_report.lines(period, node=3))) == 1


def test_several_targets_are_named_with_both_pids() -> None:
    moved = flows([(0, 0, 1, 1, 4, 0)])
    inner = three(43, flows=moved, comm=b"a b\n", namespace_pid=1)
    lines = squeezed(flows_report.lines(flows_of(sample(three(flows=moved), inner)), several=True))
    assert lines[0].endswith("8 pages moved (32 KiB), 0 failed, 2 targets")
    assert lines[-4:-1] == [
        "pages KiB failed from to reason PID NSPID COMMAND VMA NAME",
        "4 16 0 N0 N1 syscall 42 42 target 7f0000000000-7f0000010000 [heap]",
        r"4 16 0 N0 N1 syscall 43 1 a\040b\012 7f0000000000-7f0000010000 [heap]",
    ]


def test_only_the_first_vmas_are_named_and_that_is_said() -> None:
    moved = flows([(0, 0, 1, 1, 4, 0), (0, 0, 1, 2, 4, 0), (1, 0, 1, 1, 7, 0), (2, 0, 1, 1, 1, 0)])
    period = flows_of(sample(three(flows=moved)))
    some = squeezed(flows_report.lines(period, most_vmas=2))
    assert "# the VMAs behind it, most pages first: 2 of 3 (--vmas 0 shows all)" in some
    assert [line.split()[0] for line in some if " 42 7f" in line] == ["4", "4", "7"]
    for most in (0, 3):
        assert "# the VMAs behind it, most pages first" in list(flows_report.lines(period, most_vmas=most))
    touched = faults([(0, 0, 1, Kind.HINT, 0, 400), (1, 0, 1, Kind.COW, 0, 7)])
    (first,) = [
        line for line in faults_report.lines(faults_of(sample(three(faults=touched))), most_vmas=1) if "7f" in line
    ]
    assert " cow " in first, "pages that were placed come before faults that placed none"


def test_nothing_happened() -> None:
    lines = list(flows_report.lines(flows_of(sample(three(flows=flows())))))
    assert lines[1:] == ["# pages that the whole machine migrated: not known here"]
    quiet = sample(three(flows=flows()), reasons=REASONS, migrated=np.zeros(3, int), failed=np.zeros(3, int))
    assert list(flows_report.lines(flows_of(quiet)))[1:] == ["# pages that the whole machine migrated: none"]
    assert len(list(faults_report.lines(faults_of(sample(three(faults=faults())))))) == 1


def test_untraced_processes_are_said() -> None:
    one = sample(three(), untraced=2)
    for lines in (flows_report.lines(flows_of(one)), faults_report.lines(faults_of(one))):
        assert list(lines)[1] == "# untraced: 2 processes are missing, for lack of room in the table of targets"
    assert json.loads(flows_report.json_line(flows_of(one)))["untraced"] == 2


def test_flows_json() -> None:
    moved = flows([(1, 0, 1, 1, 40, 2), (-1, 1, 1, 2, 0, 3)])
    one = sample(three(flows=moved, trust=Trust(1, 2, 3, 4, 0.5), namespace_pid=9), untraced=1, **MACHINE)
    whose = {"pid": 42, "ns_pid": 9, "comm": "target"}
    counts = {"settling": 1, "unexplained": 2, "lost": 3, "drift": 4, "oldest_read_s": 0.5}
    assert json.loads(flows_report.json_line(flows_of(one))) == {
        "type": "flows",
        "version": 1,
        "time": "2025-03-01T12:00:00.250000Z",
        "seconds": 2.0,
        "flows": [
            {
                **whose,
                "start": "7f1000000000",
                "end": "7f1000010000",
                "name": "/a b\x1b",
                "from": 0,
                "to": 1,
                "reason": "syscall",
                "pages": 40,
                "bytes": 163840,
                "failed": 2,
            },
            {
                **whose,
                "start": None,
                "end": None,
                "name": "",
                "from": 1,
                "to": 1,
                "reason": "numa_misplaced",
                "pages": 0,
                "bytes": 0,
                "failed": 3,
            },
        ],
        "machine": {
            "compaction": {"migrated": 0, "failed": 0},
            "syscall": {"migrated": 9, "failed": 2},
            "numa_misplaced": {"migrated": 0, "failed": 1},
        },
        "trust": [{**whose, "hooks": "tracepoint", "reader": "walk", "ended": False, **counts}],
        "untraced": 1,
    }


def test_faults_json() -> None:
    touched = faults([(0, 0, -1, Kind.OTHER, 7, 3), (0, 0, 1, Kind.HUGE, 8, 2)])
    period = faults_of(sample(ended=(three(faults=touched),)))
    report = json.loads(faults_report.json_line(period, threads=True))
    keys = ("cpu_node", "page_node", "kind", "thread", "count", "pages", "bytes")
    assert [[row[key] for key in keys] for row in report["faults"]] == [
        [0, 1, "huge", 8, 2, 1024, 4 << 20],
        [0, None, "other", 7, 3, 3, 12288],
    ]
    assert [target["ended"] for target in report["trust"]] == [True]
    assert "thread" not in json.loads(faults_report.json_line(period))["faults"][0]


@st.composite
def periods(draw: st.DrawFn) -> list[Sample]:
    """Samples with events in any VMA of any snapshot."""

    def target() -> Snapshot:
        shot = draw(snapshots())
        rows, node, number = st.integers(-1, len(shot.vmas) - 1), st.integers(0, 5), st.integers(0, 2**40)
        moved = draw(st.lists(st.tuples(rows, node, node, st.integers(0, 2), number, number), max_size=6))
        kinds, threads = st.integers(0, 5), st.integers(0, 3)
        touched = draw(st.lists(st.tuples(rows, node, st.integers(-1, 5), kinds, threads, number), max_size=6))
        return snapshot(
            shot.vmas,
            shot.pages.tolist(),
            shot.node_ids,
            comm=shot.comm,
            trust=shot.trust,
            pid=draw(st.integers(1, 3)),
            namespace_pid=draw(st.integers(0, 3)),
            flows=flows(moved),
            faults=faults(touched),
        )

    return [
        sample(*[target() for _ in range(draw(st.integers(0, 2)))], ended=(target(),), untraced=draw(st.integers(0, 3)))
        for _ in range(draw(st.integers(1, 3)))
    ]


def check_json(line: str, name: str) -> dict[str, Any]:
    assert line.isascii()
    assert line.isprintable()
    report: dict[str, Any] = json.loads(line)
    jsonschema.Draft202012Validator(SCHEMAS[name]).validate(report)
    assert not undocumented(report, SCHEMAS[name], SCHEMAS[name])
    return report


def matrix_of(lines: list[str], first: str) -> dict[str, dict[tuple[str, str], int]]:
    """The numbers of the first table, by group and (row, column)."""
    groups: defaultdict[str, dict[tuple[str, str], int]] = defaultdict(dict)
    (start,) = [index for index, line in enumerate(lines) if line.split()[:1] == [first]]
    columns = lines[start].split()[2:]
    for line in lines[start + 1 :]:
        if line.startswith("#"):
            break
        group, row, *cells = line.split()
        for column, cell in zip(columns, cells, strict=True):
            groups[group][row, column] = int(cell)
    return groups


def added(matrices: list[dict[tuple[str, str], int]]) -> dict[tuple[str, str], int]:
    sums: defaultdict[tuple[str, str], int] = defaultdict(int)
    for matrix in matrices:
        for key, number in matrix.items():
            sums[key] += number
    return dict(sums)


@given(periods(), st.booleans(), st.integers(0, 3))
def test_any_flows(series: list[Sample], several: bool, most: int) -> None:
    period = flows_of(*series)
    rows = check_json(flows_report.json_line(period), "flows")["flows"]
    lines = list(flows_report.lines(period, most_vmas=most, several=several))
    assert all(line.isprintable() for line in lines)
    if not rows:
        return
    groups = matrix_of(lines, "reason")
    total = groups.pop("all", None) or next(iter(groups.values()))
    assert added(list(groups.values())) == total
    assert sum(total.values()) == sum(row["pages"] + row["failed"] for row in rows)
    for group, matrix in groups.items():
        for (source, column), number in matrix.items():
            if column != "failed":
                its = [
                    row
                    for row in rows
                    if (f"N{row['from']}", f"N{row['to']}", row["reason"]) == (source, column, group)
                ]
                assert number == sum(row["pages"] for row in its)


@given(periods(), st.booleans(), st.one_of(st.none(), st.integers(0, 5)))
def test_any_faults(series: list[Sample], threads: bool, node: int | None) -> None:
    period = faults_of(*series)
    rows = check_json(faults_report.json_line(period, threads, node), "faults")["faults"]
    lines = list(faults_report.lines(period, most_vmas=0, threads=threads, node=node))
    assert all(line.isprintable() for line in lines)
    if not rows:
        assert len(lines) == 1 + bool(period.untraced)
        return
    groups = matrix_of(lines, "kind")
    placed = groups.pop("placed", {})
    assert sum(sum(matrix.values()) for matrix in groups.values()) == sum(row["pages"] + row["count"] for row in rows)
    deciding = [groups[kind] for kind in ("new", "huge", "cow", "major") if kind in groups]
    for (cpu, column), number in placed.items():
        if column not in ("none", "faults"):
            assert number == sum(matrix.get((cpu, column), 0) for matrix in deciding)
    if node is not None:
        assert {row["page_node"] for row in rows} == {node}


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_refuse_what_they_should(name: str) -> None:
    validator = jsonschema.Draft202012Validator(SCHEMAS[name])
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])
    shot = three(flows=flows([(0, 0, 1, 1, 4, 0)]), faults=faults([(0, 0, 1, Kind.NEW, 0, 4)]))
    one = sample(shot, **MACHINE)
    line = flows_report.json_line(flows_of(one)) if name == "flows" else faults_report.json_line(faults_of(one))
    good = json.loads(line)
    assert validator.is_valid(good)
    for key in SCHEMAS[name]["required"]:
        assert not validator.is_valid({other: value for other, value in good.items() if other != key})
    for key in SCHEMAS[name]["$defs"]["row"]["required"]:
        assert not validator.is_valid(good | {name: [{k: v for k, v in good[name][0].items() if k != key}]})
    for key in SCHEMAS[name]["$defs"]["trust"]["required"]:
        assert not validator.is_valid(good | {"trust": [{k: v for k, v in good["trust"][0].items() if k != key}]})
    assert not validator.is_valid(good | {name: [good[name][0] | {"start": "0x1"}]})


def test_trust_of_many_targets_is_short_and_begins_with_the_worst() -> None:
    def seen(pid: int, ended: bool, **counts: int) -> Seen:
        return Seen(pid, pid, b"x", "tracepoint", "walk", Trust(**counts), ended)

    targets = [seen(pid, True) for pid in range(1, 100)] + [
        seen(200, False),
        seen(50, True, lost=2),
        seen(60, True, drift=1),
    ]
    lines = list(trust.seen_lines(targets))
    assert [line.split()[1] for line in lines[:3]] == ["pid=50", "pid=60", "pid=200"]
    assert [line.endswith(" ended") for line in lines[:3]] == [True, True, False]
    assert len(lines) == 17
    assert lines[-1] == "# 86 more targets, in all: settling=0 unexplained=0 lost=0 drift=0"

"""What is recorded comes back: any samples, any moment, field by field; and rows say no more than what changed."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.recordings import differences, misplaced, pressure, spaced, write_recording
from tests.unit.snapshots import REASONS, TIME, details, faults, flows, policies, regions, sample, snapshot, vma
from tracer.model.cause import Cause
from tracer.model.events import Kind
from tracer.model.policies import Policies, PolicyChange, TaskPolicy
from tracer.model.policy import F_NUMA_BALANCING, Mode, Policy, Spelling
from tracer.model.sample import Sample
from tracer.model.snapshot import Refresh, Snapshot, Trust
from tracer.model.vma import Kind as VmaKind
from tracer.model.vma import Vma
from tracer.record import recording
from tracer.record.recording import open_recording
from tracer.record.rows import RowMaker
from tracer.record.schema import Info

NUMBERS = st.sampled_from((0, 0, 1, 2, 7, 2**40))
NAMES = st.sampled_from((b"", b"/lib/a", b"/lib/\xff\\012x", b"[heap]", "/ü\u2028\x1b[2J".encode(), b"\\xff", b"/\x00"))
FEW_POLICIES = st.one_of(
    policies,
    st.sampled_from(
        (
            Policy(Mode.DEFAULT),
            Policy(Mode.BIND, F_NUMA_BALANCING, (0, 1)),
            Policy(9, 0, (1,)),
            Policy.parse("interleave=odd:0-3"),
            Policy.parse("bind:" + ",".join(str(node) for node in range(0, 60, 2))),
        )
    ),
)
VMAS = st.builds(
    lambda slot, pages, more: Vma(start=slot, end=slot + pages * 4096, **more),
    st.sampled_from((0x1000, 0x200000, 0x7F0000000000, 0x7FFF00000000, 0xFFFFFFFFFF600000)),
    st.integers(1, 3),
    st.fixed_dictionaries(
        {
            "perms": st.sampled_from(("rw-p", "r--s")),
            "offset": st.sampled_from((0, 4096, 2**64 - 4096)),
            "device": st.sampled_from(("00:00", "fd:01")),
            "inode": st.sampled_from((0, 2**63 + 1)),
            "path": NAMES,
            "kind": st.sampled_from(VmaKind),
            "policy": FEW_POLICIES,
            "hugetlb": st.booleans(),
            "page_kb": st.sampled_from((4, 2048, 1048576)),
        }
    ),
)


@st.composite
def targets(draw: st.DrawFn, pid: int, info: Info, before: Snapshot | None) -> Snapshot:
    """A snapshot as one after `before` may be, or any other: parts of it are the very same objects."""
    nodes = len(info.node_ids)
    if before is not None and draw(st.booleans()):
        vmas, pages = before.vmas, before.pages
        if draw(st.booleans()):
            pages = pages + draw(st.sampled_from((0, 1))) * np.arange(len(vmas), dtype=np.int64)[:, None]
    else:
        old = {it.start: it for it in before.vmas} if before is not None else {}
        new = {
            it.start: old.get(it.start, it) if draw(st.booleans()) else it for it in draw(st.lists(VMAS, max_size=4))
        }
        vmas = tuple(new[start] for start in sorted(new))
        pages = np.array([[draw(NUMBERS) for _ in range(nodes)] for _ in vmas], np.int64).reshape(len(vmas), nodes)
    row = st.integers(-1, len(vmas) - 1)
    node = st.integers(-1, 1023)
    shot = snapshot(vmas, pages.tolist(), info.node_ids, pid=pid, comm=draw(st.sampled_from((b"a", b"\xffb", b""))))
    return replace(
        shot,
        pages=pages,
        hooks=draw(st.sampled_from(("tracepoint", "none"))),
        reader=draw(st.sampled_from(("walk", "pagemap"))),
        trust=Trust(draw(NUMBERS), draw(NUMBERS), draw(NUMBERS), draw(NUMBERS), draw(st.floats(0, 1e9))),
        refresh=Refresh(draw(NUMBERS), draw(NUMBERS)),
        spelling=draw(st.sampled_from((*[Spelling.NAMED] * 5, *Spelling))),
        namespace_pid=draw(st.sampled_from((0, pid, 7))),
        details=_maybe(draw, info.details, lambda: details([[draw(NUMBERS) for _ in range(6)] for _ in vmas])),
        flows=flows(draw(st.lists(st.tuples(row, node, node, st.integers(0, 2), NUMBERS, NUMBERS), max_size=4)))
        if info.flows
        else None,
        faults=faults(
            draw(
                st.lists(
                    st.tuples(row, node, node, st.sampled_from(Kind), NUMBERS.map(lambda it: it % 2**31), NUMBERS),
                    max_size=4,
                )
            )
        )
        if info.faults
        else None,
        regions=_maybe(draw, info.regions, lambda: _regions(draw, nodes)),
        policies=_maybe(draw, info.policies, lambda: _policies(draw, shot, before)),
    )


def _maybe(draw: st.DrawFn, wanted: bool, make: Any) -> Any:
    """Mostly there, where it was asked for: the last look at a target may come without."""
    return make() if wanted and draw(st.integers(0, 4)) else None


THREADS = st.builds(TaskPolicy, st.integers(0, 2**31 - 1), st.sampled_from((b"", b"a", b"\xffb")), FEW_POLICIES)
CHANGES = st.builds(
    PolicyChange,
    st.sampled_from((TIME, TIME + timedelta(microseconds=1), TIME - timedelta(days=9000))),
    st.booleans(),
    st.sampled_from((0, 7)),
    st.sampled_from((0, 0x1000, 0xFFFFFFFFFF600000)),
    st.sampled_from((0, 2**64 - 4096)),
    st.none() | FEW_POLICIES,
    st.none() | FEW_POLICIES,
    st.sampled_from(("", "mbind")),
)


def _policies(draw: st.DrawFn, shot: Snapshot, before: Snapshot | None) -> Policies:
    """Some of which are those of the snapshot before, where there are as many VMAs."""
    nodes, vmas = len(shot.node_ids), len(shot.vmas)
    old = before.policies if before is not None else None
    if old is not None and len(old.own) == vmas and draw(st.booleans()):
        if draw(st.booleans()):
            return old
        rows = [draw(MISPLACED) for _ in range(draw(st.integers(0, 3)) if vmas else 0)]
        wrong = misplaced(list({(row % vmas, *rest): 1 for row, *rest in rows}))
        return replace(old, changes=tuple(draw(st.lists(CHANGES, max_size=2))), misplaced=wrong)

    def each(values: st.SearchStrategy[Any]) -> list[Any]:
        return [draw(values) for _ in shot.vmas]

    return Policies(
        own=np.array(each(st.booleans()), np.bool_),
        governed=np.array(each(st.booleans()), np.bool_),
        allowed=tuple(draw(st.sampled_from(((), (0,), (0, 1, 2, 5))))),
        weights=draw(st.none() | st.lists(st.integers(1, 255), min_size=nodes, max_size=nodes).map(tuple)),
        threads=tuple(draw(st.lists(THREADS, max_size=3))),
        changes=tuple(draw(st.lists(CHANGES, max_size=2))),
        rule=np.array(each(st.tuples(*[NUMBERS] * nodes)), np.int64).reshape(vmas, nodes),
        units=np.array(each(st.floats(0, 1e9)), np.float64),
        huge=np.array(each(NUMBERS), np.int64),
        misplaced=misplaced([(row, *draw(MISPLACED)[1:]) for row in range(vmas) if draw(st.booleans())]),
        # Even so little more is news.
        pressure=pressure([(draw(NUMBERS), draw(NUMBERS), 2, 7) for _ in range(nodes)]),
        observed=draw(st.booleans()),
    )


MISPLACED = st.tuples(
    st.integers(0, 3),
    st.integers(0, 1023),
    st.integers(-1, 1023),
    st.sampled_from(Cause),
    st.integers(-1, 2),
    st.integers(1, 2**40),
)


def _regions(draw: st.DrawFn, nodes: int) -> Any:
    addresses = sorted(draw(st.sets(st.sampled_from((0, 0x200000, 0x400000, 0x7F0000000000)))))
    return regions(
        [[address, 1 + draw(NUMBERS), *(draw(NUMBERS) for _ in range(nodes - 1))] for address in addresses], nodes
    )


@st.composite
def series(draw: st.DrawFn) -> tuple[Info, list[Sample]]:
    """Samples of up to three PIDs that come, change, execute programs, end and come back, mostly some seconds apart."""
    node_ids = draw(st.sampled_from(((0,), (0, 1), (1, 5, 1023))))
    names = ("details", "flows", "faults", "regions", "policies")
    asked: dict[str, Any] = {name: draw(st.booleans()) for name in names}
    info = Info(node_ids=node_ids, reasons=REASONS, **asked)
    live: dict[int, Snapshot] = {}
    time = TIME
    samples = []
    for _ in range(draw(st.integers(1, 7))):
        ended = []
        for pid in (1, 2, 3):
            for _ in range(draw(st.sampled_from((0, 0, 0, 1, 2)))):
                ended.append(draw(targets(pid, info, live.pop(pid, None))))
            if draw(st.integers(0, 3)):
                kept = live.get(pid)
                live[pid] = kept if kept is not None and draw(st.booleans()) else draw(targets(pid, info, kept))
            else:
                live.pop(pid, None)
        samples.append(_whole(draw, info, time, list(live.values()), ended))
        time += timedelta(seconds=draw(st.sampled_from((0.000001, 1, 1, 61))))
    return info, samples


def _whole(draw: st.DrawFn, info: Info, time: Any, live: Sequence[Snapshot], ended: Sequence[Snapshot]) -> Sample:
    counted = info.flows and draw(st.integers(0, 5))
    migrated, failed = np.array([[draw(NUMBERS) for _ in REASONS] for _ in range(2)], np.int64)
    if draw(st.booleans()):
        migrated = failed = np.zeros(3, np.int64)
    return Sample(
        time,
        info.node_ids,
        tuple(replace(it, time=time) for it in live),
        tuple(replace(it, time=time) for it in ended),
        untraced=draw(st.sampled_from((0, 0, 3))),
        reasons=REASONS if counted else (),
        migrated=migrated if counted else None,
        failed=failed if counted else None,
    )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(series(), st.sampled_from((2, 5, 65_536)), st.sampled_from((1, 8, 16_384)))
def test_any_samples_come_back(recorded: tuple[Info, list[Sample]], row_group: int, chunk_rows: int) -> None:
    info, samples = recorded
    with tempfile.TemporaryDirectory() as directory, mock.patch.object(recording, "_CHUNK_ROWS", chunk_rows):
        path = Path(directory, "any.parquet")
        write_recording(path, samples, info, row_group)
        with open_recording(path) as read:
            assert len(read) == len(samples)
            for index, (back, given_) in enumerate(zip(read.samples(), samples, strict=True)):
                assert differences(back, given_) == []
                assert differences(read.at(index), given_) == []
            middle = len(samples) // 2
            for back, given_ in zip(read.samples(middle), samples[middle:], strict=True):
                assert differences(back, given_) == []


# --- which rows there are ---

LOW, HIGH = vma(0x1000), vma(0x200000)
INFO = Info(node_ids=(0, 1), reasons=REASONS)


def rows_of(maker: RowMaker, one: Sample) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = maker.batch(one).to_pylist()
    return rows


def events(rows: list[dict[str, Any]]) -> list[str]:
    return [row["event"] for row in rows]


def after(one: Sample, seconds: float, *shots: Snapshot, **fields: Any) -> Sample:
    return replace(one, time=one.time + timedelta(seconds=seconds), snapshots=shots or one.snapshots, **fields)


def test_an_unchanged_target_is_one_row() -> None:
    maker = RowMaker(INFO)
    first = sample(snapshot([LOW, HIGH], [(1, 2), (0, 3)]))
    rows = rows_of(maker, first)
    assert events(rows) == ["machine", "target", "vma", "vma"]
    assert all(row["key"] for row in rows)
    same = replace(first.only, pages=first.only.pages.copy(), vmas=tuple(replace(it) for it in first.only.vmas))
    rows = rows_of(maker, after(first, 1, same))
    assert events(rows) == ["target"]
    assert not rows[0]["key"]
    assert (rows[0]["pages"], rows[0]["N0"], rows[0]["N1"]) == (6, 1, 5)


@pytest.mark.parametrize(
    ("shot", "expected"),
    [
        (snapshot([LOW, HIGH], [(2, 2), (0, 3)]), [("vma", 0x1000)]),
        (snapshot([LOW, replace(HIGH, perms="r--p")], [(1, 2), (0, 3)]), [("vma", 0x200000)]),
        (snapshot([LOW, replace(HIGH, policy=Policy(Mode.LOCAL))], [(1, 2), (0, 3)]), [("vma", 0x200000)]),
        (snapshot([HIGH], [(0, 3)]), [("unmapped", 0x1000)]),
        (snapshot([replace(LOW, start=0x2000), HIGH], [(1, 2), (0, 3)]), [("unmapped", 0x1000), ("vma", 0x2000)]),
        (snapshot([LOW, HIGH], [(1, 2), (0, 3)], flows=flows([(1, 0, 1, 0, 1, 0)])), [("vma", 0x200000)]),
        (snapshot([LOW, HIGH], [(1, 2), (0, 3)], faults=faults([(0, 0, 1, 0, 0, 1)])), [("vma", 0x1000)]),
        (snapshot([LOW, HIGH], [(1, 2), (0, 3)], faults=faults([(-1, 0, 1, 0, 0, 1)])), []),
        (snapshot([], []), [("unmapped", 0x1000), ("unmapped", 0x200000)]),
    ],
)
def test_only_what_changed_is_written(shot: Snapshot, expected: list[tuple[str, int]]) -> None:
    maker = RowMaker(INFO)
    first = sample(snapshot([LOW, HIGH], [(1, 2), (0, 3)]))
    maker.batch(first)
    rows = rows_of(maker, after(first, 1, shot))
    assert events(rows[:1]) == ["target"]
    assert [(row["event"], row["start"]) for row in rows[1:]] == expected


def test_rows_of_a_sample_are_in_the_documented_order() -> None:
    maker = RowMaker(INFO)
    first = sample(snapshot([LOW, HIGH], [(1, 2), (0, 3)], regions=regions([(0x1000, 1, 2)])), snapshot(pid=43))
    maker.batch(first)
    old = snapshot([LOW], [(1, 9)], regions=regions([(0x1000, 1, 9)]))
    new = snapshot([HIGH], [(5, 5)], regions=regions([(0x200000, 5, 5)]))
    rows = rows_of(maker, after(first, 1, new, snapshot([LOW], [(0, 0)], pid=43), ended=(old,), untraced=1))
    assert [(row["event"], row["pid"], row["start"]) for row in rows] == [
        ("machine", None, None),
        ("unmapped", 42, 0x200000),
        ("vma", 42, 0x1000),
        ("region", 42, 0x1000),
        ("ended", 42, None),
        ("target", 42, None),
        ("vma", 42, 0x200000),
        ("region", 42, 0x200000),
        ("target", 43, None),
        ("vma", 43, 0x1000),
    ]
    assert len({row["time"] for row in rows}) == 1


def test_a_region_that_is_gone_has_no_pages() -> None:
    maker = RowMaker(INFO)
    first = sample(snapshot([LOW], [(1, 2)], regions=regions([(0x1000, 1, 2), (0x200000, 3, 0)])))
    maker.batch(first)
    rows = rows_of(maker, after(first, 1, replace(first.only, regions=regions([(0x200000, 3, 0)]))))
    assert [(row["event"], row["start"], row["pages"]) for row in rows[1:]] == [("region", 0x1000, 0)]
    assert rows[0]["regions"] == 1


def test_a_key_frame_comes_every_minute_and_repeats_everything() -> None:
    maker = RowMaker(INFO)
    first = sample(snapshot([LOW, HIGH], [(1, 2), (0, 3)]))
    keys = []
    for second in range(0, 180, 20):
        rows = rows_of(maker, after(first, second))
        assert len(events(rows)) == (4 if rows[0]["key"] else 1)
        keys.append(rows[0]["key"])
    assert keys == [True, False, False] * 3


def test_many_vmas_have_fewer_key_frames() -> None:
    maker = RowMaker(INFO)
    vmas = [vma(0x1000 + index * 0x10000) for index in range(20_000)]
    first = sample(snapshot(vmas, np.ones((20_000, 2), np.int64).tolist()))
    assert len(rows_of(maker, first)) == 20_002
    assert [maker.batch(after(first, seconds)).num_rows for seconds in (60, 119, 120)] == [1, 1, 20_002]


def test_a_new_file_begins_with_a_key_frame() -> None:
    maker = RowMaker(INFO)
    first = sample(snapshot([LOW], [(1, 2)]))
    maker.batch(first)
    maker.key_frame_next()
    assert events(rows_of(maker, after(first, 1))) == ["machine", "target", "vma"]
    assert events(rows_of(maker, after(first, 2))) == ["target"]


def test_the_machine_speaks_when_it_has_something_to_say() -> None:
    maker = RowMaker(INFO)
    zero, some = np.zeros(3, np.int64), np.array([0, 5, 0])
    first = sample(snapshot(), reasons=REASONS, migrated=zero, failed=zero)
    (machine, _) = rows_of(maker, first)
    assert (machine["untraced"], machine["flows"]) == (0, [])
    assert events(rows_of(maker, after(first, 1))) == ["target"]
    (machine, _) = rows_of(maker, after(first, 2, migrated=some))
    assert machine["flows"] == [{"source": -1, "destination": -1, "reason": "syscall", "pages": 5, "failed": 0}]
    assert events(rows_of(maker, after(first, 3))) == ["target"]
    assert events(rows_of(maker, after(first, 4, untraced=2))) == ["machine", "target"]
    assert events(rows_of(maker, after(first, 5, untraced=2))) == ["target"]
    alone = replace(after(first, 6, untraced=2), snapshots=())
    assert events(rows_of(maker, alone)) == ["machine"]


def test_times_ascend_when_the_clock_is_set_back() -> None:
    maker = RowMaker(INFO)
    first = sample(snapshot())
    times = [rows_of(maker, after(first, seconds))[0]["time"] for seconds in (0, 0, -3600, 1)]
    assert [(time - TIME) // timedelta(microseconds=1) for time in times] == [0, 1, 2, 1_000_000]


def test_a_sample_of_other_nodes_is_refused() -> None:
    with pytest.raises(ValueError, match="nodes"):
        RowMaker(INFO).batch(sample(snapshot(node_ids=(0, 2))))


def test_values_as_documented() -> None:
    long = Policy(Mode.BIND, nodes=tuple(range(0, 60, 2)))
    assert len(long.text()) == 63
    named = replace(vma(0xFFFFFFFFFF600000 - 2**12, 1, long, VmaKind.FILE, b"/tmp/\xff\n"), offset=2**64 - 1)
    shot = snapshot([named], [(3, 4)], details=details([(1, 2, 9, 4, 5, 6)]), comm=b"\xfe", namespace_pid=7)
    _, head, row = rows_of(RowMaker(INFO), sample(shot))
    assert (head["comm"], head["comm_raw"], head["ns_pid"]) == ("\\xfe", b"\xfe", 7)
    assert (head["anon"], head["mapmax"], head["pages"], head["cpu_ns"]) == (1, 9, 7, 1_234_567)
    assert (row["name"], row["name_raw"], row["kind"]) == ("/tmp/\\xff\n", b"/tmp/\xff\n", "file")
    assert (row["start"], row["end"], row["offset"]) == (0xFFFFFFFFFF5FF000, 0xFFFFFFFFFF600000, 2**64 - 1)
    assert row["policy"] == "bind:" + ",".join(str(node) for node in range(0, 60, 2))
    assert (row["policy_mode"], row["policy_flags"], row["policy_nodes"]) == (2, 0, row["policy"][5:])
    assert (row["pages"], row["N0"], row["N1"]) == (7, 3, 4)
    assert (row["flows"], row["faults"], row["hooks"], row["untraced"]) == (None, None, None, None)


def test_rows_of_events_have_their_vma() -> None:
    shot = snapshot(
        [LOW, HIGH],
        [(1, 2), (0, 3)],
        flows=flows([(-1, 1, 0, 2, 7, 1), (0, 0, 1, 1, 4, 0), (1, 1, 0, 0, 2, 0), (0, 1, 1, 0, 6, 0)]),
        faults=faults([(1, 0, -1, Kind.HINT, 99, 3)]),
    )
    _, head, low, high = rows_of(RowMaker(INFO), sample(shot))
    assert head["flows"] == [{"source": 1, "destination": 0, "reason": "numa_misplaced", "pages": 7, "failed": 1}]
    assert [(it["reason"], it["pages"]) for it in low["flows"]] == [("syscall", 4), ("compaction", 6)]
    assert [(it["reason"], it["pages"]) for it in high["flows"]] == [("compaction", 2)]
    assert high["faults"] == [{"cpu_node": 0, "page_node": -1, "kind": "hint", "thread": 99, "count": 3}]
    assert (head["faults"], low["faults"]) == (None, None)


def test_all_ends_of_one_pid_in_one_sample() -> None:
    """A chain of exec: programs that nobody could look at any more have no VMAs, and must not inherit any."""
    first = sample(snapshot([LOW], [(1, 2)]))
    last = snapshot([LOW, HIGH], [(1, 2), (3, 3)], comm=b"old")
    unseen = snapshot(comm=b"short")
    second = after(first, 1, snapshot([HIGH], [(4, 4)], comm=b"new"), ended=(last, unseen))
    maker = RowMaker(INFO)
    maker.batch(first)
    found = [(row["event"], row["comm"], row["start"]) for row in rows_of(maker, second)]
    assert found == [
        ("vma", "old", 0x200000),
        ("ended", "old", None),
        ("ended", "short", None),
        ("target", "new", None),
        ("vma", "new", 0x200000),
    ]


def test_policies_are_written_again_when_it_is_known_how_the_kernel_spells_them(tmp_path: Path) -> None:
    balancing = vma(0x1000, policy=Policy(Mode.BIND, F_NUMA_BALANCING, (0, 1)))
    first = sample(snapshot([balancing, HIGH], [(1, 2), (0, 3)]))
    second = after(first, 1, replace(first.only, spelling=Spelling.HIDDEN, time=TIME + timedelta(seconds=1)))
    third = after(second, 1, replace(second.only, time=TIME + timedelta(seconds=2)))
    write_recording(tmp_path / "x", [first, second, third])
    with open_recording(tmp_path / "x") as read:
        words = read.rows("vma", columns=["policy"]).column(0).to_pylist()
        assert words == ["bind=balancing:0-1", "default", "default", "default"]
        assert differences(read.at(2), third) == []


@pytest.mark.parametrize("name", ["details", "regions"])
def test_what_is_not_always_read_comes_back_as_it_is_then(tmp_path: Path, name: str) -> None:
    """The last look at a target has no details, and one without hooks no regions."""
    values: dict[str, list[Any]] = {
        "details": [details([(1, 2, 3, 4, 5, 6)]), None, details([(6, 5, 4, 3, 2, 1)]), None],
        "regions": [regions([(0x1000, 1, 2), (0x3000, 5, 5)]), None, regions([(0x1000, 1, 2)]), regions()],
    }
    samples = spaced(sample(replace(snapshot([LOW], [(6, 7)]), **{name: value})) for value in values[name])
    write_recording(tmp_path / "x", samples)
    with open_recording(tmp_path / "x") as read:
        for index, (back, given_) in enumerate(zip(read.samples(), samples, strict=True)):
            assert differences(back, given_) == []
            assert differences(read.at(index), given_) == []

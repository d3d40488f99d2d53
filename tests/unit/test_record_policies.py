"""Policies in a recording: which rows say what of them, and that readers of other versions are not led astray."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unit.recordings import differences, info_of, misplaced, pressure, spaced, with_policies, write_recording
from tests.unit.snapshots import REASONS, TIME, details, flows, regions, sample, snapshot, vma
from tracer.errors import NumatraceError
from tracer.model.cause import Cause
from tracer.model.policies import Policies, PolicyChange, TaskPolicy
from tracer.model.policy import DEFAULT, F_NUMA_BALANCING, Mode, Policy, Spelling
from tracer.model.sample import Sample
from tracer.model.snapshot import Snapshot
from tracer.record.recorder import Recorder
from tracer.record.recording import Recording, open_recording
from tracer.record.recover import recover
from tracer.record.rows import RowMaker
from tracer.record.schema import Info

INTERLEAVE = Policy(Mode.INTERLEAVE, nodes=(0, 1))
BALANCING = Policy(Mode.BIND, F_NUMA_BALANCING, (0, 1))
LOW, HIGH = vma(0x1000, policy=INTERLEAVE), vma(0x200000)
PLAIN = snapshot([LOW, HIGH], [(12, 4), (0, 3)])
SHOT = with_policies(PLAIN, [(0, 0, 1, Cause.BEFORE_POLICY, -1, 4)])
INFO = Info(node_ids=(0, 1), reasons=REASONS, policies=True)
COLUMNS = {"own", "governed", "units", "huge_pages", "rule", "misplaced"}
HEADS = {"observed", "allowed", "weights", "threads", "policy_changes", "pressure"}
CHANGE = PolicyChange(TIME, True, 43, 0x1000, 0x11000, None, INTERLEAVE, "mbind")


def policies_of(shot: Snapshot) -> Policies:
    assert shot.policies is not None
    return shot.policies


def with_changed(shot: Snapshot, **fields: Any) -> Snapshot:
    return replace(shot, policies=replace(policies_of(shot), **fields))


def second(shot: Snapshot, first: Snapshot = SHOT, info: Info = INFO) -> list[dict[str, Any]]:
    """The rows of a sample with `shot`, a second after one with `first`."""
    maker = RowMaker(info)
    one, other = spaced([sample(first), sample(shot)])
    maker.batch(one)
    rows: list[dict[str, Any]] = maker.batch(other).to_pylist()
    return rows


def round_trip(path: Path, samples: list[Sample], info: Info | None = None) -> None:
    write_recording(path, samples, info)
    with open_recording(path) as read:
        for index, (back, given) in enumerate(zip(read.samples(), samples, strict=True)):
            assert differences(back, given) == []
            assert differences(read.at(index), given) == []


# --- which rows there are ---


def test_values_as_documented() -> None:
    wrong = [(0, 0, 1, Cause.MOVED, 2, 3), (0, 0, -1, Cause.NODE_FULL, -1, 1)]
    threads = (TaskPolicy(42, b"main", DEFAULT), TaskPolicy(43, b"\xff", BALANCING))
    changed = replace(CHANGE, old=BALANCING)
    shot = with_policies(PLAIN, wrong, threads=threads, changes=(changed,), weights=None, allowed=(0, 1, 3))
    _, head, low, high = RowMaker(INFO).batch(sample(shot)).to_pylist()
    assert low["misplaced"] == [
        {"cause": "node-full", "reason": None, "node": 0, "expected": -1, "pages": 1},
        {"cause": "moved", "reason": "numa_misplaced", "node": 0, "expected": 1, "pages": 3},
    ]
    assert (low["own"], low["governed"], low["units"], low["huge_pages"], low["rule"]) == (True, True, 16, 0, [9, 7])
    assert (high["own"], high["misplaced"], high["rule"]) == (False, None, None)
    assert (head["observed"], head["allowed"], head["weights"]) == (True, "0-1,3", None)
    bind = {"policy": "bind=balancing:0-1", "mode": 2, "flags": 1 << 13, "nodes": "0-1"}
    default = {"policy": "default", "mode": 0, "flags": 0, "nodes": ""}
    assert head["threads"] == [
        {"thread": 42, "comm": "main", "comm_raw": None, **default},
        {"thread": 43, "comm": "\\xff", "comm_raw": b"\xff", **bind},
    ]
    (change,) = head["policy_changes"]
    assert (change["time"], change["exact"], change["thread"], change["call"]) == (TIME, True, 43, "mbind")
    assert (change["start"], change["end"], change["old"]) == (0x1000, 0x11000, bind)
    assert change["new"] == {"policy": "interleave:0-1", "mode": 3, "flags": 0, "nodes": "0-1"}
    assert head["pressure"][1] == {"node": 1, "foreign": 0, "free": 100_000, "low": 1_000, "high": 2_000}
    assert {name for name in COLUMNS if head[name] is not None} == set()
    assert {name for name in HEADS if low[name] is not None} == set()


def copied(shot: Snapshot) -> Snapshot:
    """Equal, with no part of its policies the same object."""
    policies = policies_of(shot)
    wrong = policies.misplaced
    arrays = {name: getattr(policies, name).copy() for name in ("own", "governed", "rule", "units", "huge")}
    columns = {name: getattr(wrong, name).copy() for name in ("vma", "node", "expected", "cause", "reason", "pages")}
    full = replace(policies.pressure, free=policies.pressure.free.copy())
    return with_changed(shot, **arrays, misplaced=replace(wrong, **columns), pressure=full)


@pytest.mark.parametrize("shot", [SHOT, copied(SHOT)])
def test_what_is_as_it_was_is_one_row(shot: Snapshot) -> None:
    (head,) = second(shot)
    assert (head["event"], head["observed"], head["allowed"], head["weights"]) == ("target", True, "0-1", [1, 1])
    assert (head["threads"], head["policy_changes"], head["pressure"]) == (None, None, None)


MOVED = [(1, 0, 1, Cause.MOVED, 1, 2), (1, 1, 0, Cause.MOVED, 1, 2)]


@pytest.mark.parametrize(
    ("first", "shot", "starts"),
    [
        (SHOT, with_changed(SHOT, own=np.array([True, True])), [0x200000]),
        (SHOT, with_changed(SHOT, governed=np.array([False, True])), [0x1000]),
        (SHOT, with_changed(SHOT, units=np.array([16.0, 2.5])), [0x200000]),
        (SHOT, with_changed(SHOT, huge=np.array([1, 2])), [0x1000, 0x200000]),
        (SHOT, with_changed(SHOT, rule=np.array([[8, 8], [0, 3]])), [0x200000]),
        (SHOT, with_changed(SHOT, misplaced=misplaced()), [0x1000]),
        (SHOT, with_changed(SHOT, misplaced=misplaced([(0, 0, 1, Cause.UNKNOWN, -1, 4)])), [0x1000]),
        (SHOT, with_changed(SHOT, misplaced=misplaced([(0, 0, 1, Cause.BEFORE_POLICY, -1, 5)])), [0x1000]),
        (SHOT, with_policies(PLAIN, [(0, 0, 1, Cause.BEFORE_POLICY, -1, 4), *MOVED]), [0x200000]),
        (with_policies(PLAIN, MOVED), with_policies(PLAIN, [*MOVED[:1], (1, 1, 0, Cause.MOVED, 2, 2)]), [0x200000]),
        (with_policies(PLAIN, MOVED), with_policies(PLAIN, misplaced=misplaced(MOVED, (*REASONS, "x"))), []),
        (with_policies(PLAIN, MOVED), with_policies(PLAIN, misplaced=misplaced(MOVED, REASONS[::-1])), []),
        (with_policies(PLAIN, MOVED), with_policies(PLAIN, misplaced=misplaced(MOVED, ("x", "y"))), [0x200000]),
        (PLAIN, SHOT, [0x1000, 0x200000]),
        (SHOT, PLAIN, []),
    ],
)
def test_a_vma_is_written_when_anything_of_its_policies_changed(
    first: Snapshot, shot: Snapshot, starts: list[int]
) -> None:
    assert [row["start"] for row in second(shot, first)[1:]] == starts


def test_misplaced_pages_are_compared_vma_by_vma_when_others_come() -> None:
    """The rows of a VMA are elsewhere in the arrays then."""
    middle = vma(0x100000, policy=INTERLEAVE)
    more = with_policies(
        snapshot([LOW, middle, HIGH], [(12, 4), (1, 1), (0, 3)]),
        [(0, 0, 1, Cause.BEFORE_POLICY, -1, 4), (1, 0, 1, Cause.UNKNOWN, -1, 1), (2, 1, 0, Cause.MOVED, 1, 2)],
    )
    before = with_policies(PLAIN, [(0, 0, 1, Cause.BEFORE_POLICY, -1, 4), (1, 1, 0, Cause.MOVED, 1, 2)])
    assert [row["start"] for row in second(more, before)[1:]] == [0x100000]
    assert [row["start"] for row in second(before, more)[1:]] == [0x100000]


def test_threads_are_written_when_they_changed() -> None:
    more = (*policies_of(SHOT).threads, TaskPolicy(43, b"worker", INTERLEAVE))
    (head,) = second(with_changed(SHOT, threads=more))
    assert [it["thread"] for it in head["threads"]] == [42, 43]
    assert second(with_changed(SHOT, threads=()))[0]["threads"] == []


@pytest.mark.parametrize(
    ("rows", "news"),
    [
        ([(0, 100_000, 1_000, 2_000)] * 2, False),
        ([(0, 100_000, 1_000, 2_000), (0, 87_500, 1_000, 2_000)], False),
        ([(0, 112_500, 1_000, 2_000), (0, 87_500, 1_000, 2_000)], False),
        ([(0, 100_000, 1_000, 2_000), (0, 87_499, 1_000, 2_000)], True),
        ([(1, 100_000, 1_000, 2_000), (0, 100_000, 1_000, 2_000)], True),
        ([(0, 100_000, 1_001, 2_000), (0, 100_000, 1_000, 2_000)], True),
        ([(0, 100_000, 1_000, 2_000), (0, 100_000, 1_000, 1_999)], True),
    ],
)
def test_pressure_is_written_when_it_is_news(rows: list[tuple[int, ...]], news: bool) -> None:
    (head,) = second(with_changed(SHOT, pressure=pressure(rows)))
    assert (head["pressure"] is not None) == news


@pytest.mark.parametrize("free", [(2_000, 1_999), (1_999, 2_000), (1_000, 999), (999, 1_000)])
def test_pressure_is_written_when_free_memory_passes_a_watermark(free: tuple[int, int]) -> None:
    before, after = (with_changed(SHOT, pressure=pressure([(0, it, 1_000, 2_000)] * 2)) for it in free)
    (head,) = second(after, before)
    assert head["pressure"][0]["free"] == free[1]


def test_pressure_is_compared_with_what_was_written_and_not_with_what_was_last() -> None:
    """Or else it could creep away."""
    maker = RowMaker(INFO)
    written = []
    for index, free in enumerate((1000, 900, 850, 800)):
        shot = with_changed(SHOT, pressure=pressure([(0, free, 1, 2)] * 2))
        rows = maker.batch(replace(sample(shot), time=TIME + timedelta(seconds=index))).to_pylist()
        written.append(next(row for row in rows if row["event"] == "target")["pressure"] is not None)
    assert written == [True, False, True, False]


def test_what_was_not_asked_for_is_not_written() -> None:
    info = replace(INFO, policies=False)
    rows = RowMaker(info).batch(sample(SHOT)).to_pylist()
    assert len(rows) == 4
    assert not rows[0].keys() & (COLUMNS | HEADS)
    changed = with_changed(SHOT, own=np.array([False, True]), changes=(CHANGE,))
    assert [row["event"] for row in second(changed, info=info)] == ["target"]


# --- and back ---


def test_changes_belong_to_their_sample(tmp_path: Path) -> None:
    first, *later = (with_changed(SHOT, changes=it) for it in ((CHANGE,), (), (CHANGE, replace(CHANGE, exact=False))))
    round_trip(tmp_path / "x", spaced([sample(first), *map(sample, later), sample(later[0])]))


def test_a_target_that_ended_tells_its_last_changes(tmp_path: Path) -> None:
    last = with_changed(SHOT, changes=(CHANGE,), threads=())
    round_trip(tmp_path / "x", spaced([sample(SHOT), sample(SHOT, ended=(last,)), sample(SHOT)]))


def test_pressure_that_was_no_news_is_as_it_was_before(tmp_path: Path) -> None:
    about = with_changed(SHOT, pressure=pressure([(0, 100_001, 1_000, 2_000)] * 2))
    samples = spaced([sample(SHOT), sample(about)])
    write_recording(tmp_path / "x", samples)
    with open_recording(tmp_path / "x") as read:
        assert differences(read.at(1).only.policies, SHOT.policies) == []


@pytest.mark.parametrize("spelling", [Spelling.HIDDEN, Spelling.BARE])
def test_policies_of_threads_come_back_however_they_are_spelled(tmp_path: Path, spelling: Spelling) -> None:
    """The text alone would say `default`."""
    threads = (TaskPolicy(42, b"x", BALANCING), TaskPolicy(43, b"y", Policy.parse("later policy:0-3")))
    changes = (replace(CHANGE, old=BALANCING), replace(CHANGE, old=threads[1].policy, new=None))
    shot = with_changed(SHOT, threads=threads, changes=changes)
    later = replace(shot, spelling=spelling)
    round_trip(tmp_path / "x", spaced([sample(shot), sample(later), sample(later)]))
    with open_recording(tmp_path / "x") as read:
        said = read.rows("target", columns=["threads"]).column(0).to_pylist()
    assert [it and it[0]["policy"] for it in said] == ["bind=balancing:0-1", BALANCING.text(spelling), None]


def test_what_does_not_change_is_the_same_object(tmp_path: Path) -> None:
    """Also over key frames, which repeat everything."""
    full = replace(SHOT, details=details([(1, 2, 3, 4, 5, 6)] * 2), regions=regions([(0x1000, 12, 4)]))
    more = with_changed(copied(full), units=np.array([1.0, 3.0]))
    touched = replace(more, flows=flows([(0, 0, 1, 1, 1, 0)]), pages=more.pages + 1)
    write_recording(tmp_path / "x", spaced([sample(it) for it in (full, copied(full), more, touched, more)], 40))
    with open_recording(tmp_path / "x") as recording:
        shots = [it.only for it in recording.samples()]
    one, two, three, four, five = (policies_of(it) for it in shots)
    assert one is two
    assert three is four is five
    assert one.misplaced is three.misplaced
    assert one.threads is three.threads
    assert one.units is not three.units
    assert shots[0].details is shots[1].details
    assert shots[0].vmas is shots[4].vmas
    assert shots[0].regions is shots[4].regions


def test_vmas_that_come_and_go_keep_their_policies(tmp_path: Path) -> None:
    """With the same numbers for another VMA, too: nothing may be taken for the same."""
    wrong = [(0, 0, 1, Cause.SHARED, -1, 4)]
    one = with_policies(snapshot([LOW], [(12, 4)]), wrong)
    other = with_policies(snapshot([vma(0x300000, policy=INTERLEAVE)], [(12, 4)]), wrong)
    both = with_policies(snapshot([*one.vmas, *other.vmas], [(12, 4), (12, 4)]), [*wrong, (1, *wrong[0][1:])])
    story = [one, both, other, one, replace(one, policies=None), one, both]
    round_trip(tmp_path / "x", spaced(map(sample, story)))
    round_trip(tmp_path / "y", spaced(map(sample, story), 61))


def test_files_with_other_nodes_and_reasons(tmp_path: Path) -> None:
    moved = [(0, 0, 1, Cause.MOVED, 1, 4)]
    one = with_policies(snapshot([LOW], [(12, 4)], (0, 1)), moved, weights=(3, 5))
    far = [(0, 7, 0, Cause.MOVED, 0, 4)]
    other = with_policies(snapshot([LOW], [(4, 12)], (0, 7)), misplaced=misplaced(far, ("hotplug",)), weights=(3, 9))
    bare = snapshot([LOW], [(1, 1)], (0, 7))
    for hour, shot in enumerate((one, other, bare)):
        write_recording(tmp_path / f"{hour}.parquet", [replace(sample(shot), time=TIME + timedelta(hours=hour))])
    with open_recording(tmp_path) as recording:
        assert recording.info.policies
        *found, last = (it.only.policies for it in recording.samples())
        assert last is None
        assert recording.at(2).only.policies is None
        rows = recording.rows("vma", columns=["own", "rule"]).to_pylist()
    assert rows[2] == {"own": None, "rule": None}
    first, then = (it for it in found if it is not None)
    assert (first.rule.tolist(), then.rule.tolist()) == ([[8, 8, 0]], [[4, 0, 12]])
    assert (first.weights, then.weights) == ((3, 5, 1), (3, 1, 9))
    assert (first.misplaced.reasons, then.misplaced.reasons) == (REASONS, ("hotplug",))
    assert (then.misplaced.node.tolist(), then.pressure.free.tolist()) == ([7], [100_000, 0, 100_000])


def test_a_killed_recorder_leaves_its_policies(tmp_path: Path) -> None:
    path = str(tmp_path / "x.parquet")
    samples = spaced([sample(SHOT), sample(with_changed(SHOT, changes=(CHANGE,))), sample(SHOT)])
    recorder = Recorder(path, INFO)
    for one in samples:
        recorder.write(one)
    assert recorder._spool is not None
    recorder._spool.close()
    recorder._claim.close()
    assert "recovered 3 samples" in str(recover(path))
    with open_recording(path) as read:
        assert [differences(*pair) for pair in zip(read.samples(), samples, strict=True)] == [[]] * 3


# --- other versions, and damage ---


def rewritten(path: Path, change: Callable[[Any], Any]) -> None:
    table = pq.read_table(path)
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), path)


def test_a_cause_that_a_later_version_knows_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_recording(path, [sample(SHOT)])

    def later(table: Any) -> Any:
        at = table.column_names.index("misplaced")
        lists = table.column(at).to_pylist()
        lists = [it and [element | {"cause": "sunspots"} for element in it] for it in lists]
        return table.set_column(at, "misplaced", pa.array(lists, table.column(at).type))

    rewritten(path, later)
    with open_recording(path) as read:
        assert policies_of(read.at(0).only).misplaced.cause.tolist() == [Cause.UNKNOWN]


def test_nodes_that_the_file_does_not_have_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_recording(path, [sample(SHOT)])

    def elsewhere(table: Any) -> Any:
        at = table.column_names.index("pressure")
        lists = table.column(at).to_pylist()
        lists = [it and [element | {"node": element["node"] + 1} for element in it] for it in lists]
        return table.set_column(at, "pressure", pa.array(lists, table.column(at).type))

    rewritten(path, elsewhere)
    with open_recording(path) as read, pytest.raises(NumatraceError, match="cannot be what numatrace wrote"):
        read.at(0)


READS: dict[str, Callable[[Recording], list[Sample]]] = {
    "all": lambda read: list(read.samples()),
    "one": lambda read: [read.at(2)],
}


@pytest.mark.parametrize("column", sorted(COLUMNS | HEADS))
@pytest.mark.parametrize("step", ["all", "one"])
def test_without_a_column_it_is_an_error_or_a_sample(tmp_path: Path, column: str, step: str) -> None:
    path = tmp_path / "x"
    samples = spaced([sample(SHOT), sample(with_changed(SHOT, changes=(CHANGE,))), sample(SHOT)])
    write_recording(path, samples, info_of(samples))
    rewritten(path, lambda table: table.drop_columns([column]))
    with open_recording(path) as read:
        if column in ("threads", "pressure"):
            with pytest.raises(NumatraceError, match="cannot be what numatrace wrote"):
                READS[step](read)
        else:
            found = READS[step](read)
            assert [it.only.policies is None for it in found] == [column == "observed"] * len(found)

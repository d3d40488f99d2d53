"""The Python interface: the same samples, seen live and from a recording, give the same frames, and the right ones."""

from __future__ import annotations

import gc
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

import tracer
from tests.unit.fake_session import Script, session_module
from tests.unit.recordings import write_recording
from tests.unit.snapshots import TIME, details, faults, flows, sample, snapshot, snapshots, vma
from tracer.api import frames
from tracer.errors import HooksMissing
from tracer.kernel.procfs import TargetGone
from tracer.model.policy import Mode, Policy, Spelling
from tracer.model.sample import Sample
from tracer.model.snapshot import Snapshot, Trust
from tracer.model.vma import Kind
from tracer.record.rows import RowMaker
from tracer.record.schema import Info, arrow_schema

BASE = 0x7F0000000000
INTERLEAVE = Policy(Mode.INTERLEAVE, nodes=(0, 2))
HUGE = vma(BASE + (1 << 30), 1024, kind=Kind.FILE, path=b"/dev/hugepages/x", hugetlb=True, page_kb=2048)
PLAIN = vma(BASE, 16, policy=INTERLEAVE)
ODD = vma(BASE + (1 << 20), 4, kind=Kind.FILE, path=b"/tmp/\xff\x1b[1m caf\xc3\xa9")
NODES = (0, 2)
NEW, HINT = 0, 3

Open = Callable[[Sequence[Sample]], tracer.Placements]


def at(seconds: float) -> datetime:
    return TIME + timedelta(seconds=seconds)


def story() -> list[Sample]:
    """Three samples of two processes: pages move, one process ends, and its last faults are told."""
    common: dict[str, Any] = {"node_ids": NODES, "flows": flows(), "faults": faults()}
    first = snapshot([PLAIN, ODD, HUGE], [(8, 0), (3, 1), (0, 2)], time=at(0), **common)
    other = snapshot([PLAIN], [(5, 5)], pid=43, comm=b"other", time=at(0), **common)
    moved = replace(
        snapshot([PLAIN, ODD, HUGE], [(4, 4), (3, 1), (2, 0)], time=at(1), **common),
        flows=flows([(0, 0, 2, 1, 4, 0), (2, 2, 0, 1, 2, 1), (-1, 0, 2, 2, 7, 0)]),
        faults=faults([(0, 0, 0, NEW, 0, 8), (-1, 2, -1, HINT, 0, 3)]),
        trust=Trust(settling=1, lost=5, oldest_read_s=0.5),
    )
    gone = replace(other, time=at(1), faults=faults([(0, 2, 2, NEW, 0, 9)]))
    return [
        sample(first, other, time=at(0)),
        sample(moved, time=at(1), ended=(gone,), untraced=2),
        sample(replace(moved, time=at(2.5), flows=flows(), faults=faults()), time=at(2.5), untraced=2),
    ]


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Opens samples as those of an attached process."""
    opened: list[tracer.Attached] = []

    def attach(samples: Sequence[Sample]) -> tracer.Attached:
        monkeypatch.setitem(sys.modules, "tracer.session", session_module(Script(steps=samples)))
        shots = samples[0].snapshots
        has_details = any(shot.details is not None for shot in shots)
        given = tracer.attach([shot.pid for shot in shots] or [42], full=has_details)
        for _ in samples[1:]:
            given.refresh()
        opened.append(given)
        return given

    yield attach
    for it in opened:
        it.close()


def write(path: Path, samples: Sequence[Sample], **fields: Any) -> Path:
    """A recording of the samples, as the recorder would write it."""
    info = Info(node_ids=samples[0].node_ids, flows=True, faults=True, **fields)
    maker = RowMaker(info)
    with pq.ParquetWriter(path, arrow_schema(info)) as writer:
        for one in samples:
            writer.write_batch(maker.batch(one))
    return path


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[Open]:
    """Opens samples as those of a recording."""
    opened: list[tracer.Recorded] = []

    def record(samples: Sequence[Sample]) -> tracer.Recorded:
        has_details = any(shot.details is not None for shot in samples[0].snapshots)
        path = write(tmp_path / f"{len(opened)}.parquet", samples, details=has_details)
        opened.append(tracer.open(path))
        return opened[-1]

    yield record
    for it in opened:
        it.close()


@pytest.fixture(params=["live", "recorded"])
def opened(request: pytest.FixtureRequest) -> Open:
    opener: Open = request.getfixturevalue(request.param)
    return opener


# --- the frames ---


def test_vmas_are_those_of_the_last_sample(opened: Open) -> None:
    frame = opened(story()).vmas()
    assert frame.columns.tolist() == [
        *("time", "pid", "start", "end", "size_bytes", "perms", "kind", "name", "policy", "huge", "page_kb", "pages"),
        *("N0", "N2"),
    ]
    assert frame["time"].tolist() == [pd.Timestamp(at(2.5))] * 3
    assert frame["pid"].tolist() == [42] * 3
    assert frame["start"].tolist() == [PLAIN.start, ODD.start, HUGE.start]
    assert frame["size_bytes"].tolist() == [16 * 4096, 4 * 4096, 1024 * 4096]
    assert (frame["end"] - frame["start"]).tolist() == frame["size_bytes"].tolist()
    assert frame["kind"].tolist() == ["anon", "file", "file"]
    assert frame["name"].tolist() == ["", "/tmp/\\xff\x1b[1m café", "/dev/hugepages/x"]
    assert frame["policy"].tolist() == ["interleave:0,2", "default", "default"]
    assert frame["huge"].tolist() == [False, False, True]
    assert frame["page_kb"].tolist() == [4, 4, 2048]
    assert frame[["pages", "N0", "N2"]].to_numpy().tolist() == [[8, 4, 4], [4, 3, 1], [2, 2, 0]]


def test_vmas_at_a_moment_have_all_processes(opened: Open) -> None:
    frame = opened(story()).vmas(at="start")
    assert frame["pid"].tolist() == [42, 42, 42, 43]
    assert frame["N0"].tolist() == [8, 3, 0, 5]


def test_placement_has_a_row_for_each_node_with_pages(opened: Open) -> None:
    frame = opened(story()).placement(at=0)
    assert frame.columns.tolist() == ["time", "pid", "start", "name", "policy", "node", "pages", "bytes"]
    rows = frame[["pid", "start", "node", "pages", "bytes"]].to_numpy().tolist()
    assert rows == [
        [42, PLAIN.start, 0, 8, 8 << 12],
        [42, ODD.start, 0, 3, 3 << 12],
        [42, ODD.start, 2, 1, 1 << 12],
        [42, HUGE.start, 2, 2, 2 << 21],
        [43, PLAIN.start, 0, 5, 5 << 12],
        [43, PLAIN.start, 2, 5, 5 << 12],
    ]
    assert frame["policy"].tolist() == ["interleave:0,2", "default", "default", "default", *["interleave:0,2"] * 2]


def test_totals_are_by_time(opened: Open) -> None:
    frame = opened(story()).totals()
    assert frame.index.equals(pd.DatetimeIndex([at(0), at(1), at(2.5)], name="time"))
    assert frame.index.name == "time"
    assert str(frame.index.dtype).endswith(", UTC]")
    assert frame.to_dict("list") == {"N0": [16, 9, 9], "N2": [8, 5, 5]}


def test_totals_of_each_process(opened: Open) -> None:
    frame = opened(story()).totals(by="pid")
    assert frame.index.names == ["time", "pid"]
    assert frame.xs(42, level="pid").to_numpy().tolist() == [[11, 3], [9, 5], [9, 5]]
    assert frame.xs(43, level="pid").to_numpy().tolist() == [[5, 5]]


def test_flows_name_the_vma_and_count_bytes_by_its_page_size(opened: Open) -> None:
    frame = opened(story()).flows()
    assert frame.columns.tolist() == [
        *("time", "pid", "start", "end", "name", "source", "destination", "reason", "pages", "failed", "bytes")
    ]
    assert set(frame["time"]) == {pd.Timestamp(at(1))}
    rows = frame[["start", "end", "name", "source", "destination", "reason", "pages", "failed", "bytes"]]
    assert sorted(rows.itertuples(index=False, name=None)) == [
        (-1, -1, "", 0, 2, "numa_misplaced", 7, 0, 7 << 12),
        (PLAIN.start, PLAIN.end, "", 0, 2, "syscall", 4, 0, 4 << 12),
        (HUGE.start, HUGE.end, "/dev/hugepages/x", 2, 0, "syscall", 2, 1, 2 << 21),
    ]


def test_faults_are_told_of_processes_that_ended_too(opened: Open) -> None:
    frame = opened(story()).faults()
    assert frame.columns.tolist() == [
        *("time", "pid", "start", "end", "name", "cpu_node", "page_node", "kind", "thread", "count")
    ]
    rows = frame[["pid", "start", "cpu_node", "page_node", "kind", "thread", "count"]]
    assert sorted(rows.itertuples(index=False, name=None)) == [
        (42, -1, 2, -1, "hint", 0, 3),
        (42, PLAIN.start, 0, 0, "new", 0, 8),
        (43, PLAIN.start, 2, 2, "new", 0, 9),
    ]


def test_what_happened_between_two_moments(opened: Open) -> None:
    placements = opened(story())
    assert len(placements.flows(since=0, until=1)) == 3
    assert len(placements.flows(until=0)) == 0
    assert len(placements.flows(since=1)) == 0
    assert len(placements.faults(since="start", until=at(1.5))) == 3
    assert len(placements.faults(since="end")) == 0
    assert len(placements.faults(since=2, until=0)) == 0


def test_trust_says_what_to_believe_and_what_it_cost(opened: Open) -> None:
    frame = opened(story()).trust()
    assert frame["pid"].tolist() == [42, 43, 42, 42]
    assert frame["comm"].tolist() == ["target", "other", "target", "target"]
    assert frame["settling"].tolist() == [0, 0, 1, 1]
    assert frame["lost"].tolist() == [0, 0, 5, 5]
    assert frame["oldest_read_s"].tolist() == [0, 0, 0.5, 0.5]
    assert set(frame["hooks"]) == {"tracepoint"}
    assert set(frame["cpu_ns"]) == {1_234_567}
    assert frame["untraced"].tolist() == [0, 0, 2, 2]


FRAMES: dict[str, Callable[[tracer.Placements], pd.DataFrame]] = {
    "vmas": lambda it: it.vmas(),
    "vmas_before": lambda it: it.vmas(at=0),
    "placement": lambda it: it.placement(),
    "totals": lambda it: it.totals(),
    "totals_by_pid": lambda it: it.totals(by="pid"),
    "flows": lambda it: it.flows(),
    "faults": lambda it: it.faults(),
    "trust": lambda it: it.trust(),
}


@pytest.mark.parametrize("frame_of", FRAMES.values(), ids=FRAMES)
def test_live_and_recorded_are_one(
    live: Open, recorded: Open, frame_of: Callable[[tracer.Placements], pd.DataFrame]
) -> None:
    samples = story()
    one, other = frame_of(live(samples)), frame_of(recorded(samples))
    names = [name for name in one.columns if name not in ("time", "count")]
    # Within a sample a recording has its own order of rows.
    keys = [name for name in names if name[:1] != "N" or name == "name"]
    if isinstance(one.index, pd.RangeIndex):
        one, other = (it.sort_values(["time", *keys], ignore_index=True) for it in (one, other))
    pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize("frame_of", FRAMES.values(), ids=FRAMES)
def test_without_a_process_columns_and_dtypes_stay(
    opened: Open, frame_of: Callable[[tracer.Placements], pd.DataFrame]
) -> None:
    full, empty = frame_of(opened(story())), frame_of(opened([sample(time=TIME, node_ids=NODES)]))
    assert len(full)
    assert empty.dtypes.to_dict() == full.dtypes.to_dict()
    assert empty.columns.tolist() == full.columns.tolist()
    if empty.index.name == "time":
        assert empty.to_numpy().tolist() == [[0, 0]]
    else:
        assert not len(empty)


@pytest.mark.parametrize("frame_of", FRAMES.values(), ids=FRAMES)
def test_dtypes_are_those_of_the_documentation(
    opened: Open, frame_of: Callable[[tracer.Placements], pd.DataFrame]
) -> None:
    text, moment = pd.Series(["x"]).dtype, pd.Series(pd.DatetimeIndex(np.array([0], "M8[us]")).tz_localize("UTC")).dtype
    others = {"time": moment, "huge": np.dtype(bool), "oldest_read_s": np.dtype(float)}
    others |= dict.fromkeys(("perms", "kind", "name", "policy", "reason", "comm", "hooks", "reader"), text)
    for name, dtype in frame_of(opened(story())).dtypes.items():
        assert dtype == others.get(str(name), np.dtype(np.int64)), name


def test_a_full_placement_has_the_details(opened: Open) -> None:
    shot = snapshot([PLAIN, ODD], [(8, 0), (3, 1)], NODES, details=details([(1, 2, 3, 4, 5, 6), (7, 8, 9, 10, 11, 12)]))
    frame = opened([sample(shot)]).vmas()
    names = ["anon", "dirty", "mapmax", "swapcache", "active", "writeback"]
    assert frame[names].to_numpy().tolist() == [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]]
    assert set(frame[names].dtypes) == {np.dtype(np.int64)}


def test_policies_are_spelled_as_the_kernel_did(opened: Open) -> None:
    balancing = vma(policy=Policy(Mode.BIND, 1 << 13, (0, 2)))
    shot = snapshot([balancing], [(1, 0)], NODES, spelling=Spelling.HIDDEN)
    assert opened([sample(shot)]).vmas()["policy"].tolist() == ["default"]


def test_addresses_above_the_users_half_are_no_error(opened: Open) -> None:
    """int64 says -10485760 for the vsyscall page; nothing else is there."""
    top = vma(0xFFFFFFFFFF600000, 1)
    shot = snapshot([top], [(1, 0)], NODES, flows=flows([(0, 0, 2, 1, 4, 0)]), faults=faults([(0, 0, 0, NEW, 0, 8)]))
    placements = opened([sample(shot)])
    for frame in (placements.vmas(), placements.placement(), placements.flows(), placements.faults()):
        assert frame["start"].tolist() == [-10485760]
    assert placements.vmas()["size_bytes"].tolist() == [4096]


# --- moments ---


@pytest.mark.parametrize(
    ("moment", "index"),
    [
        (None, 2),
        (0, 0),
        (-1, 2),
        (-3, 0),
        (np.int64(1), 1),
        ("start", 0),
        ("end", 2),
        ("+0s", 0),
        ("+1s", 1),
        ("+1500ms", 1),
        ("+2.4s", 1),
        ("+0m2.5s", 2),
        ("-0s", 2),
        ("-1s", 1),
        ("-0.041m", 0),
        (at(0), 0),
        (at(0.99), 0),
        (at(1), 1),
        (at(9999), 2),
        (pd.Timestamp(at(1.5)), 1),
        (pd.Timestamp(at(1)).tz_convert("Asia/Tokyo"), 1),
        (np.datetime64("2025-03-01T12:00:01.25"), 1),
        ("2025-03-01T12:00:00.25Z", 0),
        ("2025-03-01T12:00:01Z", 1),  # the second that was written
        ("2025-03-01T12:00:01.0Z", 0),
        ("2025-03-01T13:00:01.25+01:00", 1),
        ("2025-03-01 12:00:02+00:00", 2),
        ("2025-03-01T12:00Z", 0),
        (" 2025-03-01T12:00:01Z ", 1),
    ],
)
def test_moments(opened: Open, moment: Any, index: int) -> None:
    assert opened(story()).sample(moment).time == story()[index].time


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        (3, "no sample 3"),
        (-4, "no sample -4"),
        (at(-0.001), "before the first sample"),
        ("2025-03-01T11:59:59Z", "not within the recording"),
        ("-3s", "not within the recording"),
        ("+1h", "not within the recording"),
        ("-99999999999999999999d", "not a moment"),
        (datetime(2025, 3, 1, 12), "no time zone"),
        (pd.Timestamp("2025-03-01 12:00"), "no time zone"),
        ("2025-03-01", "not a moment"),
        (np.datetime64("NaT"), "no time"),
        (pd.NaT, "no time"),
        ("yesterday", "'yesterday' is not a moment"),
        ("", "'' is not a moment"),
        ("+s", "is not a moment"),
        ("90s", "is not a moment"),
    ],
)
def test_moments_that_are_none(opened: Open, moment: Any, words: str) -> None:
    with pytest.raises(tracer.NumatraceError, match=words):
        opened(story()).vmas(at=moment)


@pytest.mark.parametrize("moment", [True, 1.5, b"start", [0]])
def test_what_is_no_moment_at_all(opened: Open, moment: Any) -> None:
    with pytest.raises(TypeError):
        opened(story()).vmas(at=moment)


def test_an_unknown_by(opened: Open) -> None:
    with pytest.raises(ValueError, match="'node'"):
        opened(story()).totals(by="node")  # type: ignore[arg-type]


# --- what both are ---


def test_times_and_nodes(opened: Open) -> None:
    placements = opened(story())
    assert placements.times.tolist() == [pd.Timestamp(at(it)) for it in (0, 1, 2.5)]
    assert len(placements) == 3
    assert placements.node_ids == placements.info.node_ids == NODES
    assert (placements.info.flows, placements.info.faults, placements.info.details) == (True, True, False)
    assert "3 samples" in repr(placements)


def test_closing_twice_is_harmless(opened: Open) -> None:
    with opened(story()) as placements:
        placements.close()


# --- recordings ---


def test_flows_that_were_not_recorded_are_not_just_none(tmp_path: Path) -> None:
    info = Info(node_ids=NODES)
    maker = RowMaker(info)
    with pq.ParquetWriter(tmp_path / "x.parquet", arrow_schema(info)) as writer:
        writer.write_batch(maker.batch(sample(snapshot([PLAIN], [(1, 1)], NODES))))
    with tracer.open(tmp_path / "x.parquet") as recording:
        assert recording.totals().to_numpy().tolist() == [[1, 1]]
        for frame_of in (recording.flows, recording.faults):
            with pytest.raises(tracer.NumatraceError, match="were not asked for"):
                frame_of()


@settings(max_examples=25, deadline=None)
@given(snapshots())
def test_any_placement_comes_back_as_it_was(shot: Snapshot) -> None:
    one = sample(shot)
    has_details = shot.details is not None
    with tempfile.TemporaryDirectory() as directory:
        write_recording(Path(directory) / "x.parquet", [one])
        with tracer.open(Path(directory) / "x.parquet") as recording:
            expected = frames.vmas(one, shot.node_ids, has_details)
            pd.testing.assert_frame_equal(recording.vmas(), expected)
            assert recording.totals().iloc[0].tolist() == expected[recording.totals().columns].sum().tolist()


def test_samples_come_one_by_one(recorded: Open) -> None:
    recording = recorded(story())
    assert isinstance(recording, tracer.Recorded)
    assert [it.time for it in recording.samples()] == [at(0), at(1), at(2.5)]
    assert [it.time for it in recording.samples("+1s", 1)] == [at(1)]


def test_what_is_no_recording(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nonsense")
    for name in ("x.parquet", "none.parquet"):
        with pytest.raises(tracer.NumatraceError):
            tracer.open(tmp_path / name)


# --- attached processes ---


def attached(monkeypatch: pytest.MonkeyPatch, script: Script, **options: Any) -> tracer.Attached:
    monkeypatch.setitem(sys.modules, "tracer.session", session_module(script))
    return tracer.attach(42, **options)


def shots(count: int) -> list[Sample]:
    return [sample(snapshot([PLAIN], [(index, 0)], NODES, time=at(index)), time=at(index)) for index in range(count)]


def test_attach_hands_on_what_it_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(steps=shots(1))
    options = {"threads": True, "faults": False, "full": True, "follow_forks": True, "hooks": "none", "seed": "walk"}
    live = attached(monkeypatch, script, **options, reader="pagemap", audit_cpu=0.5)
    (_, selection, given, held), started, *_ = script.events
    assert (selection.pids, selection.follow_forks, held, started) == ((42,), True, False, "start")
    assert (given.hooks, given.reader, given.seed, given.audit_cpu) == ("none", "pagemap", "walk", 0.5)
    assert (given.details, given.flows, given.faults, given.threads) == (True, True, True, True)
    assert live.info.targets == ("PID 42",)


def test_only_the_last_samples_are_kept_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    live = attached(monkeypatch, Script(steps=shots(5)), keep=2)
    for _ in range(4):
        live.refresh()
    assert live.totals()["N0"].tolist() == [0, 1, 2, 3, 4]
    assert live.vmas(at=3)["N0"].tolist() == [3]
    assert live.snapshot.pages.tolist() == [[4, 0]]
    with pytest.raises(tracer.NumatraceError, match="of sample 2 only sums are kept"):
        live.vmas(at=2)


def test_kept_samples_share_what_did_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    live = attached(monkeypatch, Script(steps=[shots(1)[0], shots(1)[0]])).refresh()
    one, two = (live.sample(index).only for index in (0, 1))
    assert one.pages is two.pages
    assert one.vmas is two.vmas


def test_watching_ends_with_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [*shots(3), sample(ended=(snapshot(node_ids=NODES, time=at(3)),), time=at(3), node_ids=NODES)]
    script = Script(steps=[*steps, TargetGone("process 42 has exited")])
    live = attached(monkeypatch, script)
    assert [len(now) for now in live.watch(every=0.001)] == [2, 3, 4]
    assert len(live.vmas()) == 0
    assert live.vmas(at=-2)["N0"].tolist() == [2]
    with pytest.raises(tracer.TargetGone):
        live.refresh()


def test_watching_keeps_its_beat_and_its_duration(monkeypatch: pytest.MonkeyPatch) -> None:
    from tracer.api.attached import Attached
    from tracer.model.selection import Selection

    now = [100.0]

    def wait(seconds: float) -> bool:
        now[0] += seconds
        return True

    def late() -> Sample:
        now[0] += 0.3
        return shots(1)[0]

    script = Script(steps=[late], wait=wait)
    module = session_module(script)
    monkeypatch.setitem(sys.modules, "tracer.session", module)
    live = Attached(Selection((42,)), module.Options(), 1.0, clock=lambda: now[0])
    begin = now[0]
    ticks = [round(now[0] - 0.3 - begin, 6) for _ in live.watch(duration=3.5)]
    assert ticks == [1, 2, 3, 3.5]
    live.close()


def test_wrong_arguments_are_refused_before_anything_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(steps=shots(1))
    monkeypatch.setitem(sys.modules, "tracer.session", session_module(script))
    for wrong in (0, -1, 1 << 31):
        with pytest.raises(ValueError, match="PID"):
            tracer.attach(wrong)
    odds: list[Any] = [True, "1", [], 1.0]
    for odd in odds:
        with pytest.raises(TypeError):
            tracer.attach(odd)
    for options in ({"every": 0}, {"every": math.nan}, {"keep": 0}):
        with pytest.raises(ValueError, match=r"above 0|at least 1"):
            tracer.attach(1, **options)
    assert script.events == []


def test_watch_refuses_nonsense_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    live = attached(monkeypatch, Script(steps=shots(1)))
    for options in ({"every": 0.0}, {"duration": -1.0}):
        with pytest.raises(ValueError, match="above 0"):
            live.watch(**options)


def test_after_close_what_was_told_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(steps=shots(2), notes=["polling pagemap instead"])
    live = attached(monkeypatch, script)
    live.close()
    assert script.events[-1] == "close"
    assert live.totals()["N0"].tolist() == [0]
    assert live.notes == ("polling pagemap instead",)
    assert "closed" in repr(live)
    assert not live.wait(1)
    with pytest.raises(tracer.NumatraceError, match="watched no more"):
        live.refresh()


def test_what_is_forgotten_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(steps=shots(1))
    attached(monkeypatch, script)
    gc.collect()
    assert script.events[-1] == "close"


def test_a_failed_first_look_leaves_nothing_attached(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(steps=[tracer.NumatraceError("no", "do something")])
    with pytest.raises(tracer.NumatraceError) as caught:
        attached(monkeypatch, script)
    assert script.events[-1] == "close"
    assert caught.value.__notes__ == ["do something"]


def test_without_hooks_the_way_to_do_without_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(tracer.NumatraceError) as caught:
        attached(monkeypatch, Script(steps=[HooksMissing("no hooks", "be root")]))
    assert caught.value.__notes__ == ["be root", "or without what they tell: attach(pid, flows=False, faults=False)"]


def test_a_clock_that_is_set_back_does_not_stop_time(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [shots(1)[0], replace(shots(1)[0], time=datetime(2020, 1, 1, tzinfo=UTC))]
    live = attached(monkeypatch, Script(steps=steps)).refresh()
    assert live.times.is_monotonic_increasing
    assert live.times.is_unique


# --- the package ---


def test_importing_the_package_is_instant() -> None:
    heavy = ("numpy", "pandas", "pyarrow", "bcc", "tracer.session", "tracer.api")
    ask = f"import sys, tracer; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_name_that_does_not_exist() -> None:
    assert set(tracer.__all__) <= set(dir(tracer))
    assert all(getattr(tracer, name) is not None for name in tracer.__all__)
    with pytest.raises(AttributeError, match="attatch"):
        tracer.attatch  # type: ignore[attr-defined] # noqa: B018

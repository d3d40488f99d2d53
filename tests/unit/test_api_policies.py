"""Policies as DataFrames: live and from a recording they are the same, and say what the samples say."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import tracer
from tests.unit.fake_session import Script, session_module
from tests.unit.recordings import with_policies, write_recording
from tests.unit.snapshots import REASONS, TIME, sample, snapshot, vma
from tracer.model.cause import Cause
from tracer.model.policies import PolicyChange, TaskPolicy
from tracer.model.policy import DEFAULT, F_NUMA_BALANCING, Mode, Policy, Spelling
from tracer.model.sample import Sample
from tracer.model.verdict import findings
from tracer.model.vma import Kind
from tracer.record.schema import Info

DOCS = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text()
NODES = (0, 2)
BASE = 0x7F0000000000
INTERLEAVE, BIND = Policy(Mode.INTERLEAVE, nodes=NODES), Policy(Mode.BIND, nodes=(2,))
BALANCING = Policy(Mode.BIND, F_NUMA_BALANCING, NODES)
SPREAD = vma(BASE, 4096, policy=INTERLEAVE, path=b"[anon:\xff]")
BOUND = vma(BASE + (1 << 30), 512, policy=BIND)
HUGE = vma(BASE + (2 << 30), 1 << 18, INTERLEAVE, Kind.FILE, b"/dev/hugepages/x", True, 2048)
EMPTY, PLAIN = vma(BASE + (3 << 30), 16), vma(BASE + (4 << 30), 16)
LINE = (SPREAD, BOUND, HUGE, EMPTY, PLAIN)
ELSEWHERE = [
    (0, 0, 2, Cause.BEFORE_POLICY, -1, 900),
    (0, 0, 2, Cause.MOVED, 2, 100),
    (1, 0, 2, Cause.NODE_FULL, -1, 12),
    (2, 0, 2, Cause.UNKNOWN, -1, 3),
]
SET = PolicyChange(TIME, True, 43, BASE, BASE + 4096, None, INTERLEAVE, "mbind")
TURNED = PolicyChange(TIME + timedelta(milliseconds=1), False, 42, 0, 0, BALANCING, DEFAULT)

Open = Callable[[Sequence[Sample]], tracer.Placements]


def at(seconds: float) -> datetime:
    return TIME + timedelta(seconds=seconds)


def story() -> list[Sample]:
    """A policy is set too late in one of two processes; the other one changes its own, and ends."""
    threads = (TaskPolicy(42, b"main", DEFAULT), TaskPolicy(43, b"\xff", BALANCING))
    shot = with_policies(
        snapshot(LINE, [(3048, 1048), (12, 500), (8, 2), (0, 0), (5, 0)], NODES), ELSEWHERE, threads=threads
    )
    other = with_policies(snapshot([PLAIN], [(1, 1)], NODES, pid=50, comm=b"other"))
    set_late = replace(shot, policies=replace(shot.policies, changes=(SET,)), time=at(1))  # type: ignore[type-var]
    gone = replace(other, policies=replace(other.policies, changes=(TURNED,)), time=at(1))  # type: ignore[type-var]
    return [
        sample(shot, other),
        sample(set_late, ended=(gone,), time=at(1)),
        sample(replace(shot, time=at(2)), time=at(2)),
    ]


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    opened: list[tracer.Attached] = []

    def attach(samples: Sequence[Sample]) -> tracer.Attached:
        monkeypatch.setitem(sys.modules, "tracer.session", session_module(Script(steps=samples)))
        given = tracer.attach(42, policies=True)
        for _ in samples[1:]:
            given.refresh()
        opened.append(given)
        return given

    yield attach
    for it in opened:
        it.close()


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[Open]:
    opened: list[tracer.Recorded] = []

    def record(samples: Sequence[Sample]) -> tracer.Recorded:
        path = tmp_path / f"{len(opened)}.parquet"
        write_recording(path, samples, Info(node_ids=NODES, reasons=REASONS, policies=True))
        opened.append(tracer.open(path))
        return opened[-1]

    yield record
    for it in opened:
        it.close()


@pytest.fixture(params=["live", "recorded"])
def opened(request: pytest.FixtureRequest) -> Open:
    opener: Open = request.getfixturevalue(request.param)
    return opener


# --- findings ---


def test_policies_are_the_findings(opened: Open) -> None:
    frame = opened(story()).policies()
    found = findings(story()[2].only)
    assert frame["start"].tolist() == [SPREAD.start, BOUND.start, HUGE.start, PLAIN.start]
    assert frame["end"].tolist() == [SPREAD.end, BOUND.end, HUGE.end, PLAIN.end]
    assert frame["name"].tolist() == ["[anon:\\xff]", "", "/dev/hugepages/x", ""]
    assert frame["policy"].tolist() == ["interleave:0,2", "bind:2", "interleave:0,2", "default"]
    assert frame["own"].tolist() == [True, True, True, False]
    assert frame["usable"].tolist() == ["0,2", "2", "0,2", ""]
    assert frame["promise"].tolist() == ["spread", "within", "spread", "touch"]
    assert frame["pages"].tolist() == [4096, 512, 10, 5]
    assert frame[["N0", "N2"]].to_numpy().tolist() == [[3048, 1048], [12, 500], [8, 2], [5, 0]]
    assert frame[["E0", "E2"]].to_numpy()[0].tolist() == [2048, 2048]
    assert frame[["E0", "E2"]].to_numpy()[3].tolist() == [-1, -1]
    assert frame[["D0", "D2"]].to_numpy()[:2].tolist() == [[1000, -1000], [12, -12]]
    assert frame["verdict"].tolist() == [it.verdict.value for it in found]
    assert frame["verdict"].tolist()[::3] == ["skewed", "no policy"]
    assert frame["excess"].tolist() == [1000, 12, 3, 0]
    assert frame["units"].tolist() == [it.units for it in found]
    assert frame["why"].tolist() == [it.why for it in found]
    assert frame["p_value"][0] < 0.001
    assert np.isnan(frame["p_value"][3])


def test_limits_decide_what_is_skewed(opened: Open) -> None:
    placements = opened(story())
    assert placements.policies(tolerance=0.3)["verdict"][0] == "as promised"
    assert placements.policies(significance=0)["verdict"][0] != "skewed"
    for wrong in ({"significance": 2}, {"tolerance": -0.1}, {"tolerance": float("nan")}):
        with pytest.raises(ValueError, match="from 0 to 1"):
            placements.policies(**wrong)


def test_a_moment_has_all_processes(opened: Open) -> None:
    placements = opened(story())
    assert placements.policies(at=0)["pid"].tolist() == [42] * 4 + [50]
    assert placements.policies(at=1)["pid"].tolist() == [42] * 4
    assert placements.policies(at=0)["time"].tolist() == [pd.Timestamp(TIME)] * 5


# --- causes ---


def test_causes_have_the_node_that_the_policy_gives(opened: Open) -> None:
    frame = opened(story()).causes()
    rows = frame[["start", "cause", "reason", "node", "expected", "pages", "bytes"]].itertuples(index=False, name=None)
    assert sorted(rows) == [
        (SPREAD.start, "before-policy", "", 0, 2, 900, 900 << 12),
        (SPREAD.start, "moved", "numa_misplaced", 0, 2, 100, 100 << 12),
        (BOUND.start, "node-full", "", 0, 2, 12, 12 << 12),
        (HUGE.start, "unknown", "", 0, 2, 3, 3 << 21),
    ]
    assert set(frame["name"]) == {"[anon:\\xff]", "", "/dev/hugepages/x"}
    assert frame.groupby("start")["pages"].sum()[SPREAD.start] == 1000


def test_what_findings_add_is_expected_on_no_one_node(opened: Open) -> None:
    """The rule itself gives node 0 more, and nobody knows of the rest."""
    shot = with_policies(
        snapshot([SPREAD], [(3048, 1048)], NODES), [(0, 0, 2, Cause.UNKNOWN, -1, 100)], rule=np.array([[2248, 1848]])
    )
    frame = opened([sample(shot)]).causes()
    expected = {(it.cause.word, node): pages for it in findings(shot)[0].causes for node, pages in it.nodes.items()}
    assert expected["pattern", 0] == 200
    rows = frame[["cause", "node", "expected", "pages"]].to_numpy().tolist()
    assert ["pattern", 0, -1, 200] in rows
    assert ["unknown", 0, 2, 100] in rows
    assert ["unknown", 0, -1, expected["unknown", 0] - 100] in rows
    assert frame["pages"].sum() == sum(expected.values())


def test_without_policies_only_shares_are_known(tmp_path: Path) -> None:
    shot = snapshot([SPREAD], [(3048, 1048)], NODES)
    write_recording(tmp_path / "x", [sample(shot)])
    with tracer.open(tmp_path / "x") as recording:
        frame = recording.policies()
        # For all that is known it is eight huge pages.
        assert (frame["verdict"].tolist(), frame["own"].tolist()) == (["too small to say"], [False])
        causes = recording.causes()[["cause", "node", "expected", "pages"]]
        assert causes.to_numpy().tolist() == [["unknown", 0, -1, 1000]]
        for frame_of in (recording.policy_changes, recording.thread_policies):
            with pytest.raises(tracer.NumatraceError, match="policies were not asked for"):
                frame_of()


# --- threads and changes ---


def test_threads_have_their_policies(opened: Open) -> None:
    placements = opened(story())
    frame = placements.thread_policies(at=0)
    assert frame[["pid", "thread", "comm", "policy"]].to_numpy().tolist() == [
        [42, 42, "main", "default"],
        [42, 43, "\\xff", "bind=balancing:0,2"],
        [50, 50, "other", "default"],
    ]
    assert placements.thread_policies()["thread"].tolist() == [42, 43]


def test_changes_are_told_once_and_of_processes_that_ended_too(opened: Open) -> None:
    frame = opened(story()).policy_changes()
    assert frame["time"].tolist() == [pd.Timestamp(at(1))] * 2
    assert frame["changed"].tolist() == [pd.Timestamp(TURNED.time), pd.Timestamp(TIME)]
    assert frame[["pid", "exact", "thread", "start", "end", "old", "new", "call"]].to_numpy().tolist() == [
        [50, False, 42, 0, 0, "bind=balancing:0,2", "default", ""],
        [42, True, 43, BASE, BASE + 4096, "", "interleave:0,2", "mbind"],
    ]


def test_changes_between_two_moments(opened: Open) -> None:
    placements = opened(story())
    assert len(placements.policy_changes(since=0, until=1)) == 2
    assert len(placements.policy_changes(until=0)) == 0
    assert len(placements.policy_changes(since=1)) == 0
    assert len(placements.policy_changes(since=2, until=0)) == 0


def test_text_is_as_the_kernel_prints_it(opened: Open) -> None:
    shot = story()[1].only
    shown = opened([sample(replace(shot, spelling=Spelling.HIDDEN))])
    assert shown.thread_policies()["policy"].tolist() == ["default", "default"]


# --- all of them ---

FRAMES: dict[str, Callable[[tracer.Placements], pd.DataFrame]] = {
    "policies": lambda it: it.policies(at=0),
    "causes": lambda it: it.causes(at=0),
    "thread_policies": lambda it: it.thread_policies(at=0),
    "policy_changes": lambda it: it.policy_changes(),
}


@pytest.mark.parametrize("frame_of", FRAMES.values(), ids=FRAMES)
def test_live_and_recorded_are_one(
    live: Open, recorded: Open, frame_of: Callable[[tracer.Placements], pd.DataFrame]
) -> None:
    pd.testing.assert_frame_equal(frame_of(live(story())), frame_of(recorded(story())))


@pytest.mark.parametrize("frame_of", FRAMES.values(), ids=FRAMES)
def test_without_a_process_columns_and_dtypes_stay(
    opened: Open, frame_of: Callable[[tracer.Placements], pd.DataFrame]
) -> None:
    full, empty = frame_of(opened(story())), frame_of(opened([sample(node_ids=NODES)]))
    assert len(full)
    assert len(empty) == 0
    assert empty.dtypes.to_dict() == full.dtypes.to_dict()


@pytest.mark.parametrize("name", FRAMES)
def test_columns_and_dtypes_are_those_of_the_documentation(opened: Open, name: str) -> None:
    moment = pd.Series(pd.DatetimeIndex(np.array([0], "M8[us]")).tz_localize("UTC")).dtype
    dtypes: dict[str, Any] = {"int64": np.dtype(np.int64), "float64": np.dtype(float), "bool": np.dtype(bool)}
    dtypes |= {"text": pd.Series(["x"]).dtype, "time": moment}
    common = {"time": "time", "pid": "int64", "start": "int64", "end": "int64", "name": "text", "policy": "text"}
    documented: dict[str, Any] = {}
    section = DOCS.partition(f"### `{name}(")[2].partition("\n### ")[0]
    if name == "causes":
        assert "`time`, `pid`, `start`, `end`, `name` and `policy` as above" in section
        documented = {it: dtypes[kind] for it, kind in common.items()}
    for row in re.findall(r"^\| (`.*)", section, re.MULTILINE):
        names, kind, _ = (cell.strip() for cell in row.split("|", 2))
        for it in re.findall(r"`(\w+)`", names):
            every = (it, it.replace("0", "2")) if re.fullmatch("[NED]0", it) else (it,)
            documented |= dict.fromkeys(every, dtypes[kind or common[it]])
    assert list(FRAMES[name](opened(story())).dtypes.items()) == list(documented.items())


def test_the_example_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    write_recording(tmp_path / "run.parquet", story())
    exec(example.replace("run.parquet", str(tmp_path / "run.parquet")), {})
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("interleave:0,2", "before-policy", "numa_misplaced", str(BASE)))


def test_attach_asks_for_what_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    cases: list[tuple[dict[str, Any], tuple[bool, bool]]] = [
        ({}, (False, False)),
        ({"policies": True}, (True, False)),
        ({"policy_calls": True}, (True, True)),
    ]
    for given, expected in cases:
        script = Script(steps=story())
        monkeypatch.setitem(sys.modules, "tracer.session", session_module(script))
        with tracer.attach(42, **given) as live:
            (_, _, options, _), *_ = script.events
            assert (options.policies, options.policy_calls) == expected
            assert live.info.policies == expected[0]

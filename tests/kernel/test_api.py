"""The Python interface against a real process: what its frames say is what the kernel says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

import tracer
from tests.kernel.target import Target, Truth, read_truth
from tests.kernel.world import HUGE, PAGE, World

NO_HUGE_PAGE = 15  # madvise(2)
HUGE_SHIFT = 21
PAGES = 700


@pytest.fixture(scope="module")
def target(quiet_machine: None) -> Iterator[Target]:
    with Target() as it:
        yield it


@pytest.fixture(scope="module")
def live(target: Target) -> Iterator[tracer.Attached]:
    with tracer.attach(target.pid, threads=True) as it:
        yield it


@pytest.fixture
def world(target: Target, live: tracer.Attached, nodes: list[int], files: Path) -> Iterator[World]:
    it = World(target, nodes, files)
    yield it
    it.clear()


def of_kernel(truth: Truth, node_ids: tuple[int, ...]) -> pd.DataFrame:
    """numa_maps in the columns of `vmas()`."""
    rows = [
        {"start": area.start, "end": area.end, "policy": area.line.policy, "huge": area.line.huge}
        | {f"N{node}": area.line.nodes.get(node, 0) for node in node_ids}
        for area in truth.areas
    ]
    return pd.DataFrame(rows)


def test_vmas_and_totals_are_numa_maps(world: World, live: tracer.Attached, nodes: list[int]) -> None:
    world.map(0, PAGES * PAGE)
    world.advise(0, PAGES * PAGE, NO_HUGE_PAGE)
    world.write(0, PAGES * PAGE)
    world.map_hugetlb(4 * HUGE, 2 * HUGE, HUGE_SHIFT)
    world.write(4 * HUGE, HUGE)
    live.refresh()
    expected = of_kernel(read_truth(world.pid), live.node_ids)
    assert live.node_ids == tuple(nodes)
    vmas = live.vmas()
    pd.testing.assert_frame_equal(vmas[expected.columns.tolist()], expected, check_dtype=False)
    columns = [f"N{node}" for node in nodes]
    assert live.totals().iloc[-1].tolist() == expected[columns].sum().tolist()
    assert live.totals(by="pid").iloc[-1].tolist() == expected[columns].sum().tolist()
    assert vmas["pages"].tolist() == vmas[columns].sum(axis=1).tolist()
    assert set(vmas["pid"]) == {world.pid}
    assert vmas.loc[vmas["huge"], ["pages", "page_kb"]].to_numpy().tolist() == [[1, 2048]]
    placement = live.placement()
    assert placement["pages"].sum() == vmas["pages"].sum()
    assert placement["bytes"].sum() == (vmas["pages"] * vmas["page_kb"]).sum() * 1024
    assert live.trust().iloc[-1][["settling", "unexplained", "lost", "drift"]].tolist() == [0, 0, 0, 0]


def test_faults_are_those_since_the_last_sample(world: World, live: tracer.Attached) -> None:
    world.map(0, PAGES * PAGE)
    world.advise(0, PAGES * PAGE, NO_HUGE_PAGE)
    live.refresh()
    before = len(live) - 1
    world.write(0, PAGES * PAGE)
    live.refresh()
    faults = live.faults(since=before)
    here = faults[faults["start"] == world.address(0)]
    assert here["count"].sum() == PAGES
    assert set(here["kind"]) == {"new"}
    assert set(here["thread"]) == {world.pid}
    by_node = here.groupby("page_node")["count"].sum()
    row = live.vmas().set_index("start").loc[world.address(0)]
    assert by_node.to_dict() == {node: row[f"N{node}"] for node in live.node_ids if row[f"N{node}"]}
    assert len(live.faults()) >= len(faults)
    assert not len(live.faults(since="end"))


def test_a_process_that_does_not_exist() -> None:
    with pytest.raises(tracer.NumatraceError, match="no such process") as caught:
        tracer.attach(2**22 + 1)  # above pid_max
    assert caught.value.hint


def test_watching_until_the_end() -> None:
    with Target() as target, tracer.attach(target.pid, hooks="none", flows=False, faults=False) as live:
        looks = 0
        for now in live.watch(every=0.05):
            looks += 1
            assert len(now) == looks + 1
            if looks == 2:
                target.kill()
        assert looks >= 2
        assert live.vmas(at=1)["pages"].sum() > 0
        with pytest.raises(tracer.TargetGone):
            live.refresh()
        with pytest.raises(tracer.NumatraceError, match="were not asked for"):
            live.flows()

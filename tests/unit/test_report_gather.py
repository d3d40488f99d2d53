"""What a report knows of a recording, held against the samples one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.report_recordings import INFO, at, history, lives, opened, story
from tests.unit.snapshots import sample, snapshot, vma
from tracer.errors import NumatraceError
from tracer.model.accumulate import FaultSums, FlowSums, Period
from tracer.model.sample import Sample
from tracer.model.snapshot import Snapshot
from tracer.report import gather as gathering
from tracer.report.gather import COLUMNS, gather
from tracer.report.history import History

Place = tuple[int, int]


def counts(samples: Iterable[Sample]) -> dict[Place, list[tuple[int, np.ndarray[Any, Any]]]]:
    """Of each PID and start: index of the sample and KiB per node, wherever it was alive or just ended."""
    seen: dict[Place, list[tuple[int, np.ndarray[Any, Any]]]] = {}
    for index, it in enumerate(samples):
        for shot in (*it.ended, *it.snapshots):
            for area, pages in zip(shot.vmas, shot.pages, strict=True):
                seen.setdefault((shot.pid, area.start), []).append((index, pages * area.page_kb))
    return seen


def kib(shots: Iterable[Snapshot]) -> np.ndarray[Any, Any]:
    total = np.zeros(2, np.int64)
    for shot in shots:
        for area, pages in zip(shot.vmas, shot.pages, strict=True):
            total += pages * area.page_kb
    return total


def places(told: History) -> dict[Place, int]:
    steps = told.steps
    return {(told.targets[int(steps.process[key])].pid, int(steps.start[key])): key for key in range(len(steps))}


def check_areas(told: History, samples: list[Sample]) -> None:
    seen, keys = counts(samples), places(told)
    assert keys.keys() == seen.keys()
    for place, values in seen.items():
        key, pages = keys[place], np.array([value for _, value in values])
        assert told.steps.first[key].tolist() == pages[0].tolist()
        assert told.steps.last[key].tolist() == pages[-1].tolist()
        assert told.steps.most[key].tolist() == pages.max(axis=0).tolist()
        assert told.steps.least[key].tolist() == pages.min(axis=0).tolist()
        assert told.steps.peak[key] == pages.sum(axis=1).max()


def check_sums(told: History, samples: list[Sample]) -> None:
    expected = np.array([kib(it.snapshots) for it in samples])
    assert told.sums.tolist() == expected.tolist()
    check_means(told, expected)


def check_means(told: History, sums: np.ndarray[Any, Any]) -> None:
    """Each value holds from its sample to the next one."""
    edges = told.columns.edges().astype(np.int64).astype(float)
    edges = np.linspace(edges[0], edges[-1], COLUMNS + 1)
    times = np.append(told.times.astype(np.int64).astype(float), edges[-1])
    until = np.concatenate([np.zeros((1, 2)), np.cumsum(sums * np.diff(times)[:, None], axis=0)])
    integral = np.stack([np.interp(edges, times, until[:, node]) for node in range(2)], axis=1)
    expected = np.diff(integral, axis=0) / np.diff(edges)[:, None]
    bookings = told.bookings()
    means = bookings.means(np.zeros(len(bookings), np.int64), 1, COLUMNS)[0]
    np.testing.assert_allclose(means, expected, atol=1e-3 * max(1, sums.max()) / 1e3)


def check_in_force(told: History, samples: list[Sample]) -> None:
    """The VMAs of each target's last snapshot, alive at the end or at its own."""
    last: dict[int, Snapshot] = {}
    for it in samples:
        last.update({shot.pid: shot for shot in (*it.ended, *it.snapshots)})
    expected = {(pid, area.start): area.policy for pid, shot in last.items() for area in shot.vmas}
    where = {key: place for place, key in places(told).items()}
    assert {where[key]: told.areas[key].policy for key in told.in_force()} == expected


def check_events(told: History, samples: list[Sample]) -> None:
    moved, touched = Period(FlowSums()), Period(FaultSums())
    for it in samples:
        moved.add(it, 1.0)
        touched.add(it, 1.0)
    flows, own, by_area = Counter[Any](), Counter[Any](), Counter[Any]()
    for row in moved.sums.rows():
        for name in ("pages", "failed", "kib"):
            flows[row.source, row.destination, row.reason, name] += getattr(row, name)
        if row.place.vma and row.source != row.destination:
            own[row.place.pid, row.place.vma.start, row.source, row.destination] += row.kib
    keys = places(told)
    assert flows == Counter(
        {
            (it.source, it.destination, it.reason, name): getattr(it, name)
            for it in told.flows
            for name in ("pages", "failed", "kib")
        }
    )
    where = {key: place for place, key in keys.items()}
    assert own == Counter({(*where[key], *nodes): value for (key, *nodes), value in told.moved.items()})
    touch, kinds = Counter[Any](), Counter[Any]()
    for fault in touched.sums.rows():
        kinds[fault.kind] += fault.count
        if fault.placing:
            touch[fault.cpu_node, fault.page_node] += fault.kib
        if fault.place.vma:
            by_area[fault.place.pid, fault.place.vma.start] += fault.count
    assert (touch, kinds) == (Counter(told.touch), Counter(told.faults))
    assert by_area == Counter({where[key]: value for key, value in told.touched.items()})


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("portion", [150_000, 50])
def test_it_agrees_with_the_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, portion: int) -> None:
    monkeypatch.setattr(gathering, "_ROWS_AT_ONCE", portion)
    monkeypatch.setattr(gathering, "_FIRST_SAMPLES", 3)
    samples = lives(seed)
    told = history(tmp_path, samples)
    check_areas(told, samples)
    check_sums(told, samples)
    check_in_force(told, samples)
    check_events(told, samples)


@pytest.mark.parametrize("seed", range(4))
def test_a_part_agrees_with_the_samples_of_that_part(tmp_path: Path, seed: int) -> None:
    samples = lives(seed)
    with opened(tmp_path / "x.parquet", samples) as recording:
        told = gather(recording, 7, 31)
    part = samples[7:32]
    part[0] = replace(part[0], ended=())
    check_sums(told, part)
    check_in_force(told, part)
    quiet = replace(part[0], snapshots=tuple(replace(it, flows=None, faults=None) for it in part[0].snapshots))
    check_events(told, [quiet, *part[1:]])


@pytest.mark.parametrize("seed", range(3))
def test_regions_add_up_to_what_was_recorded_of_them(tmp_path: Path, seed: int) -> None:
    samples = lives(seed, with_regions=True)
    told = history(tmp_path, samples, replace(INFO, regions=True))
    assert told.spans is not None
    expected = []
    for it in samples:
        total = np.zeros(2, np.int64)
        for shot in it.snapshots:
            assert shot.regions is not None
            for address, pages in zip(shot.regions.address.tolist(), shot.regions.pages, strict=True):
                (area,) = [area for area in shot.vmas if area.start <= address < area.end]
                total += pages * area.page_kb
        expected.append(total)
    bookings = told.spans.bookings()
    ends = np.zeros(2, np.int64)
    for column in range(2):
        ends[column] = bookings.change[:, column].sum()
    assert ends.tolist() == expected[-1].tolist()
    assert told.spans.peak[: len(told.spans)].max() > 0


def test_doubts_and_cost(tmp_path: Path) -> None:
    samples = story()
    told = history(tmp_path, samples)
    assert told.doubts.refresh_ns.tolist() == [1_234_567 * len((*it.snapshots, *it.ended)) for it in samples]
    assert told.machine == {"compaction": (300, 60), "numa_misplaced": (20 * 1024, 20 * 204)}
    assert [target.pid for target in told.targets if target.ended_at < 0] == [42]


def test_a_target_that_vanishes_without_a_word_counts_as_ended(tmp_path: Path) -> None:
    there = snapshot([vma()], [(3, 4)])
    samples = [sample(there, **at(0)), sample(**at(1)), sample(**at(70))]
    told = history(tmp_path, samples)
    assert told.sums[-1].tolist() == [0, 0]
    assert told.targets[0].ended_at >= 0
    assert list(told.in_force()) == [0]


def test_nothing_to_tell(tmp_path: Path) -> None:
    with opened(tmp_path / "x.parquet", [sample(**at(0))]) as recording:
        assert gather(recording).targets == []
        with pytest.raises(NumatraceError, match="no sample"):
            gather(recording, 1, 0)

"""The judge of the placement tests must condemn a session that is wrong: here are some."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kernel.compare import difference
from tests.kernel.exactness import Row, Table, check, lacks
from tests.kernel.target import Area, Truth
from tests.kernel.world import Step
from tracer.kernel.numa_maps import NumaLine
from tracer.model.policy import Policy
from tracer.model.sample import Sample
from tracer.model.snapshot import Refresh, Snapshot, Trust
from tracer.model.vma import Kind, Vma

_BALLAST = 64 << 21
TRUTH = Truth(
    (
        Area(0x1000, 0x3000, NumaLine(0x1000, "default", "file", b"/bin/true", nodes={0: 2}, page_kb=4)),
        Area(0x600000, 0x800000, NumaLine(0x600000, "prefer (many):0-2", huge=True, nodes={2: 1}, page_kb=2048)),
        Area(0x900000, 0x901000, NumaLine(0x900000, "default", "heap")),
        Area(1 << 40, (1 << 40) + _BALLAST, NumaLine(1 << 40, "default", nodes={0: 7, 2: 9}, page_kb=4)),
    )
)
NODES = (0, 2)


def _vma(area: Area) -> Vma:
    return Vma(
        start=area.start,
        end=area.end,
        perms="rw-p",
        offset=0,
        device="00:00",
        inode=0,
        path=area.line.path,
        kind=Kind(area.line.name),
        policy=Policy.parse(area.line.policy),
        hugetlb=area.line.huge,
        page_kb=area.line.page_kb or 4,
    )


def _right(truth: Truth = TRUTH, regions_read: int = 2) -> Snapshot:
    """What a session that is right would say."""
    return Snapshot(
        time=datetime(2026, 1, 1, tzinfo=UTC),
        pid=1,
        comm=b"true",
        hooks="tracepoint",
        reader="walk",
        trust=Trust(),
        refresh=Refresh(regions_read=regions_read),
        vmas=tuple(_vma(area) for area in truth.areas),
        node_ids=NODES,
        pages=np.array([[area.line.nodes.get(node, 0) for node in NODES] for area in truth.areas], dtype=np.int64),
    )


class FakeSession:
    """Refreshes into given snapshots; the last one again and again."""

    def __init__(self, *snapshots: Snapshot) -> None:
        self._snapshots = list(snapshots)

    def refresh(self) -> Sample:
        snapshot = self._snapshots.pop(0) if len(self._snapshots) > 1 else self._snapshots[0]
        return Sample(snapshot.time, snapshot.node_ids, (snapshot,))


def _judge(*snapshots: Snapshot, audited: str = "") -> Row:
    return check("op", Step("step", audited=audited), 1, FakeSession(*snapshots), lambda pid: TRUTH)


def _pages_changed(snapshot: Snapshot, *changes: tuple[int, int, int]) -> Snapshot:
    pages = snapshot.pages.copy()
    for row, column, by in changes:
        pages[row, column] += by
    return replace(snapshot, pages=pages)


def _vma_changed(snapshot: Snapshot, row: int, **change: object) -> Snapshot:
    vmas = list(snapshot.vmas)
    vmas[row] = replace(vmas[row], **change)  # type: ignore[arg-type]
    return replace(snapshot, vmas=tuple(vmas))


def _without(snapshot: Snapshot, row: int) -> Snapshot:
    return replace(
        snapshot,
        vmas=snapshot.vmas[:row] + snapshot.vmas[row + 1 :],
        pages=np.delete(snapshot.pages, row, axis=0),
    )


def test_a_right_session_passes() -> None:
    assert not _judge(_right()).failure


BROKEN: dict[str, Callable[[Snapshot], Snapshot]] = {
    "a page too few": lambda s: _pages_changed(s, (0, 0, -1)),
    "a page too many in an empty VMA": lambda s: _pages_changed(s, (2, 1, 1)),
    "a page on the wrong node": lambda s: _pages_changed(s, (3, 0, -1), (3, 1, 1)),
    "a page in the wrong VMA": lambda s: _pages_changed(s, (0, 0, -1), (3, 0, 1)),
    "512 for a huge page": lambda s: _pages_changed(s, (1, 1, 511)),
    "a VMA missing": lambda s: _without(s, 1),
    "an empty VMA missing": lambda s: _without(s, 2),
    "a VMA that ends elsewhere": lambda s: _vma_changed(s, 2, end=0x902000),
    "another policy": lambda s: _vma_changed(s, 3, policy=Policy(2, 0, (0,))),
    "another word": lambda s: _vma_changed(s, 2, kind=Kind.ANON),
    "not hugetlb": lambda s: _vma_changed(s, 1, hugetlb=False),
    "another page size": lambda s: _vma_changed(s, 1, page_kb=4),
    "settling": lambda s: replace(s, trust=Trust(settling=1)),
    "unexplained": lambda s: replace(s, trust=Trust(unexplained=3)),
    "lost": lambda s: replace(s, trust=Trust(lost=1)),
    "everything read again": lambda s: replace(s, refresh=Refresh(regions_read=TRUTH.regions)),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_session_fails(fault: str) -> None:
    assert _judge(BROKEN[fault](_right())).failure


@pytest.mark.parametrize("fault", [fault for fault in BROKEN if "read again" not in fault])
def test_a_session_that_breaks_at_the_second_refresh_fails(fault: str) -> None:
    assert _judge(_right(), BROKEN[fault](_right())).failure


def test_a_session_that_is_right_only_at_the_second_refresh_fails() -> None:
    row = _judge(_pages_changed(_right(), (0, 0, 3)), _right())
    assert row.failure
    assert (row.pages_off, row.pages_off_second) == (3, 0)


def test_an_audit_may_read_everything_where_it_is_due() -> None:
    assert not _judge(_right(regions_read=TRUTH.regions), audited="another process did it").failure


def test_polling_may_read_everything() -> None:
    assert not _judge(replace(_right(regions_read=TRUTH.regions), hooks="none")).failure


@given(
    st.lists(
        st.tuples(st.integers(0, len(TRUTH.areas) - 1), st.integers(0, len(NODES) - 1), st.integers(-50, 50)),
        max_size=6,
    )
)
def test_pages_off_is_the_sum_of_all_differences(changes: list[tuple[int, int, int]]) -> None:
    snapshot = _pages_changed(_right(), *changes)
    expected = int(np.abs(snapshot.pages - _right().pages).sum())
    found = difference(TRUTH, snapshot)
    assert found.pages == expected
    assert bool(found) == bool(expected)


def test_the_pages_of_a_missing_vma_count_in_full() -> None:
    found = difference(TRUTH, _without(_right(), 3))
    assert (found.pages, found.areas) == (16, 1)


def test_regions_counts_shared_regions_once() -> None:
    assert TRUTH.regions == 1 + 1 + 1 + 64


def _rows() -> Iterator[Row]:
    yield _judge(_right())
    yield replace(_judge(_right()), reader="pagemap", pages_off=5)
    yield lacks("other", "tracepoint", "walk", "ENOSYS")


def test_table_has_a_line_a_step_and_a_column_a_reader() -> None:
    lines = list(Table([0, 2], list(_rows())).lines())
    assert lines[2].split() == ["operation:", "step", "tracepoint,", "walk", "tracepoint,", "pagemap"]
    assert "0 | 2+2/67" in lines[3]
    assert "5 | 2+2/67" in lines[3]
    assert "kernel lacks it (ENOSYS)" in lines[4]

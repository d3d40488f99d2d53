"""Flags, counts and the fields made of them, from made-up kpageflags and kpagecount files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracer.errors import NumatraceError
from tracer.kernel import pageflags
from tracer.kernel.pageflags import (
    KPF_ACTIVE,
    KPF_ANON,
    KPF_COMPOUND_HEAD,
    KPF_COMPOUND_TAIL,
    KPF_DIRTY,
    KPF_NOPAGE,
    KPF_SWAPCACHE,
    KPF_UNEVICTABLE,
    KPF_WRITEBACK,
    details,
    head_flags,
    page_counts,
    page_flags,
)

FRAMES = 8192


def bits(*numbers: int) -> int:
    return sum(1 << number for number in numbers)


def frames(*pfns: int) -> pageflags.U64Array:
    return np.array(pfns, dtype=np.uint64)


class FakeFrames:
    """kpageflags and kpagecount of a machine with `FRAMES` page frames."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.flags = np.zeros(FRAMES, dtype=np.uint64)
        self.counts = np.zeros(FRAMES, dtype=np.uint64)

    def folio(self, head: int, order: int, *flags: int) -> None:
        """A compound page as 6.1 shows it: only the head has the flags."""
        self.flags[head : head + (1 << order)] = bits(KPF_COMPOUND_TAIL)
        self.flags[head] = bits(KPF_COMPOUND_HEAD, *flags)

    def save(self) -> Path:
        self.flags.tofile(self.root / "kpageflags")
        self.counts.tofile(self.root / "kpagecount")
        return self.root


@pytest.fixture
def machine(tmp_path: Path) -> FakeFrames:
    return FakeFrames(tmp_path)


def test_frames_in_any_order_repeated_and_absent(machine: FakeFrames) -> None:
    machine.flags[:] = np.arange(FRAMES) + 1
    machine.counts[:] = np.arange(FRAMES) * 3
    root = machine.save()
    asked = frames(5000, 7, 1 << 50, 7, 8191, 8192, 0)
    absent = bits(KPF_NOPAGE)
    assert page_flags(asked, root).tolist() == [5001, 8, absent, 8, 8192, absent, 1]
    assert page_counts(asked, root).tolist() == [15000, 21, 0, 21, 24573, 0, 0]
    assert page_flags(frames(), root).size == 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
@given(st.lists(st.integers(0, FRAMES + 100), max_size=200), st.integers(1, 64), st.integers(64, 4096))
def test_how_reads_are_cut_does_not_matter(machine: FakeFrames, pfns: list[int], gap: int, run: int) -> None:
    machine.counts[:] = np.arange(FRAMES) + 10
    root = machine.save()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pageflags, "_GAP", gap)
        patch.setattr(pageflags, "_MAX_RUN", run)
        counts = page_counts(frames(*pfns), root)
    assert counts.tolist() == [pfn + 10 if pfn < FRAMES else 0 for pfn in pfns]


def test_tails_take_the_flags_of_their_own_head(machine: FakeFrames) -> None:
    machine.folio(512, 9, KPF_DIRTY)
    machine.folio(1024, 4, KPF_ACTIVE)
    machine.folio(1040, 1, KPF_WRITEBACK)
    machine.folio(4096, 12, KPF_ANON)
    root = machine.save()
    found = head_flags(frames(512, 513, 1023, 1024, 1039, 1041, 1042, 8191, 4096), root)
    heads = [KPF_DIRTY, KPF_DIRTY, KPF_DIRTY, KPF_ACTIVE, KPF_ACTIVE, KPF_WRITEBACK, None, KPF_ANON, KPF_ANON]
    assert found.tolist() == [0 if flag is None else bits(KPF_COMPOUND_HEAD, flag) for flag in heads]


def test_details_sum_as_gather_stats_does(machine: FakeFrames) -> None:
    machine.flags[10] = bits(KPF_ANON, KPF_ACTIVE, KPF_SWAPCACHE)
    machine.flags[11] = bits(KPF_ANON, KPF_UNEVICTABLE, KPF_ACTIVE)
    machine.flags[12] = bits(KPF_DIRTY, KPF_WRITEBACK)
    machine.flags[13] = bits(KPF_UNEVICTABLE)
    machine.folio(512, 9, KPF_ANON, KPF_DIRTY)
    machine.counts[[10, 11, 12, 13, 512]] = [1, 4, 2, 9, 3]
    root = machine.save()
    found = details(
        pfn=frames(10, 11, 12, 13, 512, 600),
        pte_dirty=np.array([True, False, True, False, False, True]),
        vma=np.array([0, 0, 0, 3, 1, 2]),
        pages=np.array([1, 1, 1, 1, 512, 1]),
        n_vmas=5,
        proc_root=root,
    )
    assert found.anon.tolist() == [2, 512, 1, 0, 0]
    assert found.dirty.tolist() == [2, 512, 1, 0, 0]
    assert found.swapcache.tolist() == [1, 0, 0, 0, 0]
    assert found.active.tolist() == [2, 0, 0, 1, 0]
    assert found.writeback.tolist() == [1, 0, 0, 0, 0]
    assert found.mapmax.tolist() == [4, 3, 0, 9, 0]
    assert all(getattr(found, name).dtype == np.int64 for name in ("anon", "dirty", "mapmax", "active"))


def test_details_of_nothing(machine: FakeFrames) -> None:
    none = np.empty(0, dtype=np.int64)
    found = details(none.astype(np.uint64), none.astype(np.bool_), none, none, 3, machine.save())
    assert found.anon.tolist() == found.mapmax.tolist() == [0, 0, 0]


def test_without_permission_or_files_the_user_is_told(tmp_path: Path) -> None:
    with pytest.raises(NumatraceError, match="kpageflags") as caught:
        page_flags(frames(1), tmp_path)
    assert caught.value.hint

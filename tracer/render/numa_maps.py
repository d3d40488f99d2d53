"""A snapshot as `/proc/PID/numa_maps` of the kernel that was traced, byte for byte.

The order and the conditions are those of `show_numa_map()` in fs/proc/task_mmu.c (the same from 6.1 to 7.3).
"""

from __future__ import annotations

from collections.abc import Iterator

from tracer.model.snapshot import Details, Snapshot
from tracer.model.vma import Kind, Vma
from tracer.render.paths import numa_maps_path

__all__ = ["lines"]


def lines(snapshot: Snapshot, full: bool = False) -> Iterator[bytes]:
    """One line per VMA, without the newline.

    full: with the fields of `snapshot.details` (anon, dirty, mapped, mapmax, swapcache, active, writeback), which
    makes a line equal to the kernel's; otherwise they are left out. ValueError if they are wanted and missing.
    """
    details = None
    if full:
        if snapshot.details is None:
            raise ValueError("the full format needs a snapshot with details")
        details = _Fields(snapshot.details)
    # Lists, because taking single elements out of a numpy array is slow, and a database can have 100,000 VMAs.
    for index, (vma, row) in enumerate(zip(snapshot.vmas, snapshot.pages.tolist(), strict=True)):
        line = f"{vma.start:08x} {vma.policy.text(snapshot.spelling)}".encode() + _backing(vma)
        pages = sum(row)
        if pages:
            fields = details.of(index, pages, vma.hugetlb) if details else []
            fields += [f"N{node}={count}" for node, count in zip(snapshot.node_ids, row, strict=True) if count]
            fields.append(f"kernelpagesize_kB={vma.page_kb}")
            line += b" " + " ".join(fields).encode()
        yield line


def _backing(vma: Vma) -> bytes:
    if vma.kind is Kind.FILE:
        word = b" file=" + numa_maps_path(vma.path)
    elif vma.kind is Kind.ANON:
        word = b""
    else:
        word = b" " + vma.kind.value.encode()
    return word + (b" huge" if vma.hugetlb else b"")


class _Fields:
    """The fields between the mapping and the nodes."""

    def __init__(self, details: Details) -> None:
        self._anon: list[int] = details.anon.tolist()
        self._dirty: list[int] = details.dirty.tolist()
        self._mapmax: list[int] = details.mapmax.tolist()
        self._swapcache: list[int] = details.swapcache.tolist()
        self._active: list[int] = details.active.tolist()
        self._writeback: list[int] = details.writeback.tolist()

    def of(self, index: int, pages: int, hugetlb: bool) -> list[str]:
        anon, dirty = self._anon[index], self._dirty[index]
        fields = (
            ("anon", anon, anon != 0),
            ("dirty", dirty, dirty != 0),
            ("mapped", pages, pages not in (anon, dirty)),
            ("mapmax", self._mapmax[index], self._mapmax[index] > 1),
            ("swapcache", self._swapcache[index], self._swapcache[index] != 0),
            ("active", self._active[index], self._active[index] < pages and not hugetlb),
            ("writeback", self._writeback[index], self._writeback[index] != 0),
        )
        return [f"{word}={count}" for word, count, shown in fields if shown]

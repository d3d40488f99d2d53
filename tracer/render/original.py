"""A snapshot in the format that numa_maps was proposed with in 2005 (Linux commit 6e21c8f145f5).

    2000000000000000 default MaxRef=43 Pages=11 Mapped=11 N0=4 N1=3 N2=2 N3=2
    2000000000038000 default MaxRef=1 Pages=2 Mapped=2 Anon=2 N0=2

start address, policy, `MaxRef` (highest number of references to one page of the VMA), `Pages` (pages in use),
`Mapped` (of these, pages with a mapcount), `Anon` and `N<node>` (left out when 0). VMAs without pages are left out.
Every page counted here was found in the page table, and such a page has a mapcount: `Mapped` equals `Pages`.
Fields are separated by one blank and hold none.
"""

from __future__ import annotations

from collections.abc import Iterator

from tracer.model.snapshot import Snapshot

__all__ = ["lines"]


def lines(snapshot: Snapshot) -> Iterator[bytes]:
    """One line per VMA that has pages, without the newline. ValueError for a snapshot without details."""
    if snapshot.details is None:
        raise ValueError("the format of 2005 needs a snapshot with details")
    mapmax: list[int] = snapshot.details.mapmax.tolist()
    anon: list[int] = snapshot.details.anon.tolist()
    for index, (vma, row) in enumerate(zip(snapshot.vmas, snapshot.pages.tolist(), strict=True)):
        pages = sum(row)
        if not pages:
            continue
        fields = [f"{vma.start:08x}", vma.policy.text_2005()]
        fields += [f"MaxRef={mapmax[index]}", f"Pages={pages}", f"Mapped={pages}"]
        if anon[index]:
            fields.append(f"Anon={anon[index]}")
        fields += [f"N{node}={count}" for node, count in zip(snapshot.node_ids, row, strict=True) if count]
        yield " ".join(fields).encode()

"""How far a snapshot is from what the kernel says: VMA by VMA and node by node."""

from __future__ import annotations

from dataclasses import dataclass

from tests.kernel.target import Area, Truth
from tracer.model.snapshot import Snapshot
from tracer.model.vma import Vma

__all__ = ["Difference", "difference"]


@dataclass(frozen=True, slots=True)
class Difference:
    """pages: sum over all VMAs and nodes of |ours - the kernel's|; the pages of a VMA that only one of the two knows
    count in full. areas: VMAs that only one of the two knows, or of which anything but the pages differs.
    lines: what differs, for a reader.
    """

    pages: int
    areas: int
    lines: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.pages or self.areas)


def difference(truth: Truth, snapshot: Snapshot) -> Difference:
    """Compare all VMAs by start and end, policy, word, page size, and pages on each node."""
    theirs = {(area.start, area.end): area for area in truth.areas}
    ours = {(vma.start, vma.end): row for row, vma in enumerate(snapshot.vmas)}
    pages = areas = 0
    lines: list[str] = []
    if len(ours) != len(snapshot.vmas):
        areas += len(snapshot.vmas) - len(ours)
        lines.append("a VMA is listed twice")
    for key in sorted(theirs.keys() | ours.keys()):
        area = theirs.get(key)
        vma = snapshot.vmas[ours[key]] if key in ours else None
        told = area.line.nodes if area else {}
        counted = _nodes(snapshot, ours[key]) if vma else {}
        wrong = _description(area, vma, snapshot)
        off = sum(abs(counted.get(node, 0) - told.get(node, 0)) for node in told.keys() | counted.keys())
        pages += off
        areas += bool(wrong)
        if wrong or off:
            lines.append(f"{key[0]:x}-{key[1]:x} {wrong} kernel {told} ours {counted}")
    return Difference(pages, areas, tuple(lines))


def _nodes(snapshot: Snapshot, row: int) -> dict[int, int]:
    counts = snapshot.pages[row].tolist()
    return {node: pages for node, pages in zip(snapshot.node_ids, counts, strict=True) if pages}


def _description(area: Area | None, vma: Vma | None, snapshot: Snapshot) -> str:
    """What of the VMA itself differs, or nothing."""
    if area is None or vma is None:
        return "not in numa_maps" if area is None else "not in the snapshot"
    line = area.line
    pairs = {
        "policy": (line.policy, vma.policy.text(snapshot.spelling)),
        "word": (line.name, vma.kind.value),
        "huge": (line.huge, vma.hugetlb),
        "page size": (line.page_kb or vma.page_kb, vma.page_kb),
    }
    return ", ".join(f"{name} {theirs!r} is {ours!r}" for name, (theirs, ours) in pairs.items() if theirs != ours)

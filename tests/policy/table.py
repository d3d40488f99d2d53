"""The table that a run leaves: for each example what it did, what the kernel said and what numatrace told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Row", "Table"]

_HEADS = ("example: memory", "pages", "elsewhere by move_pages", "expected", "told", "verdict")


@dataclass(frozen=True, slots=True)
class Row:
    """name: example and memory. elsewhere: by move_pages(2). expected, told: cause -> pages. verdict: told."""

    name: str
    pages: int
    elsewhere: int
    expected: dict[str, int]
    told: dict[str, int]
    verdict: str

    @property
    def cells(self) -> tuple[str, ...]:
        """As text, in the order of the heads."""
        return (
            self.name,
            str(self.pages),
            str(self.elsewhere),
            _text(self.expected),
            _text(self.told),
            self.verdict,
        )


def _text(causes: dict[str, int]) -> str:
    return ", ".join(f"{cause} {pages}" for cause, pages in causes.items()) or "-"


@dataclass(slots=True)
class Table:
    """All rows of a run, and remarks below them."""

    nodes: list[int]
    rows: list[Row] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """As text."""
        cells = [_HEADS, *(row.cells for row in self.rows)]
        widths = [max(len(line[at]) for line in cells) for at in range(len(_HEADS))]
        yield f"kernel {os.uname().release}, nodes {','.join(map(str, self.nodes))}"
        for line in cells:
            yield "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        yield from self.remarks

    def write(self, directory: Path) -> None:
        """`policy-<release>.table` in a directory."""
        path = directory / f"policy-{os.uname().release}.table"
        path.write_text("\n".join(self.lines()) + "\n")

"""Tables of text: columns in line, separated by blanks, for reading and for awk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tabulate import tabulate

__all__ = ["table"]


def table(header: Sequence[str], rows: Iterable[Sequence[str | int]], left: Sequence[str] = ()) -> Iterator[str]:
    """Lines without newline, the header first; nothing without rows.

    left: columns that are aligned to the left; the others are numbers. No cell may hold a blank, or be empty unless it
    is the last one.
    """
    cells = list(rows)
    if cells:
        align = ["left" if name in left else "right" for name in header]
        text = tabulate(cells, list(header), tablefmt="plain", disable_numparse=True, colalign=align)
        yield from text.split("\n")

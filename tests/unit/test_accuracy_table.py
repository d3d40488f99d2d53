"""The table of docs/accuracy.md, from rows as tests/kernel/exactness.py keeps them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.accuracy_table import BEGIN, END, Column, cell, page_size, table, write
from tests.kernel.exactness import PATIENCE, Row, lacks


def row(step: str, operation: str = "touch", **changed: Any) -> dict[str, Any]:
    told = {"regions_read": 2, "regions_total": 69, "refreshes": 1, "milliseconds": 3.4, **changed}
    return asdict(Row(operation, step, "tracepoint", "walk", **told))


def column(nodes: str, *rows: dict[str, Any], kernel: str = "6.12.1-amd64") -> Column:
    return Column(nodes, {"kernel": kernel, "written": "2026-01-02T03:04:05+00:00", "rows": list(rows)})


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row("a"), row("b", milliseconds=5.6), row("c", milliseconds=50)], "0 e 1 6"),
        ([row("a", regions_read=69)], "0 a 1 3"),
        ([row("a", regions_read=69), row("b")], "0 ea 1 3"),
        ([row("a", pages_off=7, areas_off=1, refreshes=2), row("b", pages_off=3)], "8 e 2 3"),
        ([row("a", pages_off=7, refreshes=0), row("b", refreshes=3)], f"7 e >{PATIENCE} 3"),
        ([row("a"), asdict(lacks("touch", "tracepoint", "walk", "EINVAL"))], "-"),
    ],
)
def test_a_cell_tells_of_the_worst_step(rows: list[dict[str, Any]], expected: str) -> None:
    assert cell(rows) == expected


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("touch", "4 KiB"),
        ("touch, THP", "THP"),
        ("swap, 64 KiB", "64 KiB"),
        ("mbind MPOL_MF_MOVE, hugetlb", "hugetlb 2 MiB"),
        ("hugetlb 1 GiB", "hugetlb 1 GiB"),
        ("MADV_COLLAPSE of shmem", "THP"),
    ],
)
def test_the_size_of_pages(operation: str, expected: str) -> None:
    assert page_size(operation) == expected


def test_a_row_an_operation_and_a_column_a_machine() -> None:
    polled = {**row("a"), "hooks": "none", "reader": "pagemap", "pages_off": 5}
    first = column("2", row("a"), row("b"), polled, kernel="6.1.0-9")
    second = column("3+1", row("a", pages_off=2), row("a", "brk"), row("b", "swap, THP"), row("c", "THP"))
    lines = table([first, second], ["6.12 8-nodes"])
    assert lines[0] == "6 comparisons of a whole target: 2 pages off, in 1 of them."
    machines = "6.1: 2 (Linux 6.1.0-9, 2026-01-02); 6.12: 3+1 (Linux 6.12.1-amd64, 2026-01-02)."
    assert lines[-9:] == [
        f"Machines, as kernel: nodes (with CPUs + without): {machines}",
        "Not run: 6.12 8-nodes.",
        "",
        "| operation | pages | 6.1: 2 | 6.12: 3+1 |",
        "|---|---|---|---|",
        "| touch | 4 KiB | 0 e 1 3 | 2 e 1 3 |",
        "| brk | 4 KiB |  | 0 e 1 3 |",
        "| swap | THP |  | 0 e 1 3 |",
        "| THP | THP |  | 0 e 1 3 |",
    ]


def test_only_the_table_of_the_page_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write([column("2", row("a"))], [], page)
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert "| touch | 4 KiB | 0 e 1 3 |" in text

"""Puts the results of the exactness tests into docs/accuracy.md: `python -m tests.accuracy_table FILE.json ...`.

The files are those that tests/kernel/test_exact.py leaves (`exact-<release>.json`), one for each kernel. Only the
tracepoint hooks are shown, and the moments that an operation exists for, not the clearing up after it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tracer.model.policy import format_nodes

PAGE = Path(__file__).resolve().parents[1] / "docs/accuracy.md"
BEGIN, END = "<!-- table: begin (from make test) -->", "<!-- table: end -->"
READERS = ("walk", "pagemap")


def cell(rows: list[dict[str, Any]]) -> str:
    """Pages off by reader, and the regions that the walk read again, of all."""
    by = {row["reader"]: row for row in rows}
    if any(row["lacks"] for row in rows):
        return "lacks it"
    off = "/".join(str(by[reader]["pages_off"] + by[reader]["areas_off"]) for reader in READERS)
    walk = by["walk"]
    return f"{off} ({walk['regions_read']} of {walk['regions_total']})"


def table(documents: list[dict[str, Any]]) -> list[str]:
    """Markdown lines."""
    columns = [f"{document['kernel'].split('-')[0]}, nodes {format_nodes(document['nodes'])}" for document in documents]
    cells: dict[tuple[str, str], list[str]] = {}
    compared = off = 0
    for at, document in enumerate(documents):
        rows = [row for row in document["rows"] if row["hooks"] == "tracepoint" and row["reader"] in READERS]
        compared += sum(not row["lacks"] for row in rows)
        off += sum(row["pages_off"] + row["areas_off"] for row in rows)
        steps: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in rows:
            steps.setdefault((row["operation"], row["step"]), []).append(row)
        for key, of_step in steps.items():
            line = cells.setdefault(key, [""] * len(documents))
            line[at] = cell(of_step)
    lines = [
        f"{compared} comparisons of a whole target (hooks `tracepoint`; readers walk and pagemap): {off} pages off.",
        "",
        "A cell: pages off with the walk / with pagemap (regions the walk read again of all the target's regions).",
        "`lacks it`: the kernel, or that machine, cannot do it.",
        "",
        "| operation | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for (operation, step), line in cells.items():
        if step != "cleared":
            lines.append(f"| {operation}{': ' if step else ''}{step} | " + " | ".join(line) + " |")
    return lines


def main() -> None:
    """Replace what is between the two marks."""
    documents = [json.loads(Path(name).read_text()) for name in sys.argv[1:]]
    before, rest = PAGE.read_text().split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text("\n".join([before + BEGIN, *table(documents), END + after]))


if __name__ == "__main__":
    main()

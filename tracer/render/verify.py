"""A comparison with the kernel's files, as text and as one line of JSON (`verification.schema.json`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tracer.model.comparison import Area, Comparison, Mismatch, TargetComparison
from tracer.render.jsonl import target_fields
from tracer.render.paths import name_fields
from tracer.render.stream import json_line as framed
from tracer.render.table import table
from tracer.render.terminal import word
from tracer.render.timestamp import timestamp

__all__ = ["json_line", "lines", "summary", "unfinished"]

_MOST = 100
"""Lines of a table of areas that could not be compared; JSON has all of them."""


def lines(comparison: Comparison, several: bool) -> Iterator[str]:
    """The line that says that all is equal, or tables of what is not; without newlines, everything foreign escaped.

    several: whether there may be more than one target.
    """
    if not comparison.wrong and comparison.complete:
        yield f"all equal: {_extent(comparison)}"
        return
    wrong = [(target, it) for target in comparison.targets for it in target.wrong]
    if wrong:
        areas = sum(len(target.wrong_areas) for target in comparison.targets)
        yield f"# different: {areas} of {_extent(comparison)}"
        yield from _mismatches(wrong, several)
    elif comparison.vmas:
        yield f"# equal so far: {_extent(comparison)}"
    yield from _unstable(comparison, several)


def _extent(comparison: Comparison) -> str:
    nodes = comparison.nodes
    text = (
        f"{_counted(comparison.vmas, 'VMA')}, {_counted(sum(nodes.values()), 'page')} on {_counted(len(nodes), 'node')}"
    )
    count = len(comparison.targets)
    return f"{text}, in {count} processes" if count > 1 else text


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _mismatches(wrong: Sequence[tuple[TargetComparison, Mismatch]], several: bool) -> Iterator[str]:
    header = [*["PID"] * several, "VMA", "FIELD", "NUMATRACE", "KERNEL", "DIFFERENCE", "NAME"]
    rows: Iterator[list[str | int]] = (
        [
            *[target.snapshot.pid] * several,
            _place(it.area),
            it.field,
            _value(it.ours),
            _value(it.kernel),
            "-" if it.difference is None else f"{it.difference:+d}",
            word(it.area.path),
        ]
        for target, it in wrong
    )
    return table(header, rows, left=["VMA", "FIELD", "NAME"])


def _unstable(comparison: Comparison, several: bool) -> Iterator[str]:
    found = [(target, it) for target in comparison.targets for it in target.unstable]
    if not found:
        return
    some = f", of which {_MOST} are named" if len(found) > _MOST else ""
    yield f"# not compared: {_counted(len(found), 'VMA')} that kept changing for {comparison.seconds:.1f} s{some}"
    header = [*["PID"] * several, "VMA", "CHANGING", "NAME"]
    rows: Iterator[list[str | int]] = (
        [*[target.snapshot.pid] * several, _place(it.area), it.what.replace(" ", "-"), word(it.area.path)]
        for target, it in found[:_MOST]
    )
    yield from table(header, rows, left=["VMA", "CHANGING", "NAME"])


def _place(area: Area) -> str:
    return f"{area.start:x}-{area.end:x}"


def _value(value: int | str | None) -> str:
    return "-" if value is None or value == "" else word(str(value).encode())


def unfinished(comparison: Comparison) -> str:
    """In one line, why not everything could be compared."""
    found = [it for target in comparison.targets for it in target.unstable]
    whats = sorted({it.what for it in found})
    return (
        f"could not compare {len(found)} of {_counted(comparison.vmas + len(found), 'VMA')}, which kept changing for "
        f"{comparison.seconds:.1f} s ({'; '.join(whats)})"
    )


def summary(equal: int, different: int, incomplete: int) -> str:
    """Of several comparisons. incomplete: those without a difference in which not everything could be compared."""
    total = equal + different + incomplete
    return f"# {_counted(total, 'comparison')}: {equal} all equal, {different} different, {incomplete} incomplete"


def json_line(comparison: Comparison, number: int) -> str:
    """Everything, on one line of ASCII without newline. number: how many comparisons there were, with this one."""
    fields = {
        "time": timestamp(comparison.time),
        "seconds": round(comparison.seconds, 6),
        "comparison": number,
        "looks": comparison.looks,
        "frozen": comparison.frozen,
        "equal": not comparison.wrong and comparison.complete,
        "complete": comparison.complete,
        **_json_extent(comparison),
        "targets": [_json_target(target) for target in comparison.targets],
    }
    return framed("verification", fields)


def _json_extent(whole: Comparison | TargetComparison) -> dict[str, Any]:
    nodes = whole.nodes
    return {
        "vmas": whole.vmas,
        "pages": sum(nodes.values()),
        "nodes": {str(node): pages for node, pages in nodes.items()},
    }


def _json_target(target: TargetComparison) -> dict[str, Any]:
    return {
        **target_fields(target.snapshot),
        **_json_extent(target),
        "differences": [
            {
                **_json_area(it.area),
                "field": it.field,
                "numatrace": it.ours,
                "kernel": it.kernel,
                "difference": it.difference,
            }
            for it in target.wrong
        ],
        "not_compared": [{**_json_area(it.area), "changing": it.what} for it in target.unstable],
    }


def _json_area(area: Area) -> dict[str, Any]:
    return {"start": f"{area.start:x}", "end": f"{area.end:x}", **name_fields(area.path)}

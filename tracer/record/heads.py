"""The rows of targets and of the machine, and when the address spaces began that they speak of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracer.record.chunk import ENDED, TARGET, Chunk, Heads, Spread

__all__ = ["Head", "Life", "lives", "read_heads"]

Range = tuple[int, int]

_WORDS = ("comm", "comm_raw", "hooks", "reader", "spelling")
_NUMBERS = (
    *("pid", "ns_pid", "untraced", "settling", "unexplained", "lost", "drift", "oldest_read_s"),
    *("regions_read", "cpu_ns"),
)


@dataclass(slots=True)
class Head:
    """A row of a target or of the machine, and the ranges of the rows that belong to it, each among its kind."""

    number: int
    event: int
    comm: str
    comm_raw: bytes | None
    hooks: str
    reader: str
    spelling: str
    pid: int
    ns_pid: int
    untraced: int
    settling: int
    unexplained: int
    lost: int
    drift: int
    oldest_read_s: float
    regions_read: int
    cpu_ns: int
    has_details: bool
    has_regions: bool
    counted: bool
    has_policies: bool
    has_threads: bool
    has_pressure: bool
    has_changes: bool
    vmas: Range
    gone: Range
    spans: Range


def read_heads(chunk: Chunk) -> list[Head]:
    heads = chunk.heads
    columns: list[Iterable[Any]] = [range(len(heads)), heads.events.tolist()]
    columns += [heads.words(name) for name in _WORDS]
    columns += [heads.numbers(name).tolist() for name in _NUMBERS]
    columns += [heads.has(name) for name in ("anon", "regions", "flows")]
    columns += [heads.has(name) for name in ("observed", "threads", "pressure", "policy_changes")]
    columns += [_ranges(heads, rows) for rows in (chunk.vmas, chunk.gone, chunk.spans)]
    return [Head(*row) for row in zip(*columns, strict=True)]


def _ranges(heads: Heads, rows: Spread) -> Iterator[Range]:
    first, last = (np.searchsorted(rows.at, bound).tolist() for bound in (heads.first, heads.last))
    return zip(first, last, strict=True)


@dataclass(slots=True)
class Life:
    """An address space that had not ended by the end of a chunk. head: its last own row. begin: from which row on the
    rows of its PID are about it; begin_of_spans: and from which on those about its regions. threads, pressure: its last
    own rows that say something of these, if any does."""

    head: Head
    begin: int
    begin_of_spans: int
    threads: Head | None = None
    pressure: Head | None = None


def lives(chunk: Chunk, heads: Sequence[Head]) -> dict[int, Life]:
    """By PID."""
    found: dict[int, Life] = {}
    after_end: dict[int, int] = {}
    for head, row in zip(heads, chunk.heads.at.tolist(), strict=True):
        if head.event == ENDED:
            found.pop(head.pid, None)
            after_end[head.pid] = row + 1
        elif head.event == TARGET:
            begin = after_end.get(head.pid, 0)
            life = found.setdefault(head.pid, Life(head, begin, begin))
            life.head = head
            if head.has_threads:
                life.threads = head
            if head.has_pressure:
                life.pressure = head
            if not head.has_regions:
                life.begin_of_spans = row + 1
    return found

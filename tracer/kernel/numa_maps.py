"""/proc/PID/numa_maps: the kernel's own count, the oracle of the tests and the reader of ordinary users.

Reading it walks every page table entry of the process in the kernel; everything else in this program exists so
that nobody has to. Source of the format: fs/proc/task_mmu.c show_numa_map(), in the order of its tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tracer.kernel.procfs import PROC, read_proc

__all__ = ["NumaLine", "counts_by_vma", "parse_numa_maps", "read_numa_maps"]

_FIELDS = ("anon", "dirty", "mapped", "mapmax", "swapcache", "active", "writeback")
_NUMBER = re.compile(rb"(N\d+|[A-Za-z_]+)=(\d+)")
# What can follow the policy. The policy comes first and may hold blanks (`prefer (many):0-1`), but none of these.
_AFTER_POLICY = re.compile(rb"file=|(?:heap|stack|huge)\Z|(?:" + "|".join(_FIELDS).encode() + rb"|N\d+)=\d+\Z")


@dataclass(slots=True)
class NumaLine:
    """One VMA. start: address. policy: as printed. name: `file`, `heap`, `stack` or an empty string.

    path: of a file, with the kernel's octal escapes of blank, tab, newline and `=`. huge: hugetlbfs.
    fields: the named counts that were printed (anon, dirty, mapped, mapmax, swapcache, active, writeback).
    nodes: node id -> pages; empty for a VMA without counted pages. page_kb: None where nothing was counted.
    """

    start: int
    policy: str
    name: str = ""
    path: bytes = b""
    huge: bool = False
    fields: dict[str, int] = field(default_factory=dict)
    nodes: dict[int, int] = field(default_factory=dict)
    page_kb: int | None = None


def parse_numa_maps(data: bytes) -> list[NumaLine]:
    """All lines of the file. ValueError for a line that is none. An unknown `name=number` is kept in `fields`."""
    return [_parse_line(line) for line in data.split(b"\n") if line]


def _parse_line(line: bytes) -> NumaLine:
    # The kernel escapes blanks in paths and only blanks separate tokens: other white space can be part of a path.
    start, *tokens = line.split(b" ")
    cut = next((index for index, token in enumerate(tokens) if _AFTER_POLICY.match(token)), len(tokens))
    if not cut:
        raise ValueError(f"not a line of numa_maps: {line!r}")
    result = NumaLine(int(start, 16), b" ".join(tokens[:cut]).decode("ascii"))
    for token in tokens[cut:]:
        _take(result, token, line)
    return result


def _take(result: NumaLine, token: bytes, line: bytes) -> None:
    if token.startswith(b"file=") and not result.name:
        result.name, result.path = "file", token[len(b"file=") :]
    elif token in (b"heap", b"stack") and not result.name:
        result.name = token.decode("ascii")
    elif token == b"huge":
        result.huge = True
    elif number := _NUMBER.fullmatch(token):
        key, value = number[1].decode("ascii"), int(number[2])
        if key == "kernelpagesize_kB":
            result.page_kb = value
        elif key[0] == "N" and key[1:].isdigit():
            result.nodes[int(key[1:])] = value
        else:
            result.fields[key] = value
    else:
        raise ValueError(f"unknown word {token!r} in a line of numa_maps: {line!r}")


def read_numa_maps(pid: int, tid: int | None = None, proc_root: Path = PROC) -> list[NumaLine]:
    """Read and parse the file of a process, or of one of its threads, whose own policy it then shows.

    Raises `tracer.kernel.procfs.TargetGone` or `NumatraceError` as `read_proc` does.
    """
    name = "numa_maps" if tid is None else f"task/{tid}/numa_maps"
    return parse_numa_maps(read_proc(pid, name, proc_root))


def counts_by_vma(lines: Iterable[NumaLine], starts: Sequence[int], nr_node_ids: int) -> npt.NDArray[np.int64]:
    """Pages per node of the VMAs that start at `starts`: int64, shape (len(starts), nr_node_ids).

    A start that the file does not list counts as empty, and a line whose start is not asked for is ignored: maps
    and numa_maps of a process that maps meanwhile may differ by a VMA.
    """
    counts = np.zeros((len(starts), nr_node_ids), dtype=np.int64)
    rows = {start: row for row, start in enumerate(starts)}
    for line in lines:
        if (row := rows.get(line.start)) is not None:
            for node, pages in line.nodes.items():
                counts[row, node] = pages
    return counts

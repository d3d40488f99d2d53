"""A snapshot as one line of JSON, and all targets of a session as another; the keys are described in
`placement.schema.json` beside this file.

The line is ASCII: everything else is escaped as JSON escapes it, so it is safe on a terminal and in any locale.
File names are bytes to Linux and text to JSON. `name` is the name as /proc/PID/maps shows it, read as UTF-8, where a
byte that is not part of a UTF-8 character stands as a backslash, `x` and two hexadecimal digits. Where there was
such a byte, `name_hex` gives all bytes exactly, in hexadecimal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracer.model.sample import Sample
from tracer.model.snapshot import Snapshot
from tracer.model.vma import Vma
from tracer.render.paths import name_fields, text_name
from tracer.render.stream import json_line
from tracer.render.timestamp import timestamp
from tracer.render.trust import trust_fields

__all__ = ["by_node", "line", "session_line", "target_fields", "vma_fields"]

_DETAILS = ("anon", "dirty", "mapmax", "swapcache", "active", "writeback")


def line(snapshot: Snapshot, untraced: int = 0) -> str:
    """The snapshot on one line, without the newline. With details if it has them. untraced: as in `Sample`."""
    return json_line("placement", _placement(snapshot) | {"untraced": untraced})


def session_line(sample: Sample, ended: Sequence[int]) -> str:
    """What concerns all targets of a session with several, on one line, without the newline.

    ended: PIDs of those whose address space came to its end since the last line; a sample may not have been shown.
    """
    fields = {
        "time": timestamp(sample.time),
        "targets": len(sample.snapshots),
        "totals": by_node(sample.node_ids, sample.totals.tolist()),
        "untraced": sample.untraced,
        "ended": list(ended),
    }
    return json_line("session", fields)


def by_node(node_ids: tuple[int, ...], pages: Sequence[int]) -> dict[str, int]:
    """Node id to pages: keys of JSON are text."""
    return {str(node): count for node, count in zip(node_ids, pages, strict=True)}


def target_fields(snapshot: Snapshot) -> dict[str, Any]:
    """Which process it is, and how far it can be believed."""
    return {
        "pid": snapshot.pid,
        "ns_pid": snapshot.namespace_pid or snapshot.pid,
        "comm": text_name(snapshot.comm),
        "hooks": snapshot.hooks,
        "reader": snapshot.reader,
        "trust": trust_fields(snapshot.trust),
    }


def _placement(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "time": timestamp(snapshot.time),
        **target_fields(snapshot),
        "refresh": {"regions_read": snapshot.refresh.regions_read, "cpu_ns": snapshot.refresh.cpu_ns},
        "totals": by_node(snapshot.node_ids, snapshot.pages.sum(axis=0).tolist()),
        "vmas": _vmas(snapshot),
    }


def _vmas(snapshot: Snapshot) -> list[dict[str, Any]]:
    columns: dict[str, list[int]] = {}
    if snapshot.details is not None:
        columns = {key: getattr(snapshot.details, key).tolist() for key in _DETAILS}
    vmas = []
    for index, (vma, row) in enumerate(zip(snapshot.vmas, snapshot.pages.tolist(), strict=True)):
        entry = vma_fields(vma, vma.policy.text(snapshot.spelling), snapshot.node_ids, row)
        entry.update({key: column[index] for key, column in columns.items()})
        vmas.append(entry)
    return vmas


def vma_fields(vma: Vma, policy: str, nodes: Sequence[int], pages: Sequence[int]) -> dict[str, Any]:
    """The keys of a VMA. policy: as numa_maps prints it. pages: on each of `nodes`."""
    return {
        "start": f"{vma.start:x}",
        "end": f"{vma.end:x}",
        "policy": policy,
        "kind": vma.kind.name.lower(),
        **name_fields(vma.path),
        "pages": sum(pages),
        "nodes": {str(node): count for node, count in zip(nodes, pages, strict=True) if count},
        "page_kb": vma.page_kb,
        "huge": vma.hugetlb,
    }

"""A snapshot as one line of JSON; the keys are described in `placement.schema.json` beside this file.

The line is ASCII: everything else is escaped as JSON escapes it, so it is safe on a terminal and in any locale.
File names are bytes to Linux and text to JSON. `name` is the name as /proc/PID/maps shows it, read as UTF-8, where a
byte that is not part of a UTF-8 character stands as a backslash, `x` and two hexadecimal digits. Where there was
such a byte, `name_hex` gives all bytes exactly, in hexadecimal.
"""

from __future__ import annotations

import json
from datetime import UTC
from typing import Any

from tracer.model.snapshot import Snapshot
from tracer.render.paths import text_name

__all__ = ["line"]

_DETAILS = ("anon", "dirty", "mapmax", "swapcache", "active", "writeback")


def line(snapshot: Snapshot) -> str:
    """The snapshot on one line, without the newline. With details if it has them."""
    return json.dumps(_placement(snapshot), ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def _placement(snapshot: Snapshot) -> dict[str, Any]:
    trust = snapshot.trust
    return {
        "time": snapshot.time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "pid": snapshot.pid,
        "comm": text_name(snapshot.comm),
        "hooks": snapshot.hooks,
        "reader": snapshot.reader,
        "trust": {
            "settling": trust.settling,
            "unexplained": trust.unexplained,
            "lost": trust.lost,
            "drift": trust.drift,
            "oldest_read_s": round(trust.oldest_read_s, 6),
        },
        "refresh": {"regions_read": snapshot.refresh.regions_read, "cpu_ns": snapshot.refresh.cpu_ns},
        "vmas": _vmas(snapshot),
    }


def _vmas(snapshot: Snapshot) -> list[dict[str, Any]]:
    nodes = [str(node) for node in snapshot.node_ids]
    columns: dict[str, list[int]] = {}
    if snapshot.details is not None:
        columns = {key: getattr(snapshot.details, key).tolist() for key in _DETAILS}
    vmas = []
    for index, (vma, row) in enumerate(zip(snapshot.vmas, snapshot.pages.tolist(), strict=True)):
        entry = {
            "start": f"{vma.start:x}",
            "end": f"{vma.end:x}",
            "policy": vma.policy.text(snapshot.spelling),
            "kind": vma.kind.name.lower(),
            "name": text_name(vma.path),
            "pages": sum(row),
            "nodes": {node: count for node, count in zip(nodes, row, strict=True) if count},
            "page_kb": vma.page_kb,
            "huge": vma.hugetlb,
        }
        if not _is_utf8(vma.path):
            entry["name_hex"] = vma.path.hex()
        entry.update({key: column[index] for key, column in columns.items()})
        vmas.append(entry)
    return vmas


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True

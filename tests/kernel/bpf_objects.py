"""The BPF programs, maps and links that the kernel holds, and which of them a living process has open."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path

from tests.kernel.machine import bpf_programs

__all__ = ["Objects", "all_objects", "objects_of_the_living"]

_SYS_BPF, _MAP_GET_NEXT, _LINK_GET_NEXT = 321, 12, 31  # x86-64; enum bpf_cmd
_KINDS = {"prog_id": "program", "map_id": "map", "link_id": "link"}

Objects = frozenset[tuple[str, int]]
"""Kind and id of each."""


def _ids(command: int) -> Iterator[int]:
    libc = ctypes.CDLL(None, use_errno=True)
    attribute = (ctypes.c_uint32 * 32)()  # start_id, next_id, open_flags
    while True:
        size = ctypes.c_uint(ctypes.sizeof(attribute))
        if libc.syscall(ctypes.c_long(_SYS_BPF), ctypes.c_int(command), attribute, size) < 0:
            return
        yield attribute[1]
        attribute[0] = attribute[1]


def all_objects() -> Objects:
    """Those of the whole machine."""
    found = {("program", number) for number in bpf_programs()}
    found |= {("map", number) for number in _ids(_MAP_GET_NEXT)}
    found |= {("link", number) for number in _ids(_LINK_GET_NEXT)}
    return frozenset(found)


def objects_of_the_living() -> Objects:
    """Those that some process has a descriptor of."""
    found: set[tuple[str, int]] = set()
    for entry in Path("/proc").glob("[0-9]*/fdinfo/*"):
        with contextlib.suppress(OSError):
            for line in entry.read_text(errors="replace").splitlines():
                name, _, value = line.partition(":")
                if name in _KINDS:
                    found.add((_KINDS[name], int(value)))
    return frozenset(found)

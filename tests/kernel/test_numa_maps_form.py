"""The kernel's own numa_maps, taken apart, put into a snapshot and printed again: nothing may be lost or moved.

Both sides come from one read of the file, so this holds for any process, busy or not, and needs no tracing: it is
the form that is tested here, not the counts. File names come from /proc/PID/maps, where they are escaped differently.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from tracer.kernel.numa_maps import NumaLine, parse_numa_maps
from tracer.kernel.procfs import MapsEntry, file_path, parse_maps
from tracer.model.policy import Policy
from tracer.model.snapshot import Details, Refresh, Snapshot, Trust
from tracer.model.vma import Kind, Vma
from tracer.render import numa_maps
from tracer.render.paths import numa_maps_path

NAMES = [b"a b", b"new\nline", b"tab\t", b"k=v", b"\xff\xfe", b"\x1b[31m", b"back\\slash", rb"\040", b"x (deleted)"]

HOLDER = """
import ctypes, mmap, os, sys
held = []
for name in os.listdir(os.fsencode(sys.argv[1])):
    with open(os.path.join(os.fsencode(sys.argv[1]), name), "r+b") as file:
        held.append(mmap.mmap(file.fileno(), 0))
        held[-1][0] = 1
        held.append(mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE))
held.append(mmap.mmap(-1, 1 << 20))
held[-1][:] = b"x" * len(held[-1])
libc = ctypes.CDLL(None, use_errno=True)
SYS_MBIND = 237  # x86-64
MBIND_MODES = [int(mode) for mode in sys.argv[2].split(",")]
for mode in MBIND_MODES:
    held.append(mmap.mmap(-1, 1 << 16, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    address = ctypes.addressof(ctypes.c_char.from_buffer(held[-1]))
    mask = ctypes.c_ulong(0 if mode == 4 else 1)
    libc.syscall(SYS_MBIND, ctypes.c_void_p(address), ctypes.c_ulong(1 << 16), ctypes.c_ulong(mode),
                 ctypes.byref(mask), ctypes.c_ulong(64), 0)
    held[-1][0] = 1
print("ready", flush=True)
sys.stdin.read()
"""
MODES = [1, 2, 3, 4, 5, 6, 2 | 1 << 15, 3 | 1 << 14, 2 | 1 << 13, 2 | 1 << 13 | 1 << 15, 5 | 1 << 13]
"""Modes and mode flags of mbind; a kernel that does not know one leaves that mapping with the default policy."""


def _vma(line: NumaLine, entry: MapsEntry) -> Vma:
    kind = Kind(line.name)
    return Vma(
        entry.start,
        entry.end,
        entry.perms,
        entry.offset,
        entry.device,
        entry.inode,
        file_path(entry) if kind is Kind.FILE else entry.path,
        kind,
        Policy.parse(line.policy),
        line.huge,
        line.page_kb or 4,
    )


def _details(lines: list[NumaLine]) -> Details:
    """What the fields were, with those that were not printed as show_numa_map() must have had them."""

    def column(key: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.array([line.fields.get(key, 0) for line in lines], dtype=np.int64)

    active = [line.fields.get("active", sum(line.nodes.values())) for line in lines]
    return Details(
        anon=column("anon"),
        dirty=column("dirty"),
        mapmax=column("mapmax"),
        swapcache=column("swapcache"),
        active=np.array(active, dtype=np.int64),
        writeback=column("writeback"),
    )


def _printed_again(maps: bytes, theirs: bytes) -> bytes:
    lines = parse_numa_maps(theirs)
    entries = {entry.start: entry for entry in parse_maps(maps)}
    node_ids = sorted({node for line in lines for node in line.nodes})
    shot = Snapshot(
        time=datetime(2025, 1, 1, tzinfo=UTC),
        pid=1,
        comm=b"",
        hooks="none",
        reader="numa_maps",
        trust=Trust(),
        refresh=Refresh(),
        vmas=tuple(_vma(line, entries[line.start]) for line in lines),
        node_ids=tuple(node_ids),
        pages=np.array([[line.nodes.get(node, 0) for node in node_ids] for line in lines], dtype=np.int64),
        details=_details(lines),
    )
    return b"".join(line + b"\n" for line in numa_maps.lines(shot, full=True))


@pytest.fixture(scope="module")
def holder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A process that maps files of hostile names and anonymous memory of every policy, and then stands still."""
    directory = tmp_path_factory.mktemp("names")
    for name in NAMES:
        Path(os.fsdecode(os.fsencode(directory) + b"/" + name)).write_bytes(bytes(3 * mmap.PAGESIZE))
    argv = [sys.executable, "-I", "-c", HOLDER, str(directory), ",".join(map(str, MODES))]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.communicate(b"", timeout=30)


def test_every_line_comes_back_as_it_was(holder: int) -> None:
    theirs = Path(f"/proc/{holder}/numa_maps").read_bytes()
    ours = _printed_again(Path(f"/proc/{holder}/maps").read_bytes(), theirs)
    assert ours.splitlines() == theirs.splitlines()
    for word in (rb"a\040b", rb"new\012line", rb"tab\011", rb"k\075v", b"\xff\xfe", b"\x1b[31m", b" heap", b" stack"):
        assert word in ours, f"the process was to have a line with {word!r}"
    assert b" bind:0 " in ours, "the process was to have a policy"


def test_named_shared_memory_is_dev_zero_in_numa_maps() -> None:
    memory = mmap.mmap(-1, 1 << 16, flags=mmap.MAP_SHARED)
    memory[0] = 1
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    # PR_SET_VMA, PR_SET_VMA_ANON_NAME; EINVAL from a kernel built without CONFIG_ANON_VMA_NAME, and nothing is named.
    libc.prctl(0x53564D41, 0, ctypes.c_ulong(address), ctypes.c_ulong(1 << 16), b"my name")
    (line,) = (line for line in parse_numa_maps(Path("/proc/self/numa_maps").read_bytes()) if line.start == address)
    (entry,) = (entry for entry in parse_maps(Path("/proc/self/maps").read_bytes()) if entry.start == address)
    assert line.path == rb"/dev/zero\040(deleted)"
    assert numa_maps_path(entry.path) == line.path

"""Which mappings are of shared memory that lies in tmpfs: only there does the kernel keep a policy with the file."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

__all__ = ["shared_memory_devices"]

_TYPE_AFTER = b"-"
"""In a line of mountinfo, the type of the file system follows it (Documentation/filesystems/proc.rst, 3.5)."""


@cache
def _internal_device() -> int:
    """Of the kernel's own mount of tmpfs, which holds memfd, shared anonymous memory and System V shared memory."""
    fd = os.memfd_create("numatrace", os.MFD_CLOEXEC)
    try:
        return os.fstat(fd).st_dev
    finally:
        os.close(fd)


def shared_memory_devices(pid: int, proc_root: Path = Path("/proc")) -> frozenset[str]:
    """Devices of tmpfs, spelt as /proc/PID/maps does (`00:01`), that the process can have files of."""
    devices = {(os.major(_internal_device()), os.minor(_internal_device()))}
    try:
        lines = (proc_root / str(pid) / "mountinfo").read_bytes().splitlines()
    except OSError:
        lines = []
    for line in lines:
        words = line.split()
        if _TYPE_AFTER in words and words[words.index(_TYPE_AFTER) + 1] == b"tmpfs":
            major, minor = words[2].split(b":")
            devices.add((int(major), int(minor)))
    return frozenset(f"{major:02x}:{minor:02x}" for major, minor in devices)

"""Cgroups of the tests' own, on every machine: the hierarchy of version 2 and a named one of version 1."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["VERSIONS", "cgroup", "enter", "mounted", "remove"]

VERSIONS = ("v1", "v2")
# A named hierarchy has no controllers and needs none of those that a kernel may have left out; it ends with its mount.
_MOUNT = {"v1": ["-t", "cgroup", "-o", "none,name=numatrace"], "v2": ["-t", "cgroup2"]}
_SECONDS = 20.0


@contextlib.contextmanager
def mounted(version: str, directory: Path) -> Iterator[Path]:
    """The hierarchy, mounted at a new place below a directory. Version 2 has but one, wherever it is mounted."""
    point = directory / f"cgroup-{version}"
    point.mkdir()
    subprocess.run(["mount", *_MOUNT[version], "numatrace-tests", str(point)], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", str(point)], check=True)
        point.rmdir()


@contextlib.contextmanager
def cgroup(version: str, directory: Path) -> Iterator[Path]:
    """A new cgroup, the mount of its hierarchy above it; it is removed at the end, with those below it."""
    with mounted(version, directory) as point:
        own = point / f"numatrace-test-{os.getpid()}"
        own.mkdir()
        try:
            yield own
        finally:
            remove(own)


def enter(cgroup: Path, pid: int) -> None:
    """Move a process into a cgroup, with all its threads."""
    (cgroup / "cgroup.procs").write_text(str(pid))


def remove(cgroup: Path) -> None:
    """Remove a cgroup and those below it as soon as its last processes, which are ending, have left it."""
    deadline = time.monotonic() + _SECONDS
    for child in [entry for entry in cgroup.iterdir() if entry.is_dir()]:
        remove(child)
    while True:
        try:
            cgroup.rmdir()
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)

"""Cgroups of the tests' own, on every machine: the hierarchy of version 2 and a named one of version 1."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.kernel.world import KernelLacks

__all__ = ["VERSIONS", "cgroup", "enter", "mounted", "reclaimable", "remove"]

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


@contextlib.contextmanager
def reclaimable(pid: int) -> Iterator[Callable[[int], bool]]:
    """What a process touches from now on can be taken from it: yields a function that has so many bytes reclaimed.

    It always returns True: how many of them it really were is for the caller to see. The kernel lacks it without a
    memory controller; `memory.reclaim` came in 5.19, version 1 has an order to reclaim everything.
    """
    hierarchy, order = _memory_controller()
    old = hierarchy / _cgroup_of(pid, order == "memory.reclaim")
    own = hierarchy / f"numatrace-reclaim-{os.getpid()}"
    own.mkdir()

    def reclaim(size: int) -> bool:
        with contextlib.suppress(OSError):  # EAGAIN, EBUSY: not as much as was asked for
            (own / order).write_text(str(size))
        return True

    try:
        enter(own, pid)
        yield reclaim
    finally:
        enter(old, pid)
        remove(own)


def _memory_controller() -> tuple[Path, str]:
    """Where the controller of memory is mounted, and the file that reclaims."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, options = line.split()[:4]
        if kind == "cgroup" and "memory" in options.split(","):
            return Path(place), "memory.force_empty"
        if kind == "cgroup2" and "memory" in (Path(place) / "cgroup.controllers").read_text().split():
            (Path(place) / "cgroup.subtree_control").write_text("+memory")
            return Path(place), "memory.reclaim"
    raise KernelLacks("no cgroup has a memory controller")


def _cgroup_of(pid: int, unified: bool) -> str:
    """The present cgroup of a process in that hierarchy, relative to its root."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if (not controllers) if unified else ("memory" in controllers.split(",")):
            return path.lstrip("/")
    return ""


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

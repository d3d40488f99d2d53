"""The kernel's file and ours of the same moment, where flags of pages change by themselves for a while."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

__all__ = ["kernel_lines", "steady"]

TRIES = 20
"""Reads of the kernel's file until two in a row are equal: flags of pages change until their CPU's batch is full."""

Ours = TypeVar("Ours")


def kernel_lines(pid: int) -> list[bytes]:
    """/proc/PID/numa_maps, line by line."""
    return Path(f"/proc/{pid}/numa_maps").read_bytes().split(b"\n")[:-1]


def steady(
    pid: int, look: Callable[[], Ours], kernel: Callable[[int], list[bytes]] = kernel_lines
) -> tuple[list[bytes], Ours]:
    """The kernel's lines, and what `look` gave while they were the same before and after."""
    for _ in range(TRIES):
        before = kernel(pid)
        ours = look()
        after = kernel(pid)
        if after == before:
            return before, ours
    changed = [line for line in after if line not in before]
    raise AssertionError(f"the kernel's file does not come to rest: {changed}")

"""What a running process has used so far."""

from __future__ import annotations

from pathlib import Path

__all__ = ["cpu_seconds"]

NANOSECONDS = 1e9


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads that it has now, from /proc/PID/task/TID/schedstat: in nanoseconds, where stat counts in
    ticks of 10 ms."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / NANOSECONDS

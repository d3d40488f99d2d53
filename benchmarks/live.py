"""What the live view costs while nothing changes, in a terminal that takes everything it writes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections import defaultdict
from collections.abc import Callable

from benchmarks.mappings import Mappings
from benchmarks.session_process import ROOT
from benchmarks.startup import COMMAND
from benchmarks.table import Section
from benchmarks.used import cpu_seconds
from benchmarks.workload import resident_peak
from tracer.errors import NumatraceError

__all__ = ["ROUNDS", "measure"]

ROUNDS = 5
VMAS = 500
WARM_S, WATCHED_S = 6.0, 10.0
SIZES = ((80, 24), (200, 60))

METHOD = (
    f"`numatrace live` on a process of {VMAS} VMAs that does nothing, in a terminal of that size: CPU time of all its "
    f"threads in {WATCHED_S:g} s, from {WARM_S:g} s after its start, as a share of one core. `numatrace maps "
    "--every 1` into such a terminal is beside it."
)


def _drain(terminal: int, seconds: float) -> int:
    """Read what is written to the terminal, until nobody can write to it any more; gives how many bytes."""
    end, read = time.monotonic() + seconds, 0
    with contextlib.suppress(OSError):
        while (left := end - time.monotonic()) > 0:
            if select.select([terminal], [], [], left)[0]:
                read += len(os.read(terminal, 1 << 16))
    return read


def _run(arguments: list[str], size: tuple[int, int]) -> tuple[float, float]:
    """Share of one core, and MiB of memory."""
    terminal, other = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
    environment = os.environ | {"TERM": "xterm-256color"}
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=ROOT,
        env=environment,
        stdin=other,
        stdout=other,
        stderr=other,
        start_new_session=True,
    )
    os.close(other)
    try:
        if not _drain(terminal, WARM_S):
            raise NumatraceError("the live view shows nothing")
        before = cpu_seconds(process.pid)
        _drain(terminal, WATCHED_S)
        used = cpu_seconds(process.pid) - before
        return used / WATCHED_S, resident_peak(process.pid)
    finally:
        process.terminate()
        _drain(terminal, 0.5)
        process.wait()
        os.close(terminal)


def measure(rounds: int, progress: Callable[[int], None]) -> list[Section]:
    """One section."""
    series = defaultdict(list)
    with Mappings(VMAS) as target:
        for round_ in range(rounds):
            progress(round_)
            for size in SIZES:
                share, memory = _run(["live", "-p", str(target.pid)], size)
                series[f"live {size}"].append(100 * share)
                series["memory"].append(memory)
            share, _ = _run(["maps", "-p", str(target.pid), "--every", "1"], SIZES[0])
            series["maps"].append(100 * share)
    section = Section("Live view", METHOD)
    for size in SIZES:
        section.add(f"numatrace live, {size[0]}×{size[1]}", series[f"live {size}"], "% of a core", 3)
    section.add("numatrace maps --every 1", series["maps"], "% of a core")
    section.add("memory of numatrace live", series["memory"], "MiB")
    return [section]

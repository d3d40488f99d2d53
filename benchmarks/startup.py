"""From the command to its first line, and the memory of the command that goes on printing."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable

from benchmarks.session_process import ROOT
from benchmarks.table import Section
from benchmarks.workload import Hold, resident_peak
from tracer.errors import NumatraceError

__all__ = ["ROUNDS", "measure"]

ROUNDS = 11
MIB = 100
SNAPSHOTS = 5

METHOD = (
    f"`numatrace maps -p PID` on a target of {MIB} MiB: elapsed time from starting the command to the first byte of "
    "its output. Python with the imports that BPF needs, and nothing else, is beside it."
)
COMMAND = [sys.executable, "-c", "import sys; from tracer.cli.main import main; sys.exit(main())"]
IMPORTS = [sys.executable, "-c", "import bcc, numpy; print()"]


def first_line(command: list[str]) -> float:
    """Milliseconds until the command has written something; then it runs to its end."""
    begin = time.monotonic_ns()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = process.stdout.read(1)
        elapsed = time.monotonic_ns() - begin
        _, errors = process.communicate()
    if not said or process.returncode:
        raise NumatraceError(f"the command failed: {errors.decode(errors='replace').strip()}")
    return elapsed / 1e6


def _repeating(pid: int) -> float:
    """MiB of `maps --every` while it waits for its snapshot after the SNAPSHOTS-th."""
    command = [*COMMAND, "maps", "-p", str(pid), "--every", "0.1", "--format", "json", "-q"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(SNAPSHOTS):
            if not process.stdout.readline():
                raise NumatraceError(f"the command ended with exit code {process.wait()}")
        peak = resident_peak(process.pid)
        process.terminate()
        process.communicate()
    return peak


def measure(rounds: int, progress: Callable[[int], None]) -> list[Section]:
    """One section: time to the first line, memory."""
    series = defaultdict(list)
    with Hold(MIB) as target:
        maps = [*COMMAND, "maps", "-p", str(target.pid)]
        for round_ in range(rounds):
            progress(round_)
            series["imports"].append(first_line(IMPORTS))
            series["maps"].append(first_line(maps))
            series["memory"].append(_repeating(target.pid))
    section = Section("Start", METHOD)
    section.add("numatrace maps", series["maps"], "ms", 1000)
    section.add("Python importing BCC and numpy", series["imports"], "ms")
    section.add("memory of numatrace maps --every", series["memory"], "MiB", 150)
    return [section]

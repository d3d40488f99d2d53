"""From the command to its first line, and the memory of the command that goes on printing."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
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
    "its output. The first start on a kernel compiles the BPF programs; later ones find them in the cache. Python that "
    "imports numpy and does nothing is beside it."
)
COMMAND = [sys.executable, "-c", "import sys; from tracer.cli.main import main; sys.exit(main())"]
IMPORTS = [sys.executable, "-c", "import numpy; print()"]


def first_line(command: list[str], cache: str | None = None) -> float:
    """Milliseconds until the command has written something; then it runs to its end. cache: another place for it."""
    environment = os.environ if cache is None else os.environ | {"NUMATRACE_FACTS": cache}
    begin = time.monotonic_ns()
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
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
            with tempfile.TemporaryDirectory() as empty_cache:
                series["first"].append(first_line(maps, empty_cache))
            series["maps"].append(first_line(maps))
            series["memory"].append(_repeating(target.pid))
    section = Section("Start", METHOD)
    section.add("numatrace maps", series["maps"], "ms", 1000)
    section.add("numatrace maps, first start on this kernel", series["first"], "ms", 1000)
    section.add("Python importing numpy", series["imports"], "ms")
    section.add("memory of numatrace maps --every", series["memory"], "MiB", 150)
    return [section]

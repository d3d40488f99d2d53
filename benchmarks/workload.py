"""Builds the C workloads and drives them, one line in, one line out. Used by every benchmark."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from tracer.errors import NumatraceError

__all__ = ["Hold", "Storm", "StormTime", "Workload", "build", "minor_faults", "pin_apart", "resident_peak"]

SOURCES = Path(__file__).resolve().parent / "workloads"


def build() -> None:
    """Compile the workloads (make and gcc). Raises NumatraceError with the compiler's words."""
    result = subprocess.run(["make", "--silent", "-C", str(SOURCES)], capture_output=True, text=True, check=False)
    if result.returncode:
        raise NumatraceError(f"the benchmark workloads do not build: {result.stderr.strip()}", "install gcc and make")


def pin_apart() -> tuple[int, int]:
    """Keep this process and all it will start on one CPU; return (CPU of the tracers, CPU for the workload).

    Raises NumatraceError where only one CPU may be used: the tracer's own work would then count as the workload's.
    """
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise NumatraceError("the fault storms need two CPUs, one for the storm and one for the tracer")
    os.sched_setaffinity(0, {cpus[0]})
    return cpus[0], cpus[-1]


def minor_faults(pid: int) -> int:
    """Minor faults of the process so far: field 10 of /proc/PID/stat (proc(5))."""
    stat = Path(f"/proc/{pid}/stat").read_bytes()
    return int(stat.rpartition(b")")[2].split()[7])


def resident_peak(pid: int) -> float:
    """Highest resident set of a running process in MiB: VmHWM of /proc/PID/status.

    getrusage's maximum would not do: it starts at the size of the process that called exec.
    """
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    if found is None:
        raise NumatraceError(f"process {pid} ended before its memory could be read")
    return int(found[1]) / 1024


class Workload:
    """A running workload that has said "ready". A context manager: leaving it ends the process."""

    def __init__(self, program: str, *arguments: str, cpu: int | None = None) -> None:
        self._process = subprocess.Popen(
            [SOURCES / "bin" / program, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.pid = self._process.pid
        if cpu is not None:
            os.sched_setaffinity(self.pid, {cpu})
        self._expect_ready()

    def _expect_ready(self) -> None:
        if (said := self._answer()) != "ready":
            raise NumatraceError(f"the benchmark workload said {said!r} instead of being ready")

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise NumatraceError(f"the benchmark workload ended with exit code {self._process.wait()}")
        return line.strip()

    def ask(self, line: str) -> str:
        """Send one line, wait for the one that answers it."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        return self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.communicate()


class StormTime(NamedTuple):
    """Nanoseconds of one fault: by the storm thread's CPU clock, and by the monotonic clock."""

    cpu: float
    elapsed: float


class Storm(Workload):
    """Faults `mib` MiB of fresh 4 KiB pages in, again and again, in one process."""

    def __init__(self, mib: int, cpu: int) -> None:
        super().__init__("storm", str(mib), cpu=cpu)

    def run(self, order: str) -> StormTime:
        """One storm; order: "sequential" or "random"."""
        cpu, elapsed, pages = map(int, self.ask(order).split())
        return StormTime(cpu / pages, elapsed / pages)


class Hold(Workload):
    """Holds `mib` MiB of touched anonymous memory in 4 KiB pages, or in huge ones with thp=True."""

    def __init__(self, mib: int, thp: bool = False) -> None:
        super().__init__("hold", str(mib), "thp" if thp else "4k")

    def discard(self, regions: int) -> None:
        """Give back one page in each of that many regions."""
        self.ask(f"discard {regions}")

    def touch(self, regions: int) -> None:
        """Write to the pages that `discard` gives back: one fault in each region."""
        self.ask(f"touch {regions}")

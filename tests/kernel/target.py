"""The process that the placement tests arrange and look at, and the kernel's own account of its pages.

`Target` drives the workload `placement` (tests/workloads/placement.c): a command, then its answer, and from then on
the process sleeps and its memory stays as it is. `read_truth` is the oracle: what /proc/PID/numa_maps says, which the
kernel computes by walking the page tables itself. Nothing of numatrace's own readers is used here, only the parsers
of the two text files.
"""

from __future__ import annotations

import errno
import os
import select
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tracer.kernel.numa_maps import NumaLine, read_numa_maps
from tracer.kernel.procfs import read_maps

__all__ = ["Area", "CommandFailed", "Target", "Truth", "build_workloads", "read_truth", "wait_asleep"]

WORKLOADS = Path(__file__).resolve().parent.parent / "workloads"
ANSWER_SECONDS = 300.0  # an emulated machine needs twenty times what this one needs
REGION_SHIFT = 21


class CommandFailed(Exception):
    """The kernel refused a command: `errno` says why."""

    def __init__(self, number: int, command: str) -> None:
        super().__init__(f"{command!r}: {errno.errorcode.get(number, number)}")
        self.errno = number


def build_workloads() -> Path:
    """Compile what is not compiled yet; the directory of the programs."""
    subprocess.run(["make", "-s", "-C", str(WORKLOADS)], check=True)
    return WORKLOADS / "bin"


def _state(stat: bytes) -> bytes:
    # The name before it may hold anything, parentheses and newlines too.
    return stat.rpartition(b") ")[2][:1]


def wait_asleep(pid: int, seconds: float = ANSWER_SECONDS) -> None:
    """Return when every thread of the process sleeps: a matter of moments, once it has written its answer."""
    deadline = time.monotonic() + seconds
    tasks = Path(f"/proc/{pid}/task")
    while True:
        try:
            states = [_state((task / "stat").read_bytes()) for task in tasks.iterdir()]
        except (FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            states = [b"?"]
        if all(state == b"S" for state in states):
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"process {pid} does not come to rest: {states}")
        os.sched_yield()


class Driven:
    """A workload that is told line by line what to do, and answers each line when all is done and at rest."""

    def __init__(self, program: Path, prefix: Sequence[str], arguments: Sequence[str] = ()) -> None:
        self._process = subprocess.Popen(
            [*prefix, str(program), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it, and with it all processes that it has made. It leaves at the end of its input."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        try:
            self._process.wait(ANSWER_SECONDS)
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()

    def busy(self) -> bool:
        """True while the command that was sent has not answered."""
        assert self._process.stdout is not None
        return not select.select([self._process.stdout], [], [], 0)[0]

    def _answer(self, command: str) -> str:
        assert self._process.stdout is not None
        answer = b""
        while not answer.endswith(b"\n"):
            ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_SECONDS)
            if not ready:
                raise AssertionError(f"no answer to {command!r}")
            piece = os.read(self._process.stdout.fileno(), 65536)
            if not piece:
                raise AssertionError(f"the workload ended at {command!r}, exit code {self._process.wait()}")
            answer += piece
        return answer.decode("ascii").strip()


class Target(Driven):
    """A running `placement`. `ask` sends a command and returns the values of its answer.

    static: the program without shared libraries, so that no other process of the machine maps pages of it.
    """

    def __init__(self, prefix: Sequence[str] = (), static: bool = False) -> None:
        program = build_workloads() / ("placement-static" if static else "placement")
        super().__init__(program, prefix)
        self.child_pid: int | None = None
        self.pid = int(self._answer("start").removeprefix("ready "))
        wait_asleep(self.pid)

    def kill(self) -> None:
        """Kill it and wait for its end."""
        self._process.kill()
        self._process.wait()

    def ask(self, *words: object) -> str:
        """Carry out a command; the values of its answer. `CommandFailed` if the kernel refused."""
        self.send(*words)
        return self.receive(*words)

    def send(self, *words: object) -> None:
        """Begin a command and do not wait for its end: `receive` with the same words does."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(str(word) for word in words).encode("ascii") + b"\n")

    def receive(self, *words: object) -> str:
        """Wait for the end of the command that `send` began."""
        command = " ".join(str(word) for word in words)
        answer = self._answer(command)
        done = not answer.startswith("err ")
        if done and words[0] == "fork":
            self.child_pid = int(answer.removeprefix("ok "))
        elif done and words[0] in ("reap", "exec"):
            self.child_pid = None
        self._settle()
        if not done:
            raise CommandFailed(int(answer.split()[1]), command)
        return answer.removeprefix("ok").strip()

    def _settle(self) -> None:
        for pid in (self.pid, self.child_pid):
            if pid is not None:
                wait_asleep(pid)


@dataclass(frozen=True, slots=True)
class Area:
    """One VMA as the kernel tells it: end (excluded) from maps, all else from its line of numa_maps."""

    start: int
    end: int
    line: NumaLine


@dataclass(frozen=True, slots=True)
class Truth:
    """Every VMA of a process with its pages per node, by the kernel."""

    areas: tuple[Area, ...]

    @property
    def regions(self) -> int:
        """Aligned 2 MiB regions that hold any part of any VMA: what a reader would read that reads everything."""
        return len(
            {
                region
                for area in self.areas
                for region in range(area.start >> REGION_SHIFT, ((area.end - 1) >> REGION_SHIFT) + 1)
            }
        )

    def pages(self, start: int, end: int) -> dict[int, int]:
        """Node -> pages of the VMAs that lie between two addresses."""
        total: dict[int, int] = {}
        for area in self.areas:
            if start <= area.start and area.end <= end:
                for node, pages in area.line.nodes.items():
                    total[node] = total.get(node, 0) + pages
        return total


def read_truth(pid: int) -> Truth:
    """The oracle, for a process at rest."""
    entries = read_maps(pid)
    lines = read_numa_maps(pid)
    assert [entry.start for entry in entries] == [line.start for line in lines], f"process {pid} is not at rest"
    return Truth(tuple(Area(entry.start, entry.end, line) for entry, line in zip(entries, lines, strict=True)))

"""A small process whose memory never stands still: something to point numatrace at.

It faults pages in, gives some back, maps and reads a file, grows and shrinks a mapping and forks a child that copies
pages on write, a few steps a second, for about as long as it is told. Where the machine has several NUMA nodes with
CPUs it moves to the next node for every round, so that the pages of a round land there. What it touches depends on
the options and the number of the step alone. It needs the standard library only, says nothing unless asked (`-v`),
and ends by itself.
"""

from __future__ import annotations

import argparse
import mmap
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PAGE = mmap.PAGESIZE
MIB = 1 << 20
BEAT_SECONDS = 0.25
PRIVATE_ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


def touch(area: mmap.mmap, start: int, end: int, value: int) -> None:
    """Write one byte to each page of area[start:end], which faults the missing ones in."""
    for offset in range(start, end, PAGE):
        area[offset] = value & 0xFF


class Workload:
    """A table that fills and empties, a file that is read, an arena that grows, and a child that copies.

    mib: size of the table in MiB; the file and the arena are a quarter of it.
    """

    def __init__(self, mib: int) -> None:
        self.table = mmap.mmap(-1, mib * MIB, flags=PRIVATE_ANONYMOUS)
        # Small pages only: a huge page would fill 2 MiB of the table at a touch, and nothing would seem to move.
        self.table.madvise(mmap.MADV_NOHUGEPAGE)
        self.arena = mmap.mmap(-1, self._quarter(), flags=PRIVATE_ANONYMOUS)
        # The name is gone at once, so a killed workload leaves nothing behind.
        self.file = tempfile.TemporaryFile(prefix="numatrace-workload-")  # noqa: SIM115 - lives as long as we do
        self.file.truncate(self._quarter())
        self.mapped = mmap.mmap(self.file.fileno(), self._quarter(), flags=mmap.MAP_SHARED)
        self.value = 0

    def steps(self) -> tuple[tuple[str, Callable[[], None]], ...]:
        """One round, in order: what a step is called and what does it."""
        return (
            ("fault in the first half of the table", lambda: self._fill(0, 2)),
            ("fault in the second half of the table", lambda: self._fill(1, 2)),
            ("write the file through a shared mapping", self._write_file),
            ("copy a part of the file on write", self._copy_file),
            ("fork a child that writes to the table", self._fork),
            ("double the arena and fill it", self._grow),
            ("shrink the arena to a quarter", self._shrink),
            ("give half of the table back", self._discard),
        )

    def close(self) -> None:
        self.mapped.close()
        self.arena.close()
        self.table.close()
        self.file.close()

    def _quarter(self) -> int:
        return len(self.table) // 4

    def _fill(self, part: int, parts: int) -> None:
        size = len(self.table) // parts
        self.value += 1
        touch(self.table, part * size, (part + 1) * size, self.value)

    def _write_file(self) -> None:
        touch(self.mapped, 0, len(self.mapped), self.value)

    def _copy_file(self) -> None:
        """A private mapping of the file: half of it is only read (file pages), a quarter is written (copied: anon)."""
        size = len(self.mapped)
        with mmap.mmap(self.file.fileno(), size, flags=mmap.MAP_PRIVATE) as private:
            for offset in range(0, size // 2, PAGE):
                _ = private[offset]
            touch(private, 0, size // 4, self.value)
            time.sleep(BEAT_SECONDS)

    def _fork(self) -> None:
        """The child writes to a quarter of the table, which copies those pages, and lives for one beat."""
        wait_for_parent, let_child_go = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(let_child_go)
            touch(self.table, 0, self._quarter(), self.value + 1)
            os.read(wait_for_parent, 1)  # returns at the end of the file, also when the parent was killed
            os._exit(0)
        os.close(wait_for_parent)
        time.sleep(BEAT_SECONDS)
        os.close(let_child_go)
        os.waitpid(child, 0)

    def _grow(self) -> None:
        self.arena.resize(2 * self._quarter())
        touch(self.arena, 0, len(self.arena), self.value)

    def _shrink(self) -> None:
        self.arena.resize(max(self._quarter() // 4, PAGE))

    def _discard(self) -> None:
        half = len(self.table) // 2
        self.table.madvise(mmap.MADV_DONTNEED, half, half)


def cpus_by_node() -> list[set[int]]:
    """The CPUs that we may run on, a set for each NUMA node that has some; one set where the kernel names no nodes."""
    allowed = os.sched_getaffinity(0)
    nodes = [set(_cpu_ids(path.read_text())) & allowed for path in sorted(_node_cpu_lists())]
    return [cpus for cpus in nodes if cpus] or [allowed]


def _node_cpu_lists() -> Iterator[Path]:
    return Path("/sys/devices/system/node").glob("node[0-9]*/cpulist")


def _cpu_ids(text: str) -> Iterator[int]:
    """The numbers of a kernel CPU list such as `0-3,8`."""
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


@contextmanager
def _workload(mib: int) -> Iterator[Workload]:
    workload = Workload(mib)
    try:
        yield workload
    finally:
        workload.close()


def run(seconds: float, mib: int, verbose: bool) -> None:
    """Rounds of steps, a step a beat, until the time is over."""
    nodes = cpus_by_node()
    end = time.monotonic() + seconds
    with _workload(mib) as workload:
        steps = workload.steps()
        step = 0
        while (began := time.monotonic()) < end:
            turn, index = divmod(step, len(steps))
            if index == 0:
                os.sched_setaffinity(0, nodes[turn % len(nodes)])
            name, action = steps[index]
            if verbose:
                print(name, file=sys.stderr, flush=True)
            action()
            time.sleep(max(0.0, min(began + BEAT_SECONDS, end) - time.monotonic()))
            step += 1


def main() -> int:
    parser = argparse.ArgumentParser(description="Use memory in ways that move, for numatrace to watch.")
    parser.add_argument("--seconds", type=float, default=10, help="how long to run, about (default: %(default)s)")
    parser.add_argument("--mib", type=int, default=64, help="size of the largest mapping in MiB (default: %(default)s)")
    parser.add_argument("-v", "--verbose", action="store_true", help="name each step on stderr")
    options = parser.parse_args()
    if options.seconds <= 0 or options.mib <= 0:
        parser.error("--seconds and --mib must be above 0")
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a demonstration; it is no reason for a traceback
    run(options.seconds, options.mib, options.verbose)
    return 0


if __name__ == "__main__":
    sys.exit(main())

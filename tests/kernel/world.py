"""What an operation of the placement tests works with: a target, its own slot of addresses, nodes, files.

An operation (operations.py) is a generator: it changes the target's memory, yields a `Step` and goes on when the
caller has compared. Its name and the step's name are a row of the table.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import mmap
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.kernel.target import CommandFailed, Target, Truth, read_truth

__all__ = ["ANON", "HUGE", "PAGE", "RW", "SHARED", "KernelLacks", "Operation", "Step", "World"]

PAGE = 4096
HUGE = 2 << 20
RW = mmap.PROT_READ | mmap.PROT_WRITE
ANON = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
SHARED = mmap.MAP_SHARED
_SLOTS = 0x100000000000  # placement.c
_SLOT_BYTES = 1 << 30
_FIRST_FD = 100
_NO_POLICY = 0
_MAP_HUGETLB = 0x40000


class KernelLacks(Exception):
    """The running kernel cannot do what the operation is about: the system call said so."""


@dataclass(frozen=True, slots=True)
class Step:
    """A moment at which everything must be equal.

    pages: what the kernel must say of the operation's slot, so that an operation that did nothing is noticed; None
    where it depends on the kernel. audited: why more than the touched regions may have been read again, or nothing.
    """

    name: str
    pages: int | None = None
    audited: str = ""


class World:
    """One operation's view of the target. `watch_child`: it is the forked child whose pages are compared."""

    _slots = itertools.count(1)

    def __init__(self, target: Target, nodes: list[int], directory: Path, watch_child: bool = False) -> None:
        self.target = target
        self.nodes = nodes
        self.directory = directory
        self.slot = next(World._slots)
        self.watch_child = watch_child
        self._files: list[Path] = []

    @property
    def pid(self) -> int:
        pid = self.target.child_pid if self.watch_child else self.target.pid
        assert pid is not None
        return pid

    @property
    def mask(self) -> int:
        """All nodes, as a bit mask."""
        return sum(1 << node for node in self.nodes)

    @property
    def last(self) -> int:
        """The node farthest from the first by number; the same one on a machine with one node."""
        return self.nodes[-1]

    def address(self, offset: int) -> int:
        return _SLOTS + self.slot * _SLOT_BYTES + offset

    def ask(self, *words: object, lacking: tuple[int, ...] = ()) -> str:
        """A command of placement.c. An error number in `lacking` means that the kernel has no such thing."""
        try:
            return self.target.ask(*words)
        except CommandFailed as failure:
            if failure.errno in lacking:
                raise KernelLacks(errno.errorcode[failure.errno]) from failure
            raise

    def map(
        self, offset: int, length: int, flags: int = ANON, prot: int = RW, file: bool = False, file_offset: int = 0
    ) -> None:
        """Map anonymous memory, or the file that `open` or `memfd` opened for this slot."""
        self.ask("map", self.slot, offset, length, prot, flags, self.slot if file else "none", file_offset)

    def map_hugetlb(self, offset: int, length: int, shift: int, flags: int = ANON) -> None:
        """Private or shared hugetlb pages of 2**shift bytes; the kernel lacks them if the pool is empty."""
        kind = flags | _MAP_HUGETLB | shift << 26
        words = ("map", self.slot, offset, length, RW, kind, "none", 0)
        self.ask(*words, lacking=(errno.ENOMEM, errno.EINVAL))

    def open(self, size: int, name: bytes = b"", flags: int = os.O_RDWR) -> Path:
        """Create a file and let the target open it. Its pages are in the page cache, clean, as after a read."""
        path = self.directory / (os.fsdecode(name) if name else f"file-{self.slot}")
        self._files.append(path)
        with path.open("wb") as file:
            file.write(b"x" * size)
            file.flush()
            os.fsync(file.fileno())
        self.ask("open", self.slot, os.fsencode(path).hex(), flags)
        return path

    def memfd(self, size: int, flags: int = 0, name: bytes = b"shared", lacking: tuple[int, ...] = ()) -> None:
        self.ask("memfd", self.slot, name.hex(), flags, size, lacking=lacking)

    @property
    def file_descriptor(self) -> int:
        """The target's number for what `open`, `memfd` or the command `userfault` opened for this slot."""
        return _FIRST_FD + self.slot

    @property
    def file_path(self) -> Path:
        """The file of this slot as another process can open it, memfd or not."""
        return Path(f"/proc/{self.target.pid}/fd/{self.file_descriptor}")

    def write(self, offset: int, length: int, step: int = PAGE) -> None:
        self.ask("write", self.slot, offset, length, step)

    def read(self, offset: int, length: int, step: int = PAGE) -> None:
        self.ask("read", self.slot, offset, length, step)

    def unmap(self, offset: int, length: int) -> None:
        self.ask("unmap", self.slot, offset, length)

    def protect(self, offset: int, length: int, prot: int) -> None:
        self.ask("protect", self.slot, offset, length, prot)

    def advise(self, offset: int, length: int, advice: int, lacking: tuple[int, ...] = ()) -> None:
        self.ask("advise", self.slot, offset, length, advice, lacking=lacking)

    def remap(self, offset: int, length: int, to: int, to_length: int, flags: int) -> None:
        self.ask("remap", self.slot, offset, length, self.slot, to, to_length, flags)

    def bind(self, offset: int, length: int, mode: int, mask: int, flags: int = 0) -> None:
        """mbind(2). A mode that the kernel does not know is EINVAL."""
        self.ask("bind", self.slot, offset, length, mode, mask, flags, lacking=(errno.EINVAL,))

    def policy(self, mode: int, mask: int) -> None:
        """set_mempolicy(2). A mode that the kernel does not know is EINVAL."""
        self.ask("policy", mode, mask, lacking=(errno.EINVAL,))

    def pin(self, cpu: int, child: bool = False) -> None:
        """Confine the target's main thread, or the forked child, to a CPU: its commands are carried out there."""
        self.ask(*_for_child(child), "pin", cpu)

    def pinned(self, offset: int, length: int, cpu: int, child: bool = False) -> int:
        """A thread on that CPU writes each page and then waits until `join`; its thread id."""
        return int(self.ask(*_for_child(child), "pinned", self.slot, offset, length, cpu))

    def pinned_read(self, offset: int, length: int, cpu: int, child: bool = False) -> int:
        """The same, reading."""
        return int(self.ask(*_for_child(child), "pinnedread", self.slot, offset, length, cpu))

    def join(self, child: bool = False) -> int:
        """End the threads of `pinned` and `pinned_read`; how many there were."""
        return int(self.ask(*_for_child(child), "join"))

    def where(self, offset: int, length: int) -> dict[int, int]:
        """Node -> pages by move_pages(2), which the target asks itself: a second opinion from the kernel."""
        pairs = (pair.partition("=") for pair in self.ask("where", self.slot, offset, length).split())
        return {int(node): int(pages) for node, _, pages in pairs if node != "absent"}

    def truth(self) -> Truth:
        return read_truth(self.pid)

    def slot_pages(self, truth: Truth) -> int:
        return sum(truth.pages(self.address(0), self.address(_SLOT_BYTES)).values())

    def transparent_huge(self, offset: int) -> int:
        """Bytes of transparent huge pages in the VMA that holds this address, by smaps."""
        inside = False
        for line in Path(f"/proc/{self.pid}/smaps").read_bytes().splitlines():
            first = line.split(maxsplit=1)[0]
            if b"-" in first and not first.endswith(b":"):
                start, _, end = first.partition(b"-")
                inside = int(start, 16) <= self.address(offset) < int(end, 16)
            elif inside and first in (b"AnonHugePages:", b"ShmemPmdMapped:"):
                size = int(line.split()[1]) << 10
                if size:
                    return size
        return 0

    def clear(self) -> None:
        """Leave nothing of the operation behind in the target."""
        self.join()
        self.ask("unpin")
        self.ask("policy", _NO_POLICY, 0)
        self.unmap(0, _SLOT_BYTES)
        if self.target.child_pid is not None:
            self.ask("reap")
        with contextlib.suppress(CommandFailed):  # an operation without a file
            self.ask("close", self.slot)
        for path in self._files:
            path.unlink(missing_ok=True)


def _for_child(child: bool) -> tuple[str, ...]:
    return ("child",) if child else ()


Operation = Callable[[World], Iterator[Step]]

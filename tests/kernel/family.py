"""A tree of processes that the tests of several targets grow and cut, by the workload tests/workloads/family.c.

Once a command has answered, every process of the family sleeps and its memory stays as it is, so that each can be
compared with its own numa_maps.
"""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from tests.kernel.target import ANSWER_SECONDS, CommandFailed, build_workloads, wait_asleep

__all__ = ["Family", "slot_address"]


def slot_address(slot: int, offset: int = 0) -> int:
    """Where the memory of `map SLOT` begins, in every process of the family."""
    return 0x100000000000 + (slot << 30) + offset


class Family:
    """A running `family`. pid: its first process, the hub, which is the ancestor of all others.

    live: PIDs of all its processes, the hub first. One that a test kills stays in it, a zombie, until `exit` is said
    to it.
    """

    def __init__(self, prefix: Sequence[str] = ()) -> None:
        program = build_workloads() / "family"
        self._process = subprocess.Popen(
            [*prefix, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self.pid = int(self._answer("start").removeprefix("ready "))
        self.live: tuple[int, ...] = (self.pid,)
        self._killed: set[int] = set()
        wait_asleep(self.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all processes. They leave at the end of their input, the hub last."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        try:
            self._process.wait(ANSWER_SECONDS)
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()

    def ask(self, pid: int, *words: object) -> list[int]:
        """Let a process carry out a command (family.c lists them); the values of its answer.

        Returns when all processes sleep. `CommandFailed` if the kernel refused.
        """
        self.send(pid, *words)
        return self.receive(pid, *words)

    def send(self, pid: int, *words: object) -> None:
        """Begin a command and do not wait for its end: `receive` with the same words does."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(str(word) for word in (pid, *words)).encode("ascii") + b"\n")

    def busy(self) -> bool:
        """True while the command that was sent has not answered."""
        assert self._process.stdout is not None
        return not select.select([self._process.stdout], [], [], 0)[0]

    def receive(self, pid: int, *words: object) -> list[int]:
        """Wait for the end of the command that `send` began."""
        command = " ".join(str(word) for word in (pid, *words))
        outcome, live = (part.split() for part in self._answer(command).split(" live"))
        self.live = tuple(map(int, live))
        self._killed &= set(self.live)
        for member in set(self.live) - self._killed:
            wait_asleep(member)
        if outcome[0] != "ok":
            raise CommandFailed(int(outcome[1]), command)
        return [int(word) for word in outcome[1:]]

    def fork(self, pid: int, levels: int = 1) -> list[int]:
        """A child of that process, a child of the child, and so on; the eldest first."""
        return self.ask(pid, "fork", levels)

    def kill(self, pid: int, signal: int) -> None:
        """Kill a process by a signal; `exit` said to it buries it."""
        self._killed.add(pid)
        os.kill(pid, signal)

    def _answer(self, command: str) -> str:
        assert self._process.stdout is not None
        answer = b""
        while not answer.endswith(b"\n"):
            ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_SECONDS)
            if not ready:
                raise AssertionError(f"no answer to {command!r}")
            piece = os.read(self._process.stdout.fileno(), 65536)
            if not piece:
                raise AssertionError(f"the family ended at {command!r}, exit code {self._process.wait()}")
            answer += piece
        return answer.decode("ascii").strip()

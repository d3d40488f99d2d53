"""A tree of processes that the tests of several targets grow and cut, by the workload tests/workloads/family.c.

Once a command has answered, every process of the family sleeps and its memory stays as it is, so that each can be
compared with its own numa_maps.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from tests.kernel.target import CommandFailed, Driven, build_workloads, wait_asleep

__all__ = ["Family", "slot_address"]


def slot_address(slot: int, offset: int = 0) -> int:
    """Where the memory of `map SLOT` begins, in every process of the family."""
    return 0x100000000000 + (slot << 30) + offset


class Family(Driven):
    """A running `family`. pid: its first process, the hub, which is the ancestor of all others.

    live: PIDs of all its processes, the hub first. One that a test kills stays in it, a zombie, until `exit` is said
    to it.
    """

    def __init__(self, prefix: Sequence[str] = ()) -> None:
        program = build_workloads() / "family"
        super().__init__(program, prefix)
        self.pid = int(self._answer("start").removeprefix("ready "))
        self.live: tuple[int, ...] = (self.pid,)
        self._killed: set[int] = set()
        wait_asleep(self.pid)

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

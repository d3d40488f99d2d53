"""Threads whose page faults do not come to an end until they are told to (tests/workloads/stuck.c)."""

from __future__ import annotations

from tests.kernel.target import CommandFailed, Driven, build_workloads, wait_asleep

__all__ = ["Stuck"]


class Stuck(Driven):
    """A running `stuck`. When a command has been answered, all its threads sleep."""

    def __init__(self) -> None:
        super().__init__(build_workloads() / "stuck", ())
        self.pid = int(self._answer("start").removeprefix("ready "))
        wait_asleep(self.pid)

    def ask(self, *words: object) -> None:
        """Carry out a command; `CommandFailed` if the kernel refused."""
        assert self._process.stdin is not None
        command = " ".join(map(str, words))
        self._process.stdin.write(command.encode("ascii") + b"\n")
        answer = self._answer(command)
        wait_asleep(self.pid)
        if answer.startswith("err "):
            raise CommandFailed(int(answer.split()[1]), command)

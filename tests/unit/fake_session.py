"""A session without a kernel: plays back what a test has put in, and writes down what was asked of it.

It stands in for the module `tracer.session`, which the command line imports only when it is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType, TracebackType
from typing import Any, Self

import numpy as np

from tests.unit.snapshots import sample, snapshot, vma
from tracer.kernel.procfs import TargetGone
from tracer.model.sample import Sample
from tracer.model.selection import Selection
from tracer.model.snapshot import Snapshot
from tracer.model.vma import Kind
from tracer.session_check import Unsettled

__all__ = ["Options", "Script", "install", "script_with", "session_module"]


@dataclass(frozen=True)
class Options:
    """As in the real module."""

    hooks: str = "auto"
    reader: str = "auto"
    seed: str = "auto"
    details: bool = False
    audit_cpu: float = 0.05
    flows: bool = False
    faults: bool = False
    threads: bool = False
    regions: bool = False
    policies: bool = False
    policy_calls: bool = False
    check: float = 0.0


Step = Sample | Snapshot | BaseException | Callable[[], Sample | Snapshot]
"""A snapshot stands for the sample of just that."""


@dataclass
class Script:
    """steps: what each refresh gives or raises; the last one repeats. wait: what `wait(seconds)` does. unsettled: what
    the last refresh knows to have changed of a PID.

    events: everything that happened, in order, for the test to look at.
    """

    steps: Sequence[Step] = ()
    wait: Callable[[float], bool] = lambda seconds: True
    unsettled: Callable[[int], Unsettled] = lambda pid: Unsettled(np.empty(0, np.int64))
    start: Callable[[Callable[[str, int, int], None]], None] = lambda progress: None
    notes: list[str] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)


def session_module(script: Script) -> ModuleType:
    """The module `tracer.session`, with sessions that follow `script`."""

    class Session:
        def __init__(
            self,
            selection: Selection,
            options: Options,
            progress: Callable[[str, int, int], None],
            expect_exec: bool = False,
        ) -> None:
            script.events.append(("open", selection, options, expect_exec))
            self.notes = script.notes
            self._progress = progress
            self._taken = 0

        def __enter__(self) -> Self:
            script.events.append("start")
            script.start(self._progress)
            return self

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
        ) -> None:
            script.events.append("close")

        def refresh(self) -> Sample:
            step = script.steps[min(self._taken, len(script.steps) - 1)]
            self._taken += 1
            script.events.append("refresh")
            if isinstance(step, BaseException):
                raise step
            given = step() if callable(step) else step
            return sample(given) if isinstance(given, Snapshot) else given

        def unsettled(self, pid: int) -> Unsettled:
            return script.unsettled(pid)

        def wait(self, seconds: float) -> bool:
            script.events.append(("wait", seconds))
            return script.wait(seconds)

    module = ModuleType("tracer.session")
    vars(module).update(Session=Session, Options=Options)
    return module


def install(script: Script) -> None:
    """For a process of its own; tests inside pytest use monkeypatch."""
    sys.modules["tracer.session"] = session_module(script)


def script_with(path: bytes, count: int = 1) -> Script:
    """`count` snapshots of one file mapping, and then the target is gone."""
    shot = snapshot([vma(kind=Kind.FILE, path=path)], [(1, 2)])
    return Script(steps=[*[shot] * count, TargetGone("process 42 is gone")])

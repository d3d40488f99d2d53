"""A target and one session that traces it through all tests of a module: the session's start takes longer than they."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.kernel.target import Target
from tests.kernel.world import World
from tracer.model.selection import Selection
from tracer.session import Options, Session

__all__ = ["Traced", "fight", "traced_with"]


@dataclass(frozen=True, slots=True)
class Traced:
    """The target, and the session that traces it and its children."""

    target: Target
    session: Session


@contextlib.contextmanager
def traced_with(options: Options) -> Iterator[Traced]:
    """A new target, and a session with these options."""
    with Target() as target, Session(Selection((target.pid,), follow_forks=True), options) as session:
        yield Traced(target, session)


def fight(
    world: World,
    session: Session,
    look: Callable[[], object],
    length: int,
    cpus: tuple[int, int],
    seconds: int,
    turn_ms: int,
) -> None:
    """Two threads want the same pages (placement.c). look: called every half second, and when both have ended."""
    words = ("fight", world.slot, 0, length, *cpus, seconds, turn_ms)
    world.target.send(*words)
    while world.target.busy():
        session.wait(0.5)
        look()
    world.target.receive(*words)
    look()

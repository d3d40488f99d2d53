"""A run of the soak: rounds of random operations, with refreshes meanwhile and a comparison after each.

What happens in a round follows from the seed: how many operations of which kinds, whether it is looked at meanwhile,
and when another session with other options takes over. Only how the threads take turns does not, and what is refreshed
when while they run.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.soak.command import Command
from tests.soak.judge import Figures, Wrong, judge
from tests.soak.workload import Kinds, Soak
from tracer import session_settle
from tracer.model.selection import Selection
from tracer.session import Options, Session

__all__ = ["THREADS", "Round", "Run"]

THREADS = 3, 2, 1
"""Of each process. The last one, with a single thread, executes its program anew now and then."""
COMMAND_ROUNDS = 5
"""Rounds that `numatrace maps` watches."""
MOST_OPERATIONS = 9
"""Of a thread in a round, as a power of two."""


@dataclass(frozen=True, slots=True)
class Round:
    """count: operations of each thread. refreshed: also while it runs. options: of the session that begins, in the
    middle of it, or None where the present one goes on."""

    count: int
    kinds: Kinds
    refreshed: bool
    options: Options | None

    @staticmethod
    def draw(chance: random.Random, first: bool, most: int) -> Round:
        """As many draws whatever comes out. first: of the run; most: see MOST_OPERATIONS."""
        count = int(2 ** chance.uniform(0, most))
        kinds = chance.choices([Kinds.LOCAL, Kinds.LOCAL | Kinds.SHARING, Kinds(7)], [6, 2, 2])[0]
        refreshed = chance.random() < 0.7
        changes = chance.random() < 0.04
        flows, faults, threads, regions, policies = (chance.random() < 0.3 for _ in range(5))
        options = Options(
            hooks="tracepoint",
            reader=chance.choices(["walk", "pagemap"], [3, 1])[0],
            seed=chance.choice(["auto", "walk", "pagemap"]),
            flows=flows,
            faults=faults,
            threads=threads,
            regions=regions,
            policies=policies,
        )
        if options.reader == "pagemap" and options.seed == "walk":
            options = Options(hooks="tracepoint", reader="pagemap")
        return Round(count, kinds, refreshed, options if first or changes else None)


class Run:
    """All rounds of a seed. say: told of each new session."""

    def __init__(self, seed: int, directory: Path, say: Callable[[str], None], most: int = MOST_OPERATIONS) -> None:
        self.seed, self.figures = seed, Figures()
        self._plan, self._whim = random.Random(seed), random.Random()
        self._say, self._most = say, most
        self._soak = Soak(seed, directory, THREADS)
        self._session: Session | None = None

    def close(self) -> None:
        """End all."""
        if self._session is not None:
            self._session.close()
        self._soak.close()

    @property
    def tallies(self) -> list[str]:
        """How often each operation was tried and failed, as a table."""
        rows = self._soak.tallies()
        width = max(len(row.operation) for row in rows)
        return [f"{row.operation.ljust(width)}  {row.tried:>10,}  {row.failed:>10,}" for row in rows]

    def round(self) -> None:
        """One more. Raises `Wrong`, with what is needed to see it again."""
        it = Round.draw(self._plan, self._session is None, self._most)
        try:
            self._do(it)
        except Wrong as wrong:
            told = f"seed {self.seed}, round {self.figures.rounds}: {it}\n{wrong}"
            raise Wrong(f"{told}\nagain: make soak SEED={self.seed}") from None
        finally:
            self.figures.operations = self._soak.operations()
        self.figures.rounds += 1

    def _do(self, it: Round) -> None:
        self._soak.mark()
        self._soak.send(it.count, it.kinds)
        if it.options is not None:
            self._begin(it.options)
        session = self._session
        assert session is not None
        with _counted_audits(self.figures):
            while it.refreshed and self._soak.busy():
                if self._whim.random() < 0.5:
                    session.refresh()
                    self.figures.refreshes += 1
                    self.figures.running += 1
                else:
                    session.wait(self._whim.uniform(0, 0.05))
            while self._soak.busy():
                session.wait(0.02)
            self._soak.receive()
            judge(session, self._soak, self.figures)
        self.figures.by_events += len(set(self._soak.pids) - self.figures.audited)
        self.figures.audited.clear()

    def _begin(self, options: Options) -> None:
        if self._session is not None:
            self._session.close()
        self._say(f"round {self.figures.rounds}: {options}")
        self._session = Session(Selection(self._soak.pids, follow_forks=True), options)
        self.figures.lost_by_session = 0
        self.figures.sessions += 1
        self._session.start()

    def command(self) -> None:
        """Some rounds that `numatrace maps` watches as well, from its start in the middle of the first one on."""
        assert self._session is not None
        self._soak.send(1 << self._most, Kinds(7))
        command = Command(self._soak.pids, "--every", "0.1")
        try:
            for _ in range(COMMAND_ROUNDS):
                while self._soak.busy():
                    self._session.wait(0.02)
                self._soak.receive()
                command.judge(self._soak, self.figures)
                judge(self._session, self._soak, self.figures)
                self._soak.send(1 << self._most, Kinds(7))
            self._soak.receive()
        finally:
            command.close()


@contextlib.contextmanager
def _counted_audits(figures: Figures) -> Iterator[None]:
    """Count the audits that come to their end in here."""
    end = session_settle.Settler._end_audit

    def counted(settler: session_settle.Settler, audit: session_settle._Audit) -> None:
        figures.audits += 1
        figures.audited.add(settler.pid)
        end(settler, audit)

    session_settle.Settler._end_audit = counted  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        session_settle.Settler._end_audit = end  # type: ignore[method-assign]

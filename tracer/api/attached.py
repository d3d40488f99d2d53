"""Live processes: a session, and what it has told since it began."""

from __future__ import annotations

import math
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from tracer.api.about import describe
from tracer.api.history import History
from tracer.api.moments import Moment
from tracer.api.placements import Placements, check_asked, check_by, totals_frame
from tracer.errors import NumatraceError
from tracer.kernel.procfs import TargetGone
from tracer.model.sample import Sample
from tracer.model.snapshot import Snapshot

if TYPE_CHECKING:
    from tracer.model.selection import Selection
    from tracer.record.schema import Info
    from tracer.session import Options, Session

__all__ = ["DEFAULT_INTERVAL_S", "DEFAULT_KEEP", "Attached"]

DEFAULT_INTERVAL_S = 1.0
DEFAULT_KEEP = 60
"""Samples of which the whole placement is kept."""
_LAST_LOOKS = 3
"""After the end of all targets: what was still in a log comes with the second or third look."""


class Attached(Placements):
    """Processes that are being watched, from `tracer.attach`.

    Nothing is read behind your back: `refresh()` and `watch()` take samples, and all frames tell of the samples taken
    so far. They stay when the processes have ended and after `close()`. Of the last `keep` samples the whole placement
    is kept, of older ones the totals, flows, faults, changes of policies and trust.
    """

    def __init__(
        self,
        selection: Selection,
        options: Options,
        every: float = DEFAULT_INTERVAL_S,
        keep: int = DEFAULT_KEEP,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        from tracer.session import Session

        self._options, self._every, self._clock = options, every, clock
        self._history = History()
        self._kept: deque[Sample] = deque(maxlen=keep)
        life = ExitStack()
        # Also when nobody calls close: a notebook that attaches again must not leave the old hooks behind.
        self._end = weakref.finalize(self, life.close)
        self._session: Session | None = life.enter_context(Session(selection, options, None))
        self._notes = self._session.notes
        try:
            self.refresh()
            self._info = describe(selection, options, every, self._kept[-1])
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        pids = ", ".join(str(shot.pid) for shot in self._kept[-1].snapshots[:4]) or "nothing"
        state = "closed" if self._session is None else f"watching {pids}"
        return f"<numatrace, {state}: {len(self)} samples, nodes {', '.join(map(str, self.node_ids))}>"

    # --- taking samples ---

    def refresh(self) -> Attached:
        """Take a sample now; returns itself. Raises TargetGone once the processes have ended and all of it is told."""
        if self._session is None:
            raise NumatraceError("this process is watched no more: it was closed", "attach again")
        sample = self._session.refresh()
        self._history.add(sample)
        self._kept.append(_sharing(sample, self._kept[-1] if self._kept else None))
        return self

    def wait(self, seconds: float) -> bool:
        """Let time pass between two samples. False as soon as there is nothing left to watch.

        Better than time.sleep: what the hooks have noted is taken in meanwhile, so a storm of events loses nothing.
        """
        if self._session is None:
            return False
        return self._session.wait(seconds)

    def watch(self, every: float | None = None, duration: float = math.inf) -> Iterator[Attached]:
        """Take a sample every so many seconds and yield itself after each, until the duration (seconds) is over or the
        processes have ended. every: by default that of `attach`, or 1."""
        step = self._every if every is None else every
        if not step > 0 or not duration > 0:
            raise ValueError("every and duration are seconds above 0")
        return self._watch(step, duration)

    def _watch(self, step: float, duration: float) -> Iterator[Attached]:
        start = self._clock()
        end = start + duration
        beat = last_looks = 0
        while last_looks < _LAST_LOOKS:
            # A beat that was missed is skipped, not made up for.
            beat = max(beat + 1, math.ceil((self._clock() - start) / step))
            due = min(start + beat * step, end)
            if not self.wait(max(0.0, due - self._clock())):
                last_looks += 1
            try:
                self.refresh()
            except TargetGone:
                return
            yield self
            if due >= end or self._session is None:
                return

    @property
    def snapshot(self) -> Snapshot:
        """The last sample of the one process. ValueError where there are none or several: then see `sample()`."""
        return self.sample().only

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be used on this machine, and what is used instead."""
        return tuple(self._notes)

    def close(self) -> None:
        """Take all hooks away. What was told stays. Harmless to repeat."""
        self._session = None
        self._end()

    # --- what was told ---

    @property
    def info(self) -> Info:
        return self._info

    @property
    def node_ids(self) -> tuple[int, ...]:
        return self._history.node_ids

    def _times(self) -> npt.NDArray[np.datetime64]:
        return self._history.times

    def _sample(self, index: int) -> Sample:
        dropped = len(self) - len(self._kept)
        if index < dropped:
            raise NumatraceError(
                f"of sample {index} only sums are kept",
                f"whole placements are kept of the last {self._kept.maxlen}: attach(…, keep=N) keeps more",
            )
        return self._kept[index - dropped]

    def totals(self, by: Literal["pid"] | None = None) -> pd.DataFrame:
        check_by(by)
        if by == "pid":
            return totals_frame(*self._history.totals_by_pid(), self.node_ids)
        return totals_frame(self._times(), None, self._history.totals(), self.node_ids)

    def flows(self, since: Moment | None = None, until: Moment | None = None) -> pd.DataFrame:
        """As of every `Placements`; NumatraceError where they were not asked for in `attach`."""
        check_asked(self._info.flows, "flows")
        return self._history.flows.frame(self._times(), *self._span(since, until))

    def faults(self, since: Moment | None = None, until: Moment | None = None) -> pd.DataFrame:
        """As of every `Placements`; NumatraceError where they were not asked for in `attach`."""
        check_asked(self._info.faults, "faults")
        return self._history.faults.frame(self._times(), *self._span(since, until))

    def policy_changes(self, since: Moment | None = None, until: Moment | None = None) -> pd.DataFrame:
        """As of every `Placements`; NumatraceError where policies were not asked for in `attach`."""
        check_asked(self._info.policies, "policies")
        return self._history.policy_changes.frame(self._times(), *self._span(since, until))

    def trust(self) -> pd.DataFrame:
        return self._history.trust.frame(self._times(), 0, len(self) - 1)


def _sharing(sample: Sample, before: Sample | None) -> Sample:
    """The same sample, with what did not change shared with the one before, so that to keep many costs little."""
    if before is None:
        return sample
    old = {shot.pid: shot for shot in before.snapshots}
    shots = tuple(_sharing_pages(shot, old.get(shot.pid)) for shot in sample.snapshots)
    return replace(sample, snapshots=shots)


def _sharing_pages(shot: Snapshot, before: Snapshot | None) -> Snapshot:
    if before is None:
        return shot
    pages = before.pages if np.array_equal(before.pages, shot.pages) else shot.pages
    vmas = before.vmas if before.vmas == shot.vmas else shot.vmas
    return replace(shot, pages=pages, vmas=vmas)

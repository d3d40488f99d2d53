"""Where the samples of the view come from: running processes, or a recording. The command line makes the objects.

Nothing here knows a session or a file: the view is the same for both, and for the fakes of the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tracer.model.sample import Sample

__all__ = ["Activity", "Recorded", "Source", "Tick"]


@dataclass(frozen=True, slots=True)
class Tick:
    """A sample, and the seconds since the one before; for the first one since the hooks were attached, or 0.0 where
    that is not known. What happened (flows, faults) happened in these seconds."""

    sample: Sample
    seconds: float


class Source(Protocol):
    """Processes that run. Its methods are called from one thread, which is not that of the view."""

    title: str
    """What is watched, in a few words; may hold anything, the view escapes it."""
    every_s: float
    """Seconds between two samples."""

    def next(self, stopped: Callable[[], bool]) -> Tick | None:
        """Wait for the next sample. None at the end: nothing is left to watch, or `stopped()` has become true, which
        it looks at several times a second. Raises NumatraceError."""

    def last_words(self) -> str:
        """How it ended, for the user: `exited with code 3`. Empty where there is no more to say than that it has."""


@dataclass(frozen=True, slots=True)
class Activity:
    """How much happened before each of some samples, for the marks of a time line: int64 of shape (samples,).

    moved: pages that went to another place. faults: page faults.
    """

    moved: npt.NDArray[np.int64]
    faults: npt.NDArray[np.int64]


class Recorded(Protocol):
    """A recording: samples by number, from 0. Its methods may take up to a second, and are called from one thread,
    which is not that of the view, except for `__len__` and `time`."""

    title: str
    """What it is a recording of, and from when; may hold anything."""

    def __len__(self) -> int:
        """How many samples."""

    def time(self, index: int) -> datetime:
        """When a sample was taken; aware, ascending with `index`."""

    def samples(self, first: int, last: int) -> Iterator[Sample]:
        """Whole samples, `last` included. Raises NumatraceError where the file cannot be read."""

    def activity(self, first: int, last: int) -> Activity:
        """Of these samples, `last` included. Raises NumatraceError where the file cannot be read."""

    def moment(self, text: str) -> int:
        """The number of the sample at a time that the user typed. Raises NumatraceError where that is none."""

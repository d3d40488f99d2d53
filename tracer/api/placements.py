"""What a recording and an attached process have in common: placement over time, as pandas DataFrames."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from tracer.api import frames, policy_frames
from tracer.api.moments import Moment, find
from tracer.errors import NumatraceError
from tracer.model.sample import Sample
from tracer.model.verdict import SIGNIFICANCE, TOLERANCE, Limits

if TYPE_CHECKING:
    from tracer.record.schema import Info

__all__ = ["Placements", "check_asked", "check_by", "totals_frame"]


class Placements(ABC):
    """Samples of one or several processes, oldest first; a context manager.

    Where a moment is asked for (`at`, `since`, `until`), it is an aware datetime or pandas.Timestamp, numpy.datetime64
    (UTC), text in RFC 3339, an offset as text (`"+90s"` from the first sample, `"-10s"` before the last; in ms, s, m,
    h or d), `"start"`, `"end"`, or the number of a sample (negative ones count from the end, as in a list). A time
    means the last sample at or before it; as text, the first one within the second (or fraction) that was written, if
    there is one. NumatraceError where there is none.

    The columns of every frame, with units and dtypes, are in docs/api.md.
    """

    # --- what it is about ---

    @property
    @abstractmethod
    def info(self) -> Info:
        """Host, kernel, nodes, command line and options."""

    @property
    @abstractmethod
    def node_ids(self) -> tuple[int, ...]:
        """Ids of the nodes with memory, ascending; frames have a column `N<id>` for each."""

    @property
    def times(self) -> pd.DatetimeIndex:
        """When the samples were taken, UTC."""
        return frames.index_of_times(self._times())

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self._times())

    @abstractmethod
    def _times(self) -> npt.NDArray[np.datetime64]:
        """datetime64[us], UTC, ascending, one per sample."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file or the processes. Harmless to repeat."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # --- at a moment ---

    def sample(self, at: Moment | None = None) -> Sample:
        """Everything that is known of a moment, as numatrace's own types (tracer/model); None: the last one."""
        return self._sample(self._index(at))

    @abstractmethod
    def _sample(self, index: int) -> Sample: ...

    def vmas(self, at: Moment | None = None) -> pd.DataFrame:
        """A row per VMA of every process that lives at that moment, those without pages too; None: the last one."""
        return frames.vmas(self.sample(at), self.node_ids, self.info.details)

    def placement(self, at: Moment | None = None) -> pd.DataFrame:
        """Where the pages are, in long form: a row per VMA and node on which it has pages."""
        return frames.placement(self.sample(at), self.node_ids)

    # --- policies at a moment ---

    def policies(
        self, at: Moment | None = None, *, significance: float = SIGNIFICANCE, tolerance: float = TOLERANCE
    ) -> pd.DataFrame:
        """Whether pages lie as the policies in force promise: a row per VMA with pages of every process that lives at
        that moment; None: the last one.

        significance: a spread that chance gives less often is no chance. tolerance: the share of the pages that may lie
        elsewhere before that says anything. ValueError unless both are from 0 to 1.
        """
        limits = _limits(significance, tolerance)
        return policy_frames.policies(self.sample(at), self.node_ids, limits)

    def causes(self, at: Moment | None = None) -> pd.DataFrame:
        """Why pages lie elsewhere than their policy promises: a row per VMA, cause, reason of a migration, node where
        the pages lie and node that the policy gives them. Where policies were not asked for all is unknown."""
        return policy_frames.causes(self.sample(at))

    def thread_policies(self, at: Moment | None = None) -> pd.DataFrame:
        """The task policy of each thread, the main thread first. NumatraceError where policies were not asked for."""
        check_asked(self.info.policies, "policies")
        return policy_frames.thread_policies(self.sample(at))

    # --- over time ---

    @abstractmethod
    def totals(self, by: Literal["pid"] | None = None) -> pd.DataFrame:
        """Pages on each node, indexed by time (UTC), over all processes; by="pid": indexed by (time, pid).

        A page that several processes map counts in each of them, and a hugetlb page counts 1, as in numa_maps.
        """

    @abstractmethod
    def flows(self, since: Moment | None = None, until: Moment | None = None) -> pd.DataFrame:
        """Pages that moved: a row per sample, VMA, source, destination and reason, for what happened between two
        samples; by default from the beginning to the end."""

    @abstractmethod
    def faults(self, since: Moment | None = None, until: Moment | None = None) -> pd.DataFrame:
        """Page faults: a row per sample, VMA, node of the CPU, node of the page, kind and thread."""

    @abstractmethod
    def policy_changes(self, since: Moment | None = None, until: Moment | None = None) -> pd.DataFrame:
        """Policies of memory and of threads that became others: a row for each change, in order of time."""

    @abstractmethod
    def trust(self) -> pd.DataFrame:
        """How far to believe each sample of each process, and what it cost."""

    # --- moments ---

    def _index(self, moment: Moment | None) -> int:
        return find("end" if moment is None else moment, self._times())

    def _span(self, since: Moment | None, until: Moment | None) -> tuple[int, int]:
        """First and last sample, both included, with what happened after `since` and up to `until`.

        The first is behind the last where nothing lies between.
        """
        first = 0 if since is None else self._index(since) + 1
        return first, self._index(until)


def _limits(significance: float, tolerance: float) -> Limits:
    for name, share in (("significance", significance), ("tolerance", tolerance)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is {share!r}: it is a share, from 0 to 1")
    return Limits(significance, tolerance)


def check_by(by: object) -> None:
    """ValueError for a `by` that `totals` does not know."""
    if by not in (None, "pid"):
        raise ValueError(f"by is {by!r}: it can be None or 'pid'")


def check_asked(told: bool, what: str) -> None:
    """NumatraceError where nobody asked for `what`: no rows would look as if nothing had happened."""
    if not told:
        raise NumatraceError(f"{what} were not asked for when this was taken", f"attach(…, {what}=True)")


def totals_frame(
    times: npt.NDArray[np.datetime64],
    pids: npt.NDArray[np.int64] | None,
    pages: npt.NDArray[np.int64],
    node_ids: tuple[int, ...],
) -> pd.DataFrame:
    """One row each of `times` (and `pids`). pages: int64 of shape (rows, nodes)."""
    index: pd.Index = frames.index_of_times(times)
    if pids is not None:
        index = pd.MultiIndex.from_arrays([index, pids], names=["time", "pid"])
    return pd.DataFrame(pages, index=index, columns=list(frames.node_columns(node_ids)), dtype="int64")

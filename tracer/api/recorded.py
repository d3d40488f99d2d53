"""Recordings: what a recorder wrote, opened again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from tracer.api import frames, policy_frames
from tracer.api.moments import Moment
from tracer.api.placements import Placements, check_asked, check_by, totals_frame
from tracer.model.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tracer.record.recording import Recording
    from tracer.record.schema import Info

__all__ = ["Recorded"]

_HAPPENED = ("vma", "target", "ended")
"""Events whose rows tell of flows and faults of processes."""
_PAGE_KB = 4


class Recorded(Placements):
    """A recording, from `tracer.open`. Columns are read from the file when they are asked for, so it may be large."""

    def __init__(self, recording: Recording, path: str) -> None:
        self._recording = recording
        self._path = path

    def __repr__(self) -> str:
        return f"<numatrace recording {self._path!r}: {len(self)} samples, nodes {', '.join(map(str, self.node_ids))}>"

    @property
    def info(self) -> Info:
        return self._recording.info

    @property
    def node_ids(self) -> tuple[int, ...]:
        return self._recording.node_ids

    def _times(self) -> npt.NDArray[np.datetime64]:
        return self._recording.times

    def close(self) -> None:
        self._recording.close()

    def _sample(self, index: int) -> Sample:
        return self._recording.at(index)

    def samples(self, since: Moment | None = None, until: Moment | None = None) -> Iterator[Sample]:
        """All samples one after the other, both ends included; far cheaper than `sample(at)` for each."""
        first = 0 if since is None else self._index(since)
        return self._recording.samples(first, self._index(until))

    def totals(self, by: Literal["pid"] | None = None) -> pd.DataFrame:
        check_by(by)
        columns = self._arrays(self._recording.totals())
        pages = np.zeros((len(columns["time"]), len(self.node_ids)), np.int64)
        for index, node in enumerate(self.node_ids):
            pages[:, index] = columns.get(f"N{node}", 0)
        times = self._times()
        if by == "pid":
            return totals_frame(columns["time"], columns["pid"], pages, self.node_ids)
        # A row for every sample: where no process lived there are no pages.
        sums = np.zeros((len(times), len(self.node_ids)), np.int64)
        np.add.at(sums, np.searchsorted(times, columns["time"]), pages)
        return totals_frame(times, None, sums, self.node_ids)

    def flows(self, since: Moment | None = None, until: Moment | None = None) -> pd.DataFrame:
        """As of every `Placements`; NumatraceError where they were not recorded."""
        check_asked(self.info.flows, "flows")
        columns = self._happened("flows", since, until, "page_kb")
        columns["bytes"] = columns["pages"] * columns["page_kb"] << 10
        return frames.frame(frames.FLOWS, columns)

    def faults(self, since: Moment | None = None, until: Moment | None = None) -> pd.DataFrame:
        """As of every `Placements`; NumatraceError where they were not recorded."""
        check_asked(self.info.faults, "faults")
        return frames.frame(frames.FAULTS, self._happened("faults", since, until))

    def policy_changes(self, since: Moment | None = None, until: Moment | None = None) -> pd.DataFrame:
        """As of every `Placements`; NumatraceError where policies were not recorded."""
        check_asked(self.info.policies, "policies")
        from tracer.record.explode import arrays, exploded

        table = self._between(since, until, "target", "ended", columns=["time", "pid", "policy_changes"])
        columns = arrays(exploded(table, "policy_changes", "change_"))
        for name in ("exact", "thread", "start", "end", "call"):
            columns[name] = columns[f"change_{name}"]
        columns |= {"changed": columns["change_time"], "old": columns["change_old_policy"]}
        return frames.frame(policy_frames.POLICY_CHANGES, columns | {"new": columns["change_new_policy"]})

    def trust(self) -> pd.DataFrame:
        columns = self._rows("target", columns=[name for name in frames.TRUST if name != "untraced"])
        untraced = self._rows("machine", columns=["time", "untraced"])
        # It is written when it changes: every row has that of the last row of the machine before it.
        known = np.searchsorted(untraced["time"], columns["time"], side="right") - 1
        counts = np.append(untraced["untraced"], 0)
        return frames.frame(frames.TRUST, columns | {"untraced": counts[known]})

    def _happened(self, what: str, since: Moment | None, until: Moment | None, *more: str) -> dict[str, Any]:
        wanted = ["time", "pid", "start", "end", "name", *more, what]
        table = self._between(since, until, *_HAPPENED, columns=wanted)
        from tracer.record.explode import arrays, exploded

        nowhere = {"start": frames.NOWHERE, "end": frames.NOWHERE, "page_kb": _PAGE_KB}
        return arrays(exploded(table, what), nowhere)

    def _between(self, since: Moment | None, until: Moment | None, *events: str, columns: Sequence[str]) -> Any:
        """The `pyarrow.Table` of the rows of what happened between."""
        first, last = self._span(since, until)
        if last < first:  # nothing lies between: the columns, and no row
            return self._recording.rows(*events, columns=columns, first=0, last=0).slice(0, 0)
        return self._recording.rows(*events, columns=columns, first=first, last=last)

    def _rows(self, *events: str, columns: Sequence[str]) -> dict[str, Any]:
        return self._arrays(self._recording.rows(*events, columns=columns))

    def _arrays(self, table: Any) -> dict[str, Any]:
        from tracer.record.explode import arrays

        return arrays(table)

"""Reading a recording: any moment of it as a sample, all samples one after the other, or plain rows.

A file is read through its index: where each sample begins and which of them are key frames. A moment costs the rows
from the last key frame before it on, however long the recording is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tracer.errors import NumatraceError
from tracer.model.sample import Sample
from tracer.record.chunk import Chunk
from tracer.record.decode import Decoder
from tracer.record.part import Part
from tracer.record.recover import recover
from tracer.record.schema import Info, arrow_schema, node_column

__all__ = ["Recording", "open_recording"]

_CHUNK_ROWS = 16_384
"""Rows that are taken apart at a time when samples are made one after the other."""


def open_recording(path: str | os.PathLike[str]) -> Recording:
    """A recording that is one file, or a directory that a rotating recorder has filled.

    What a recorder that was killed has left behind is recovered first. NumatraceError when there is no recording, it
    is damaged or of a later version, it has no samples, or a recorder is still at work on it.
    """
    path = os.fspath(path)
    recover(path)
    return Recording(_parts_of_directory(path) if os.path.isdir(path) else _only_part(path))


class Recording:
    """Parts in the order of time. A context manager; not to be used by several threads at once.

    info: that of the first part; what was asked for (`flows` and so on) is true where any part has it, and how it ended
    is that of the last. node_ids: of all parts, ascending; every sample has these. times: of the samples, ascending,
    datetime64[us] in UTC.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        """parts: at least one, each with samples."""
        self._parts = list(parts)
        self._open: Part | None = None
        self.info = _common_info([part.info for part in self._parts])
        self.node_ids = tuple(sorted({node for part in self._parts for node in part.info.node_ids}))
        self.times: npt.NDArray[np.datetime64] = np.concatenate([part.index.times for part in self._parts])
        self._first_samples = np.cumsum([0, *(len(part.index.times) for part in self._parts)])

    def close(self) -> None:
        """Harmless to repeat."""
        for part in self._parts:
            part.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.times)

    def time(self, index: int) -> datetime:
        """Of a sample, aware, in UTC."""
        time: datetime = self.times[index].item()
        return time.replace(tzinfo=UTC)

    def index_at(self, moment: datetime) -> int:
        """The last sample at or before an aware time. NumatraceError when there is none."""
        wanted = np.datetime64(moment.astimezone(UTC).replace(tzinfo=None), "us")
        index = int(np.searchsorted(self.times, wanted, side="right")) - 1
        if index < 0:
            raise NumatraceError(
                f"the recording begins at {self.time(0).isoformat()}, after {moment.astimezone(UTC).isoformat()}",
                "choose a later moment",
            )
        return index

    def at(self, index: int) -> Sample:
        """The sample with this number. IndexError unless 0 <= index < len(self)."""
        (sample,) = self.samples(index, index)
        return sample

    def samples(self, first: int = 0, last: int | None = None) -> Iterator[Sample]:
        """The samples from `first` to `last` (included; by default the last one).

        What does not change from one to the next is the same object in both. IndexError for numbers that are not
        there.
        """
        last = len(self) - 1 if last is None else last
        if not (0 <= first < len(self) and 0 <= last < len(self)):
            raise IndexError(f"no samples {first} to {last} in a recording of {len(self)}")
        return self._samples(first, last)

    def _samples(self, first: int, last: int) -> Iterator[Sample]:
        decoder = Decoder(self.info, self.node_ids)
        for part, low, high in self._ranges(first, last):
            decoder.use(part.info)
            with part.understood():
                key = part.index.key_before(low)
                if key < low:
                    decoder.skip(self._chunk(part, key, low - 1))
                while low <= high:
                    upto = part.index.last_within(low, high, _CHUNK_ROWS)
                    yield from decoder.samples(self._chunk(part, low, upto))
                    low = upto + 1

    def _ranges(self, first: int, last: int) -> Iterator[tuple[Part, int, int]]:
        """The parts that hold these samples, and which of each part's own."""
        for part, begin, end in zip(self._parts, self._first_samples, self._first_samples[1:], strict=False):
            low, high = max(first, int(begin)), min(last, int(end) - 1)
            if low <= high:
                if self._open is not None and self._open is not part:
                    self._open.close()
                self._open = part
                yield part, low - int(begin), high - int(begin)

    def _chunk(self, part: Part, first: int, last: int) -> Chunk:
        table, bounds = part.samples(first, last)
        return Chunk(table, bounds, part.index.times[first : last + 1], self.node_ids)

    # --- rows ---

    def totals(self) -> Any:
        """A `pyarrow.Table` of all rows of live targets: time, pid, comm, pages and pages per node."""
        return self.rows("target", columns=["time", "pid", "comm", "pages", *map(node_column, self.node_ids)])

    def rows(
        self, *events: str, columns: Sequence[str] | None = None, first: int | None = None, last: int | None = None
    ) -> Any:
        """A `pyarrow.Table` of the rows of these events (all, when none is named), in their order.

        columns: by default all; those of policies may be named also where there are none. first, last: numbers of
        samples, included.
        """
        info = replace(self.info, node_ids=self.node_ids)
        if columns is not None:
            info = replace(info, policies=True)
        schema = arrow_schema(info).remove_metadata()
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in columns])
        first, last = first or 0, len(self) - 1 if last is None else last
        return pa.concat_tables([part.rows(low, high, events, schema) for part, low, high in self._ranges(first, last)])


# --- opening ---


def _only_part(path: str) -> list[Part]:
    part = Part(path)
    if not len(part.index.times):
        part.close()
        raise NumatraceError(f"{path} is a recording without any sample")
    return [part]


def _parts_of_directory(path: str) -> list[Part]:
    """The parts with samples in the order of time."""
    files = sorted(_parquet_files(path))
    if not files:
        raise NumatraceError(f"there is no recording in the directory {path}")
    parts = []
    for file in files:
        part = Part(file)
        part.close()  # there may be more than files may be open
        if len(part.index.times):
            parts.append(part)
    if not parts:
        raise NumatraceError(f"no recording in the directory {path} has any sample")
    hosts = sorted({part.info.host for part in parts})
    if len(hosts) > 1:
        raise NumatraceError(
            f"{path} holds recordings of {len(hosts)} hosts: {', '.join(hosts)}", "open the directory of one host in it"
        )
    parts.sort(key=lambda part: part.index.times[0])
    for one, other in pairwise(parts):
        if other.index.times[0] <= one.index.times[-1]:
            raise NumatraceError(f"{one.path} and {other.path} are of the same time", "open one of them")
    return parts


def _parquet_files(path: str) -> Iterator[str]:
    """Those below a directory; hidden ones are not finished."""
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(folder, it) for it in names if it.endswith(".parquet") and not it.startswith("."))


def _common_info(infos: Sequence[Info]) -> Info:
    return replace(
        infos[0],
        complete=infos[-1].complete,
        ended_by=infos[-1].ended_by,
        details=any(info.details for info in infos),
        flows=any(info.flows for info in infos),
        faults=any(info.faults for info in infos),
        threads=any(info.threads for info in infos),
        regions=any(info.regions for info in infos),
        policies=any(info.policies for info in infos),
    )

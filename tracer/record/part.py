"""One parquet file of a recording, read through an index of its samples."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tracer.errors import NumatraceError
from tracer.record.schema import METADATA_KEY, Info, arrow_schema

__all__ = ["Part"]

Int64s = npt.NDArray[np.int64]

_NEEDED = ("time", "event", "key")
_GROUPS_KEPT = 2
"""Row groups that stay in memory: a moment and the next one mostly lie in the same, or in two."""


class Part:
    """A file. info: its metadata. times: of its samples, datetime64[us]; empty when it has none.

    NumatraceError when it is no recording, or cannot be read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._file = pq.ParquetFile(path)
        except FileNotFoundError as error:
            raise NumatraceError(f"no such recording: {path}") from error
        except (OSError, pa.ArrowException) as error:
            raise NumatraceError(f"cannot read {path}: {error}") from error
        self.info = self._read_info()
        self._schema = arrow_schema(self.info)
        self._groups: OrderedDict[int, Any] = OrderedDict()
        counts = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        self._group_rows = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        self._index()

    def close(self) -> None:
        """Harmless to repeat."""
        self._groups.clear()
        self._file.close()

    def _read_info(self) -> Info:
        metadata = self._file.schema_arrow.metadata or {}
        if METADATA_KEY not in metadata:
            raise NumatraceError(f"{self.path} is a parquet file, but not a recording of numatrace")
        return Info.from_json(metadata[METADATA_KEY])

    def _index(self) -> None:
        table = self._file.read(columns=["time", "key"])
        times = table.column("time").to_numpy().astype("datetime64[us]")
        differs = np.concatenate(([True], times[1:] != times[:-1])) if len(times) else np.empty(0, np.bool_)
        first = np.flatnonzero(differs)
        self.times: npt.NDArray[np.datetime64] = times[first]
        self._bounds = np.append(first, len(times))
        self._keys = np.flatnonzero(table.column("key").to_numpy()[first])

    def key_before(self, sample: int) -> int:
        """The last key frame that is not after this sample."""
        return int(self._keys[np.searchsorted(self._keys, sample, side="right") - 1])

    def last_within(self, first: int, last: int, rows: int) -> int:
        """Up to which sample, at most `last`, the samples from `first` on have no more than so many rows; `first`
        itself may have more."""
        upto = int(np.searchsorted(self._bounds, self._bounds[first] + rows, side="right")) - 2
        return min(last, max(first, upto))

    def samples(self, first: int, last: int) -> tuple[Any, Int64s]:
        """All columns of the rows of these samples, and where each of these begins in them."""
        bounds = self._bounds[first : last + 2]
        begin, end = int(bounds[0]), int(bounds[-1])
        groups = self._overlapping(begin, end)
        rows = pa.concat_tables([self._group(group) for group in groups])
        return rows.slice(begin - int(self._group_rows[groups[0]]), end - begin), bounds - bounds[0]

    def rows(self, first: int, last: int, events: Sequence[str], names: Sequence[str]) -> Any:
        """These columns of the rows of the samples from `first` to `last`, and only of these events, if any is named.

        A column that the file does not have is all null.
        """
        begin, end = int(self._bounds[first]), int(self._bounds[last + 1])
        kept = []
        for group in self._overlapping(begin, end):
            base = int(self._group_rows[group])
            table = self._read(group, [*names, "event"] if events else names)
            table = table.slice(max(0, begin - base), min(end - base, table.num_rows) - max(0, begin - base))
            if events:
                table = table.filter(pc.is_in(table.column("event"), pa.array(events)))
            kept.append(table.select(names))
        return pa.concat_tables(kept)

    def _overlapping(self, begin: int, end: int) -> range:
        """The row groups with any of the rows from `begin` to before `end`."""
        first = int(np.searchsorted(self._group_rows, begin, side="right")) - 1
        return range(first, int(np.searchsorted(self._group_rows, end, side="left")))

    def _group(self, group: int) -> Any:
        """All columns of a row group; the last ones stay in memory."""
        table = self._groups.pop(group, None)
        if table is None:
            table = self._read(group, self._schema.names)
        self._groups[group] = table
        while len(self._groups) > _GROUPS_KEPT:
            self._groups.popitem(last=False)
        return table

    def _read(self, group: int, names: Sequence[str]) -> Any:
        """These columns of a row group, in the types of the schema."""
        there = set(self._file.schema_arrow.names)
        names = list(dict.fromkeys(names))
        table = self._file.read_row_group(group, columns=[name for name in names if name in there])
        columns = [
            table.column(name).cast(self._type(name)) if name in there else _nulls(table.num_rows, self._type(name))
            for name in names
        ]
        return pa.table(dict(zip(names, columns, strict=True)))

    def _type(self, name: str) -> Any:
        at = self._schema.get_field_index(name)
        return self._schema.field(at).type if at >= 0 else pa.int64()


def _nulls(count: int, kind: Any) -> Any:
    return pa.chunked_array([pa.nulls(count, kind)])

"""One parquet file of a recording, read through an index of its samples."""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tracer.errors import NumatraceError
from tracer.record.buffers import dictionary, row_numbers
from tracer.record.index import Index
from tracer.record.schema import METADATA_KEY, Info, arrow_schema

__all__ = ["Part"]

Int64s = npt.NDArray[np.int64]

_NEEDED = ("time", "event", "key")
_INDEX_ROWS = 1 << 18
_GROUPS_KEPT = 2
"""Row groups that stay in memory: a moment and the next one mostly lie in the same, or in two."""


class Part:
    """A file. info: its metadata. index: its samples, of which there may be none.

    All that reads raises NumatraceError where the file is no recording, is damaged or cannot be read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._groups: OrderedDict[int, Any] = OrderedDict()
        self._file: Any = None
        self._source = self._open()
        self._identity = _identity(self._source)
        try:
            with self._reading():
                file = pq.ParquetFile(_for_arrow(self._source))
            self._metadata = file.metadata
            self.info = self._read_info(file.schema_arrow)
            self._schema = arrow_schema(self.info)
            self._there = set(file.schema_arrow.names)
            counts = [self._metadata.row_group(group).num_rows for group in range(self._metadata.num_row_groups)]
            self._group_rows = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
            self.index = self._read_index(file)
        except BaseException:
            self._source.close()
            raise

    def close(self) -> None:
        """Let go of the file and of what was read of it. Harmless to repeat; who reads again opens it again."""
        self._groups.clear()
        self._file = None
        self._source.close()

    def _open(self) -> BinaryIO:
        with self._reading():
            return open(self.path, "rb")

    def _data(self) -> Any:
        """The file, with words read as they are in it, each once: that takes half the time."""
        if self._file is None:
            if self._source.closed:
                self._source = self._open()
                if _identity(self._source) != self._identity:
                    raise NumatraceError(f"{self.path} has changed since it was opened", "open it again")
            words = [it.name for it in self._schema if it.type in (pa.string(), pa.binary()) and it.name in self._there]
            with self._reading():
                source = _for_arrow(self._source)
            self._file = pq.ParquetFile(source, metadata=self._metadata, read_dictionary=words)
        return self._file

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise NumatraceError(f"there is no {self.path}") from error
        except (OSError, ValueError, pa.ArrowException) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise NumatraceError(f"cannot read {self.path}: {error.strerror}") from error
            # What pyarrow says, partly as an OSError too, is about thrift and pages, and may have several lines.
            raise self._damaged("it is no parquet file, or a damaged one, or only a part of one") from error

    @contextlib.contextmanager
    def understood(self) -> Iterator[None]:
        """Around what takes its values apart: the file may say anything in them."""
        try:
            yield
        except (ValueError, TypeError, LookupError, pa.ArrowException) as error:
            raise self._damaged("a value in it cannot be what numatrace wrote") from error

    def _damaged(self, why: str) -> NumatraceError:
        return NumatraceError(f"cannot read {self.path} as a recording: {why}")

    def _read_info(self, schema: Any) -> Info:
        text = (schema.metadata or {}).get(METADATA_KEY)
        if text is None:
            raise self._damaged("it is a parquet file, but numatrace did not write it")
        try:
            info = Info.from_json(text)
        except NumatraceError as error:
            raise NumatraceError(f"{self.path}: {error.message}", error.hint) from None
        except ValueError as error:
            raise self._damaged(f"its metadata cannot be understood ({error})") from error
        for name in _NEEDED:
            if name not in schema.names:
                raise self._damaged(f"it has no column {name}")
        return info

    def _read_index(self, file: Any) -> Index:
        with self._reading():
            try:
                return Index(file.iter_batches(_INDEX_ROWS, columns=["time", "key"]))
            except pa.ArrowException:
                raise
            except ValueError as error:
                raise self._damaged(str(error)) from error

    # --- rows ---

    def samples(self, first: int, last: int) -> tuple[Any, Int64s]:
        """All columns of the rows of these samples, and where each of these begins in them."""
        bounds = self.index.bounds[first : last + 2]
        begin, end = int(bounds[0]), int(bounds[-1])
        groups = self._overlapping(begin, end)
        rows = pa.concat_tables([self._group(group) for group in groups])
        return rows.slice(begin - int(self._group_rows[groups[0]]), end - begin), bounds - bounds[0]

    def rows(self, first: int, last: int, events: Sequence[str], schema: Any) -> Any:
        """The columns of `schema` of the rows of the samples from `first` to `last`, and only of these events, if any
        is named. A column that the file does not have is all null.
        """
        begin, end = int(self.index.bounds[first]), int(self.index.bounds[last + 1])
        kept = []
        for group in self._overlapping(begin, end):
            base = int(self._group_rows[group])
            table = self._read(group, {*schema.names, "event"} if events else schema.names)
            low, high = max(0, begin - base), min(end - base, table.num_rows)
            table = table.slice(low, high - low)
            if events:
                words, of_rows = dictionary(table.column("event").combine_chunks())
                wanted = np.array([word in events for word in words], np.bool_)[of_rows]
                table = table.take(row_numbers(np.flatnonzero(wanted)))
            kept.append(_conform(table, schema))
        return pa.concat_tables(kept)

    def _overlapping(self, begin: int, end: int) -> range:
        """The row groups with any of the rows from `begin` to before `end`."""
        first = int(np.searchsorted(self._group_rows, begin, side="right")) - 1
        return range(first, int(np.searchsorted(self._group_rows, end, side="left")))

    def _group(self, group: int) -> Any:
        """All columns of a row group; the last ones stay in memory."""
        table = self._groups.pop(group, None)
        if table is None:
            table = self._usable(self._read(group, self._schema.names))
        self._groups[group] = table
        while len(self._groups) > _GROUPS_KEPT:
            self._groups.popitem(last=False)
        return table

    def _read(self, group: int, names: Iterable[str]) -> Any:
        """Those of these columns of a row group that the file has."""
        with self._reading():
            return self._data().read_row_group(group, columns=[name for name in names if name in self._there])

    def _usable(self, table: Any) -> Any:
        """All columns of the schema. Words may be in dictionaries, and lists have fields that are not known yet."""
        columns = {}
        with self._reading():
            for it in self._schema:
                column = table.column(it.name) if it.name in self._there else pa.nulls(table.num_rows, it.type)
                as_it_is = pa.types.is_dictionary(column.type) or pa.types.is_list(column.type)
                columns[it.name] = column if as_it_is else column.cast(it.type)
        return pa.table(columns)


def _conform(table: Any, schema: Any) -> Any:
    """The columns of `schema`, in its types; null where the table does not have them."""
    there = set(table.column_names)
    columns = [
        table.column(it.name).cast(it.type) if it.name in there else pa.nulls(table.num_rows, it.type) for it in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _for_arrow(file: BinaryIO) -> Any:
    """The same file as Arrow reads it by itself.

    Its threads may still read ahead when the interpreter ends, and with a file of Python's would call into that, which
    aborts the process. By number, because Arrow takes no name that is not UTF-8.
    """
    return pa.OSFile(f"/proc/self/fd/{file.fileno()}")


def _identity(file: BinaryIO) -> tuple[int, ...]:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

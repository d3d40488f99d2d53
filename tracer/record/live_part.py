"""The youngest part of a recording that is being written: a record for each sample, at once in the kernel's hands.

A record is an Arrow IPC message (the first one the schema, then a record batch for each sample) behind a head with its
length and checksum: what was being written when the recorder was killed, or never reached the disk when the power
failed, is told from what is whole. Where the recorder came to its end in order the last record says so: a file that was
cut between two records has none.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from tracer.record.place import Folder, write_at
from tracer.record.schema import METADATA_KEY, Info

__all__ = ["LivePart", "LiveRows", "live_name", "read_live"]

_HEAD = struct.Struct("<4s4sII")
"""Magic, kind, length of the message, its checksum. A multiple of 8 bytes, as messages are: arrays must be aligned."""
_MAGIC = b"ntr1"
_SCHEMA, _BATCH, _END = b"head", b"rows", b"end "

_SYNC_S = 1.0
_SYNC_SHARE = 0.01
"""Data is sent to the disk for good once a second, and where that is slow, as often as it takes this share of time."""


def live_name(number: int) -> str:
    """Name of the live part that becomes the sealed part of this number."""
    return f"live-{number:06}"


class LivePart:
    """Being written. rows, samples, bytes: in it so far. Methods raise OSError; what was in it before stays good.

    clock: monotonic seconds.
    """

    def __init__(self, folder: Folder, number: int, schema: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self.number = number
        self.fd = folder.create(live_name(number))
        self.rows = self.samples = self.bytes = 0
        self._clock = clock
        self._began = self._next_sync = clock()
        self._write(_SCHEMA, schema.serialize())

    @property
    def age(self) -> float:
        """Seconds since it was begun."""
        return self._clock() - self._began

    def append(self, batch: Any) -> None:
        """One sample. When this returns, it survives the end of this process."""
        self._write(_BATCH, batch.serialize())
        self.rows += batch.num_rows
        self.samples += 1
        began = self._clock()
        if began >= self._next_sync:
            os.fdatasync(self.fd)
            now = self._clock()
            self._next_sync = now + max(_SYNC_S, (now - began) / _SYNC_SHARE)

    def end(self, ended_by: str) -> None:
        """Say that there is no more, and why."""
        good = self.bytes
        self._write(_END, json.dumps({"ended_by": ended_by}).encode())
        # It may be written again, when there was no room for what follows it.
        self.bytes = good

    def _write(self, kind: bytes, message: Any) -> None:
        """At the end of what is good, also when an earlier write was cut short or interrupted."""
        data = memoryview(message).cast("B")
        head = _HEAD.pack(_MAGIC, kind, len(data), zlib.crc32(data))
        end = self.bytes + len(head) + len(data)
        try:
            # The head last: without it there is no record.
            write_at(self.fd, data, end - len(data))
            write_at(self.fd, memoryview(head), self.bytes)
        except OSError:
            os.ftruncate(self.fd, self.bytes)
            raise
        self.bytes = end

    def close(self) -> None:
        """Harmless to repeat."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@dataclass(slots=True)
class LiveRows:
    """What a live part holds. info: None where not even the head is whole. batches: one for each sample. ended_by: None
    unless it was written to its end."""

    info: Info | None = None
    schema: Any = None
    batches: list[Any] = field(default_factory=list)
    ended_by: str | None = None

    @property
    def rows(self) -> int:
        return sum(batch.num_rows for batch in self.batches)

    @property
    def first(self) -> int | None:
        """Time of the first sample, microseconds since 1970 (UTC); None without any."""
        return _time(self.batches[0], 0) if self.batches else None

    @property
    def last(self) -> int | None:
        """The same of the last one."""
        return _time(self.batches[-1], -1) if self.batches else None


def _time(batch: Any, row: int) -> int:
    return int(batch.column("time")[row].value)


def read_live(fd: int) -> LiveRows:
    """Everything up to the first record that is not whole. The batches are views of the file as it is now.

    Raises NumatraceError where a later version of numatrace has written it.
    """
    found = LiveRows()
    try:
        for kind, message in _records(fd):
            if kind == _SCHEMA:
                found.schema = pa.ipc.read_schema(message)
                found.info = Info.from_json(found.schema.metadata[METADATA_KEY])
            elif kind == _BATCH:
                batch = pa.ipc.read_record_batch(message, found.schema)
                batch.validate(full=True)
                found.batches.append(batch)
            elif kind == _END:
                found.ended_by = str(json.loads(message.to_pybytes())["ended_by"])
                break
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError):
        # The checksum was right: somebody has made that up. What is before it may be of use.
        pass
    return found


def _records(fd: int) -> Iterator[tuple[bytes, Any]]:
    """Kind and message of each record that is whole, the message as a `pyarrow.Buffer`."""
    size = os.fstat(fd).st_size
    if not size:
        return
    data = _content(fd, size)
    whole = pa.py_buffer(data)
    begin = 0
    while begin + _HEAD.size <= size:
        magic, kind, length, checksum = _HEAD.unpack_from(data, begin)
        begin += _HEAD.size
        if magic != _MAGIC or length > size - begin or zlib.crc32(message := whole.slice(begin, length)) != checksum:
            return
        yield kind, message
        begin += length


def _content(fd: int, size: int) -> mmap.mmap | bytes:
    try:
        return mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    except OSError:
        # Not every file system can map files.
        return os.pread(fd, size, 0)

"""The youngest part of a recording that is being written: an Arrow IPC stream, with every sample in the kernel's hands.

It is one record batch for each sample, and where the recorder came to its end in order, the stream's end marker and a
line of JSON behind it: a file that was cut between two batches has none. So nothing but the sample that was just being
written is lost when the recorder is killed.
"""

from __future__ import annotations

import json
import mmap
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from tracer.record.place import Folder
from tracer.record.schema import METADATA_KEY, Info

__all__ = ["LivePart", "LiveRows", "live_name", "read_live"]

_END = b"\xff\xff\xff\xff\0\0\0\0"
"""The end of a stream: the mark of a message, and no length. Source: Arrow's format, "IPC Streaming Format"."""

_SYNC_S = 1.0
_SYNC_SHARE = 0.01
"""Data is sent to the disk for good once a second, and where that is slow, as often as it takes this share of time."""

_BROKEN = (pa.ArrowException, OSError, ValueError, MemoryError)
"""What pyarrow says of bytes that are no whole message: it depends on where they were cut."""


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
        self._write(schema.serialize())

    @property
    def age(self) -> float:
        """Seconds since it was begun."""
        return self._clock() - self._began

    def append(self, batch: Any) -> None:
        """One sample. When this returns, it survives the end of this process."""
        self._write(batch.serialize())
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
        os.ftruncate(self.fd, good)
        self._write(_END + json.dumps({"ended_by": ended_by}).encode() + b"\n")
        # The end may be written again, when there was no room for what follows it.
        self.bytes = good

    def _write(self, data: Any) -> None:
        """At the end of what is good, also when an earlier write was cut short or interrupted."""
        view = memoryview(data).cast("B")
        offset = self.bytes
        try:
            while view:
                written = os.pwrite(self.fd, view, offset)
                view, offset = view[written:], offset + written
        except OSError:
            os.ftruncate(self.fd, self.bytes)
            raise
        self.bytes = offset

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
    """Everything up to the first byte that is not whole. The batches are views of the file as it is now.

    Raises NumatraceError where a later version of numatrace has written it.
    """
    found = LiveRows()
    size = os.fstat(fd).st_size
    if not size:
        return found
    data = _content(fd, size)
    source = pa.BufferReader(pa.py_buffer(data))
    good = 0
    try:
        messages = pa.ipc.MessageReader.open_stream(source)
        found.schema = pa.ipc.read_schema(messages.read_next_message())
        found.info = Info.from_json(found.schema.metadata[METADATA_KEY])
        while True:
            good = source.tell()
            batch = pa.ipc.read_record_batch(messages.read_next_message(), found.schema)
            # After a power failure there may be blocks in the file that never reached the disk.
            batch.validate(full=True)
            found.batches.append(batch)
    except (*_BROKEN, StopIteration, KeyError, TypeError):
        found.ended_by = _read_end(data[good:])
    return found


def _content(fd: int, size: int) -> mmap.mmap | bytes:
    try:
        return mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    except OSError:
        # Not every file system can map files.
        return os.pread(fd, size, 0)


def _read_end(rest: bytes) -> str | None:
    if not rest.startswith(_END) or not rest.endswith(b"\n"):
        return None
    try:
        return str(json.loads(rest[len(_END) :])["ended_by"])
    except (ValueError, KeyError, TypeError):
        return None

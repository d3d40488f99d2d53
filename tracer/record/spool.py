"""The spool of a recording: what is in its hidden directory while it is written, and how that becomes one file.

`data` is the parquet file to be, without its end. Now and then the live part (`live-000007`) is sealed: its rows are
appended to `data` as row groups, and what parquet's footer has to say about them is put down as `sealed-000007`; only
then is the live part removed. Finishing adds one footer made of all these, and `data` gets its name. So memory and
time at the end do not depend on how long it was, disk space is needed once, and whatever step is the last one that was
done, `recover` finds everything: behind the last sealed part `data` is rubbish, and the live part is still there.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tracer.record.claim import DATA, Claim
from tracer.record.live_part import LivePart, LiveRows, live_name, read_live
from tracer.record.place import write_at
from tracer.record.schema import METADATA_KEY, Info, arrow_schema

__all__ = ["Part", "Sealed", "Spool"]

ROW_GROUP = 65_536
"""Rows of a row group, about: large enough to compress well, small enough to find a moment without reading much."""
_SEAL_BYTES = 32 << 20
_SEAL_S = 600.0
"""The live part is sealed when it has the rows of a row group, at this size, and at this age."""

_FOOTER_BYTES = 16 << 10
_SPARE_BYTES = 64 << 10
"""What the footer says of one row group, and everything else that finishing needs, at most."""

_RATIO = 0.1
"""Bytes of a sealed part for each byte of the live one, as long as there is no better guess."""

_MAGIC = b"PAR1"
_COMPRESSION = "zstd"


@dataclass(frozen=True, slots=True)
class Part:
    """A sealed part. length: of `data` up to its end. samples, rows: in it. first, last: times of its first and last
    sample, microseconds since 1970 (UTC). ended_by: None unless the recorder came to its end in order with it."""

    length: int
    samples: int
    rows: int
    first: int
    last: int
    ended_by: str | None = None


def _part_name(number: int) -> str:
    return f"sealed-{number:06}"


class Sealed:
    """`data` and what is known about it. Methods raise OSError."""

    def __init__(self, claim: Claim, info: Info) -> None:
        """Of a new recording."""
        self._folder = claim.spool
        self.info = info
        self.parts: list[Part] = []
        self._fd = self._folder.create(DATA)

    @classmethod
    def reopen(cls, claim: Claim) -> Sealed:
        """Of one that was left behind. info: that of the recording, made up where nothing was sealed."""
        self = cls.__new__(cls)
        self._folder = claim.spool
        self._fd = self._folder.open(DATA, writing=True, links=2)
        self.info = Info()
        self.parts = []
        while self._folder.find(_part_name(len(self.parts) + 1)) is not None:
            part, footer = self._read_part(len(self.parts) + 1)
            self.info = Info.from_json(footer.metadata[METADATA_KEY])
            self.parts.append(part)
        return self

    @property
    def length(self) -> int:
        """Bytes of `data` that are good."""
        return self.parts[-1].length if self.parts else 0

    @property
    def next_number(self) -> int:
        return len(self.parts) + 1

    @property
    def samples(self) -> int:
        return sum(part.samples for part in self.parts)

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    def add(self, live: LiveRows) -> None:
        """Seal these rows as the next part. May be called again when it failed."""
        if live.first is None or live.last is None:
            return
        # One that is there already speaks of bytes that are written again now.
        self._folder.remove(_part_name(self.next_number))
        end = self._append_row_groups(live)
        footer_bytes = int.from_bytes(os.pread(self._fd, 4, end - 8), "little") + 8
        os.fdatasync(self._fd)
        part = Part(end - footer_bytes, len(live.batches), live.rows, live.first, live.last, live.ended_by)
        said = json.dumps(asdict(part)).encode()
        footer = os.pread(self._fd, footer_bytes, part.length)
        self._folder.write(_part_name(self.next_number), said + b"\n" + _MAGIC + footer)
        self.parts.append(part)
        self._folder.remove(live_name(len(self.parts)))

    def _append_row_groups(self, live: LiveRows) -> int:
        """Returns the length of `data` with them and a footer of their own, which is there only to be read off."""
        os.ftruncate(self._fd, self.length)
        table = pa.Table.from_batches(live.batches, live.schema)
        target = _Target(self._fd, self.length)
        groups = max(1, round(table.num_rows / ROW_GROUP))
        with contextlib.closing(pa.PythonFile(target, mode="w")) as sink:
            writer = pq.ParquetWriter(sink, live.schema, compression=_COMPRESSION)
            try:
                # Positions count from the beginning of the file, so the writer is led past what is there already.
                target.skip(sink)
                writer.write_table(table, row_group_size=math.ceil(table.num_rows / groups))
                writer.close()
                target.drain()
            except BaseException:
                target.give_up()
                writer.close()
                raise
        return target.position

    def _read_part(self, number: int) -> tuple[Part, Any]:
        said, _, footer = self._folder.read(_part_name(number)).partition(b"\n")
        return Part(**json.loads(said)), pq.read_metadata(pa.BufferReader(footer))

    def finish(self, info: Info) -> int:
        """Write the footer of the whole, with `info` as its metadata: `data` is a parquet file now, and on the disk.
        Returns its size. May be called again when it failed."""
        schema = arrow_schema(info)
        head = pa.BufferOutputStream()
        pq.ParquetWriter(head, schema, compression=_COMPRESSION).close()
        footer = pq.read_metadata(pa.BufferReader(head.getvalue()))
        for number in range(1, self.next_number):
            footer.append_row_groups(self._read_part(number)[1])
        whole = pa.BufferOutputStream()
        footer.write_metadata_file(whole)
        os.ftruncate(self._fd, self.length)
        end = memoryview(whole.getvalue())[len(_MAGIC) :]
        write_at(self._fd, end, self.length)
        os.fsync(self._fd)
        return self.length + len(end)

    def read_live(self) -> LiveRows:
        """What is not sealed yet, of a recording that was left behind."""
        name = live_name(self.next_number)
        about = self._folder.find(name)
        # One that was not given to the owner yet has no rows.
        if about is None or about.st_uid != self._folder.status().st_uid:
            return LiveRows()
        fd = self._folder.open(name)
        try:
            return read_live(fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Harmless to repeat."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _Target:
    """What pyarrow writes to: `data` behind its first `length` bytes, which are there and pass as written.

    position: what the writer takes for the length of the file.
    """

    closed = False
    _PIECE = bytes(1 << 20)

    def __init__(self, fd: int, length: int) -> None:
        self._fd = fd
        self._length = length
        self._given_up = False
        self._kept = bytearray()
        self.position = 0

    def give_up(self) -> None:
        """From now on nothing is written: the writer insists on writing a footer, also after an error."""
        self._given_up = True
        self._kept = bytearray()

    def skip(self, sink: Any) -> None:
        """Go to the end of what is there, through `sink`, which keeps its own count."""
        while self.position < self._length:
            sink.write(self._PIECE[: self._length - self.position])

    def write(self, data: bytes) -> int:
        """It comes in small pieces, and goes to the disk in large ones."""
        # The magic of a new file, and the pieces of `skip`, end where the old bytes end.
        if self.position >= self._length and not self._given_up:
            self._kept += data
        self.position += len(data)
        if len(self._kept) >= len(self._PIECE):
            self.drain()
        return len(data)

    def drain(self) -> None:
        """Everything to the disk."""
        write_at(self._fd, memoryview(self._kept), self.position - len(self._kept))
        self._kept = bytearray()

    def flush(self) -> None:
        """`drain` is called when it is time."""

    def close(self) -> None:
        """The descriptor is not ours."""


class Spool:
    """A recording in the making: append samples, then finish. Methods raise OSError, and can be called again after it
    once there is room: `claim.ballast` is some, and is always large enough to finish with."""

    def __init__(self, claim: Claim, info: Info) -> None:
        self._claim = claim
        self._schema = arrow_schema(info)
        self._info = info
        self._live: LivePart | None = None
        self._ratio = _RATIO
        self.sealed = Sealed(claim, info)

    @property
    def samples(self) -> int:
        return self.sealed.samples + (self._live.samples if self._live else 0)

    @property
    def rows(self) -> int:
        return self.sealed.rows + (self._live.rows if self._live else 0)

    @property
    def bytes(self) -> int:
        """Of the finished file, were it finished now: what is still live is guessed from what was sealed last."""
        return self.sealed.length + int(self._live.bytes * self._ratio if self._live else 0)

    def append(self, batch: Any) -> None:
        """One sample."""
        if self._live is None:
            self._live = LivePart(self._claim.spool, self.sealed.next_number, self._schema)
        self._live.append(batch)
        self._keep_back(self._live)
        if self._live.rows >= ROW_GROUP or self._live.bytes >= _SEAL_BYTES or self._live.age >= _SEAL_S:
            self.seal()

    def _keep_back(self, live: LivePart) -> None:
        groups = len(self.sealed.parts) + live.rows // ROW_GROUP + 2
        self._claim.ballast.reserve(live.bytes + groups * _FOOTER_BYTES + _SPARE_BYTES)

    def seal(self) -> None:
        """Move what is live into `data`."""
        if self._live is not None:
            # Not twice, when it was interrupted just here.
            if self._live.number == self.sealed.next_number:
                before = self.sealed.length
                self.sealed.add(read_live(self._live.fd))
                self._ratio = (self.sealed.length - before) / self._live.bytes
            self._live.close()
            self._live = None

    def finish(self, ended_by: str) -> int:
        """Everything in one parquet file, under its spool name yet. Returns its size; 0 where there was no sample."""
        if self._live is not None:
            self._live.end(ended_by)
        self.seal()
        return self.sealed.finish(replace(self._info, complete=True, ended_by=ended_by)) if self.samples else 0

    def close(self) -> None:
        """Leave everything as it is."""
        if self._live is not None:
            self._live.close()
        self.sealed.close()

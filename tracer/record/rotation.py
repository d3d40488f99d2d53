"""When a recording goes on in another file, and what that is called: `host=…/date=…/HHMMSS.parquet`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

from tracer.record.claim import Claim
from tracer.record.place import Folder

__all__ = ["Rotation", "destination"]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_BYTES = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_WORD = re.compile(r"([0-9]+(?:\.[0-9]+)?)([a-zA-Z]+)")
_SECONDS_MAX = 366 * 86_400
_BYTES_MIN = 100_000
"""Less is mostly footer."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """seconds: a file begins with each whole multiple of this time of day (UTC). bytes: and when one has become this
    large, about. In any case one begins with each day (UTC), so that the date in its path is that of all its rows."""

    seconds: float | None = None
    bytes: int | None = None

    @classmethod
    def parse(cls, text: str) -> Rotation:
        """`30m`, `1h`, `1d`; `100MB`, `1GiB`. ValueError for anything else."""
        match = _WORD.fullmatch(text)
        if match is not None:
            number, unit = float(match[1]), match[2]
            if unit in _SECONDS and 1 <= number * _SECONDS[unit] <= _SECONDS_MAX:
                return cls(seconds=number * _SECONDS[unit])
            if unit.upper() in _BYTES and number * _BYTES[unit.upper()] >= _BYTES_MIN:
                return cls(bytes=int(number * _BYTES[unit.upper()]))
        raise ValueError(f"{text!r} is neither a time from 1s on, such as 30m, 1h or 1d, nor a size, such as 100MB")

    def due(self, first: datetime, now: datetime, size: int) -> bool:
        """Whether the sample of the time `now` belongs into another file than the one of the time `first`, which has
        `size` bytes. Both times aware."""
        if first.astimezone(UTC).date() != now.astimezone(UTC).date():
            return True
        if self.seconds is not None and now.timestamp() // self.seconds != first.timestamp() // self.seconds:
            return True
        return self.bytes is not None and size >= self.bytes


@contextlib.contextmanager
def destination(claim: Claim, host: str, first: datetime) -> Iterator[tuple[Folder, str]]:
    """The directory and the name for a file whose first sample is of the time `first` (aware); directories are made as
    needed. Raises OSError."""
    if not claim.rotated:
        yield claim.folder, claim.name
        return
    moment = first.astimezone(UTC)
    # Hive's way to write what a directory cannot be called; every reader of such directories undoes it.
    with (
        _enter(claim.folder, f"host={quote(host, safe='') or 'unknown'}") as of_host,
        _enter(of_host, f"date={moment:%Y-%m-%d}") as of_date,
    ):
        yield of_date, f"{moment:%H%M%S}.parquet"


def _enter(folder: Folder, name: str) -> Folder:
    try:
        made = folder.make_folder(name)
    except FileExistsError:
        return folder.open_folder(name)
    folder.sync()
    return made

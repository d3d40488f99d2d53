"""Writes samples to a recording: one file, or with a rotation many in a directory. Who records calls only this."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa

from tracer.errors import NumatraceError
from tracer.model.sample import Sample
from tracer.record.claim import Claim, claim
from tracer.record.recover import recover
from tracer.record.rotation import Rotation, destination
from tracer.record.rows import RowMaker
from tracer.record.schema import Info
from tracer.record.spool import Spool

__all__ = ["Recorder", "Written", "prepare"]


@dataclass(frozen=True, slots=True)
class Written:
    """What a recording has become. path: the file, or the directory of the files; it is not what was asked for where
    somebody else has put a file there meanwhile. seconds: from the first sample to the last."""

    path: str
    samples: int
    rows: int
    bytes: int
    seconds: float
    files: int


def prepare() -> None:
    """What is slow only once: pyarrow imports pandas with the first array that it makes of one of numpy's."""
    pa.array(np.zeros(1))


class Recorder:
    """A recording that is being written.

    Whatever ends the process, `tracer.record.recover` finds every sample for which `write` has returned. force: a file
    that is there already is replaced, at the end. claim: what `tracer.record.claim.claim` gave for the same output, if
    it was asked before.
    """

    def __init__(
        self,
        output: str,
        info: Info,
        force: bool = False,
        rotate: Rotation | None = None,
        claimed: Claim | None = None,
    ) -> None:
        """Raises NumatraceError as `claim` does."""
        if claimed is None:
            recover(output)
            claimed = claim(output, force, rotate is not None)
        self._claim = claimed
        self._info = info
        self._rotate = rotate
        self._maker = RowMaker(info)
        self._spool: Spool | None = None
        self._first: datetime | None = None
        self._file_first: datetime | None = None
        self._last: datetime | None = None
        self._path = claimed.path
        self._samples = self._rows = self._bytes = self._files = 0
        self._over = False

    # --- figures, while it goes on ---

    @property
    def samples(self) -> int:
        return self._samples + (self._spool.samples if self._spool else 0)

    @property
    def bytes(self) -> int:
        """Of all files, about."""
        return self._bytes + (self._spool.bytes if self._spool else 0)

    def written(self) -> Written:
        """So far."""
        span = (self._last - self._first).total_seconds() if self._first and self._last else 0.0
        rows = self._rows + (self._spool.rows if self._spool else 0)
        return Written(self._path, self.samples, rows, self.bytes, span, self._files)

    # --- writing ---

    def write(self, sample: Sample) -> None:
        """Raises NumatraceError when there is no room, or another error of the file system; what was written until then
        has been made a recording, and there is nothing more to do but `close`."""
        if self._over:
            raise ValueError("the recording is over")
        try:
            self._write(sample)
        except OSError as error:
            raise self._give_up(error) from None

    def _write(self, sample: Sample) -> None:
        if self._is_due(sample.time):
            self._put_away("rotation")
            self._maker.key_frame_next()
        if self._spool is None:
            # What is in the way there is an error now, and not when the file is finished.
            with destination(self._claim, self._info.host, sample.time):
                self._spool = Spool(self._claim, self._info)
            self._file_first = sample.time
        self._first = self._first or sample.time
        self._spool.append(self._maker.batch(sample))
        self._last = sample.time

    def _is_due(self, time: datetime) -> bool:
        if self._rotate is None or self._spool is None or self._file_first is None:
            return False
        return self._rotate.due(self._file_first, time, self._spool.bytes)

    def _put_away(self, ended_by: str) -> None:
        """Make a file of what was written since the last one. May be called again when it failed."""
        if self._spool is None:
            return
        spool = self._spool
        size = spool.finish(ended_by)
        if size:
            assert self._file_first is not None
            with destination(self._claim, self._info.host, self._file_first) as (folder, name):
                name = self._claim.publish(folder, name)
            if not self._claim.rotated:
                self._path = os.path.join(os.path.dirname(self._path), name)
            self._samples += spool.samples
            self._rows += spool.rows
            self._bytes += size
            self._files += 1
        self._spool = None
        spool.close()
        # What is left there without the data is removed by whoever comes next, if not by us.
        with contextlib.suppress(OSError):
            self._claim.clear()

    # --- the end ---

    def close(self, ended_by: str = "") -> Written:
        """Finish it. Harmless to repeat. Raises NumatraceError where that fails; it can be recovered then."""
        if not self._over:
            try:
                self._put_away(ended_by)
            except OSError:
                try:
                    self._put_away_with_ballast(ended_by)
                except OSError as error:
                    raise self._keep(error) from None
            self._leave()
        return self.written()

    def _put_away_with_ballast(self, ended_by: str) -> None:
        self._claim.ballast.release()
        self._put_away(ended_by)

    def _give_up(self, error: OSError) -> NumatraceError:
        """Save what there is, in the space that was kept back for it. Returns what the user has to know."""
        why = error.strerror or str(error)
        try:
            self._put_away_with_ballast(why)
        except OSError as again:
            return self._keep(again)
        self._leave()
        done = self.written()
        if not done.samples:
            return NumatraceError(f"cannot record to {self._path}: {why}", "free some space, or record elsewhere")
        last = f" up to {self._last:%H:%M:%S} UTC" if self._last else ""
        return NumatraceError(
            f"cannot go on recording to {self._path}: {why}; the {done.samples} samples{last} are saved there and can "
            "be read",
            "free some space, or record elsewhere",
        )

    def _keep(self, error: OSError) -> NumatraceError:
        """It cannot be finished here and now, but nothing of it is lost."""
        self._over = True
        if self._spool is not None:
            self._spool.close()
        self._claim.close()
        return NumatraceError(
            f"cannot finish {self._path}: {error.strerror or error}; all that was recorded is kept in "
            f"{self._claim.spool_path}",
            f"free some space, then numatrace maps {self._claim.path} finishes it",
        )

    def _leave(self) -> None:
        self._over = True
        with contextlib.suppress(OSError):
            self._claim.discard()

"""Makes a recording of what a recorder that was killed has left behind.

It can itself be killed at any moment, and be done again. What it makes is what the recorder would have made: it
replaces a file of that name only where the recorder had been told to (`-f`) and has written a sample; otherwise the
recording gets a name beside it.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from tracer.errors import NumatraceError
from tracer.record.claim import Claim, reclaim
from tracer.record.hidden import StillRecording, left_over
from tracer.record.rotation import destination
from tracer.record.spool import Sealed

__all__ = ["recover"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NOT_OURS = {errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.ELOOP}

_KILLED = "the recorder was killed"


@dataclass(frozen=True, slots=True)
class _Saved:
    """name: of the file, in the directory of what was asked for. complete: the recorder had come to its end."""

    name: str
    samples: int
    last: datetime
    complete: bool


def recover(path: str) -> str | None:
    """Whatever was left behind for `path`, a file or a rotated directory, is a recording afterwards.

    Returns a note for the user, None where nothing was there to recover. Raises NumatraceError where a recorder is
    still running, or where it cannot be done; not where `path` can be read all the same. Of a rotated recording the
    files that are finished can.
    """
    try:
        claim = reclaim(path)
        if claim is None:
            return None
        with claim:
            saved = _save(claim)
    except StillRecording as error:
        if not os.path.isdir(path):
            raise
        return f"{error.message}; what is in finished files can be read"
    except OSError as error:
        return _excuse(path, error)
    if saved is None:
        return None
    where = "" if claim.rotated or saved.name == claim.name else f" as {saved.name}, because {claim.name} was there"
    why = "the recorder was killed while it finished the file" if saved.complete else _KILLED
    samples = "1 sample" if saved.samples == 1 else f"{saved.samples} samples"
    return f"{path}: recovered {samples} up to {saved.last:%Y-%m-%dT%H:%M:%SZ}{where}; {why}"


def _excuse(path: str, error: OSError) -> str:
    """What is left there stays. Where there is a recording beside it that can be read, that is no error."""
    spool = left_over(path.rstrip("/") or path)
    why = error.strerror or str(error)
    if error.errno in _NOT_OURS and os.path.exists(path):
        return f"{path}: what a recorder has left in {spool} is not looked at: {why}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "free some space, and try again"
    else:
        hint = f"do it as the user whose {spool} is, or remove that"
    raise NumatraceError(f"cannot recover what a recorder has left of {path}: {why}", hint) from None


def _save(claim: Claim) -> _Saved | None:
    """None where nothing was recorded, or where all is done already but the tidying up."""
    claim.ballast.release()
    saved = None if claim.fresh else _save_data(claim)
    claim.discard()
    return saved


def _save_data(claim: Claim) -> _Saved | None:
    with contextlib.closing(Sealed.reopen(claim)) as sealed:
        live = sealed.read_live()
        info = live.info or sealed.info
        first = sealed.parts[0].first if sealed.parts else live.first
        if first is None:
            return None
        with destination(claim, info.host, _moment(first)) as (folder, name):
            if claim.published_as(folder, name):
                return None
            sealed.add(live)
            last = sealed.parts[-1]
            complete = last.ended_by is not None
            sealed.finish(
                replace(info, complete=complete, ended_by=_KILLED if last.ended_by is None else last.ended_by)
            )
            name = claim.publish(folder, name)
        return _Saved(name, sealed.samples, _moment(last.last), complete)


def _moment(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)

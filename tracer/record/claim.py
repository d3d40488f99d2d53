"""The right to write one recording, from the check of its name to the moment when a file has it.

What is in the hidden directory meanwhile is the business of `tracer.record.spool`; here it is only known that without
the file `data` there is nothing to save. Needs no pyarrow: a claim is made before a command is started.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import Self

from tracer.errors import NumatraceError, UsageError
from tracer.record.ballast import Ballast
from tracer.record.hidden import Hidden, beside, make_beside, make_inside, open_left_over
from tracer.record.place import Folder, Owner, caller, cannot, open_directory, open_parent

__all__ = ["DATA", "Claim", "claim", "reclaim"]

DATA = "data"
_ENDING = ".parquet"

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EACCES}
"""What link(2) says where a file system, or a rule about links, does not allow any."""


class Claim:
    """A hidden directory that is ours, and where its recording goes. A context manager that lets go of it.

    path: what the user called the recording. folder: the directory that the file goes to, or for a rotated one into
    which. name: of the file in it; empty for a rotated one. spool: the hidden directory, and spool_path its path.
    ballast: space that is kept back in it. replace: a file that has the name may be replaced.
    """

    def __init__(self, path: str, folder: Folder, name: str, hidden: Hidden) -> None:
        self.path = path
        self.folder = folder
        self.name = name
        self.spool = hidden.folder
        self.spool_path = hidden.path
        self.ballast = Ballast(hidden.folder)
        self.replace = hidden.replace
        self._hidden = hidden

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def rotated(self) -> bool:
        return not self.name

    @property
    def fresh(self) -> bool:
        """Whether an earlier recorder has left nothing here that could be saved."""
        about = self.spool.find(DATA)
        # It is the first file, and belongs to its owner before anything else is written.
        return about is None or about.st_uid != self.spool.status().st_uid

    def begin(self, replace: bool) -> None:
        """Sign, and keep some space back. Raises OSError, and leaves nothing then."""
        try:
            self.clear()
            self.replace = replace
            self._hidden.sign(replace)
            self.ballast.reserve(1)
        except OSError:
            with contextlib.suppress(OSError):
                self.discard()
            raise

    # --- data gets its name ---

    def published_as(self, folder: Folder, name: str) -> str | None:
        """The name that `data` has got in `folder` already, by somebody who did not come to remove it here."""
        about = self.spool.status(DATA)
        if about.st_nlink > 1:
            for candidate in _candidates(name):
                found = folder.find(candidate)
                if found is None:
                    break
                if os.path.samestat(found, about):
                    return candidate
        return None

    def publish(self, folder: Folder, name: str) -> str:
        """Give `data` its place among the user's files; the name, which is another one where `name` is taken and must
        not be replaced. Afterwards there is no `data` here any more. The caller has synced it. Raises OSError."""
        if self.replace and not self.rotated and not _is_folder(folder.find(name)):
            self.spool.move(DATA, folder, name)
        else:
            name = self._publish_beside(folder, name)
        with contextlib.suppress(OSError):
            folder.sync()
        return name

    def _publish_beside(self, folder: Folder, name: str) -> str:
        for candidate in _candidates(name):
            try:
                self.spool.link(DATA, folder, candidate)
            except FileExistsError:
                continue
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                if folder.find(candidate) is not None:
                    continue
                self.spool.move(DATA, folder, candidate)
                return candidate
            self.spool.remove(DATA)
            return candidate
        raise AssertionError("there is always another name")

    # --- the end ---

    def clear(self) -> None:
        """Remove everything from the spool; `data` first, without which the rest means nothing. Raises OSError."""
        self.ballast.release()
        self.spool.remove(DATA)
        with contextlib.suppress(OSError):
            self.spool.sync()
        for name in self._hidden.names():
            self.spool.remove(name)

    def discard(self) -> None:
        """Remove the spool with all that is in it, and let go. Raises OSError."""
        try:
            self.clear()
            self._hidden.remove()
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the lock and leave the rest as it is. Harmless to repeat."""
        self.ballast.close()
        self._hidden.close()
        self.folder.close()


def _candidates(name: str) -> Iterator[str]:
    """x.parquet, x_2.parquet, x_3.parquet: they sort behind each other."""
    yield name
    stem, ending = os.path.splitext(name)
    number = 2
    while True:
        yield f"{stem}_{number}{ending}"
        number += 1


def _is_folder(about: os.stat_result | None) -> bool:
    return about is not None and stat.S_ISDIR(about.st_mode)


# --- a new recording ---


def claim(output: str, replace: bool = False, rotated: bool = False) -> Claim:
    """Check everything that can be checked before there are samples, and hold the place for them.

    Raises UsageError for a name that no recording can have, NumatraceError where it cannot be written, is there already
    (unless `replace`), is being recorded, or was left behind by a recorder that was killed (`tracer.record.recover`
    comes first).
    """
    path = (output.rstrip("/") or output) if rotated else output
    _check_name(path, rotated)
    owner = caller()
    with contextlib.ExitStack() as opened:
        try:
            folder, name = (_open_rotated(path, owner), "") if rotated else _open_target(path, owner, replace)
            opened.callback(folder.close)
            hidden = _make_hidden(path, folder, owner) if rotated else make_beside(path, owner)
            taken = Claim(path, folder, name, hidden)
            opened.callback(taken.close)
            _check_spool(taken, owner)
            taken.begin(replace)
        except OSError as error:
            raise _cannot_record(path, error) from None
        # From here on it is the caller's to close.
        opened.pop_all()
    return taken


def _check_name(path: str, rotated: bool) -> None:
    if path in ("", "-"):
        raise UsageError("a recording cannot go to standard output", "give a file: -o FILE.parquet")
    if rotated:
        return
    if path.endswith("/") or os.path.isdir(path):
        raise UsageError(f"{path} is a directory", "give a file in it, or --rotate 1h for a directory of recordings")
    if not path.endswith(_ENDING) or os.path.basename(path) == _ENDING:
        raise UsageError(
            f"{path} does not end in {_ENDING}, by which every reader knows a recording", f"-o {path}{_ENDING}"
        )


def _open_target(path: str, owner: Owner | None, replace: bool) -> tuple[Folder, str]:
    """The directory of a file that may be written, and its name there."""
    folder, name = open_parent(path, owner)
    with contextlib.ExitStack() as opened:
        opened.callback(folder.close)
        about = folder.find(name)
        if about is not None and stat.S_ISLNK(about.st_mode):
            raise _is_link(path)
        if about is not None and not stat.S_ISREG(about.st_mode):
            raise NumatraceError(f"{path} is there and no file", "give another name")
        if about is not None and not replace:
            raise NumatraceError(f"{path} exists", "give another name, or -f to replace it")
        opened.pop_all()
    return folder, name


def _open_rotated(path: str, owner: Owner | None) -> Folder:
    """The directory that files may be written into, made if it is not there."""
    parent, name = open_parent(path, owner)
    with parent:
        if name in ("", ".", ".."):
            return open_directory(path, owner)
        about = parent.find(name)
        if about is None:
            return parent.make_folder(name)
        if stat.S_ISLNK(about.st_mode):
            raise _is_link(path)
        if not stat.S_ISDIR(about.st_mode):
            raise UsageError(f"{path} is a file, and --rotate makes many", "give a directory")
        return parent.open_folder(name)


def _is_link(path: str) -> NumatraceError:
    return NumatraceError(
        f"{path} is a symbolic link, and recordings are not written through one", "give what it leads to, or remove it"
    )


def _make_hidden(path: str, folder: Folder, owner: Owner | None) -> Hidden:
    """For a directory: beside it, because some readers look at everything that is in it; in it where that cannot be."""
    name = os.path.basename(path)
    if name not in ("", ".", ".."):
        with open_parent(path, owner)[0] as parent:
            same_disk = parent.status().st_dev == folder.status().st_dev
            taken = parent.find(os.path.basename(beside(path))) is not None
        if same_disk:
            try:
                return make_beside(path, owner)
            except OSError as error:
                if taken or error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                    raise
    return make_inside(path, owner)


def _check_spool(taken: Claim, owner: Owner | None) -> None:
    if taken.spool.status().st_uid != (owner.uid if owner else os.geteuid()):
        raise PermissionError(errno.EPERM, f"{taken.spool_path} is another user's")
    if not taken.fresh:
        raise NumatraceError(
            f"{taken.path} was left unfinished by a recorder that was killed",
            f"numatrace maps {taken.path} makes it readable",
        )


def _cannot_record(path: str, error: OSError) -> NumatraceError:
    head = os.path.dirname(path) or "."
    if isinstance(error, FileNotFoundError):
        return NumatraceError(f"cannot record to {path}: there is no directory {head}", "make it first, with mkdir -p")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return cannot("record to", path, error, "free some space, or record elsewhere")
    if error.errno in (errno.ENOTDIR, errno.ELOOP):
        return cannot("record to", path, error, f"{head} or {os.path.basename(beside(path))} in it is no directory")
    return cannot("record to", path, error, "choose a directory that is yours")


# --- one that was left behind ---


def reclaim(path: str) -> Claim | None:
    """The claim on what a recorder that is gone has left behind for `path`; None where there is nothing of that kind.

    Raises NumatraceError where a recorder is still running, OSError where it cannot be opened or is another user's.
    """
    path = path.rstrip("/") or path
    hidden = open_left_over(path)
    if hidden is None:
        return None
    with contextlib.ExitStack() as opened:
        opened.callback(hidden.close)
        # What is made from it belongs to whom it was made for.
        about = hidden.folder.status()
        owner = hidden.folder.owner = Owner(about.st_uid, about.st_gid) if os.geteuid() == 0 else None
        folder, name = (open_directory(path, owner), "") if os.path.isdir(path) else open_parent(path, owner)
        opened.pop_all()
    return Claim(path, folder, name, hidden)

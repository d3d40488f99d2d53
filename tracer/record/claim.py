"""The right to write one recording: its hidden directory beside the target, a lock in it, and the name it gets at last.

A recording in the making lies in `.NAME.numatrace/` beside NAME (for a rotated one: in `.spool.numatrace/` in its
directory). The lock is held as long as the recorder lives, and the kernel drops it however that ends. What is in the
directory is the business of `tracer.record.spool`; here it is only known that without the file `data` there is nothing
to save. Needs no pyarrow: a claim is made before a command is started.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
from collections.abc import Iterator
from typing import Self

from tracer.errors import NumatraceError, UsageError
from tracer.record.ballast import Ballast
from tracer.record.place import Folder, Owner, caller, cannot, open_parent, trusted_owners, write_all

__all__ = ["DATA", "Claim", "claim", "reclaim", "spool_path"]

DATA = "data"
_LOCK = "lock"
_SUFFIX = ".numatrace"
_ROTATED = ".spool" + _SUFFIX
_ENDING = ".parquet"

_TRIES = 10
"""How often others may take the directory away under our hands before we give up."""
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EACCES}
"""What link(2) says where a file system, or a rule about links, does not allow any."""


def spool_path(path: str, rotated: bool) -> str:
    """Where the unfinished recording of `path` lies."""
    head, name = os.path.split(path)
    return os.path.join(path, _ROTATED) if rotated else os.path.join(head, _spool_name(name))


def _spool_name(name: str) -> str:
    return f".{name}{_SUFFIX}" if name else _ROTATED


class Claim:
    """The lock on a spool directory, held. A context manager that lets go of it.

    path: what the user called the recording. folder: the directory that the result goes to, or for a rotated one into
    which. name: of the result in it; empty for a rotated one. spool: the hidden directory. ballast: space that is kept
    back in it. replace: what has that name may be replaced.
    """

    def __init__(self, path: str, folder: Folder, name: str, spool: Folder, lock: int) -> None:
        self.path = path
        self.folder = folder
        self.name = name
        self.spool = spool
        self.ballast = Ballast(spool)
        self.replace = bool(_read_lock(lock).get("replace"))
        self._lock = lock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def rotated(self) -> bool:
        return not self.name

    @property
    def spool_path(self) -> str:
        return spool_path(self.path, self.rotated)

    @property
    def fresh(self) -> bool:
        """Whether an earlier recorder has left nothing here that could be saved."""
        about = self.spool.find(DATA)
        # It is the first file, and belongs to its owner before anything else is written.
        return about is None or about.st_uid != self.spool.status().st_uid

    def begin(self, replace: bool) -> None:
        """Write down who records, for others who find the lock held or the directory left behind; keep space back."""
        self.clear()
        self.replace = replace
        os.ftruncate(self._lock, 0)
        os.lseek(self._lock, 0, os.SEEK_SET)
        write_all(self._lock, json.dumps({"pid": os.getpid(), "replace": replace}).encode())
        self.ballast.reserve(1)

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

    def clear(self) -> None:
        """Remove everything from the spool but the lock; `data` first, without which the rest means nothing."""
        self.ballast.release()
        self.spool.remove(DATA)
        with contextlib.suppress(OSError):
            self.spool.sync()
        for name in self.spool.names():
            if name != _LOCK:
                self.spool.remove(name)

    def discard(self) -> None:
        """Remove the spool with all that is in it, and let go. Raises OSError."""
        try:
            self.clear()
            self.spool.remove(_LOCK)
            # It stays where somebody has put something else into it, or is just taking it over.
            with contextlib.suppress(OSError):
                self.folder.remove_folder(_spool_name(self.name))
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the lock and leave the rest as it is. Harmless to repeat."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        self.spool.close()
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
    path = output.rstrip("/") if rotated else output
    _check_name(path, output, rotated)
    owner = caller()
    try:
        folder, name = _open_rotated(path, owner) if rotated else _open_target(path, owner, replace)
    except OSError as error:
        raise _cannot_record(output, error) from None
    try:
        taken = _take(path, folder, name, make=True)
        assert taken is not None
    except BaseException as error:
        folder.close()
        if isinstance(error, OSError):
            raise _cannot_record(output, error) from None
        raise
    if taken.spool.status().st_uid != (owner.uid if owner else os.geteuid()):
        taken.close()
        raise _cannot_record(output, PermissionError(errno.EPERM, f"{taken.spool_path} is another user's"))
    if not taken.fresh:
        taken.close()
        raise NumatraceError(
            f"{path} was left unfinished by a recorder that was killed", f"numatrace maps {path} makes it readable"
        )
    try:
        taken.begin(replace)
    except OSError as error:
        with contextlib.suppress(OSError):
            taken.discard()
        raise _cannot_record(output, error) from None
    return taken


def _check_name(path: str, output: str, rotated: bool) -> None:
    if not path or output == "-":
        raise UsageError("a recording cannot go to standard output", "give a file: -o FILE.parquet")
    if rotated:
        return
    if output.endswith("/") or os.path.isdir(path):
        raise UsageError(f"{path} is a directory", "give a file in it, or --rotate 1h for a directory of recordings")
    if not path.endswith(_ENDING) or os.path.basename(path) == _ENDING:
        raise UsageError(
            f"{path} does not end in {_ENDING}, by which every reader knows a recording", f"-o {path}{_ENDING}"
        )


def _open_target(path: str, owner: Owner | None, replace: bool) -> tuple[Folder, str]:
    folder, name = open_parent(path, owner)
    try:
        about = folder.find(name)
        if about is not None:
            if stat.S_ISLNK(about.st_mode):
                raise NumatraceError(
                    f"{path} is a symbolic link, and recordings are not written through one",
                    "give the file that it leads to, or remove it",
                )
            if not stat.S_ISREG(about.st_mode):
                raise NumatraceError(f"{path} is there and no file", "give another name")
            if not replace:
                raise NumatraceError(f"{path} exists", "give another name, or -f to replace it")
    except BaseException:
        folder.close()
        raise
    return folder, name


def _open_rotated(path: str, owner: Owner | None) -> tuple[Folder, str]:
    parent, name = open_parent(path, owner)
    with parent:
        about = parent.find(name) if name not in (".", "..") else None
        if about is not None and stat.S_ISLNK(about.st_mode):
            raise NumatraceError(
                f"{path} is a symbolic link, and recordings are not written through one",
                "give the directory that it leads to",
            )
        if about is not None and not stat.S_ISDIR(about.st_mode):
            raise UsageError(f"{path} is a file, and --rotate makes many", "give a directory")
        try:
            return parent.make_folder(name), ""
        except FileExistsError:
            return parent.open_folder(name), ""


def _cannot_record(output: str, error: OSError) -> NumatraceError:
    head = os.path.dirname(output.rstrip("/")) or "."
    if isinstance(error, FileNotFoundError):
        return NumatraceError(
            f"cannot record to {output}: there is no directory {head}", "make it first, with mkdir -p"
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return cannot("record to", output, error, "free some space, or record elsewhere")
    if error.errno in (errno.ENOTDIR, errno.ELOOP):
        what = spool_path(os.path.basename(output), rotated=False)
        return cannot("record to", output, error, f"{head} or {what} in it is no directory")
    return cannot("record to", output, error, "choose a directory that is yours")


# --- one that was left behind ---


def reclaim(path: str) -> Claim | None:
    """The claim on what a recorder that is gone has left behind for `path`; None where there is nothing of that kind.

    Raises NumatraceError where a recorder is still running, OSError where it cannot be opened or is another user's.
    """
    path = path.rstrip("/") or path
    rotated = os.path.isdir(path)
    if not os.path.lexists(spool_path(path, rotated)):
        return None
    if rotated:
        folder, name = Folder(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), None), ""
    else:
        folder, name = open_parent(path, None)
    taken: Claim | None = None
    try:
        taken = _take(path, folder, name, make=False)
    finally:
        if taken is None:
            folder.close()
    if taken is not None:
        # What is made from it belongs to whom it was made for.
        about = taken.spool.status()
        taken.spool.owner = taken.folder.owner = Owner(about.st_uid, about.st_gid) if os.geteuid() == 0 else None
    return taken


# --- the lock ---


def _take(path: str, folder: Folder, name: str, make: bool) -> Claim | None:
    """Open (or make) the spool and lock it. None where it is not there and shall not be made."""
    spool_name = _spool_name(name)
    for _ in range(_TRIES):
        spool = _open_spool(folder, spool_name, make)
        if spool is None:
            return None
        lock = -1
        try:
            lock = _lock(path, spool)
            # Whoever had the lock before us may have removed the directory since we opened it.
            if folder.holds(spool_name, spool) and os.fstat(lock).st_nlink:
                return Claim(path, folder, name, spool, lock)
        except FileNotFoundError:
            pass
        except BaseException:
            spool.close()
            raise
        spool.close()
        if lock >= 0:
            os.close(lock)
    raise NumatraceError(f"others keep taking {path} away", "try again")


def _open_spool(folder: Folder, name: str, make: bool) -> Folder | None:
    if make:
        with contextlib.suppress(FileExistsError):
            return folder.make_folder(name)
    try:
        spool = folder.open_folder(name)
    except FileNotFoundError:
        if make:
            raise
        return None
    about = spool.status()
    if about.st_uid not in trusted_owners(folder) or about.st_mode & 0o022:
        spool.close()
        raise PermissionError(
            errno.EPERM, f"{name} there belongs to the user with id {about.st_uid}, or is open to others"
        )
    return spool


def _lock(path: str, spool: Folder) -> int:
    try:
        fd = spool.create(_LOCK)
    except FileExistsError:
        fd = spool.open(_LOCK, writing=True)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = _read_lock(fd).get("pid")
        os.close(fd)
        who = f" by process {pid}" if isinstance(pid, int) else ""
        raise NumatraceError(
            f"{path} is still being recorded{who}",
            f"wait for its end, or end it with kill {pid}" if who else "wait for its end",
        ) from None
    except BaseException:
        os.close(fd)
        raise
    return fd


def _read_lock(fd: int) -> dict[str, object]:
    """What `sign` wrote; empty where it did not come to that."""
    try:
        said = json.loads(os.pread(fd, 4096, 0))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}

"""The hidden directory that a recording is written in, and the lock in it.

It is `.NAME.numatrace/` beside NAME, be that a file or the directory of a rotated recording. Where nothing can be made
beside such a directory, or where it is a file system of its own, it is `.spool.numatrace/` in it. The lock is held as
long as the recorder lives, and the kernel drops it however that ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time

from tracer.errors import NumatraceError
from tracer.record.place import Folder, Owner, open_parent, trusted_owners, write_at

__all__ = ["Hidden", "StillRecording", "beside", "left_over", "make_beside", "make_inside", "open_left_over"]

_LOCK = "lock"
_SUFFIX = ".numatrace"
_INSIDE = ".spool" + _SUFFIX

_DYING_S = 2.0
_LOOK_S = 0.01

_TRIES = 10
"""How often others may take the directory away under our hands before we give up."""


def beside(path: str) -> str:
    """The path of the hidden directory beside `path`."""
    head, name = os.path.split(path)
    return os.path.join(head, f".{name}{_SUFFIX}")


def _inside(path: str) -> str:
    return os.path.join(path, _INSIDE)


def left_over(path: str) -> str | None:
    """Path of the hidden directory of a recorder of `path` that is running or was killed; None where there is none."""
    return next((it for it in (beside(path), _inside(path)) if os.path.lexists(it)), None)


class StillRecording(NumatraceError):
    """Somebody has the lock."""


class Hidden:
    """The directory, with the lock held. home: the directory that it is in. name, path: its own. folder: itself."""

    def __init__(self, home: Folder, path: str, folder: Folder, lock: int) -> None:
        self.home = home
        self.name = os.path.basename(path)
        self.path = path
        self.folder = folder
        self._lock = lock

    def sign(self, replace: bool) -> None:
        """Write down who records, for others who find the lock held or the directory left behind. Raises OSError."""
        os.ftruncate(self._lock, 0)
        write_at(self._lock, json.dumps({"pid": os.getpid(), "replace": replace}).encode(), 0)

    @property
    def replace(self) -> bool:
        """What the last one has signed."""
        return bool(_read_lock(self._lock).get("replace"))

    def names(self) -> list[str]:
        """Of what is in it, but for the lock."""
        return [name for name in self.folder.names() if name != _LOCK]

    def remove(self) -> None:
        """Once nothing is in it any more. It stays where others have put something there, or are just taking it over.
        Raises OSError."""
        self.folder.remove(_LOCK)
        with contextlib.suppress(OSError):
            self.home.remove_folder(self.name)

    def close(self) -> None:
        """Let go. Harmless to repeat."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        self.folder.close()
        self.home.close()


def make_beside(path: str, owner: Owner | None) -> Hidden:
    """Raises as `_take`."""
    return _make(path, beside(path), owner)


def make_inside(path: str, owner: Owner | None) -> Hidden:
    """Raises as `_take`."""
    return _make(path, _inside(path), owner)


def _make(path: str, hidden: str, owner: Owner | None) -> Hidden:
    made = _take(path, hidden, owner, make=True)
    assert made is not None
    return made


def open_left_over(path: str) -> Hidden | None:
    """None where nothing was left behind. Raises as `_take`."""
    hidden = left_over(path)
    return None if hidden is None else _take(path, hidden, None, make=False)


def _take(path: str, hidden: str, owner: Owner | None, make: bool) -> Hidden | None:
    """Open (or make) it, and lock it. None where it is not there and shall not be made.

    Raises StillRecording where a recorder is running on it, OSError where it cannot be opened or is another user's.
    """
    home, name = open_parent(hidden, owner)
    with contextlib.ExitStack() as opened:
        opened.callback(home.close)
        for _ in range(_TRIES):
            try:
                found = _open(home, name, make)
                if found is None:
                    return None
                taken = Hidden(home, hidden, found, _lock(path, found))
            except FileNotFoundError:
                continue
            # Whoever had the lock before us may have removed the directory since we opened it.
            if home.holds(name, found) and found.find(_LOCK) is not None:
                opened.pop_all()
                return taken
            os.close(taken._lock)
            found.close()
    raise NumatraceError(f"others keep taking {path} away", "try again")


def _open(home: Folder, name: str, make: bool) -> Folder | None:
    if make:
        with contextlib.suppress(FileExistsError):
            return home.make_folder(name)
    elif home.find(name) is None:
        return None
    found = home.open_folder(name)
    about = found.status()
    if about.st_uid not in trusted_owners(home) or about.st_mode & 0o022:
        found.close()
        raise PermissionError(
            errno.EPERM, f"{name} belongs to the user with id {about.st_uid}, or others may write there"
        )
    return found


def _lock(path: str, folder: Folder) -> int:
    """Closes `folder` where it raises."""
    with contextlib.ExitStack() as opened:
        opened.callback(folder.close)
        try:
            fd = folder.create(_LOCK)
        except FileExistsError:
            fd = folder.open(_LOCK, writing=True)
        opened.callback(os.close, fd)
        if not _wait_for(fd):
            pid = _read_lock(fd).get("pid")
            who = f" by process {pid}" if isinstance(pid, int) else ""
            end = f", or end it with kill {pid}" if who else ""
            raise StillRecording(f"{path} is still being recorded{who}", f"wait for its end{end}")
        opened.pop_all()
    return fd


def _wait_for(fd: int) -> bool:
    """Take the lock; False where somebody lives who has it. One who was killed has it until all of him is gone: his
    threads, and the BPF programs, take the kernel a moment."""
    deadline = time.monotonic() + _DYING_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if _is_alive(_read_lock(fd).get("pid")) or time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_S)
        else:
            return True


def _is_alive(pid: object) -> bool:
    """Whether the process that signed runs, as far as we can see: not in another container."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name before the state may hold anything.
            return file.read().rpartition(b") ")[2][:1] not in (b"Z", b"X")
    except OSError:
        return False


def _read_lock(fd: int) -> dict[str, object]:
    """What `sign` wrote; empty where it did not come to that."""
    try:
        said = json.loads(os.pread(fd, 4096, 0))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}

"""Where a recording is written: directories held open, files that only their owner can read, and no symbolic links.

A recorder usually runs as root and writes where somebody else may write too, so names are never trusted twice: a
directory is opened once, and everything in it is reached through that descriptor, without following links, created
only where nothing was. What is made belongs to the user who called sudo.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tracer.errors import NumatraceError

__all__ = ["Folder", "Owner", "caller", "cannot", "open_directory", "open_parent", "trusted_owners", "write_at"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
"""O_NONBLOCK for a fifo that lies there instead of a file: opening it must not wait for somebody to write."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Ids of the user and group that files are given to."""

    uid: int
    gid: int


def caller(environment: Mapping[str, str] = os.environ) -> Owner | None:
    """The user who called sudo; None where files stay our own. Raises NumatraceError where the variables are no ids."""
    uid, gid = environment.get("SUDO_UID", ""), environment.get("SUDO_GID", "")
    # Anybody can set these variables, and only for root do they mean anything.
    if os.geteuid() != 0 or not uid:
        return None
    if not (uid.isdecimal() and gid.isdecimal()):
        raise NumatraceError(
            f"cannot tell whose the recording is: SUDO_UID is {uid!r} and SUDO_GID is {gid!r}",
            "both must be numbers, as sudo sets them; unset SUDO_UID to keep the files for root",
        )
    return Owner(int(uid), int(gid)) if int(uid) else None


def trusted_owners(folder: Folder) -> set[int]:
    """Ids of the users who may have made a spool in `folder`: ourselves, whoever called sudo, and for root the owner of
    the directory, who could do there what he likes anyway. In /tmp that is not everybody."""
    mine = os.geteuid()
    owner = caller()
    trusted = {mine} | ({owner.uid} if owner else set())
    return trusted | ({folder.status().st_uid} if mine == 0 else set())


def cannot(what: str, path: str, error: OSError, hint: str = "") -> NumatraceError:
    """The error for the user: `cannot write PATH: No space left on device`."""
    return NumatraceError(f"cannot {what} {path}: {error.strerror or error}", hint)


def open_parent(path: str, owner: Owner | None) -> tuple[Folder, str]:
    """The directory of `path`, and the name in it. Raises OSError. Links on the way to it are the user's own choice."""
    head, name = os.path.split(path)
    return open_directory(head or ".", owner), name


def open_directory(path: str, owner: Owner | None) -> Folder:
    """Of any path. Raises OSError."""
    return Folder(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), owner)


class Folder:
    """An open directory. A context manager; every method raises OSError.

    owner: gets what is created here. All names are of entries right in it, and none is followed as a link.
    """

    def __init__(self, fd: int, owner: Owner | None) -> None:
        self._fd = fd
        self.owner = owner

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Harmless to repeat."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # --- looking ---

    def status(self, name: str = "") -> os.stat_result:
        """Of an entry, a link not followed; of the directory itself without a name."""
        return os.stat(name, dir_fd=self._fd, follow_symlinks=False) if name else os.fstat(self._fd)

    def find(self, name: str) -> os.stat_result | None:
        """The same, None where there is no such entry."""
        try:
            return self.status(name)
        except FileNotFoundError:
            return None

    def names(self) -> list[str]:
        """Of all entries, sorted."""
        return sorted(os.listdir(self._fd))

    # --- files ---

    def create(self, name: str) -> int:
        """Descriptor of a new file, for reading and writing, 0600. FileExistsError where anything has that name."""
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FILE, 0o600, dir_fd=self._fd)
        try:
            self._give_away(fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def open(self, name: str, writing: bool = False, links: int = 1) -> int:
        """Descriptor of a file that the owner of this directory made. PermissionError for anything else.

        A link, a device, or a second name of a file elsewhere would have us write where the user could not. links: how
        many names it may have.
        """
        fd = os.open(name, (os.O_RDWR if writing else os.O_RDONLY) | _FILE, dir_fd=self._fd)
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode) or about.st_uid != self.status().st_uid or about.st_nlink > links:
            os.close(fd)
            raise PermissionError(errno.EPERM, f"{name} is not a file of its directory's owner")
        return fd

    def read(self, name: str) -> bytes:
        """All of a file."""
        with open(self.open(name), "rb") as file:
            return file.read()

    def write(self, name: str, data: bytes) -> None:
        """Make or replace a file, all or nothing, also when the power fails."""
        beside = f"{name}.new"
        self.remove(beside)
        fd = self.create(beside)
        try:
            write_at(fd, data, 0)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(beside, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        self.sync()

    def remove(self, name: str) -> None:
        """A file. Nothing happens where there is none."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)

    def move(self, name: str, folder: Folder, new_name: str) -> None:
        """Into another directory, over what has that name there."""
        os.rename(name, new_name, src_dir_fd=self._fd, dst_dir_fd=folder._fd)

    def link(self, name: str, folder: Folder, new_name: str) -> None:
        """A second name in another directory. FileExistsError where anything has it."""
        os.link(name, new_name, src_dir_fd=self._fd, dst_dir_fd=folder._fd, follow_symlinks=False)

    def sync(self) -> None:
        """Names that were made, changed and removed survive a power failure from here on."""
        os.fsync(self._fd)

    # --- directories ---

    def make_folder(self, name: str) -> Folder:
        """A new one, 0700. FileExistsError where anything has that name."""
        os.mkdir(name, 0o700, dir_fd=self._fd)
        fd = os.open(name, _DIRECTORY, dir_fd=self._fd)
        try:
            # Where others may rename, another one can have taken its place between the two calls.
            if os.fstat(fd).st_uid != os.geteuid():
                raise PermissionError(errno.EPERM, f"{name} was replaced by somebody else")
            self._give_away(fd, 0o700)
        except BaseException:
            os.close(fd)
            raise
        return Folder(fd, self.owner)

    def open_folder(self, name: str) -> Folder:
        """One that is there. NotADirectoryError for a link, too."""
        return Folder(os.open(name, _DIRECTORY, dir_fd=self._fd), self.owner)

    def remove_folder(self, name: str) -> None:
        """An empty one. Nothing happens where there is none."""
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(name, dir_fd=self._fd)

    def holds(self, name: str, folder: Folder) -> bool:
        """Whether `name` still leads to `folder`."""
        found = self.find(name)
        return found is not None and os.path.samestat(found, folder.status())

    def _give_away(self, fd: int, mode: int = 0o600) -> None:
        if self.owner is not None:
            os.fchown(fd, self.owner.uid, self.owner.gid)
        # The umask may have taken the owner's own rights away.
        os.fchmod(fd, mode)


def write_at(fd: int, data: bytes | memoryview, offset: int) -> None:
    """All of it, at this place of the file. Raises OSError; then a part may have been written."""
    view = memoryview(data)
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], offset + done)

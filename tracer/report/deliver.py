"""Where the files of a report go: whole or not at all, 0600, to the user who called sudo, and never through a link."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from types import TracebackType
from typing import Self

from tracer.errors import NumatraceError, UsageError
from tracer.record.place import Folder, caller, cannot, open_parent, write_at

__all__ = ["Drop"]

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EACCES}
"""What link(2) says where a file system, or a rule about links, does not allow any."""


class Drop:
    """A directory, held open, that files of given names go to. A context manager.

    replace: files that are there already are replaced.
    """

    def __init__(self, folder: Folder, path: str, names: tuple[str, ...], replace: bool) -> None:
        """Raises NumatraceError where one of the names is taken."""
        self._folder = folder
        self._path = path
        self._replace = replace
        try:
            for name in names:
                self._check(name)
        except BaseException:
            folder.close()
            raise

    @classmethod
    def for_file(cls, path: str, replace: bool) -> tuple[Self, str]:
        """For one file, and its name. Raises NumatraceError or UsageError where it cannot be."""
        if not os.path.basename(path) or os.path.isdir(path):
            raise UsageError(
                f"{path or 'the name of the report'} is a directory" if path else "-o is empty", "give a file"
            )
        head, name = os.path.split(path)
        try:
            folder, name = open_parent(path, caller())
        except (OSError, ValueError) as error:
            raise _cannot_write(path, error) from None
        return cls(folder, head, (name,), replace), name

    @classmethod
    def for_directory(cls, path: str, names: tuple[str, ...], replace: bool) -> Self:
        """For files of these names in a directory, which is made where there is none."""
        trimmed = path.rstrip("/") or path
        try:
            folder = _open_directory(trimmed)
        except (OSError, ValueError) as error:
            raise _cannot_write(path, error) from None
        return cls(folder, trimmed, names, replace)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._folder.close()

    def _full(self, name: str) -> str:
        return os.path.join(self._path, name)

    def _check(self, name: str) -> None:
        path = self._full(name)
        try:
            about = self._folder.find(name)
        except (OSError, ValueError) as error:
            raise _cannot_write(path, error) from None
        if about is None:
            return
        if stat.S_ISLNK(about.st_mode):
            raise NumatraceError(f"{path} is a symbolic link, and nothing is written through one", "give another name")
        if not stat.S_ISREG(about.st_mode):
            raise NumatraceError(f"{path} is there and no file", "give another name")
        if not self._replace:
            raise NumatraceError(f"{path} exists", "give another name, or -f to replace it")

    def put(self, name: str, data: bytes) -> str:
        """Write one file. Returns its path. Raises NumatraceError; then there is no new file."""
        beside = f".numatrace-{secrets.token_hex(8)}"
        try:
            fd = self._folder.create(beside)
            try:
                write_at(fd, data, 0)
                os.fsync(fd)
            finally:
                os.close(fd)
            self._check(name)
            self._publish(beside, name)
        except OSError as error:
            raise _cannot_write(self._full(name), error) from None
        finally:
            with contextlib.suppress(OSError):
                self._folder.remove(beside)
        return self._full(name)

    def _publish(self, beside: str, name: str) -> None:
        if self._replace:
            self._folder.move(beside, self._folder, name)
            return
        try:
            # Unlike a rename, it fails where somebody has put a file there meanwhile.
            self._folder.link(beside, self._folder, name)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._folder.move(beside, self._folder, name)


def _open_directory(path: str) -> Folder:
    parent, name = open_parent(path, caller())
    with parent:
        if name in ("", ".", ".."):
            return Folder(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), parent.owner)
        about = parent.find(name)
        if about is not None and stat.S_ISLNK(about.st_mode):
            raise NumatraceError(
                f"{path} is a symbolic link, and nothing is written through one", "give the directory that it leads to"
            )
        if about is not None and not stat.S_ISDIR(about.st_mode):
            raise NumatraceError(f"{path} is no directory", "give another name")
        return parent.open_folder(name) if about is not None else parent.make_folder(name)


def _cannot_write(path: str, error: OSError | ValueError) -> NumatraceError:
    if isinstance(error, ValueError):
        return NumatraceError(f"cannot write {path}: {error}", "give another name")
    head = os.path.dirname(path.rstrip("/")) or "."
    if isinstance(error, FileNotFoundError) and not os.path.isdir(head):
        return NumatraceError(f"cannot write {path}: there is no directory {head}", "make it first, with mkdir -p")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return cannot("write", path, error, "free some space, or write elsewhere")
    return cannot("write", path, error, "choose a directory that is yours")

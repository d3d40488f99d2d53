"""Disk space that is kept back, so that a recording can still be finished when the disk is full."""

from __future__ import annotations

import errno
import os

from tracer.record.place import Folder

__all__ = ["Ballast"]

_NAME = "ballast"
_STEP = 256 * 1024
_CANNOT = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
"""What file systems say that cannot promise space. Then there is no ballast."""


class Ballast:
    """A file of nothing. Raises OSError where there is no room for it."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._fd = -1
        self._size = 0

    def reserve(self, size: int) -> None:
        """Keep at least `size` bytes back; never less than before."""
        if size <= self._size:
            return
        size = -(-size // _STEP) * _STEP
        if self._fd < 0:
            self._fd = self._folder.create(_NAME)
        try:
            os.posix_fallocate(self._fd, 0, size)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
        self._size = size

    def release(self) -> None:
        """Give the space back, also what an earlier recorder kept. Harmless to repeat."""
        self.close()
        self._folder.remove(_NAME)

    def close(self) -> None:
        """Leave it as it is. Harmless to repeat."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._size = 0

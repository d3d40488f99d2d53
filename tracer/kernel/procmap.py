"""What /proc/PID/maps says of single VMAs: asked one by one where the kernel answers that, else out of the whole file.

PROCMAP_QUERY (6.11, include/uapi/linux/fs.h) finds a VMA in a microsecond or two, however many there are. Used for what
the kernel's structures do not tell: names. Whole lists are `tracer.kernel.procfs.read_maps`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import struct
from collections.abc import Sequence
from pathlib import Path

from tracer.kernel.procfs import PROC, MapsEntry, parse_maps, proc_error, read_proc

__all__ = ["entries_at", "entries_in"]

PROCMAP_QUERY = 0xC0686611  # _IOWR('f', 17, struct procmap_query)
_STRUCT = struct.Struct("=9Q4I2Q")  # struct procmap_query
_READ, _WRITE, _EXECUTE, _SHARED = 1, 2, 4, 8  # PROCMAP_QUERY_VMA_*
_NAME_BYTES = 4096  # PATH_MAX, the kernel's own limit


def entries_at(pid: int, starts: Sequence[int], proc_root: Path = PROC) -> list[MapsEntry | None]:
    """The VMAs that begin at the addresses, which ascend; None where none does. Errors as of `procfs.read_maps`."""
    if not starts:
        return []
    name = ctypes.create_string_buffer(_NAME_BYTES)
    try:
        with open(proc_root / str(pid) / "maps", "rb", buffering=0) as file:
            return [_query(file.fileno(), start, name) for start in starts]
    except OSError as error:
        # ENOTTY: a kernel without the request, or a made-up file. A name too long for it is one for the file, too.
        if error.errno not in (errno.ENOTTY, errno.EINVAL, errno.ENAMETOOLONG):
            raise proc_error(pid, "maps", error) from error
    return entries_in(read_proc(pid, "maps", proc_root), starts)


def _query(fd: int, start: int, name: ctypes.Array[ctypes.c_char]) -> MapsEntry | None:
    argument = bytearray(
        _STRUCT.pack(_STRUCT.size, 0, start, 0, 0, 0, 0, 0, 0, 0, 0, _NAME_BYTES, 0, ctypes.addressof(name), 0)
    )
    try:
        fcntl.ioctl(fd, PROCMAP_QUERY, argument)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESRCH):  # no VMA there; or no address space any more
            return None
        raise
    found = _STRUCT.unpack(argument)
    first, end, flags, offset, inode, major, minor, length = (found[i] for i in (3, 4, 5, 7, 8, 9, 10, 11))
    if first != start:
        return None
    return MapsEntry(
        start=start,
        end=end,
        perms=_perms(flags),
        offset=offset,
        device=f"{major:02x}:{minor:02x}",
        inode=inode,
        path=name.raw[: max(length - 1, 0)].replace(b"\n", b"\\012"),  # as maps escapes it
    )


def _perms(flags: int) -> str:
    return (
        ("r" if flags & _READ else "-")
        + ("w" if flags & _WRITE else "-")
        + ("x" if flags & _EXECUTE else "-")
        + ("s" if flags & _SHARED else "p")
    )


def entries_in(text: bytes, starts: Sequence[int]) -> list[MapsEntry | None]:
    """The same out of the text of a maps file. Only the lines that are wanted are parsed."""
    found: list[MapsEntry | None] = []
    at = 0
    for start in starts:
        line = text.find(b"\n%08x-" % start, max(at - 1, 0)) + 1
        if not line and not text.startswith(b"%08x-" % start):
            found.append(None)
            continue
        end = text.find(b"\n", line)
        found.append(parse_maps(text[line : end if end >= 0 else len(text)])[0])
        at = line
    return found

"""System calls by which one process changes the memory of another; the standard library has no names for them."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import struct
from collections.abc import Iterator, Sequence

__all__ = [
    "fallocate",
    "migrate_pages",
    "move_pages",
    "process_madvise",
    "process_vm_writev",
    "userfault_address",
    "userfault_copy",
    "userfaults",
]

# The numbers of x86-64.
_SYS_MIGRATE_PAGES = 256
_SYS_MOVE_PAGES = 279
_SYS_FALLOCATE = 285
_SYS_PROCESS_VM_WRITEV = 311
_SYS_PIDFD_GETFD = 438
_SYS_PROCESS_MADVISE = 440
# include/uapi/linux/userfaultfd.h
_UFFDIO_COPY = 0xC028AA03
_UFFD_MSG_BYTES, _UFFD_EVENT_PAGEFAULT = 32, 0x12
_MPOL_MF_MOVE = 2
_MAX_NODES = 64

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _long(number: int) -> ctypes.c_ulong:
    return ctypes.c_ulong(number)


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2) with a mode, which `os.posix_fallocate` cannot give."""
    _call(_SYS_FALLOCATE, ctypes.c_long(descriptor), ctypes.c_long(mode), _long(offset), _long(length))


def process_vm_writev(pid: int, address: int, content: bytes) -> None:
    """Write into the memory of another process."""
    here = ctypes.create_string_buffer(content, len(content))
    local = _Iovec(ctypes.addressof(here), len(content))
    remote = _Iovec(address, len(content))
    written = _call(
        _SYS_PROCESS_VM_WRITEV, _long(pid), ctypes.byref(local), _long(1), ctypes.byref(remote), _long(1), _long(0)
    )
    assert written == len(content)


def process_madvise(pid: int, address: int, length: int, advice: int) -> None:
    """Advice about the memory of another process (MADV_COLD, MADV_PAGEOUT, ...)."""
    pidfd = os.pidfd_open(pid)
    try:
        remote = _Iovec(address, length)
        done = _call(_SYS_PROCESS_MADVISE, _long(pidfd), ctypes.byref(remote), _long(1), _long(advice), _long(0))
        assert done == length
    finally:
        os.close(pidfd)


def move_pages(pid: int, addresses: Sequence[int], node: int) -> list[int]:
    """Move pages of another process to a node; the status of each: its node, or a negative error number."""
    count = len(addresses)
    pages = (ctypes.c_void_p * count)(*addresses)
    nodes = (ctypes.c_int * count)(*([node] * count))
    status = (ctypes.c_int * count)()
    _call(_SYS_MOVE_PAGES, _long(pid), _long(count), pages, nodes, status, _long(_MPOL_MF_MOVE))
    return list(status)


def migrate_pages(pid: int, from_nodes: int, to_nodes: int) -> int:
    """Move all pages of another process from the nodes of one mask to those of another; pages that stayed."""
    masks = [ctypes.c_ulong(mask) for mask in (from_nodes, to_nodes)]
    return _call(_SYS_MIGRATE_PAGES, _long(pid), _long(_MAX_NODES + 1), ctypes.byref(masks[0]), ctypes.byref(masks[1]))


@contextlib.contextmanager
def userfaults(pid: int, descriptor: int) -> Iterator[int]:
    """The userfaultfd that another process has under that number, as one of ours."""
    pidfd = os.pidfd_open(pid)
    try:
        ours = _call(_SYS_PIDFD_GETFD, _long(pidfd), _long(descriptor), _long(0))
    finally:
        os.close(pidfd)
    try:
        yield ours
    finally:
        os.close(ours)


def userfault_address(descriptor: int) -> int:
    """The page of the next fault that waits there."""
    message = os.read(descriptor, _UFFD_MSG_BYTES)
    assert message[0] == _UFFD_EVENT_PAGEFAULT
    address: int = struct.unpack_from("=16xQ", message)[0]
    return address & ~0xFFF


def userfault_copy(descriptor: int, to: int, content: bytes) -> None:
    """Fill pages of the other process that are not there yet, and let go who waits for them."""
    here = ctypes.create_string_buffer(content, len(content))
    order = bytearray(struct.pack("=QQQQq", to, ctypes.addressof(here), len(content), 0, 0))
    fcntl.ioctl(descriptor, _UFFDIO_COPY, order)
    assert struct.unpack("=QQQQq", order)[4] == len(content)

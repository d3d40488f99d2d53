"""Builds, loads and runs the programs of bpf/ through BCC: the only place that imports it.

No kernel headers are used: a tree of stub headers stands in for them (bpf/stub), and what the programs must know of
kernel structs comes as `-D` constants. Nothing is pinned, so a killed tracer leaves no program behind.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.errors import NumatraceError
from tracer.kernel.btf import libbpf

__all__ = ["BpfRefused", "Programs", "source_directory"]

RAW_TRACEPOINT = 17  # BPF_PROG_TYPE_RAW_TRACEPOINT, include/uapi/linux/bpf.h


class BpfRefused(NumatraceError):
    """The kernel, or its policy, does not let us load or attach a program."""


def source_directory() -> Path:
    """Where bpf/ is: inside the package when installed from a wheel, beside it in a source checkout."""
    package = Path(__file__).resolve().parent.parent
    for place in (package / "bpf", package.parent / "bpf"):
        if (place / "common.h").exists():
            return place
    raise NumatraceError("the BPF sources of numatrace are missing", "install numatrace again")


@contextmanager
def _stderr_kept() -> Iterator[list[str]]:
    """Collects what clang and the verifier write to file descriptor 2, so that the user gets one line instead."""
    kept: list[str] = []
    saved = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield kept
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            kept.append(file.read().decode(errors="replace"))


class _TestRun(ctypes.Structure):
    """`struct bpf_test_run_opts` of libbpf 1.x."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_void_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    )


class Programs:
    """One compiled set of programs and its maps.

    Raises NumatraceError when BCC is not installed, BpfRefused when the kernel does not take a program.
    """

    def __init__(self, sources: Sequence[str], constants: dict[str, int]) -> None:
        directory = source_directory()
        os.environ["BCC_KERNEL_SOURCE"] = str(directory / "stub")
        try:
            import bcc
        except ImportError as error:
            raise NumatraceError(
                f"cannot import BCC ({error})",
                "install python3-bpfcc and use a virtual environment with system site packages (`make run` does both)",
            ) from error
        text = "#include <linux/types.h>\n" + "".join(
            f'#line 1 "{name}"\n{(directory / name).read_text()}' for name in sources
        )
        flags = ["-I", str(directory), "-Wno-unused-function"]
        flags += [f"-D{name}={value & 0xFFFFFFFFFFFFFFFF}ULL" if value < 0 or value > 0x7FFFFFFF else f"-D{name}={value}"
                  for name, value in constants.items()]
        with _stderr_kept() as kept:
            try:
                self._bpf: Any = bcc.BPF(text=text, cflags=flags, debug=int(os.environ.get("NUMATRACE_DEBUG", "0")))
            except Exception as error:
                failure: Exception | None = error
            else:
                failure = None
        if failure is not None:
            raise BpfRefused(f"cannot build the BPF programs: {_reason(kept[0], failure)}", _permission_hint())
        self._functions: dict[str, Any] = {}
        self._maps: dict[str, tuple[mmap.mmap, npt.NDArray[Any]]] = {}
        self._attached: list[str] = []
        self._options = _TestRun(sz=ctypes.sizeof(_TestRun))
        self._pointer = ctypes.byref(self._options)
        self._test_run = libbpf().bpf_prog_test_run_opts

    def load(self, function: str) -> int:
        """Load one program (once), and give its file descriptor."""
        if function not in self._functions:
            with _stderr_kept() as kept:
                try:
                    self._functions[function] = self._bpf.load_func(function, RAW_TRACEPOINT)
                except Exception as error:
                    failure: Exception | None = error
                else:
                    failure = None
            if failure is not None:
                raise BpfRefused(f"the kernel refuses the BPF program {function}: {_reason(kept[0], failure)}",
                                 _permission_hint())
        fd: int = self._functions[function].fd
        return fd

    def chain(self, function: str, table: str) -> None:
        """Let `function` continue in itself: it tail-calls slot 0 of the program array `table`."""
        self._bpf[table][ctypes.c_int(0)] = ctypes.c_int(self.load(function))

    def run(self, fd: int) -> None:
        """Run a loaded program once, here and now, by BPF_PROG_TEST_RUN."""
        if self._test_run(fd, self._pointer):
            code = ctypes.get_errno()
            raise BpfRefused(f"cannot run a BPF program: {os.strerror(code)}", _permission_hint())

    def attach(self, tracepoint: str, function: str) -> None:
        """Attach to a raw tracepoint."""
        self.load(function)
        with _stderr_kept() as kept:
            try:
                self._bpf.attach_raw_tracepoint(tp=tracepoint, fn_name=function)
            except Exception as error:
                failure: Exception | None = error
            else:
                failure = None
        if failure is not None:
            raise BpfRefused(f"cannot attach to the tracepoint {tracepoint}: {_reason(kept[0], failure)}",
                             "see `/sys/kernel/tracing/available_events` for what this kernel has")
        self._attached.append(tracepoint)

    def detach(self, tracepoint: str) -> None:
        """Undo `attach`."""
        self._bpf.detach_raw_tracepoint(tracepoint)
        self._attached.remove(tracepoint)

    def array(self, name: str) -> npt.NDArray[Any]:
        """A memory-mapped array map: reads and writes need no system call. One element per entry, named fields."""
        if name not in self._maps:
            table = self._bpf[name]
            kind = np.dtype(table.Leaf)
            step = (kind.itemsize + 7) // 8 * 8
            if step != kind.itemsize:
                raise ValueError(f"entries of {name} are not a multiple of 8 bytes")
            count = table.max_entries
            pages = -(-count * step // mmap.PAGESIZE) * mmap.PAGESIZE
            window = mmap.mmap(table.map_fd, pages, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE)
            self._maps[name] = window, np.frombuffer(window, kind, count)
        return self._maps[name][1]

    def table(self, name: str) -> Any:
        """BCC's table object, for maps that cannot be memory-mapped."""
        return self._bpf[name]

    def close(self) -> None:
        """Detach and unload everything."""
        for tracepoint in list(self._attached):
            self.detach(tracepoint)
        self._maps.clear()
        self._bpf.cleanup()


def _reason(text: str, failure: Exception) -> str:
    """The first line that says something, of what clang or the verifier wrote."""
    if os.environ.get("NUMATRACE_DEBUG"):
        os.write(2, text.encode())
    for line in text.splitlines():
        if "error:" in line or "Operation not permitted" in line or "denied" in line:
            return line.strip()
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else str(failure) or os.strerror(errno.EPERM)


def _permission_hint() -> str:
    if os.geteuid() != 0:
        return "run as root (sudo), or use `--hooks none --reader numa_maps`"
    return "the kernel may be locked down or the container unprivileged; `--hooks none --reader pagemap` works without BPF"

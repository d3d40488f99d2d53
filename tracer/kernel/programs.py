"""Loads and runs BPF programs that `tracer.kernel.bpf` has compiled.

Images are cached under a digest of sources, constants and kernel, so only the first start on a kernel pays for clang.
Maps and programs are made through libbpf; nothing is pinned, so a killed tracer leaves nothing behind.
"""

from __future__ import annotations

import base64
import ctypes
import errno
import hashlib
import json
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.errors import NumatraceError
from tracer.kernel.btf import build_id, libbpf
from tracer.kernel.cache import read_cached, write_cached

__all__ = [
    "ARRAY",
    "ARRAY_OF_MAPS",
    "BpfRefused",
    "Compilation",
    "Programs",
    "check_permitted",
    "create_map",
    "source_directory",
    "update_map",
]

RAW_TRACEPOINT, TRACING = 17, 26  # enum bpf_prog_type, include/uapi/linux/bpf.h
TRACE_FEXIT = 25  # enum bpf_attach_type
HASH, ARRAY, ARRAY_OF_MAPS = 1, 2, 12  # enum bpf_map_type
TEST_RUN_ON_CPU = 1  # BPF_F_TEST_RUN_ON_CPU, include/uapi/linux/bpf.h
LOG_BYTES = 1 << 20
INFO_BYTES, SKIPPED = 216, 208  # struct bpf_prog_info as far as recursion_misses (u64), and where that is


class BpfRefused(NumatraceError):
    """The kernel, or its policy, does not let us load or attach a program."""


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


class _MapOptions(ctypes.Structure):
    """The beginning of `struct bpf_map_create_opts` of libbpf 1.x, as far as it is used."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("btf_fd", ctypes.c_uint32),
        ("btf_key_type_id", ctypes.c_uint32),
        ("btf_value_type_id", ctypes.c_uint32),
        ("btf_vmlinux_value_type_id", ctypes.c_uint32),
        ("inner_map_fd", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("map_extra", ctypes.c_uint64),
        ("numa_node", ctypes.c_uint32),
        ("map_ifindex", ctypes.c_uint32),
    )


class _LoadOptions(ctypes.Structure):
    """The beginning of `struct bpf_prog_load_opts` of libbpf 1.x."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("attempts", ctypes.c_int),
        ("expected_attach_type", ctypes.c_int),
        ("prog_btf_fd", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_ifindex", ctypes.c_uint32),
        ("kern_version", ctypes.c_uint32),
        ("attach_btf_id", ctypes.c_uint32),
        ("attach_prog_fd", ctypes.c_uint32),
        ("attach_btf_obj_fd", ctypes.c_uint32),
        ("fd_array", ctypes.c_void_p),
        ("func_info", ctypes.c_void_p),
        ("func_info_cnt", ctypes.c_uint32),
        ("func_info_rec_size", ctypes.c_uint32),
        ("line_info", ctypes.c_void_p),
        ("line_info_cnt", ctypes.c_uint32),
        ("line_info_rec_size", ctypes.c_uint32),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_void_p),
    )


def source_directory() -> Path:
    """Where bpf/ is: inside the package when installed from a wheel, beside it in a source checkout."""
    package = Path(__file__).resolve().parent.parent
    for place in (package / "bpf", package.parent / "bpf"):
        if (place / "common.h").exists():
            return place
    raise NumatraceError("the BPF sources of numatrace are missing", "install numatrace again")


class Compilation:
    """A set of sources on its way to an image: clang runs in another process from construction on, unless the image is
    cached. So two sets can be compiled side by side."""

    def __init__(self, sources: Sequence[str], constants: dict[str, int]) -> None:
        directory = source_directory()
        text = "#include <linux/types.h>\n" + "".join(
            f'#line 1 "{name}"\n{(directory / name).read_text()}' for name in sources
        )
        flags = ["-Wno-unused-function", *(f"-D{name}={value:#x}" for name, value in sorted(constants.items()))]
        headers = "".join(p.read_text() for p in sorted((directory / "stub").rglob("*.h")))
        digest = hashlib.sha256("\0".join([text, headers, build_id(), *flags]).encode()).hexdigest()
        self._key = f"bpf-{digest[:40]}"
        self._image: dict[str, Any] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        cached = read_cached(self._key)
        if cached:
            try:
                self._image = json.loads(cached)
                return
            except ValueError:
                pass
        request = json.dumps({"text": text, "flags": flags, "headers": str(directory / "stub")}).encode()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tracer.kernel.bpf"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": _search_path()},
        )
        assert self._process.stdin is not None
        self._process.stdin.write(request)
        self._process.stdin.close()
        self._process.stdin = None

    def image(self) -> dict[str, Any]:
        """Wait for the image. Raises NumatraceError when BCC is missing, BpfRefused when it cannot compile."""
        if self._image is None:
            assert self._process is not None
            output, errors = self._process.communicate()
            try:
                image = json.loads(output)
            except ValueError:
                status = self._process.returncode
                last = errors.decode(errors="replace").strip().splitlines()[-1:] or [f"exit status {status}"]
                image = {"error": f"the compiler process failed: {last[0]}", "log": ""}
            if "error" in image:
                raise _compile_error(image)
            self._image = image
            write_cached(self._key, json.dumps(image))
        return self._image

    def abandon(self) -> None:
        """End a compilation that nobody needs any more."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


class Programs:
    """The maps and programs of one image. Raises BpfRefused when the kernel does not take one of them."""

    def __init__(self, compilation: Compilation) -> None:
        image = compilation.image()
        self._maps: dict[str, int] = {}
        self._about = {table["name"]: table for table in image["maps"]}
        self._programs: dict[str, int] = {}
        self._code = image["programs"]
        self._windows: dict[str, npt.NDArray[Any]] = {}
        self._attached: dict[tuple[str, str], int] = {}
        self._options = _TestRun(sz=ctypes.sizeof(_TestRun))
        self._pointer = ctypes.byref(self._options)
        self._test_run = libbpf().bpf_prog_test_run_opts
        try:
            for table in image["maps"]:
                self._maps[table["name"]] = create_map(
                    table["type"], table["name"], table["key"], table["value"], table["entries"], table["flags"]
                )
        except BpfRefused:
            self.close()
            raise

    def load(self, function: str) -> int:
        """Load one program (once), and give its file descriptor."""
        if function not in self._programs:
            self._programs[function] = _load_program(function, self._instructions(function))
        return self._programs[function]

    def _instructions(self, function: str) -> bytes:
        """With the file descriptors of our maps filled in."""
        code = bytearray(base64.b64decode(self._code[function]["code"]))
        for at, name in self._code[function]["maps"]:
            code[at * 8 + 4 : at * 8 + 8] = self._maps[name].to_bytes(4, "little")
        return bytes(code)

    def chain(self, function: str, table: str, slot: int = 0) -> None:
        """Let programs continue in `function` by a tail call to a slot of the program array `table`."""
        update_map(self._maps[table], ctypes.c_uint32(slot), ctypes.c_uint32(self.load(function)))

    def run(self, fd: int) -> None:
        """Run a loaded program once, here and now, by BPF_PROG_TEST_RUN."""
        if self._test_run(fd, self._pointer):
            raise BpfRefused(f"cannot run a BPF program: {os.strerror(ctypes.get_errno())}", permission_hint())

    def run_on(self, fd: int, cpu: int) -> bool:
        """Run a loaded program once on a CPU, with its interrupts off. False when that CPU is offline."""
        self._options.flags, self._options.cpu = TEST_RUN_ON_CPU, cpu
        failed = self._test_run(fd, self._pointer)
        self._options.flags = self._options.cpu = 0
        if failed and ctypes.get_errno() != errno.ENXIO:
            raise BpfRefused(f"cannot run a BPF program: {os.strerror(ctypes.get_errno())}", permission_hint())
        return not failed

    def push(self, name: str, value: int) -> None:
        """Put a 32-bit number on a stack."""
        number = ctypes.byref(ctypes.c_uint32(value))
        if libbpf().bpf_map_update_elem(self._maps[name], None, number, ctypes.c_uint64(0)):
            raise BpfRefused(f"the kernel refuses a change of a BPF map: {os.strerror(ctypes.get_errno())}")

    def put(self, name: str, key: int, value: int) -> None:
        """Set an entry of a hash map from one 32-bit number to another. Raises BpfRefused, as when it is full."""
        update_map(self._maps[name], ctypes.c_uint32(key), ctypes.c_uint32(value))

    def attach(self, tracepoint: str, function: str) -> None:
        """Attach to a raw tracepoint."""
        program = self.load(function)
        fd = libbpf().bpf_raw_tracepoint_open(tracepoint.encode(), program)
        if fd < 0:
            raise BpfRefused(
                f"cannot attach to the tracepoint {tracepoint}: {os.strerror(ctypes.get_errno())}",
                "`/sys/kernel/tracing/available_events` lists what this kernel has",
            )
        self._attached[tracepoint, function] = fd

    def attach_to_exit(self, kernel_function: str, number: int, function: str) -> None:
        """Attach to the return of a function of the kernel, given by its name and its BTF type id: the program's
        arguments are those of that function, and then what it returns."""
        name = f"{function} {kernel_function}"
        if name not in self._programs:
            self._programs[name] = _load_program(function, self._instructions(function), number)
        fd = libbpf().bpf_raw_tracepoint_open(None, self._programs[name])
        if fd < 0:
            raise BpfRefused(f"cannot attach to the function {kernel_function}: {os.strerror(ctypes.get_errno())}")
        self._attached[kernel_function, name] = fd

    def detach(self, place: str) -> None:
        """Undo every `attach` or `attach_to_exit` to a tracepoint or function."""
        for key in [key for key in self._attached if key[0] == place]:
            os.close(self._attached.pop(key))

    def attached(self) -> list[str]:
        """The programs that are attached, by name; for `skipped`."""
        return [function for _, function in self._attached]

    def skipped(self, function: str) -> int:
        """How often the kernel did not run a program, as it had not come to its end on that CPU. One system call."""
        info, size = (ctypes.c_ubyte * INFO_BYTES)(), ctypes.c_uint32(INFO_BYTES)  # what is asked for is 0
        if libbpf().bpf_obj_get_info_by_fd(self._programs[function], info, ctypes.byref(size)):
            raise BpfRefused(f"cannot ask about a BPF program: {os.strerror(ctypes.get_errno())}", permission_hint())
        return int.from_bytes(info[SKIPPED:INFO_BYTES], "little")

    def array(self, name: str) -> npt.NDArray[Any]:
        """A memory-mapped array map: reads and writes need no system call. One element per entry, named fields."""
        if name not in self._windows:
            table = self._about[name]
            kind = _dtype(table["leaf"])
            if kind.itemsize % 8 or kind.itemsize != table["value"]:
                raise ValueError(f"entries of {name} have {table['value']} bytes, not a multiple of 8")
            size = -(-table["entries"] * kind.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE
            window = mmap.mmap(self._maps[name], size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE)
            self._windows[name] = np.frombuffer(window, kind, table["entries"])
        return self._windows[name]

    def items(self, name: str) -> Iterator[tuple[int, np.void]]:
        """Key (a 32-bit number) and value of each entry of a hash map."""
        lib, fd = libbpf(), self._maps[name]
        kind = _dtype(self._about[name]["leaf"])
        key, following = ctypes.c_uint32(), ctypes.c_uint32()
        value = (ctypes.c_char * kind.itemsize)()
        before: Any = None
        while lib.bpf_map_get_next_key(fd, before, ctypes.byref(following)) == 0:
            key.value = following.value
            before = ctypes.byref(key)
            if lib.bpf_map_lookup_elem(fd, ctypes.byref(key), value) == 0:
                yield key.value, np.frombuffer(bytes(value), kind)[0]

    def delete(self, name: str, key: int) -> None:
        """Delete an entry of a hash map, if it is there."""
        libbpf().bpf_map_delete_elem(self._maps[name], ctypes.byref(ctypes.c_uint32(key)))

    def close(self) -> None:
        """Detach and unload everything."""
        self._windows.clear()
        for fd in (*self._attached.values(), *self._programs.values(), *self._maps.values()):
            os.close(fd)
        for kept in (self._attached, self._programs, self._maps):
            kept.clear()


def create_map(kind: int, name: str, key: int, value: int, entries: int, flags: int = 0, inner: int = 0) -> int:
    """A new map's file descriptor. `inner` is that of a model for the maps in a map of maps."""
    options = _MapOptions(sz=ctypes.sizeof(_MapOptions), map_flags=flags, inner_map_fd=inner)
    fd: int = libbpf().bpf_map_create(kind, name[:15].encode(), key, value, entries, ctypes.byref(options))
    if fd < 0:
        raise BpfRefused(f"the kernel refuses a BPF map: {os.strerror(ctypes.get_errno())}", permission_hint())
    return fd


def check_permitted() -> None:
    """Raises BpfRefused at once when we may not use BPF at all, before anything slow is begun."""
    os.close(create_map(ARRAY, "permitted", 4, 8, 1))


def update_map(fd: int, key: Any, value: Any) -> None:
    """bpf_map_update_elem with ctypes objects. Raises BpfRefused."""
    if libbpf().bpf_map_update_elem(fd, ctypes.byref(key), ctypes.byref(value), ctypes.c_uint64(0)):
        raise BpfRefused(f"the kernel refuses a change of a BPF map: {os.strerror(ctypes.get_errno())}")


def _load_program(name: str, code: bytes, exit_of: int = 0) -> int:
    """For raw tracepoints, or for the return of the kernel's function with that BTF type id."""
    lib = libbpf()
    options = _LoadOptions(sz=ctypes.sizeof(_LoadOptions))
    if exit_of:
        options.expected_attach_type, options.attach_btf_id = TRACE_FEXIT, exit_of
    kind = TRACING if exit_of else RAW_TRACEPOINT
    arguments = (kind, name[:15].encode(), b"GPL", code, ctypes.c_size_t(len(code) // 8))
    fd: int = lib.bpf_prog_load(*arguments, ctypes.byref(options))
    if fd >= 0:
        return fd
    reason = os.strerror(ctypes.get_errno())
    log = ctypes.create_string_buffer(LOG_BYTES)
    options.log_level, options.log_size, options.log_buf = 1, LOG_BYTES, ctypes.addressof(log)
    fd = lib.bpf_prog_load(*arguments, ctypes.byref(options))
    if fd >= 0:
        return fd
    lines = [line for line in log.value.decode(errors="replace").splitlines() if line and "processed" not in line]
    detail = f" ({lines[-1].strip()})" if lines else ""
    raise BpfRefused(f"the kernel refuses the BPF program {name}: {reason}{detail}", permission_hint())


def _dtype(description: Any) -> np.dtype[Any]:
    """The numpy dtype of a description made by `tracer.kernel.bpf`."""
    if isinstance(description, str):
        return np.dtype(description)
    if isinstance(description, dict):
        return np.dtype((_dtype(description["of"]), (description["length"],)))
    names = [field[0] for field in description]
    return np.dtype(
        {
            "names": names,
            "formats": [_dtype(field[1]) for field in description],
            "offsets": [field[2] for field in description],
        },
        align=True,
    )


def _search_path() -> str:
    """So that the compiler's process finds this very package."""
    package = str(Path(__file__).resolve().parent.parent.parent)
    return os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH", "")])])


def _compile_error(image: dict[str, Any]) -> NumatraceError:
    if image.get("missing"):
        return NumatraceError(
            image["error"],
            "install python3-bpfcc and use a virtual environment with system site packages (`make run` does both)",
        )
    lines = image["log"].splitlines()
    for line in lines:
        if "error:" in line or "not permitted" in line or "denied" in line:
            return BpfRefused(f"cannot build the BPF programs: {line.strip()}", permission_hint())
    last = next((line.strip() for line in reversed(lines) if line.strip()), image["error"])
    return BpfRefused(f"cannot build the BPF programs: {last}", permission_hint())


def permission_hint() -> str:
    """What to do when the kernel refuses BPF."""
    if os.geteuid() != 0:
        return "run as root (sudo), or use `--hooks none --reader numa_maps`"
    return (
        "the kernel may be locked down or this container unprivileged; "
        "`--hooks none --reader pagemap` works without BPF"
    )

"""What /proc says about a process: its VMAs, its state, its owner, and whether it can be a target at all.

Every reader takes `proc_root` so that tests can feed a made-up tree. Not here: pagemap and numa_maps, which have
modules of their own.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tracer.errors import NumatraceError
from tracer.model.vma import Kind

__all__ = [
    "PROC",
    "MapsEntry",
    "TargetGone",
    "check_target",
    "comm",
    "counts_each_page",
    "file_path",
    "first_address",
    "in_first_pid_namespace",
    "is_kernel_thread",
    "kind_of",
    "major_faults",
    "may_hold_reserved",
    "owner",
    "parse_maps",
    "proc_error",
    "read_maps",
    "read_proc",
    "resident_pages",
    "resident_pages_are_exact",
    "start_time",
    "state",
]

PROC = Path("/proc")
_TRIED_PAGES = 8

_PF_KTHREAD = 0x00200000  # include/linux/sched.h
_STAT_STATE, _STAT_FLAGS, _STAT_MAJOR_FAULTS, _STAT_START = 0, 6, 9, 19  # fields after the name, proc(5)


class TargetGone(NumatraceError):
    """The target has exited, or has replaced its address space by execve."""

    def __init__(
        self, message: str, hint: str = "to watch a program to its end, start it with: numatrace maps -- CMD"
    ) -> None:
        super().__init__(message, hint)


@dataclass(frozen=True, slots=True)
class MapsEntry:
    """One line of /proc/PID/maps. start, end (excluded) and offset in bytes; device as `major:minor` in hex.

    path: the name as the kernel prints it, in bytes, a newline escaped as `\\012`; b"" without one.
    """

    start: int
    end: int
    perms: str
    offset: int
    device: str
    inode: int
    path: bytes


def parse_maps(data: bytes) -> list[MapsEntry]:
    """All lines of a maps file, `[vsyscall]` too. ValueError for a line that is none.

    Source: fs/proc/task_mmu.c show_map_vma(). Only a newline ends a line: a file name may hold any other byte.
    """
    return [_parse_line(line) for line in data.split(b"\n") if line]


def _parse_line(line: bytes) -> MapsEntry:
    fields = line.split(b" ", 5)
    if len(fields) < 6:
        raise ValueError(f"not a line of maps: {line!r}")
    addresses, perms, offset, device, inode, path = fields
    start, _, end = addresses.partition(b"-")
    return MapsEntry(
        start=int(start, 16),
        end=int(end, 16),
        perms=perms.decode("ascii"),
        offset=int(offset, 16),
        device=device.decode("ascii"),
        inode=int(inode),
        path=path.lstrip(b" "),  # padded to a column; no name of the kernel's starts with a blank
    )


def read_maps(pid: int, proc_root: Path = PROC) -> list[MapsEntry]:
    """The VMAs of a process in address order, without `[vsyscall]`, which belongs to no address space.

    Empty for a zombie or a kernel thread. `NumatraceError` if the process is gone or may not be looked at. The
    kernel hands the file out in pieces: of a process that maps and unmaps meanwhile, the pieces may not fit together.
    """
    return [entry for entry in parse_maps(read_proc(pid, "maps", proc_root)) if entry.path != b"[vsyscall]"]


def first_address(pid: int, proc_root: Path = PROC) -> int | None:
    """Where the first VMA of a process begins, without reading the others; None without any. Errors as `read_maps`."""
    try:
        with open(proc_root / str(pid) / "maps", "rb", buffering=0) as file:
            line = file.read(64)
    except OSError as error:
        raise proc_error(pid, "maps", error) from error
    return int(line.partition(b"-")[0], 16) if line else None


def kind_of(entry: MapsEntry) -> Kind:
    """The word that numa_maps prints for this VMA: a file first, then heap, then stack."""
    if entry.inode or entry.path.startswith(b"/"):
        return Kind.FILE
    return {b"[heap]": Kind.HEAP, b"[stack]": Kind.STACK}.get(entry.path, Kind.ANON)


def file_path(entry: MapsEntry) -> bytes:
    """The path of the file behind a `Kind.FILE` entry, as numa_maps shows it, but with the escapes of maps.

    It is the entry's own path, except for shared anonymous memory that was named by prctl(PR_SET_VMA): maps shows
    `[anon_shmem:NAME]`, numa_maps the file below, and mm/shmem.c shmem_zero_setup() calls that one dev/zero.
    """
    return b"/dev/zero (deleted)" if entry.path.startswith(b"[anon_shmem:") else entry.path


def may_hold_reserved(entry: MapsEntry) -> bool:
    """True if reserved or device pages may be mapped here: `[vdso]` and its like, and mappings of drivers.

    VmFlags would say it exactly, but smaps walks every page. This errs towards True, which costs a look at
    kpageflags for the pages of this VMA and changes nothing else.
    """
    path = entry.path
    if path.startswith((b"[v", b"/proc/", b"/sys/", b"anon_inode:", b"socket:")):
        return True
    return path.startswith(b"/dev/") and not path.startswith((b"/dev/shm/", b"/dev/zero", b"/dev/hugepages"))


def read_proc(pid: int, name: str, proc_root: Path = PROC) -> bytes:
    """A whole file of /proc/PID. `TargetGone` if the process is gone, `NumatraceError` if it may not be read."""
    try:
        with open(proc_root / str(pid) / name, "rb", buffering=0) as file:
            pieces = []
            while piece := file.read(1 << 18):
                pieces.append(piece)
            return b"".join(pieces)
    except OSError as error:
        raise proc_error(pid, name, error) from error


def proc_error(pid: int, name: str, error: OSError) -> NumatraceError:
    """What to tell the user about a failed access to /proc/PID/name."""
    if isinstance(error, FileNotFoundError | ProcessLookupError | NotADirectoryError):
        return TargetGone(f"process {pid} does not exist (any more)", "check the PID, for example with: ps -e")
    if isinstance(error, PermissionError):
        return NumatraceError(f"no permission to read /proc/{pid}/{name}", _permission_hint())
    return NumatraceError(f"cannot read /proc/{pid}/{name}: {error.strerror or error}")


def _permission_hint() -> str:
    if os.geteuid():
        return "run as root: sudo numatrace ..."
    return "root may not either: a container without CAP_SYS_PTRACE, or a security module, forbids it"


def _stat(pid: int, proc_root: Path) -> list[bytes]:
    # The name is in brackets and may itself hold blanks and brackets: fields count from the last one.
    data = read_proc(pid, "stat", proc_root)
    return data[data.rindex(b")") + 1 :].split()


def _status(pid: int, proc_root: Path) -> dict[bytes, list[bytes]]:
    lines = read_proc(pid, "status", proc_root).split(b"\n")
    return {key: value.split() for key, colon, value in (line.partition(b":") for line in lines) if colon}


def comm(pid: int, proc_root: Path = PROC) -> bytes:
    """The command name, at most 15 bytes of anything but NUL."""
    return read_proc(pid, "comm", proc_root).removesuffix(b"\n")


def state(pid: int, proc_root: Path = PROC) -> str:
    """One letter: R, S, D, T, t, Z, X, I (proc(5)); of the main thread."""
    return _stat(pid, proc_root)[_STAT_STATE].decode("ascii")


def is_kernel_thread(pid: int, proc_root: Path = PROC) -> bool:
    """True for a thread of the kernel, which has no address space of its own."""
    return bool(int(_stat(pid, proc_root)[_STAT_FLAGS]) & _PF_KTHREAD)


def start_time(pid: int, proc_root: Path = PROC) -> int:
    """Start of the process in clock ticks since boot; with the PID it names one process for ever."""
    return int(_stat(pid, proc_root)[_STAT_START])


def owner(pid: int, proc_root: Path = PROC) -> tuple[int, int]:
    """(uid, gid), both effective."""
    status = _status(pid, proc_root)
    return int(status[b"Uid"][1]), int(status[b"Gid"][1])


def resident_pages(pid: int, proc_root: Path = PROC) -> int:
    """Resident pages without hugetlb, as statm gives them: off by a batch of the kernel's counters, unless
    `resident_pages_are_exact`."""
    return int(read_proc(pid, "statm", proc_root).split()[1])


def counts_each_page(resident: Callable[[], int]) -> bool:
    """Whether a number of our own resident pages grows with each page that we touch."""
    with mmap.mmap(-1, _TRIED_PAGES * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        with contextlib.suppress(OSError):  # no transparent huge pages in this kernel
            memory.madvise(mmap.MADV_NOHUGEPAGE)
        before = resident()
        for at in range(_TRIED_PAGES):
            memory[at * mmap.PAGESIZE] = 1
            now = resident()
            if now <= before:
                return False
            before = now
    return True


@functools.cache
def resident_pages_are_exact() -> bool:
    """Whether statm counts each page at once: up to 6.1 threads keep a part to themselves, and then came per-CPU
    batches, which are added up for statm since 6.16 (get_mm_counter_sum())."""
    return counts_each_page(lambda: resident_pages(os.getpid()))


def in_first_pid_namespace() -> bool:
    """Whether PIDs mean the same to us as to the kernel itself. PROC_PID_INIT_INO, include/linux/proc_ns.h."""
    return os.stat("/proc/self/ns/pid").st_ino == 0xEFFFFFFC


def major_faults(pid: int, thread: int, proc_root: Path = PROC) -> int | None:
    """How many faults of a thread had to wait for a disk; None when the thread is gone."""
    try:
        return int(_stat(thread, proc_root / str(pid) / "task")[_STAT_MAJOR_FAULTS])
    except NumatraceError:
        return None


def check_target(pid: int, proc_root: Path = PROC) -> None:
    """Raise `NumatraceError` with the reason if `pid` cannot be a target; return if it can.

    Reasons: no such process, hidden by hidepid, a thread's id, a kernel thread, a zombie, no permission.
    """
    _check_exists(pid, proc_root)
    leader = int(_status(pid, proc_root)[b"Tgid"][0])
    if leader != pid:
        raise NumatraceError(f"{pid} is a thread of process {leader}", f"name the process: -p {leader}")
    name = comm(pid, proc_root).decode("utf-8", "backslashreplace")
    if is_kernel_thread(pid, proc_root):
        raise NumatraceError(
            f"{pid} ({name}) is a kernel thread and has no memory of its own", "choose a process of user space"
        )
    if state(pid, proc_root) in "ZX":
        raise NumatraceError(
            f"process {pid} ({name}) has exited and waits for its parent (zombie)", "nothing is left to look at"
        )
    _check_permission(pid, proc_root)


def _check_exists(pid: int, proc_root: Path) -> None:
    if (proc_root / str(pid)).is_dir():
        return
    if pid > 0 and proc_root == PROC:
        try:
            os.kill(pid, 0)
        except PermissionError as error:
            # It exists, but /proc is mounted with hidepid.
            raise NumatraceError(
                f"process {pid} belongs to another user and is hidden", "run as root: sudo numatrace ..."
            ) from error
        except (ProcessLookupError, OverflowError):
            pass
    raise NumatraceError(f"no such process: {pid}", "check the PID, for example with: ps -e")


def _check_permission(pid: int, proc_root: Path) -> None:
    # Opening maps makes the same check as pagemap and numa_maps do: ptrace read access to the address space.
    try:
        os.close(os.open(proc_root / str(pid) / "maps", os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        raise proc_error(pid, "maps", error) from error

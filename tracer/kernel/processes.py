"""Which processes there are: those of a cgroup, those of a name, and what they are called in their own namespace.

For a session with several targets. What it is not: what one process is like is in `procfs`, and whether it can be a
target is said there as well. Nothing is remembered between calls, so an exec, a move to another cgroup or a PID
that is used again shows at the next call. A list is of the past when it is returned: hold a process by its pidfd.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tracer.errors import NumatraceError
from tracer.kernel.procfs import PROC, TargetGone, is_kernel_thread, read_proc

__all__ = ["cgroup_of", "descendants", "find_cgroup", "matching", "members", "namespace_pid"]

_SHOW_NAMES = "take the name from the third field of /proc/PID/cgroup, or give the path of the cgroup's directory"
_ESCAPE = re.compile(rb"\\([0-7]{3})")
_GONE = (errno.ENOENT, errno.ESRCH, errno.ENODEV)
_NAME_BYTES = 4096
_LINKS_OF_ONE_THREAD = 3  # of /proc/PID/task: fs/proc/base.c proc_task_getattr() adds the threads to a directory's 2


# --- cgroups -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Mount:
    """A mounted cgroup hierarchy. root: the cgroup at the mount point, named as /proc/PID/cgroup names it."""

    point: Path
    root: str
    unified: bool
    options: frozenset[str]

    @property
    def rank(self) -> int:
        if self.unified:
            return 2
        return 0 if "memory" in self.options else 1 if "cpuset" in self.options else 3

    def directory(self, name: str) -> Path | None:
        """Where the cgroup of that name would lie; None if it lies outside of what is mounted."""
        below = os.path.relpath("/" + name.strip("/"), self.root)
        return None if below.startswith("..") else self.point / below


def find_cgroup(name: str, proc_root: Path = PROC) -> Path:
    """The directory of the cgroup that a user named, with links resolved.

    name: the path of a cgroup's directory wherever it is mounted, or the cgroup's name in /proc/PID/cgroup, with or
    without the first slash. A path comes first. With version 1, several hierarchies may hold a cgroup of that name and
    other processes in each: the one with the memory controller is taken, else cpuset, else the unified hierarchy, else
    the first one mounted; the path says it exactly.

    `NumatraceError` if there is no such cgroup, with what to do.
    """
    if not name:
        raise NumatraceError("the name of the cgroup is empty", _SHOW_NAMES)
    path = Path(name)
    if path.is_absolute() and _is_cgroup(path):
        return path.resolve()
    mounts = _mounts(proc_root)
    if ".." not in path.parts:
        for place in (mount.directory(name) for mount in mounts):
            if place is not None and _is_cgroup(place):
                return place.resolve()
    raise _no_cgroup(name, mounts)


def cgroup_of(pid: int, controller: str = "", proc_root: Path = PROC) -> Path | None:
    """The directory of the cgroup that a process is in, in the unified hierarchy, or in that of version 1 with this
    controller and no other; None where there is no such hierarchy, or it is not mounted for us to see.

    `TargetGone` if the process is gone. Source: cgroups(7), /proc/PID/cgroup.
    """
    wanted = controller.encode()
    for line in read_proc(pid, "cgroup", proc_root).split(b"\n"):
        number, _, rest = line.partition(b":")
        controllers, _, name = rest.partition(b":")
        if controllers != wanted or (not wanted and number != b"0"):
            continue
        for mount in _mounts(proc_root):
            if mount.unified if not wanted else controller in mount.options and not mount.unified:
                place = mount.directory(os.fsdecode(name))
                if place is not None and _is_cgroup(place):
                    return place.resolve()
    return None


def _is_cgroup(path: Path) -> bool:
    return os.path.isfile(path / "cgroup.procs")


def _no_cgroup(name: str, mounts: list[_Mount]) -> NumatraceError:
    if name.startswith("/") and os.path.exists(name):
        return NumatraceError(f"{name} is no cgroup: it holds no file cgroup.procs", _SHOW_NAMES)
    if not mounts:
        return NumatraceError(
            f"no cgroup {name} can be found: no cgroup file system is mounted",
            "mount one: mount -t cgroup2 cgroup2 /sys/fs/cgroup",
        )
    if ".." in Path(name).parts:
        return NumatraceError(
            f"cgroup {name} lies outside of this cgroup namespace", "run numatrace on the host, or give a path"
        )
    others = f" and {len(mounts) - 1} more hierarchies" if len(mounts) > 1 else ""
    return NumatraceError(f"there is no cgroup {name} (looked below {mounts[0].point}{others})", _SHOW_NAMES)


def _mounts(proc_root: Path) -> list[_Mount]:
    """All mounted hierarchies, in the order in which `find_cgroup` prefers them."""
    try:
        lines = (proc_root / "self/mountinfo").read_bytes().split(b"\n")
    except OSError as error:
        raise NumatraceError(f"cannot read the list of mounts: {error}", "is /proc mounted?") from error
    return sorted(filter(None, map(_mount_of, lines)), key=lambda mount: mount.rank)


def _mount_of(line: bytes) -> _Mount | None:
    """The hierarchy that a line of mountinfo is about (proc_pid_mountinfo(5)); None for all else.

    A mount whose root lies above that of our cgroup namespace (`/..`) is left out: it has no names for us.
    """
    head, dash, tail = line.partition(b" - ")
    place, kind = head.split(b" "), tail.split(b" ")
    if not dash or len(place) < 5 or kind[0] not in (b"cgroup", b"cgroup2"):
        return None
    root, point = (os.fsdecode(_ESCAPE.sub(_unescape, field)) for field in place[3:5])
    if ".." in Path(root).parts:
        return None
    return _Mount(Path(point), root, kind[0] == b"cgroup2", frozenset(os.fsdecode(kind[-1]).split(",")))


def _unescape(match: re.Match[bytes]) -> bytes:
    return bytes([int(match[1], 8)])


def members(cgroup: Path, proc_root: Path = PROC) -> list[int]:
    """PIDs of all processes in a cgroup and those below it, ascending.

    Left out: kernel threads and zombies, which have no memory, and processes of other PID namespaces, which have no PID
    here. Empty once the cgroup is removed. `NumatraceError` if it may not be read.
    """
    pids: set[int] = set()
    pending = [cgroup]
    while pending:
        directory = pending.pop()
        pids.update(_listed(directory, proc_root))
        pending.extend(_children(directory))
    pids.discard(0)  # kernel/cgroup/cgroup.c cgroup_procs_show(): a process that our PID namespace does not know
    return sorted(pid for pid in pids if _program(f"{proc_root}/{pid}") is not None)


def _children(cgroup: Path) -> list[Path]:
    try:
        with os.scandir(cgroup) as entries:
            return [cgroup / entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        _pass_if_gone(cgroup, error)
        return []


def _listed(cgroup: Path, proc_root: Path) -> set[int]:
    """PIDs of the processes of which this one cgroup holds at least one thread."""
    try:
        return _numbers(cgroup / "cgroup.procs")
    except OSError as error:
        # A threaded cgroup (cgroup v2) tells threads only: kernel/cgroup/cgroup.c __cgroup_procs_start().
        if error.errno != errno.EOPNOTSUPP:
            _pass_if_gone(cgroup, error)
            return set()
    try:
        threads = _numbers(cgroup / "cgroup.threads")
    except OSError as error:
        _pass_if_gone(cgroup, error)
        return set()
    return {leader for thread in threads if (leader := _leader(thread, proc_root))}


def _numbers(path: Path) -> set[int]:
    return set(map(int, path.read_bytes().split()))


def _pass_if_gone(cgroup: Path, error: OSError) -> None:
    """A cgroup that was removed holds nobody; every other error is the user's to know."""
    if error.errno not in _GONE:
        hint = "run as root: sudo numatrace ..." if isinstance(error, PermissionError) else ""
        raise NumatraceError(f"cannot read cgroup {cgroup}: {error.strerror or error}", hint) from error


def _leader(thread: int, proc_root: Path) -> int:
    """PID of the process that a thread belongs to; 0 if it has ended."""
    try:
        return int(_status_field(thread, b"Tgid", proc_root)[0])
    except (TargetGone, IndexError):
        return 0


# --- names -------------------------------------------------------------------------------------------------------


def matching(pattern: str, proc_root: Path = PROC) -> list[int]:
    """PIDs of the processes whose name matches a pattern, ascending.

    pattern: of the shell's kind (`*`, `?`, `[...]`), and upper and lower case differ. The name is that of the program's
    file, the command name (which the kernel cuts to 15 bytes), or argv[0] without its directory; one match suffices.
    Left out: ourselves and our ancestors (a shell, sudo), kernel threads and zombies.

    Takes about 8 us a process.
    """
    matches = re.compile(fnmatch.translate(pattern)).match
    ours = _lineage(proc_root)
    pids = sorted(int(entry) for entry in os.listdir(proc_root) if entry.isascii() and entry.isdigit())
    return [pid for pid in pids if pid not in ours and _is_named(pid, matches, proc_root)]


def _is_named(pid: int, matches: Callable[[str], object], proc_root: Path) -> bool:
    process = f"{proc_root}/{pid}"
    program = _program(process)
    if program is None:
        return False
    try:
        found = any(map(matches, filter(None, _names(process, program))))
        return found and (bool(program) or not is_kernel_thread(pid, proc_root))
    except (OSError, NumatraceError):  # it has ended meanwhile
        return False


def _names(process: str, program: str) -> Iterator[str]:
    """The names of a process, the telling ones first."""
    # A program that was replaced on disk while it runs is marked so: fs/d_path.c d_path().
    yield program.removesuffix(" (deleted)").rpartition("/")[2]
    yield _beginning(f"{process}/comm").removesuffix("\n")
    # Read last: it is taken from the process's memory, under its mmap_lock.
    yield _beginning(f"{process}/cmdline").partition("\0")[0].rpartition("/")[2]


def _beginning(path: str) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.fsdecode(os.read(descriptor, _NAME_BYTES))
    finally:
        os.close(descriptor)


def _program(process: str) -> str | None:
    """Path of the file that a process executes; "" where it is hidden from us. None for who has no memory.

    The link of a kernel thread or a zombie leads nowhere (fs/proc/base.c proc_exe_link()). So does that of a process
    whose main thread has ended before the others; it still has its memory. To an ordinary user kernel threads look like
    processes of others.
    """
    try:
        return os.readlink(f"{process}/exe")
    except OSError as error:
        if error.errno not in _GONE:
            return ""
    try:
        return "" if os.stat(f"{process}/task").st_nlink > _LINKS_OF_ONE_THREAD else None
    except OSError:
        return None


def _lineage(proc_root: Path) -> set[int]:
    """Our own PID and those of all our ancestors."""
    found: set[int] = set()
    try:
        pid = int(os.readlink(proc_root / "self"))
    except FileNotFoundError:  # /proc is that of a PID namespace in which we are not
        return found
    while pid and pid not in found:
        found.add(pid)
        try:
            pid = int(_status_field(pid, b"PPid", proc_root)[0])
        except TargetGone:
            break
    return found


# --- families --------------------------------------------------------------------------------------------------


def descendants(pids: Iterable[int], proc_root: Path = PROC) -> set[int]:
    """Children of these processes, and theirs, as /proc/PID/task/TID/children shows them now (CONFIG_PROC_CHILDREN)."""
    found: set[int] = set()
    waiting = list(pids)
    while waiting:
        for listed in (proc_root / str(waiting.pop())).glob("task/*/children"):
            try:
                children = {int(word) for word in listed.read_bytes().split()}
            except OSError:  # gone meanwhile
                continue
            waiting += children - found
            found |= children
    return found


# --- namespaces --------------------------------------------------------------------------------------------------


def namespace_pid(pid: int, proc_root: Path = PROC) -> int:
    """The PID of a process in its own PID namespace; `pid` itself if that is the one of /proc.

    `TargetGone` if the process is gone. Source: NSpid of proc_pid_status(5); a kernel without namespaces has none.
    """
    numbers = _status_field(pid, b"NSpid", proc_root)
    return int(numbers[-1]) if numbers else pid


def _status_field(pid: int, field: bytes, proc_root: Path) -> list[bytes]:
    """The words of a line of /proc/PID/status; none if there is no such line. `TargetGone` if the process is gone."""
    start = b"\n" + field + b":"
    return read_proc(pid, "status", proc_root).partition(start)[2].partition(b"\n")[0].split()

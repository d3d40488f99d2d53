"""Settings of the machine that a placement test needs, each put back as it was found."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.kernel.world import KernelLacks

__all__ = [
    "bpf_programs",
    "cached_files",
    "cpu_of_each_node",
    "frames_per_block",
    "free_huge_pages",
    "gigantic_pages",
    "huge_pages",
    "khugepaged",
    "movable_block",
    "nodes_with_memory",
    "numa_balancing",
    "owned",
    "quiet",
    "results",
    "same_page_merging",
    "setting",
    "split_huge_pages",
    "swap",
    "until",
    "vmstat",
]

_THP = Path("/sys/kernel/mm/transparent_hugepage")
# Nobody moves or merges pages without being asked, and huge pages come on advice, not otherwise. khugepaged cannot
# be switched off where MADV_HUGEPAGE shall work: it is made to look at one page, and then to sleep for an hour.
_QUIET = {
    Path("/proc/sys/kernel/numa_balancing"): "0",
    Path("/proc/sys/vm/compaction_proactiveness"): "0",
    Path("/sys/kernel/mm/ksm/run"): "0",
    Path("/sys/kernel/mm/numa/demotion_enabled"): "false",
    _THP / "enabled": "madvise",
    _THP / "defrag": "madvise",
    _THP / "use_zero_page": "1",
    _THP / "shmem_enabled": "advise",
    _THP / "hugepages-64kB/enabled": "madvise",
    _THP / "khugepaged/pages_to_scan": "1",
    _THP / "khugepaged/scan_sleep_millisecs": "3600000",
    _THP / "khugepaged/alloc_sleep_millisecs": "3600000",
}
_MEMORY = Path("/sys/devices/system/memory")
_NODES = Path("/sys/devices/system/node")
_LOCK = Path("/run/numatrace-tests.lock")
_HUGE_PAGES = Path("/sys/kernel/mm/hugepages")
_ENOUGH_FOR_GIGANTIC = 6 << 30
_NOT_IN_THE_PAGE_CACHE_OF_A_DISK = {"tmpfs", "ramfs", "9p", "overlay"}
_SWAP_BYTES = 16 << 20
_SYS_BPF, _BPF_PROG_GET_NEXT_ID = 321, 11  # x86-64
_SYS_SET_MEMPOLICY, _MPOL_BIND = 238, 2


def _chosen(text: str) -> str:
    """The value of a setting that lists its choices as `always [madvise] never`."""
    return text.partition("[")[2].partition("]")[0] or text.strip()


@contextlib.contextmanager
def setting(path: Path, value: str) -> Iterator[None]:
    """Give a setting a value for a while. A kernel without the setting has nothing to switch off."""
    try:
        before = _chosen(path.read_text())
    except FileNotFoundError:
        yield
        return
    with _LOCK.open("a") as journal:
        journal.write(f"{path}\t{before}\n")
    path.write_text(value)
    try:
        yield
    finally:
        path.write_text(before)


@contextlib.contextmanager
def owned() -> Iterator[None]:
    """The settings of the machine belong to one run of the tests at a time; another one waits here for its turn.

    Otherwise each would take the other's settings for those to put back. The file tells what they were: a run that was
    killed put nothing back, and the next one does it here.
    """
    with _LOCK.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        for line in reversed(file.read().splitlines()):
            path, _, before = line.partition("\t")
            with contextlib.suppress(OSError):  # a block of memory that is online will not be put online
                Path(path).write_text(before)
        file.truncate(0)
        yield
        file.truncate(0)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """NUMA balancing, khugepaged, KSM, proactive compaction and demotion at rest."""
    with contextlib.ExitStack() as stack:
        for path, value in _QUIET.items():
            stack.enter_context(setting(path, value))
        yield


@contextlib.contextmanager
def same_page_merging() -> Iterator[None]:
    """KSM at work, after it has gone over all pages that it may merge. What it merged stays so until it is written."""
    ksm = Path("/sys/kernel/mm/ksm")
    with contextlib.ExitStack() as stack:
        for name, value in (("sleep_millisecs", "0"), ("pages_to_scan", "10000"), ("smart_scan", "0"), ("run", "1")):
            stack.enter_context(setting(ksm / name, value))
        scans = ksm / "full_scans"
        enough = int(scans.read_text()) + 3  # a checksum, the unstable tree, and a scan that had begun before
        while int(scans.read_text()) < enough:
            os.sched_yield()
        yield


def until(done: Callable[[], object], what: str, seconds: float = 120.0) -> None:
    """Return when the kernel has done what it does in its own time. Raises AssertionError if it does not."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        os.sched_yield()


def khugepaged_has_been_round() -> None:
    """Wait until khugepaged has gone over all memory once from now on, so that it has finished what it was at."""
    scans = _THP / "khugepaged/full_scans"
    enough = int(scans.read_text()) + 2  # one had begun before
    until(lambda: int(scans.read_text()) >= enough, "khugepaged goes over all memory")


@contextlib.contextmanager
def khugepaged() -> Iterator[None]:
    """khugepaged at work, without rest."""
    place = _THP / "khugepaged"
    with contextlib.ExitStack() as stack:
        for name, value in (("pages_to_scan", "100000"), ("alloc_sleep_millisecs", "0"), ("scan_sleep_millisecs", "0")):
            stack.enter_context(setting(place / name, value))
        yield


def split_huge_pages(pid: int, start: int, end: int) -> None:
    """Split the transparent huge pages of a process between two addresses. The kernel lacks it without debugfs."""
    order = _debugfs() / "split_huge_pages"
    if not order.exists():
        raise KernelLacks("no split_huge_pages in debugfs")
    try:
        order.write_text(f"{pid},{start:#x},{end:#x}")
    except PermissionError as refused:  # it is locked down
        raise KernelLacks("debugfs may not be written to") from refused


def _debugfs() -> Path:
    place = Path("/sys/kernel/debug")
    if not os.path.ismount(place):
        subprocess.run(["mount", "-t", "debugfs", "debugfs", str(place)], check=False, capture_output=True)
    return place


def vmstat(name: str) -> int:
    """A counter of /proc/vmstat; 0 where the kernel has none of that name."""
    lines = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return int(lines.get(name, 0))


def frames_per_block() -> int:
    """Pages of 4 KiB in a block of memory, the unit in which it can be taken away."""
    return int((_MEMORY / "block_size_bytes").read_text(), 16) // 4096


@contextlib.contextmanager
def movable_block(node: int) -> Iterator[Path]:
    """A block of a node's memory that holds only what can be moved, and is used before others for such pages.

    Yields its file `state`: what is written there takes it away ("offline") and gives it back ("online_movable"). Only
    where NUMATRACE_OFFLINE says that the machine is there for that, as virtual machines of the tests are.
    """
    if not os.environ.get("NUMATRACE_OFFLINE"):
        raise KernelLacks("not done to a machine that others use")
    blocks = (_NODES / f"node{node}").glob("memory[0-9]*")
    for block in sorted(blocks, key=lambda path: int(path.name.removeprefix("memory")), reverse=True):
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(setting(_MEMORY / block.name / "state", "offline"))
            except OSError:  # EBUSY: something in it cannot be moved
                continue
            state = _MEMORY / block.name / "state"
            state.write_text("online_movable")
            try:
                yield state
            finally:
                state.write_text("offline")
            return
    raise KernelLacks("no block of memory can be emptied")


@contextlib.contextmanager
def huge_pages(wanted: int) -> Iterator[int]:
    """At least that many free 2 MiB pages in the pool; yields how many are free."""
    pool = _HUGE_PAGES / "hugepages-2048kB"
    have = int((pool / "nr_hugepages").read_text())
    free = int((pool / "free_hugepages").read_text())
    with setting(pool / "nr_hugepages", str(have + max(0, wanted - free))):
        yield int((pool / "free_hugepages").read_text())


@contextlib.contextmanager
def gigantic_pages() -> Iterator[int]:
    """One page of 1 GiB in the pool, where memory is plenty; yields how many are free."""
    pool = _HUGE_PAGES / "hugepages-1048576kB"
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if not pool.exists():
        yield 0
        return
    wanted = "1" if available >= _ENOUGH_FOR_GIGANTIC else (pool / "nr_hugepages").read_text().strip()
    with setting(pool / "nr_hugepages", wanted):
        yield int((pool / "free_hugepages").read_text())


def free_huge_pages(shift: int) -> int:
    """Free hugetlb pages of 2**shift bytes; 0 where the machine has no such pages."""
    path = _HUGE_PAGES / f"hugepages-{1 << shift - 10}kB" / "free_hugepages"
    return int(path.read_text()) if path.exists() else 0


def nodes_with_memory() -> list[int]:
    """Ids of the nodes that have memory, ascending."""
    nodes: list[int] = []
    for item in Path("/sys/devices/system/node/has_memory").read_text().strip().split(","):
        first, _, last = item.partition("-")
        nodes.extend(range(int(first), int(last or first) + 1))
    return nodes


def cpu_of_each_node() -> dict[int, int]:
    """Node id -> its lowest CPU that is online, for the nodes that have one, ascending."""
    found = {}
    for directory in Path("/sys/devices/system/node").glob("node[0-9]*"):
        cpus = sorted(int(path.name.removeprefix("cpu")) for path in directory.glob("cpu[0-9]*"))
        online = [cpu for cpu in cpus if cpu in os.sched_getaffinity(0)]
        if online:
            found[int(directory.name.removeprefix("node"))] = online[0]
    return dict(sorted(found.items()))


@contextlib.contextmanager
def numa_balancing() -> Iterator[None]:
    """The kernel moves pages to the threads that use them, and does not wait long before it begins to.

    Not our own pages, nor those of processes that we start in here: a task with an explicit policy is left alone
    (vma_policy_mof() in mm/mempolicy.c). With one node nothing moves however soon the kernel begins, and its pace,
    which stands in debugfs, is left alone.
    """
    nodes = nodes_with_memory()
    everywhere = sum(1 << node for node in nodes)
    debug = Path("/sys/kernel/debug/sched/numa_balancing")
    with contextlib.ExitStack() as stack:
        _set_policy(_MPOL_BIND, everywhere)
        stack.callback(_set_policy, 0, 0)
        if len(nodes) > 1:
            stack.enter_context(setting(debug / "scan_delay_ms", "100"))
            stack.enter_context(setting(debug / "scan_period_min_ms", "100"))
            stack.enter_context(setting(debug / "scan_period_max_ms", "1000"))
        stack.enter_context(setting(Path("/proc/sys/kernel/numa_balancing"), "1"))
        yield


def _set_policy(mode: int, mask: int) -> None:
    """set_mempolicy(2) for the thread that runs the tests."""
    libc = ctypes.CDLL(None, use_errno=True)
    nodes = ctypes.c_ulong(mask)
    arguments = (ctypes.c_int(mode), ctypes.byref(nodes) if mask else None, ctypes.c_ulong(65 if mask else 0))
    if libc.syscall(ctypes.c_long(_SYS_SET_MEMPOLICY), *arguments) < 0:
        raise OSError(ctypes.get_errno(), "set_mempolicy")


def _file_system(directory: Path) -> str:
    command = ["findmnt", "--noheadings", "--output", "FSTYPE", "--target", str(directory)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextlib.contextmanager
def cached_files(directory: Path) -> Iterator[Path]:
    """A directory whose files are cached in ordinary file pages, as those of a disk.

    Files of tmpfs are shmem, and 9p refuses some shared mappings; there an ext4 image is mounted.
    """
    if _file_system(directory) not in _NOT_IN_THE_PAGE_CACHE_OF_A_DISK:
        yield directory
        return
    image, mounted = directory / "image", directory / "disk"
    with image.open("wb") as file:
        file.truncate(256 << 20)
    mounted.mkdir()
    # Not every kernel loads these by itself, and not every kernel has them as modules: mount says if they are missing.
    subprocess.run(["modprobe", "--all", "--quiet", "loop", "ext4"], check=False)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(mounted)], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


@contextlib.contextmanager
def swap(directory: Path) -> Iterator[None]:
    """A little swap space in a file of a directory of `cached_files`, taken before any other that the machine has. Its
    end brings back what is in it. The kernel lacks it where it may not be switched on."""
    path = directory / "swap"
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, _SWAP_BYTES)
    path.chmod(0o600)
    try:
        subprocess.run(["mkswap", str(path)], check=True, capture_output=True)
        done = subprocess.run(["swapon", "--priority", "1000", str(path)], check=False, capture_output=True, text=True)
        if done.returncode:
            raise KernelLacks(f"no swapon ({done.stderr.strip().rpartition(': ')[2]})")
        try:
            yield
        finally:
            subprocess.run(["swapoff", str(path)], check=True, capture_output=True)
    finally:
        path.unlink()


def results(fallback: Path) -> Path:
    """Where tables are written: the directory named by NUMATRACE_RESULTS, or the test's own."""
    directory = Path(os.environ.get("NUMATRACE_RESULTS") or fallback)
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def bpf_programs() -> set[int]:
    """Ids of all BPF programs that the kernel holds now."""
    libc = ctypes.CDLL(None, use_errno=True)
    attribute = (ctypes.c_uint32 * 32)()  # start_id, next_id, open_flags
    programs: set[int] = set()
    while True:
        size = ctypes.c_uint(ctypes.sizeof(attribute))
        if libc.syscall(ctypes.c_long(_SYS_BPF), ctypes.c_int(_BPF_PROG_GET_NEXT_ID), attribute, size) < 0:
            return programs
        programs.add(attribute[1])
        attribute[0] = attribute[1]

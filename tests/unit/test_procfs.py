"""/proc readers on made-up trees, and the parser of maps on every name that a kernel could print."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.errors import NumatraceError
from tracer.kernel import procfs
from tracer.kernel.procfs import MapsEntry, TargetGone, check_target, file_path, kind_of, may_hold_reserved, parse_maps
from tracer.model.vma import Kind

# The kernel escapes a newline and nothing else; no name begins with a blank.
PATHS = st.binary(max_size=40).map(lambda path: path.replace(b"\n", b"\\012")).filter(lambda p: not p.startswith(b" "))
ENTRIES = st.builds(
    MapsEntry,
    start=st.integers(0, 1 << 56),
    end=st.integers(0, 1 << 56),
    perms=st.sampled_from(["rw-p", "r-xs", "---p"]),
    offset=st.integers(0, 1 << 60),
    device=st.sampled_from(["00:00", "fe:01", "103:2a"]),
    inode=st.integers(0, 1 << 63),
    path=PATHS,
)


def printed(entry: MapsEntry) -> bytes:
    """As fs/proc/task_mmu.c show_map_vma() prints it: padded to column 73 before a name, a blank in any case."""
    head = f"{entry.start:08x}-{entry.end:08x} {entry.perms} {entry.offset:08x} {entry.device} {entry.inode} "
    return (head.ljust(73).encode() + entry.path if entry.path else head.encode()) + b"\n"


@given(st.lists(ENTRIES))
def test_maps_are_parsed_whatever_the_names(entries: list[MapsEntry]) -> None:
    assert parse_maps(b"".join(map(printed, entries))) == entries


def test_trailing_blanks_and_odd_white_space_belong_to_the_name() -> None:
    (entry,) = parse_maps(b"00400000-00401000 r-xp 00000000 08:01 7                          /a b\t\r\x0b c  \n")
    assert entry.path == b"/a b\t\r\x0b c  "


@pytest.mark.parametrize("line", [b"junk\n", b"00400000-00401000 r-xp\n", b"zz-10 r-xp 0 00:00 0 \n"])
def test_what_is_no_line_of_maps_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse_maps(line)


def entry(path: bytes, inode: int = 0) -> MapsEntry:
    return MapsEntry(0x1000, 0x2000, "rw-p", 0, "00:00", inode, path)


@pytest.mark.parametrize(
    ("path", "inode", "kind"),
    [
        (b"", 0, Kind.ANON),
        (b"[heap]", 0, Kind.HEAP),
        (b"[stack]", 0, Kind.STACK),
        (b"[vdso]", 0, Kind.ANON),
        (b"[anon:[heap]]", 0, Kind.ANON),
        (b"/usr/bin/cat", 9, Kind.FILE),
        (b"/no/inode/number", 0, Kind.FILE),
        (b"anon_inode:[perf_event]", 5, Kind.FILE),
        (b"[anon_shmem:cache]", 5, Kind.FILE),
    ],
)
def test_kind(path: bytes, inode: int, kind: Kind) -> None:
    assert kind_of(entry(path, inode)) is kind


def test_file_behind_named_shared_memory() -> None:
    assert file_path(entry(b"[anon_shmem:cache]", 5)) == b"/dev/zero (deleted)"
    assert file_path(entry(b"/usr/bin/cat", 5)) == b"/usr/bin/cat"


@pytest.mark.parametrize(
    ("path", "special"),
    [
        (b"[vdso]", True),
        (b"[vvar]", True),
        (b"[vvar_vclock]", True),
        (b"/dev/dri/card0", True),
        (b"anon_inode:[io_uring]", True),
        (b"/sys/devices/pci0000:00/resource0", True),
        (b"", False),
        (b"[heap]", False),
        (b"[stack]", False),
        (b"/dev/shm/x", False),
        (b"/dev/zero (deleted)", False),
        (b"/device/of/mine", False),
    ],
)
def test_where_reserved_pages_may_be(path: bytes, special: bool) -> None:
    assert may_hold_reserved(entry(path)) is special


class FakeProcess:
    """One process in a made-up /proc."""

    def __init__(self, root: Path, pid: int, name: bytes = b"target", state: str = "S", flags: int = 0x400100) -> None:
        self.directory = root / str(pid)
        self.directory.mkdir()
        numbers = [0] * 50
        numbers[5], numbers[18] = flags, 4242
        stat = f"{pid} (".encode() + name + f") {state} ".encode() + " ".join(map(str, numbers)).encode() + b"\n"
        status = b"Name:\tx\nTgid:\t%d\nUid:\t1000\t1001\t1002\t1003\nGid:\t100\t101\t102\t103\n" % pid
        files = {"comm": name + b"\n", "stat": stat, "status": status, "statm": b"900 300 20 1 0 4 0\n"}
        files["maps"] = b"00400000-00401000 r-xp 00000000 08:01 7 /a\nffffffffff600000-ffffffffff601000 --xp 0 00:00 0 "
        files["maps"] += b"                 [vsyscall]\n"
        for file, content in files.items():
            (self.directory / file).write_bytes(content)


def test_fields_of_stat_are_found_behind_a_hostile_name(tmp_path: Path) -> None:
    name = b"a) R (b) \n c"
    FakeProcess(tmp_path, 7, name)
    assert procfs.comm(7, tmp_path) == name
    assert procfs.state(7, tmp_path) == "S"
    assert procfs.start_time(7, tmp_path) == 4242
    assert not procfs.is_kernel_thread(7, tmp_path)
    assert procfs.owner(7, tmp_path) == (1001, 101)
    assert procfs.resident_pages(7, tmp_path) == 300


def test_vsyscall_is_no_vma_of_the_process(tmp_path: Path) -> None:
    FakeProcess(tmp_path, 7)
    assert [vma.path for vma in procfs.read_maps(7, tmp_path)] == [b"/a"]


def test_a_good_target_passes(tmp_path: Path) -> None:
    FakeProcess(tmp_path, 7)
    check_target(7, tmp_path)


@pytest.mark.parametrize(
    ("state", "flags", "message"),
    [("S", 0x00200040, "kernel thread"), ("Z", 0x400100, "zombie"), ("X", 0x400100, "zombie")],
)
def test_what_has_no_memory_is_no_target(tmp_path: Path, state: str, flags: int, message: str) -> None:
    FakeProcess(tmp_path, 7, b"bad\xff", state, flags)
    with pytest.raises(NumatraceError, match=message) as caught:
        check_target(7, tmp_path)
    assert "bad\\xff" in caught.value.message
    assert caught.value.hint


def test_a_thread_names_its_process(tmp_path: Path) -> None:
    FakeProcess(tmp_path, 7)
    status = tmp_path / "7" / "status"
    status.write_bytes(status.read_bytes().replace(b"Tgid:\t7", b"Tgid:\t5"))
    with pytest.raises(NumatraceError, match="thread of process 5") as caught:
        check_target(7, tmp_path)
    assert "-p 5" in caught.value.hint


@pytest.mark.parametrize("pid", [0, -1, 12345678901234567890])
def test_no_such_process(tmp_path: Path, pid: int) -> None:
    for root in (tmp_path, procfs.PROC):
        with pytest.raises(NumatraceError, match="no such process"):
            check_target(pid, root)


def test_a_process_that_ends_between_two_reads_is_gone(tmp_path: Path) -> None:
    with pytest.raises(TargetGone, match="does not exist"):
        procfs.comm(7, tmp_path)
    with pytest.raises(TargetGone):
        procfs.read_maps(7, tmp_path)


def test_errors_of_the_kernel_become_errors_for_the_user() -> None:
    assert isinstance(procfs.proc_error(7, "maps", ProcessLookupError()), TargetGone)
    refused = procfs.proc_error(7, "maps", PermissionError())
    assert not isinstance(refused, TargetGone)
    assert "/proc/7/maps" in refused.message
    assert refused.hint
    assert "weather" in procfs.proc_error(7, "maps", OSError(5, "weather")).message

"""Single VMAs out of maps: the same whether the kernel is asked for them or the whole file is searched."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from tracer.kernel.procfs import MapsEntry, first_address, read_maps
from tracer.kernel.procmap import entries_at, entries_in

TEXT = (
    b"00400000-00401000 r-xp 00000000 08:01 7 /a b\n"
    b"00401000-00402000 rw-p 00000000 00:00 0 \n"
    b"100401000-100402000 rw-s 00001000 00:05 9 /dev/zero (deleted)"
)


def test_lines_are_found_by_their_start_and_by_nothing_else() -> None:
    first, second, third = 0x400000, 0x401000, 0x100401000
    found = entries_in(TEXT, [first, first + 1, second, third, third + 4096])
    assert found == [
        MapsEntry(first, second, "r-xp", 0, "08:01", 7, b"/a b"),
        None,
        MapsEntry(second, 0x402000, "rw-p", 0, "00:00", 0, b""),
        MapsEntry(third, 0x100402000, "rw-s", 0x1000, "00:05", 9, b"/dev/zero (deleted)"),
        None,
    ]
    assert entries_in(b"", [first]) == [None]


def test_a_file_that_answers_no_requests_is_searched(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "maps").write_bytes(TEXT)
    assert entries_at(7, [0x400000, 0x402000], tmp_path) == [*entries_in(TEXT, [0x400000]), None]
    assert entries_at(7, [], tmp_path / "nothing") == []
    assert first_address(7, tmp_path) == 0x400000


def test_what_the_kernel_answers_is_what_it_prints(tmp_path: Path) -> None:
    path = tmp_path / "a\nname with = and blanks "
    path.write_bytes(bytes(8192))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 4096, offset=4096) as shared:
        entries = [entry for entry in read_maps(os.getpid()) if entry.inode or entry.path.startswith(b"[v")]
        assert any(entry.path.endswith(b"a\\012name with = and blanks ") for entry in entries)
        assert entries_at(os.getpid(), [entry.start for entry in entries]) == entries
        shared[0] = 1
    gap = entries[0].start + 1
    assert entries_at(os.getpid(), [gap]) == [None]

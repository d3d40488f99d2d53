"""The parser of numa_maps: what the kernel prints comes back, whatever the policy and the file name."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.errors import NumatraceError
from tracer.kernel.numa_maps import NumaLine, counts_by_vma, parse_numa_maps, read_numa_maps

MODES = ["default", "local", "prefer:1", "prefer (many):0-1", "weighted interleave:0-1,3", "interleave:0", "bind:0-3"]
FLAGS = ["bind=static:0-1", "bind=relative:0,2-3", "bind=static|balancing:0-1", "weighted interleave=static:7"]
CUT = ["interleave:0,2,4,6,8,10,12,14,16,18,20,22,24,26,28,30,32,34,36,"]
FIELDS = ["anon", "dirty", "mapped", "mapmax", "swapcache", "active", "writeback"]


def escaped(path: bytes) -> bytes:
    """As seq_path() does it for numa_maps."""
    for byte in b"\n\t= ":
        path = path.replace(bytes([byte]), b"\\%03o" % byte)
    return path


def printed(line: NumaLine) -> bytes:
    """As fs/proc/task_mmu.c show_numa_map() prints it."""
    words = [b"%08x" % line.start, line.policy.encode()]
    if line.name:
        words.append(line.name.encode() + (b"=" + line.path if line.name == "file" else b""))
    if line.huge:
        words.append(b"huge")
    words += [b"%s=%d" % (name.encode(), line.fields[name]) for name in FIELDS if name in line.fields]
    words += [b"N%d=%d" % item for item in sorted(line.nodes.items())]
    if line.page_kb is not None:
        words.append(b"kernelpagesize_kB=%d" % line.page_kb)
    return b" ".join(words) + b"\n"


@st.composite
def lines(draw: st.DrawFn) -> NumaLine:
    counts = st.integers(1, 1 << 50)
    name = draw(st.sampled_from(["file", "heap", "stack", ""]))
    path = escaped(draw(st.binary(max_size=30))) if name == "file" else b""
    nodes = draw(st.dictionaries(st.integers(0, 1023), counts))
    fields = draw(st.dictionaries(st.sampled_from(FIELDS), counts)) if nodes else {}
    return NumaLine(
        start=draw(st.integers(0, 1 << 56)),
        policy=draw(st.sampled_from(MODES + FLAGS + CUT)),
        name=name,
        path=path,
        huge=draw(st.booleans()),
        fields=fields,
        nodes=nodes,
        page_kb=draw(st.sampled_from([4, 2048])) if nodes else None,
    )


@given(st.lists(lines()))
def test_what_the_kernel_prints_comes_back(wanted: list[NumaLine]) -> None:
    assert parse_numa_maps(b"".join(map(printed, wanted))) == wanted


def test_a_policy_with_blanks_and_a_file_that_looks_like_fields() -> None:
    data = b"7f0000000000 prefer (many)=static:0-1 file=/heap\\040huge\\040N0\\0751\\040(deleted) huge dirty=3 N2=3\n"
    (line,) = parse_numa_maps(data)
    assert line.policy == "prefer (many)=static:0-1"
    assert line.path == b"/heap\\040huge\\040N0\\0751\\040(deleted)"
    assert line.huge
    assert line.fields == {"dirty": 3}
    assert line.nodes == {2: 3}


def test_a_field_of_a_later_kernel_is_kept() -> None:
    (line,) = parse_numa_maps(b"00400000 default anon=1 shiny=5 N0=1 kernelpagesize_kB=4\n")
    assert line.fields == {"anon": 1, "shiny": 5}


@pytest.mark.parametrize("data", [b"00400000\n", b"what is this\n", b"00400000 default N0=1 nonsense\n"])
def test_what_is_no_line_of_numa_maps_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse_numa_maps(data)


def test_counts_by_vma_follow_the_starts_that_are_asked_for() -> None:
    lines = [NumaLine(0x1000, "default", nodes={0: 3, 6: 1}), NumaLine(0x2000, "default"), NumaLine(0x5000, "default")]
    counts = counts_by_vma(lines, [0x2000, 0x9000, 0x1000], 7)
    assert counts.tolist() == [[0] * 7, [0] * 7, [3, 0, 0, 0, 0, 0, 1]]


def test_the_file_of_a_process_and_of_a_thread(tmp_path: Path) -> None:
    (tmp_path / "7/task/8").mkdir(parents=True)
    (tmp_path / "7/numa_maps").write_bytes(b"00400000 default\n")
    (tmp_path / "7/task/8/numa_maps").write_bytes(b"00400000 bind:1\n")
    assert [line.policy for line in read_numa_maps(7, proc_root=tmp_path)] == ["default"]
    assert [line.policy for line in read_numa_maps(7, 8, tmp_path)] == ["bind:1"]
    with pytest.raises(NumatraceError):
        read_numa_maps(9, proc_root=tmp_path)

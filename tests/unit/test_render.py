"""The text formats and JSON: lines against the kernel's rules, and properties that hold for any snapshot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tracer.render
from tests.unit.snapshots import details, sample, snapshot, snapshots, undocumented, vma
from tracer.model.policy import F_NUMA_BALANCING, Mode, Policy, Spelling
from tracer.model.snapshot import Snapshot, Trust
from tracer.model.vma import Kind
from tracer.render import jsonl, numa_maps, original, targets, trust
from tracer.render.paths import numa_maps_path, text_name
from tracer.render.terminal import printable

SCHEMA: dict[str, Any] = json.loads((Path(tracer.render.__file__).parent / "placement.schema.json").read_text())
NONE = (0, 0, 0, 0, 0, 0)


def one(full: bool = True, pages: tuple[int, int] = (0, 0), row: tuple[int, ...] = NONE, **fields: Any) -> str:
    """The line of a single VMA."""
    (line,) = numa_maps.lines(snapshot([vma(**fields)], [pages], details=details([row])), full)
    return line.decode()


def test_line_without_pages_ends_after_the_mapping() -> None:
    assert one(start=0x400000, kind=Kind.FILE, path=b"/bin/x") == "00400000 default file=/bin/x"
    assert one(kind=Kind.HEAP, path=b"[heap]") == "7f0000000000 default heap"
    assert one(kind=Kind.STACK, path=b"[stack]") == "7f0000000000 default stack"
    assert one(kind=Kind.ANON, path=b"[vdso]") == "7f0000000000 default"


def test_start_has_at_least_eight_digits() -> None:
    assert one(start=0x1000) == "00001000 default"
    assert one(start=0x2000000000000000) == "2000000000000000 default"


def test_short_form_has_only_what_is_kept_live() -> None:
    row = (3, 4, 7, 1, 0, 1)
    assert one(full=False, pages=(2, 5), row=row) == "7f0000000000 default N0=2 N1=5 kernelpagesize_kB=4"


def test_full_form_order() -> None:
    assert one(pages=(2, 5), row=(3, 4, 7, 1, 2, 6)) == (
        "7f0000000000 default anon=3 dirty=4 mapped=7 mapmax=7 swapcache=1 active=2 writeback=6"
        " N0=2 N1=5 kernelpagesize_kB=4"
    )


@pytest.mark.parametrize(
    ("row", "words"),
    [
        # anon, dirty, mapmax, swapcache, active, writeback
        ((4, 0, 1, 0, 4, 0), "anon=4"),
        ((0, 4, 1, 0, 4, 0), "dirty=4"),
        ((4, 4, 1, 0, 4, 0), "anon=4 dirty=4"),
        ((0, 0, 1, 0, 4, 0), "mapped=4"),
        ((3, 3, 1, 0, 4, 0), "anon=3 dirty=3 mapped=4"),
        ((4, 0, 2, 0, 4, 0), "anon=4 mapmax=2"),
        ((4, 0, 1, 0, 0, 0), "anon=4 active=0"),
        ((4, 0, 1, 0, 3, 0), "anon=4 active=3"),
    ],
)
def test_conditions_of_the_fields(row: tuple[int, ...], words: str) -> None:
    assert one(pages=(4, 0), row=row) == f"7f0000000000 default {words} N0=4 kernelpagesize_kB=4"


def test_hugetlb_never_shows_active() -> None:
    line = one(pages=(0, 3), row=(3, 3, 1, 0, 0, 0), hugetlb=True, page_kb=2048, kind=Kind.FILE, path=b"/h (deleted)")
    assert line == r"7f0000000000 default file=/h\040(deleted) huge anon=3 dirty=3 N1=3 kernelpagesize_kB=2048"


def test_nodes_keep_their_ids() -> None:
    (line,) = numa_maps.lines(snapshot([vma()], [(1, 0, 7)], node_ids=(0, 2, 17)))
    assert line == b"7f0000000000 default N0=1 N17=7 kernelpagesize_kB=4"


def test_policy_with_blanks_and_spelling_of_the_kernel() -> None:
    many = vma(policy=Policy(Mode.PREFERRED_MANY, F_NUMA_BALANCING, (0, 1)))
    assert list(numa_maps.lines(snapshot([many], [(0, 0)]))) == [b"7f0000000000 prefer (many)=balancing:0-1"]
    hidden = snapshot([many], [(0, 0)], spelling=Spelling.HIDDEN)
    assert list(numa_maps.lines(hidden)) == [b"7f0000000000 default"]


def test_full_form_needs_details() -> None:
    with pytest.raises(ValueError, match="details"):
        list(numa_maps.lines(snapshot([vma()], [(0, 0)]), full=True))
    with pytest.raises(ValueError, match="details"):
        list(original.lines(snapshot([vma()], [(0, 0)])))


@pytest.mark.parametrize(
    ("maps", "numa"),
    [
        (b"/a b=c\td", rb"/a\040b\075c\011d"),
        (rb"/new\012line", rb"/new\012line"),
        (b"/memfd:x (deleted)", rb"/memfd:x\040(deleted)"),
        (b"/\xff\xfe", b"/\xff\xfe"),
        (b"/\x1b[31m", b"/\x1b[31m"),
        (b"[anon_shmem:my heap]", rb"/dev/zero\040(deleted)"),
    ],
)
def test_paths_as_numa_maps_escapes_them(maps: bytes, numa: bytes) -> None:
    assert numa_maps_path(maps) == numa
    (line,) = numa_maps.lines(snapshot([vma(kind=Kind.FILE, path=maps)], [(0, 0)]))
    assert line == b"7f0000000000 default file=" + numa


@given(snapshots(with_details=True))
def test_kernel_lines_can_be_read_back(shot: Snapshot) -> None:
    for index, line in enumerate(numa_maps.lines(shot, full=True)):
        assert b"\n" not in line
        head, policy = line.split(b" ", 1)[0], shot.vmas[index].policy.text(shot.spelling).encode()
        rest = line[len(head) + 1 + len(policy) :]
        fields = [word.partition(b"=") for word in rest.split(b" ")[1:]]
        nodes = {int(key[1:]): int(value) for key, _, value in fields if key[:1] == b"N" and key[1:].isdigit()}
        row = shot.pages[index].tolist()
        assert int(head, 16) == shot.vmas[index].start
        assert line[len(head) + 1 :].startswith(policy)
        assert nodes == {node: count for node, count in zip(shot.node_ids, row, strict=True) if count}
        assert line.endswith(b"kernelpagesize_kB=%d" % shot.vmas[index].page_kb) == (sum(row) > 0)


def test_format_of_2005() -> None:
    shot = snapshot(
        [
            vma(0x2000000000000000, kind=Kind.FILE, path=b"/lib/ld.so"),
            vma(0x2000000000038000, policy=Policy(Mode.INTERLEAVE, 0, (0, 1, 2, 3))),
            vma(0x2000000000048000),
            vma(0x2000000000058000, policy=Policy(Mode.PREFERRED, 0, (3,))),
        ],
        [(4, 3, 2, 2), (2, 0, 0, 0), (0, 0, 0, 0), (0, 0, 0, 1)],
        node_ids=(0, 1, 2, 3),
        details=details([(0, 0, 43, 0, 0, 0), (2, 0, 1, 0, 0, 0), NONE, (0, 0, 1, 0, 0, 0)]),
    )
    assert [line.decode() for line in original.lines(shot)] == [
        "2000000000000000 default MaxRef=43 Pages=11 Mapped=11 N0=4 N1=3 N2=2 N3=2",
        "2000000000038000 interleave={0,1,2,3} MaxRef=1 Pages=2 Mapped=2 Anon=2 N0=2",
        "2000000000058000 prefer=3 MaxRef=1 Pages=1 Mapped=1 N3=1",
    ]


@given(snapshots(with_details=True))
def test_format_of_2005_is_blank_separated_fields(shot: Snapshot) -> None:
    lines = [line.decode("ascii").split(" ") for line in original.lines(shot)]
    assert len(lines) == int((shot.pages.sum(axis=1) > 0).sum())
    for words in lines:
        fields = dict(word.split("=") for word in words[2:])
        counted = sum(int(count) for key, count in fields.items() if key[0] == "N")
        assert counted == int(fields["Pages"]) == int(fields["Mapped"])


def test_json_has_the_documented_keys() -> None:
    shot = snapshot(
        [vma(0x400000, 2, Policy(Mode.BIND, 0, (0, 1)), Kind.FILE, b"/bin/a b")],
        [(1, 0)],
        trust=Trust(1, 2, 3, 4, 0.5),
        namespace_pid=7,
    )
    assert json.loads(jsonl.line(shot, untraced=5)) == {
        "type": "placement",
        "version": 1,
        "time": "2025-03-01T12:00:00.250000Z",
        "pid": 42,
        "ns_pid": 7,
        "comm": "target",
        "hooks": "tracepoint",
        "reader": "walk",
        "trust": {"settling": 1, "unexplained": 2, "lost": 3, "drift": 4, "oldest_read_s": 0.5},
        "refresh": {"regions_read": 3, "cpu_ns": 1_234_567},
        "totals": {"0": 1, "1": 0},
        "untraced": 5,
        "vmas": [
            {
                "start": "400000",
                "end": "402000",
                "policy": "bind:0-1",
                "kind": "file",
                "name": "/bin/a b",
                "pages": 1,
                "nodes": {"0": 1},
                "page_kb": 4,
                "huge": False,
            }
        ],
    }


def test_json_details() -> None:
    (entry,) = json.loads(jsonl.line(snapshot([vma()], [(7, 0)], details=details([(1, 2, 3, 4, 5, 6)]))))["vmas"]
    assert [entry[key] for key in ("anon", "dirty", "mapmax", "swapcache", "active", "writeback")] == [1, 2, 3, 4, 5, 6]


def test_json_names_that_are_not_text() -> None:
    raw = b"/caf\xc3\xa9/\xff\x1b[2J\xed\xa0\x80"
    line = jsonl.line(snapshot([vma(path=raw), vma(path=b"/caf\xc3\xa9")], [(0, 0)] * 2, comm=b"\xff\n\x1b"))
    assert line.isascii()
    assert line.isprintable()
    placement = json.loads(line)
    hostile, plain = placement["vmas"]
    assert hostile["name"] == "/caf\N{LATIN SMALL LETTER E WITH ACUTE}/\\xff\x1b[2J\\xed\\xa0\\x80"
    assert bytes.fromhex(hostile["name_hex"]) == raw
    assert "name_hex" not in plain
    assert placement["comm"] == "\\xff\n\x1b"


@given(snapshots())
def test_json_keeps_to_its_schema(shot: Snapshot) -> None:
    line = jsonl.line(shot)
    assert "\n" not in line
    placement = json.loads(line)
    jsonschema.Draft202012Validator(SCHEMA).validate(placement)
    assert not undocumented(placement, SCHEMA["$defs"]["process"], SCHEMA)
    for entry, area in zip(placement["vmas"], shot.vmas, strict=True):
        assert bytes.fromhex(entry["name_hex"]) if "name_hex" in entry else entry["name"].encode() == area.path


@given(st.lists(snapshots(), max_size=4), st.integers(0, 2**40))
def test_json_of_all_targets_keeps_to_its_schema(shots: list[Snapshot], untraced: int) -> None:
    node_ids = shots[0].node_ids if shots else (0, 2)
    same = tuple(shot for shot in shots if shot.node_ids == node_ids)
    session = json.loads(jsonl.session_line(sample(*same, node_ids=node_ids, untraced=untraced), [7, 42]))
    jsonschema.Draft202012Validator(SCHEMA).validate(session)
    assert not undocumented(session, SCHEMA["$defs"]["session"], SCHEMA)
    for index, node in enumerate(node_ids):
        assert session["totals"][str(node)] == sum(int(shot.pages[:, index].sum()) for shot in same)


def test_schema_is_a_schema_and_refuses_what_it_should() -> None:
    validator = jsonschema.Draft202012Validator(SCHEMA)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    good = json.loads(jsonl.line(snapshot([vma()], [(1, 2)])))
    assert validator.is_valid(good)
    assert validator.is_valid({**good, "flows": []}), "verbs may add keys"
    for key in ("time", "pid", "hooks", "reader", "trust", "vmas"):
        assert not validator.is_valid({name: value for name, value in good.items() if name != key})
    assert not validator.is_valid({**good, "ns_pid": 0})
    assert not validator.is_valid({**good, "untraced": -1})
    assert not validator.is_valid({**good, "totals": {"N0": 1}})
    assert not validator.is_valid({**good, "time": "yesterday"})
    assert not validator.is_valid({**good, "vmas": [{**good["vmas"][0], "nodes": {"N0": 1}}]})
    assert not validator.is_valid({**good, "vmas": [{**good["vmas"][0], "start": "0x1000"}]})
    session = json.loads(jsonl.session_line(sample(untraced=1), []))
    assert validator.is_valid(session)
    for key in ("time", "targets", "totals", "untraced", "ended"):
        assert not validator.is_valid({name: value for name, value in session.items() if name != key})


def test_trust_line() -> None:
    shot = snapshot(trust=Trust(1, 2, 3, 4, 0.25), comm=b"my app", namespace_pid=7)
    assert trust.line(shot) == (
        r"# 2025-03-01T12:00:00.250Z pid=42 ns_pid=7 comm=my\040app hooks=tracepoint reader=walk"
        " settling=1 unexplained=2 lost=3 drift=4 oldest_read=0.250s regions=3 cpu=1.235ms"
    )


@given(st.binary(max_size=15))
def test_trust_line_stays_one_line_of_fields(comm: bytes) -> None:
    line = trust.line(snapshot(comm=comm))
    assert line.isprintable()
    assert len(line.split(" ")) == 14


@given(st.binary(max_size=15), st.integers(0, 50))
def test_header_of_a_target_is_one_line(comm: bytes, namespace_pid: int) -> None:
    line = targets.header(snapshot(comm=comm, namespace_pid=namespace_pid))
    assert line.isprintable()
    known = namespace_pid in (0, 42)
    assert line.startswith("# PID 42 " if known else f"# PID 42 ({namespace_pid} in its namespace) ")


def test_totals_say_who_is_missing() -> None:
    shots = [snapshot([vma()], [(1, 2)]), snapshot([vma()], [(3, 4)])]
    assert list(targets.totals(sample(*shots, untraced=1))) == [
        "# total of 2 targets N0=4 N1=6 (a page that several map counts in each)",
        "# untraced: 1 process is missing, for lack of room in the table of targets",
    ]


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"plain ~", "plain ~"),
        (b"\x1b[31mred", r"\033[31mred"),
        (b"a\nb\tc\r\x7f", r"a\012b\011c\015\177"),
        ("caf\N{LATIN SMALL LETTER E WITH ACUTE}".encode(), "caf\N{LATIN SMALL LETTER E WITH ACUTE}"),
        (b"\x9b2J", r"\2332J"),
        (b"\xc2\x9b2J", r"\302\2332J"),
        ("\N{RIGHT-TO-LEFT OVERRIDE}exe".encode(), r"\342\200\256exe"),
        ("\N{LINE SEPARATOR}".encode(), r"\342\200\250"),
    ],
)
def test_printable(raw: bytes, text: str) -> None:
    assert printable(raw) == text


@given(st.binary(max_size=60))
def test_printable_leaves_nothing_that_acts(raw: bytes) -> None:
    text = printable(raw)
    assert not any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in text)
    assert text.encode().decode() == text


@given(st.text(alphabet=st.characters(categories=("L", "N", "P"), include_characters=" "), max_size=40))
def test_printable_leaves_ordinary_text_alone(text: str) -> None:
    assert printable(text.encode()) == text


@given(st.binary(max_size=40))
def test_text_name_is_valid_text(raw: bytes) -> None:
    text_name(raw).encode("utf-8")

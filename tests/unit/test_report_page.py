"""The page: what stands in it, that it needs nothing else, and that no name can become anything but text."""

from __future__ import annotations

import re
import struct
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from tests.unit.report_recordings import INFO, at, crowd, history, hostile, story
from tests.unit.snapshots import faults, flows, sample, snapshot, vma
from tracer.model.sample import Sample
from tracer.record.schema import Info
from tracer.report import totals
from tracer.report.figure import new_figure, png, put_text, svg
from tracer.report.history import History
from tracer.report.page import PLOTS, page, pictures
from tracer.report.words import amount, duration, shortened, shown, signed

VOID = {"meta", "br", "hr", "img", "input", "link"}
SECTIONS = ("summary", "nodes", "addresses", "areas", "moved", "touched", "policies", "trust")


class Reader(HTMLParser):
    """Elements, ids, attributes and text, as a browser's parser splits them (but for the insides of style)."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: dict[str, str] = {}
        self.open: list[str] = []
        self.section = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag in ("section", "header"):
            self.section = dict(attrs).get("id") or ""
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text[self.section] = self.text.get(self.section, "") + data + " "


def silent(stage: str, done: int, total: int) -> None:
    """No progress."""


def made(told: History, title: str = "") -> str:
    return page(told, title, silent)


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> History:
    return history(tmp_path_factory.mktemp("story"), story())


@pytest.fixture(scope="module")
def text(told: History) -> str:
    return made(told)


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> str:
    words = ("<script>window.__pwned=1</script>", "\udcff")
    info = replace(INFO, host="<script>x</script>", kernel="$k$", command_line=words, targets=words, ended_by=words[0])
    return made(history(tmp_path_factory.mktemp("evil"), hostile(), info), "</title><script>window.__pwned=1</script>")


# What it says


def test_the_facts(text: str) -> None:
    read = Reader(text)
    assert [it for it in read.ids if it in SECTIONS] == list(SECTIONS)
    summary = words(read.text["summary"])
    for fact in ("db1", "6.12.0", "2025-03-01T12:00:00Z to 2025-03-01T12:00:59Z (59 s)", "2, 1 of them ended"):
        assert fact in summary
    assert "complete (the test)" in summary
    assert "NUMA placement of target (PID 42) and 1 more" in summary


def test_the_numbers(text: str) -> None:
    read = {name: words(it) for name, it in Reader(text).text.items()}
    # At the end 32 and 20 MiB on node 0, 180 on node 1; at the start 100 and 109, the worker's one included.
    assert "node 0 22.4 % 100 MiB 52.0 MiB" in read["nodes"]
    assert "node 1 77.6 % 109 MiB 180 MiB" in read["nodes"]
    assert "numa_misplaced 80.0 MiB 20,480 60" in read["moved"]
    assert "node 0 → node 1, numa_misplaced 80.0 MiB 20,480 60" in read["moved"]
    assert "compaction 300 60" in read["moved"]
    assert "new 8,192 huge 2" in read["touched"]
    assert "[anon:buffer pool]" in read["areas"]
    assert "100 MiB → 20.0 MiB 20.0 MiB … 100 MiB −80.0 MiB" in read["areas"]  # noqa: RUF001
    assert "unmapped" in read["areas"]
    assert (
        "interleave:0-1 spread over nodes 0-1 in fixed shares 1 200 MiB 10.0 % promised 50.0 % 90.0 %"
        in read["policies"]
    )
    assert "1.82 ms" not in read["trust"]
    assert "tracepoint / walk" in read["trust"]


def test_the_end_is_the_last_there_was_of_processes_that_ended(tmp_path: Path) -> None:
    there = snapshot([vma()], [(3, 5)])
    samples = [sample(there, **at(0)), sample(there, **at(1)), sample(ended=(there,), **at(2))]
    read = {name: words(it) for name, it in Reader(made(history(tmp_path, samples))).text.items()}
    assert "32 KiB memory at the end" in read["summary"]
    assert "Processes 1, all ended" in read["summary"]
    assert "node 1 62.5 % 20 KiB 20 KiB 20 KiB 20 KiB" in read["nodes"]


def test_only_what_misses_its_promise_is_marked(text: str) -> None:
    assert text.count('<td class="away">') == 2


def test_a_recording_that_was_recovered_says_so(told: History) -> None:
    recovered = replace(told, info=replace(told.info, complete=False))
    assert "recovered: the recorder did not come to its orderly end" in made(recovered)


# What it needs


def test_the_page_needs_nothing_and_runs_nothing(text: str, evil: str) -> None:
    for it in (text, evil):
        read = Reader(it)
        assert not {"script", "link", "iframe", "object", "embed", "img", "base", "foreignobject"} & set(read.tags)
        assert "http" not in re.sub(r'http-equiv="|javascript:', "", it)
        for tag, name, value in read.attributes:
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "src", "xlink:href"):
                assert value.startswith(("#", "data:image/png;base64,")), (tag, name, value[:60])
            assert "@import" not in value
        assert "default-src 'none'" in it


def test_ids_are_unique_and_references_lead_somewhere(text: str) -> None:
    read = Reader(text)
    assert len(read.ids) == len(set(read.ids))
    used = {value[1:] for _, name, value in read.attributes if name == "href" and value.startswith("#")}
    used |= set(re.findall(r"url\(#([^)]*)\)", text))
    assert used <= set(read.ids)


def test_the_plots_can_be_read_aloud_and_take_the_colours_of_the_page(text: str) -> None:
    for plot in PLOTS:
        match = re.search(rf'<svg [^>]*id="{plot.name}".*?</svg>', text, re.DOTALL)
        assert match
        root = ET.fromstring(match[0])
        assert root.attrib["role"] == "img"
        assert root.attrib["aria-labelledby"] == f"{plot.name}-title {plot.name}-desc"
        assert [child.tag for child in root[:2]] == ["title", "desc"]
        assert root[0].text == plot.title
        assert "currentColor" in match[0]
        assert "<style" not in match[0]


def test_the_map_is_an_image_and_the_page_small(text: str) -> None:
    assert text.count("<image") >= 2
    assert len(text) < 400_000


# Names that are not ours


def test_no_name_becomes_anything_but_text(evil: str) -> None:
    read = Reader(evil)
    for tag in ("script", "img", "i onclick"):
        assert tag not in read.tags
    shown_names = " ".join(read.text.values())
    assert "<img src=x onerror=window.__pwned=1>" in shown_names
    assert "</title><script>window.__pwned=1</script>" in read.text["summary"]
    assert "{{ 7*7 }}" in shown_names
    assert "49" not in words(read.text["areas"]).split()


def test_dollars_stay_dollars(evil: str) -> None:
    assert r"$\frac{1}{0}$ $a_b^c$" in evil
    assert "$a$" in evil
    assert "$x^{2$" in evil


def test_nothing_acts_on_the_reader(evil: str) -> None:
    assert not [it for it in evil if not (it.isprintable() or it == "\n")]
    assert r"\342\200\256gnp.exe" in evil
    assert r"\033[31mred\007" in evil
    assert "中文 \U0001f600" in evil


def test_long_names_are_shortened_and_kept_in_full_beside(evil: str) -> None:
    full = "/" + "d" * 250 + "/" + "n" * 3900
    assert any(value.startswith(full) for _, name, value in Reader(evil).attributes if name == "title")
    assert full not in "".join(Reader(evil).text.values())


def test_the_source_of_the_page_is_utf_8(evil: str) -> None:
    evil.encode("utf-8")


# Where there is little or much


def empty() -> Iterator[tuple[str, list[Sample], Info]]:
    one = snapshot([vma()], [(3, 4)])
    bare = Info(node_ids=(0, 1))
    yield "one sample", [sample(one, **at(0))], bare
    yield "no target", [sample(**at(0)), sample(**at(1))], bare
    yield "no areas", [sample(snapshot(), **at(0)), sample(snapshot(), **at(1))], INFO
    yield "no pages", [sample(snapshot([vma()], [(0, 0)]), **at(second)) for second in (0, 1)], INFO
    yield "gone at once", [sample(one, **at(0)), sample(ended=(snapshot(),), **at(1))], INFO
    quiet = snapshot([vma()], [(3, 4)], flows=flows(), faults=faults())
    yield "nothing happens", [sample(quiet, **at(second)) for second in range(3)], INFO
    failed = snapshot([vma()], [(3, 4)], flows=flows([(0, 0, 0, 1, 0, 9)]), faults=faults([(0, 0, -1, 5, 0, 3)]))
    yield "all fails", [sample(failed, **at(second)) for second in range(3)], INFO
    lost = snapshot([vma()], [(3, 4)], flows=flows([(-1, -1, 1, 1, 5, 0)]), faults=faults([(-1, 1, 0, 0, 0, 3)]))
    yield "nobody knows where", [sample(lost, **at(second)) for second in range(3)], INFO
    yield "regions that nobody counted", [sample(one, **at(0))], replace(bare, regions=True)
    yield "one node", [sample(snapshot([vma()], [(9,)], (0,)), **at(0))], replace(INFO, node_ids=(0,))


@pytest.mark.parametrize(("samples", "info"), [pytest.param(it, info, id=name) for name, it, info in empty()])
def test_little_is_no_error(tmp_path: Path, samples: list[Sample], info: Info) -> None:
    told = history(tmp_path, samples, info)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = made(told)
        assert "totals.png" in pictures(told, silent)
    read = Reader(text)
    assert [it for it in read.ids if it in SECTIONS] == list(SECTIONS)
    assert all(words(read.text[section]) for section in SECTIONS)
    assert "nan" not in words(" ".join(read.text.values())).split()


def test_what_was_not_recorded_is_said(tmp_path: Path) -> None:
    read = Reader(made(history(tmp_path, [sample(snapshot([vma()], [(3, 4)]), **at(0))], Info(node_ids=(0, 1)))))
    assert "Flows were not recorded." in read.text["moved"]
    assert "Faults were not recorded." in read.text["touched"]


@pytest.mark.parametrize("nodes", [2, 8, 12, 40])
def test_many_nodes(tmp_path: Path, nodes: int) -> None:
    samples, info = crowd(nodes)
    told = history(tmp_path, samples, info)
    text = made(told)
    assert len(text) < 2_000_000
    assert f"node {2 * nodes - 2}" in Reader(text).text["nodes"]
    assert set(pictures(told, silent)) == {f"{plot.name}.png" for plot in PLOTS}


def test_many_areas_and_many_processes(tmp_path: Path) -> None:
    areas = [vma(0x7F00_0000_0000 + index * (1 << 20), 100) for index in range(5000)]
    samples = []
    for second in range(3):
        big = snapshot(areas, [(second * 10, index % 90) for index in range(5000)], **at(second))  # type: ignore[arg-type]
        others = [
            snapshot([vma()], [(pid, 1)], pid=1000 + pid, comm=b"w%d" % pid, **at(second))  # type: ignore[arg-type]
            for pid in range(200)
        ]
        samples.append(sample(big, *others, **at(second)))
    text = made(history(tmp_path, samples))
    assert len(text) < 1_000_000
    read = Reader(text)
    assert "The 6 largest of 201 processes have plots of their own." in words(read.text["nodes"])
    assert "The 4 largest of 201 processes are shown." in words(read.text["addresses"])


# Pictures


def test_pictures_are_png(told: History) -> None:
    files = pictures(told, silent)
    assert list(files) == ["totals.png", "heatmap.png", "flows.png", "touch.png"]
    for data in files.values():
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        width, height = struct.unpack(">II", data[16:24])
        assert width >= 600
        assert height >= 200
        assert b"matplotlib" not in data


@pytest.mark.parametrize("draw", [plot.draw for plot in PLOTS], ids=[plot.name for plot in PLOTS])
def test_the_same_recording_gives_the_same_picture(told: History, draw: Callable[[History], Figure | None]) -> None:
    """Also with another figure in between: no state is shared."""
    texts = []
    for _ in range(2):
        figure, other = draw(told), totals.draw(told)
        png(other)
        assert figure is not None
        texts.append(svg(figure, "x", "t", "d"))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("name", ["a\x00b\x0bc", "\ud800", "</text></svg><script>1</script>", "$\\bad{$", "\uffff"])
def test_any_text_can_be_drawn(name: str) -> None:
    with new_figure(1.0) as figure:
        put_text(figure.subplots(), 0.5, 0.5, name)
    root = ET.fromstring(svg(figure, "x", name, name))
    assert not root.findall(".//script")
    png(figure)


# Words


@pytest.mark.parametrize(
    ("kib", "text"),
    [(0, "0"), (4, "4 KiB"), (1023, "1023 KiB"), (1024, "1.00 MiB"), (15_000, "14.6 MiB"), (1 << 31, "2.00 TiB")],
)
def test_amounts(kib: int, text: str) -> None:
    assert amount(kib) == text
    assert signed(kib) == (f"+{text}" if kib else "0")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.25, "0.25 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3725, "1 h 2 min"),
        (90_000, "1 d 1 h"),
        (86_400, "1 d"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_shortening_keeps_both_ends() -> None:
    assert shortened("/var/lib/postgresql/16/main", 12) == "/va…/16/main"
    assert len(shortened("x" * 4096, 30)) == 30
    assert shortened("short", 5) == "short"
    assert shown("a\u202eb\x1b") == r"a\342\200\256b\033"

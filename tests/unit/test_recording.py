"""Opening recordings: one file, directories, what is no recording, other versions; and what reading costs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from subprocess import run
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data import make_recording_v1
from tests.unit.recordings import differences, info_of, spaced, write_recording
from tests.unit.snapshots import REASONS, TIME, details, faults, flows, regions, sample, snapshot, vma
from tracer.errors import NumatraceError
from tracer.model.sample import Sample
from tracer.record.part import Part
from tracer.record.recording import Recording, open_recording
from tracer.record.schema import METADATA_KEY, SCHEMA_VERSION, arrow_schema

ROOT = Path(__file__).resolve().parents[2]
LOW, HIGH = vma(0x1000), vma(0x200000)
SHOT = snapshot(
    [LOW, HIGH],
    [(1, 2), (0, 3)],
    details=details([(1, 2, 3, 4, 5, 6), (6, 5, 4, 3, 2, 1)]),
    flows=flows(),
    faults=faults(),
    regions=regions([(0x1000, 1, 2)]),
)


def story(count: int = 5, first: datetime = TIME, seconds: float = 1.0) -> list[Sample]:
    """As many samples; in each the first VMA has one page more."""
    shots = (replace(SHOT, pages=SHOT.pages + np.array([[index, 0], [0, 0]])) for index in range(count))
    return spaced([replace(sample(shot), time=first) for shot in shots], seconds)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "x.parquet"
    write_recording(file, story())
    return file


@pytest.fixture
def opened(path: Path) -> Iterator[Recording]:
    with open_recording(path) as recording:
        yield recording


# --- samples ---


def test_moments(opened: Recording) -> None:
    assert len(opened) == 5
    assert opened.times.dtype == np.dtype("datetime64[us]")
    assert [opened.time(index) for index in range(5)] == [one.time for one in story()]
    assert opened.time(0).tzinfo is UTC
    assert opened.index_at(TIME) == 0
    assert opened.index_at(TIME + timedelta(seconds=2)) == 2
    assert opened.index_at(TIME + timedelta(seconds=2, microseconds=-1)) == 1
    assert opened.index_at(TIME.astimezone(timezone(timedelta(hours=5)))) == 0
    assert opened.index_at(TIME + timedelta(days=1)) == 4
    with pytest.raises(NumatraceError, match="begins at 2025-03-01"):
        opened.index_at(TIME - timedelta(microseconds=1))


@pytest.mark.parametrize("index", [-1, 5])
def test_there_are_no_other_samples(opened: Recording, index: int) -> None:
    with pytest.raises(IndexError):
        opened.at(index)
    with pytest.raises(IndexError):
        opened.samples(0, index)


def test_a_part_of_the_samples(opened: Recording) -> None:
    given = story()
    for first in range(5):
        for last in range(5):
            found = list(opened.samples(first, last))
            assert [differences(*pair) for pair in zip(found, given[first : last + 1], strict=True)] == [[]] * len(
                found
            )


def test_what_does_not_change_is_the_same_object(tmp_path: Path) -> None:
    """Also over key frames, which repeat everything."""
    steady = sample(replace(SHOT))
    changed = sample(replace(SHOT, pages=SHOT.pages + 1))
    write_recording(tmp_path / "x", spaced([steady, steady, changed, changed, changed], 40))
    with open_recording(tmp_path / "x") as recording:
        one, two, three, four, five = (it.only for it in recording.samples())
        assert recording.rows("vma", columns=["key"]).num_rows == 3 * 2
    for before, now in ((one, two), (three, four), (four, five)):
        assert before.vmas is now.vmas
        assert before.pages is now.pages
        assert before.details is now.details
        assert before.regions is now.regions
    assert two.vmas is three.vmas
    assert two.regions is three.regions
    assert two.pages is not three.pages
    assert two.pages.tolist() == [[1, 2], [0, 3]]


def test_pages_that_something_happened_to_are_the_same_object_all_the_same(tmp_path: Path) -> None:
    busy = replace(SHOT, flows=flows([(0, 1, 0, 1, 1, 0), (0, 0, 1, 1, 1, 0)]))
    write_recording(tmp_path / "x", spaced([sample(SHOT), sample(busy)]))
    with open_recording(tmp_path / "x") as recording:
        one, two = (it.only for it in recording.samples())
        assert recording.rows("vma", first=1).num_rows == 1
    assert one.pages is two.pages
    assert one.vmas is two.vmas


def test_a_vma_that_is_gone_in_a_key_frame_is_gone(tmp_path: Path) -> None:
    """There is no row that says so: what a key frame does not have is not there."""
    write_recording(tmp_path / "x", spaced([sample(SHOT), sample(snapshot([HIGH], [(0, 3)]))], 60))
    with open_recording(tmp_path / "x") as recording:
        assert recording.rows("unmapped").num_rows == 0
        assert [it.only.vmas for it in recording.samples()] == [(LOW, HIGH), (HIGH,)]


def test_a_vma_that_stays_is_the_same_object_when_others_come_and_go(tmp_path: Path) -> None:
    without = snapshot([HIGH], [(0, 3)])
    write_recording(tmp_path / "x", spaced([sample(snapshot([LOW, HIGH], [(1, 2), (0, 3)])), sample(without)]))
    with open_recording(tmp_path / "x") as recording:
        one, two = (it.only for it in recording.samples())
    assert one.vmas[1] is two.vmas[0]
    assert one.pages.shape == (2, 2)


def test_a_moment_costs_its_row_groups_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = story(600)
    write_recording(tmp_path / "x", samples, row_group=100)
    with open_recording(tmp_path / "x") as recording:
        read: list[int] = []
        real = Part._read

        def noted(self: Part, group: int, names: Any) -> Any:
            read.append(group)
            return real(self, group, names)

        monkeypatch.setattr(Part, "_read", noted)
        assert differences(recording.at(599), samples[599]) == []
        assert differences(recording.at(300), samples[300]) == []
        assert 0 < len(read) <= 4
        recording.at(300)
        assert len(read) <= 4


def test_opening_and_a_moment_need_no_pandas(path: Path) -> None:
    """It takes longer to import than to read."""
    script = (
        "import sys; from tracer.record.recording import open_recording; recording = open_recording(sys.argv[1]); "
        "recording.at(3); list(recording.samples()); recording.totals(); print('pandas' in sys.modules)"
    )
    done = run([sys.executable, "-c", script, str(path)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# --- rows ---


def test_totals(opened: Recording) -> None:
    table = opened.totals()
    assert table.column_names == ["time", "pid", "comm", "pages", "N0", "N1"]
    assert table.column("time").to_pylist() == [one.time for one in story()]
    assert table.column("N0").to_pylist() == [1, 2, 3, 4, 5]


def test_rows(opened: Recording) -> None:
    assert opened.rows().schema.equals(arrow_schema(opened.info).remove_metadata())
    assert opened.rows().num_rows == 1 + 5 + 2 + 4 + 1
    chosen = opened.rows("vma", columns=["start", "pages"], first=1, last=2)
    assert chosen.to_pylist() == [{"start": 0x1000, "pages": 4}, {"start": 0x1000, "pages": 5}]
    assert opened.rows("region", "machine", columns=["event"]).column(0).to_pylist() == ["machine", "region"]
    assert opened.rows("unmapped").num_rows == 0
    assert opened.rows(first=3).column("key").to_pylist() == [False] * 4


# --- versions ---


def test_schema_1_stays_readable() -> None:
    """Every value of a file that was written with the first version."""
    with open_recording(ROOT / "tests" / "data" / "recording-v1.parquet") as recording:
        assert recording.info == make_recording_v1.INFO
        given = make_recording_v1.samples()
        for index, (back, one) in enumerate(zip(recording.samples(), given, strict=True)):
            assert differences(back, one) == []
            assert differences(recording.at(index), one) == []
        assert set(recording.rows(columns=["event"]).column(0).to_pylist()) == {
            *("machine", "ended", "target", "vma", "unmapped", "region")
        }


def rewrite(path: Path, change: Callable[[Any], Any], info: dict[str, Any] | None = None) -> None:
    table = pq.read_table(path)
    metadata = table.schema.metadata
    if info is not None:
        metadata = {METADATA_KEY: json.dumps(asdict(info_of(story())) | info)}
    pq.write_table(change(table).replace_schema_metadata(metadata), path)


def test_what_a_later_version_adds_is_ignored(path: Path) -> None:
    def add(table: Any) -> Any:
        later = table.slice(3, 1).set_column(1, "event", pa.array(["later"]))
        table = pa.concat_tables([table.slice(0, 4), later, table.slice(4)])
        return table.append_column("more", pa.array(["x"] * table.num_rows))

    rewrite(path, add, {"more": 1})
    with open_recording(path) as recording:
        assert [differences(*pair) for pair in zip(recording.samples(), story(), strict=True)] == [[]] * 5
        assert "more" not in recording.rows().column_names
        assert recording.rows("vma").num_rows == 6


def test_a_column_that_an_older_version_did_not_write_is_null(path: Path) -> None:
    rewrite(path, lambda table: table.drop_columns(["spelling", "drift", "faults", "name_raw"]))
    with open_recording(path) as recording:
        assert [differences(*pair) for pair in zip(recording.samples(), story(), strict=True)] == [[]] * 5
        assert recording.rows("target", columns=["drift"]).column(0).to_pylist() == [None] * 5


def test_a_newer_schema_says_so(path: Path) -> None:
    rewrite(path, lambda table: table, {"schema": SCHEMA_VERSION + 1, "version": "9.9"})
    with pytest.raises(NumatraceError, match="schema 2") as caught:
        open_recording(path)
    assert str(path) in caught.value.message
    assert "9.9" in caught.value.hint


def test_words_that_others_have_put_into_dictionaries(path: Path) -> None:
    """As pandas does with categories, and polars with long strings."""

    def other_types(table: Any) -> Any:
        for name, kind in (("comm", pa.large_string()), ("pages", pa.int32()), ("name_raw", pa.large_binary())):
            table = table.set_column(table.column_names.index(name), name, table.column(name).cast(kind))
        at = table.column_names.index("event")
        return table.set_column(at, "event", table.column("event").dictionary_encode())

    rewrite(path, other_types)
    with open_recording(path) as recording:
        assert [differences(*pair) for pair in zip(recording.samples(), story(), strict=True)] == [[]] * 5
        assert recording.rows("target", columns=["comm"]).schema.field(0).type == pa.string()


def test_an_incomplete_recording_is_as_good(tmp_path: Path) -> None:
    write_recording(tmp_path / "x", story(), replace(info_of(story(), complete=False)))
    with open_recording(tmp_path / "x") as recording:
        assert not recording.info.complete
        assert len(list(recording.samples())) == 5


# --- what is no recording ---


def damaged(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    return lambda path: rewrite(path, change)


def with_column(name: str, values: Callable[[list[Any]], list[Any]]) -> Callable[[Any], Any]:
    def change(table: Any) -> Any:
        at = table.column_names.index(name)
        kind = table.column(name).type
        return table.set_column(at, name, pa.array(values(table.column(name).to_pylist()), kind))

    return change


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.unlink(), "there is no .*x.parquet"),
        (lambda path: path.write_bytes(b""), "no parquet file, or a damaged one"),
        (lambda path: path.write_bytes(b"hello, world" * 9), "no parquet file, or a damaged one"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "no parquet file, or a damaged one"),
        (lambda path: path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2]), "or only a part of one"),
        (lambda path: pq.write_table(pa.table({"a": [1]}), path), "numatrace did not write it"),
        (lambda path: rewrite(path, lambda table: table, {"node_ids": 7}), "metadata cannot be understood"),
        (damaged(lambda table: table.drop_columns(["key"])), "no column key"),
        (damaged(lambda table: table.slice(0, 0)), "without any sample"),
        (damaged(with_column("time", lambda times: times[::-1])), "not in the order of time"),
        (damaged(with_column("time", lambda times: [None, *times[1:]])), "a row has no time"),
        (damaged(with_column("key", lambda keys: [False] * len(keys))), "does not begin with a key frame"),
    ],
)
def test_what_is_no_recording_is_said_in_a_line(path: Path, spoil: Callable[[Path], None], said: str) -> None:
    spoil(path)
    with pytest.raises(NumatraceError, match=said) as caught:
        open_recording(path)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "change",
    [
        with_column("policy_nodes", lambda nodes: ["0-99999999999"] * len(nodes)),
        with_column("policy_nodes", lambda nodes: ["x"] * len(nodes)),
        with_column("perms", lambda perms: [None] * len(perms)),
        with_column("comm", lambda comms: [None] * len(comms)),
        with_column("start", lambda starts: [5] * len(starts)),
        with_column("pid", lambda pids: [None] * len(pids)),
        lambda table: table.set_column(3, "pid", pa.array(["x"] * table.num_rows)),
        lambda table: table.set_column(table.column_names.index("flows"), "flows", pa.array([1] * table.num_rows)),
        with_column("policy", lambda words: [None] * len(words)),
    ],
)
def test_damaged_values_are_an_error_or_a_sample_but_no_surprise(path: Path, change: Callable[[Any], Any]) -> None:
    rewrite(path, change)
    with open_recording(path) as recording:
        for read in (lambda: recording.at(4), lambda: list(recording.samples())):
            if caught := complaint(read):
                assert caught.startswith(f"cannot read {path} as a recording: ")


def complaint(read: Callable[[], Any]) -> str:
    """What is said, in one line; nothing where it went well."""
    try:
        read()
    except NumatraceError as error:
        assert "\n" not in error.message  # noqa: PT017
        return error.message
    return ""


def test_bytes_that_were_damaged_in_the_middle(path: Path) -> None:
    """Every byte of the data: an error, or what was written, or other numbers; never anything else."""
    whole = path.read_bytes()
    said = set()
    for at in range(4, len(whole) - 8, 97):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        said.add(complaint(lambda: read_all(path)) != "")
    assert said == {True, False}


def read_all(path: Path) -> None:
    with open_recording(path) as recording:
        list(recording.samples())
        recording.at(len(recording) - 1)


def test_a_file_that_was_replaced_while_it_was_closed(path: Path) -> None:
    with open_recording(path) as recording:
        recording.close()
        assert len(list(recording.samples())) == 5
        recording.close()
        write_recording(path, story(4))
        with pytest.raises(NumatraceError, match="has changed"):
            recording.at(0)


@pytest.mark.parametrize("name", ["a b\n.parquet", "\udcff.parquet", "x"])
def test_any_name_will_do(tmp_path: Path, name: str) -> None:
    write_recording(tmp_path / "plain", story(2))
    (tmp_path / "plain").rename(tmp_path / name)
    with open_recording(tmp_path / name) as recording:
        assert len(list(recording.samples())) == 2


# --- directories ---


def rotated(directory: Path, hours: Sequence[int], host: str = "h", **fields: Any) -> list[Sample]:
    """A file for each of these hours of a day, with four samples each."""
    written = []
    for hour in hours:
        begin = TIME.replace(hour=hour)
        folder = directory / f"host={host}" / f"date={begin:%Y-%m-%d}"
        folder.mkdir(parents=True, exist_ok=True)
        samples = story(4, begin, 30)
        write_recording(folder / f"{begin:%H%M%S}.parquet", samples, replace(info_of(samples), host=host, **fields))
        written += samples
    return written


def test_a_directory_is_one_recording(tmp_path: Path) -> None:
    late = rotated(tmp_path, [9, 14], complete=False)
    early = rotated(tmp_path, [3, 4])
    with open_recording(tmp_path) as recording:
        samples = [*early, *late]
        assert len(recording) == 16
        assert [recording.time(index) for index in range(16)] == [one.time for one in samples]
        assert [differences(*pair) for pair in zip(recording.samples(), samples, strict=True)] == [[]] * 16
        assert [differences(recording.at(index), samples[index]) for index in range(16)] == [[]] * 16
        found = recording.samples(3, 9)
        assert [differences(*pair) for pair in zip(found, samples[3:10], strict=True)] == [[]] * 7
        assert recording.totals().column("time").to_pylist() == [one.time for one in samples]
        assert recording.rows("target", first=3, last=5).num_rows == 3
        assert not recording.info.complete
    with open_recording(tmp_path / "host=h") as recording:
        assert len(recording) == 16


def test_many_files_are_not_open_at_once(tmp_path: Path) -> None:
    rotated(tmp_path, range(20))
    before = len(list(Path("/proc/self/fd").iterdir()))
    with open_recording(tmp_path) as recording:
        for index in range(0, len(recording), 3):
            recording.at(index)
            assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_files_with_other_nodes_and_reasons(tmp_path: Path) -> None:
    moved = flows([(0, 0, 1, 1, 3, 0)])
    one = snapshot([LOW], [(1, 2)], (0, 1), flows=moved)
    other = snapshot([LOW], [(4, 5)], (0, 7), flows=replace(moved, reasons=("hotplug", "other")))
    write_recording(tmp_path / "a.parquet", [sample(one)])
    write_recording(tmp_path / "b.parquet", [replace(sample(other), time=TIME + timedelta(hours=1))])
    with open_recording(tmp_path) as recording:
        assert recording.node_ids == (0, 1, 7)
        first, second = recording.samples()
        assert [it.only.pages.tolist() for it in (first, second)] == [[[1, 2, 0]], [[4, 0, 5]]]
        assert [it.node_ids for it in (first, second)] == [(0, 1, 7)] * 2
        assert [it.only.flows.reasons for it in (first, second)] == [REASONS, ("hotplug", "other")]  # type: ignore[union-attr]
        assert recording.totals().column("N7").to_pylist() == [None, 5]
        assert recording.rows().column_names.count("N7") == 1


def test_recordings_that_do_not_belong_together(tmp_path: Path) -> None:
    rotated(tmp_path / "hosts", [1], "a")
    rotated(tmp_path / "hosts", [2], "b")
    with pytest.raises(NumatraceError, match="2 hosts: a, b"):
        open_recording(tmp_path / "hosts")
    (tmp_path / "times").mkdir()
    write_recording(tmp_path / "times" / "a.parquet", story())
    write_recording(tmp_path / "times" / "b.parquet", story(first=TIME + timedelta(seconds=4)))
    with pytest.raises(NumatraceError, match=r"a.parquet and .*b.parquet are of the same time"):
        open_recording(tmp_path / "times")


def test_directories_without_a_recording(tmp_path: Path) -> None:
    with pytest.raises(NumatraceError, match="no recording in the directory"):
        open_recording(tmp_path)
    (tmp_path / ".x.parquet").write_bytes(b"not finished")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.parquet").write_bytes(b"not finished")
    with pytest.raises(NumatraceError, match="no recording in the directory"):
        open_recording(tmp_path)
    write_recording(tmp_path / "empty.parquet", [])
    with pytest.raises(NumatraceError, match="any sample"):
        open_recording(tmp_path)
    write_recording(tmp_path / "some.parquet", story())
    with open_recording(tmp_path) as recording:
        assert len(recording) == 5

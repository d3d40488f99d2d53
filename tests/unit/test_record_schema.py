"""Columns and metadata of a recording are those of docs/recording.md, and what the page shows works."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data import make_recording_v1
from tests.unit.recordings import write_recording
from tracer.errors import NumatraceError
from tracer.model.policy import Spelling
from tracer.record.recording import open_recording
from tracer.record.schema import (
    FAULTS_TYPE,
    FLOWS_TYPE,
    METADATA_KEY,
    MISPLACED_TYPE,
    POLICY_CHANGES_TYPE,
    PRESSURE_TYPE,
    SCHEMA_VERSION,
    THREADS_TYPE,
    Info,
    arrow_schema,
)
from tracer.record.words import FAULT_WORDS

DOCS = (Path(__file__).resolve().parents[2] / "docs" / "recording.md").read_text()


def tables(text: str = DOCS) -> list[list[list[str]]]:
    """Every table of the page, as cells of its rows without the heading."""
    found = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    return [[[cell.strip() for cell in row.strip("|").split(" | ")] for row in it.splitlines()[2:]] for it in found]


def documented(heading: str) -> list[tuple[str, str]]:
    """The first two cells of each row of the table that follows these words."""
    table = tables(DOCS.partition(heading)[2])[0]
    return [(row[0].strip("`"), row[1]) for row in table]


def kind_of(kind: Any) -> str:
    """As the page says it: what is in a struct has a table of its own."""
    text = re.sub(r"^struct<.*>$", "struct", str(kind))
    return re.sub(r"^list<\w+: (\w+).*>$", r"list<\1>", text)


def test_the_columns_are_documented_with_their_types() -> None:
    schema = arrow_schema(Info(node_ids=(0,), policies=True))
    assert documented("## Columns") == [(it.name, kind_of(it.type)) for it in schema]


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("flows", FLOWS_TYPE),
        ("faults", FAULTS_TYPE),
        ("misplaced", MISPLACED_TYPE),
        ("threads", THREADS_TYPE),
        ("policy_changes", POLICY_CHANGES_TYPE),
        ("pressure", PRESSURE_TYPE),
    ],
)
def test_the_fields_of_lists_are_documented_with_their_types(column: str, kind: Any) -> None:
    fields_of = [(it.name, kind_of(it.type)) for it in kind.value_type]
    assert documented(f"An element of `{column}`") == fields_of


def test_columns_of_policies_are_only_where_policies_are() -> None:
    more = set(arrow_schema(Info(policies=True)).names) - set(arrow_schema(Info()).names)
    assert more == {
        *("own", "governed", "units", "huge_pages", "rule", "misplaced"),
        *("observed", "allowed", "weights", "threads", "policy_changes", "pressure"),
    }


def test_there_is_a_column_for_each_node() -> None:
    names = arrow_schema(Info(node_ids=(0, 3, 1023))).names
    at = names.index("pages")
    assert names[at : at + 5] == ["pages", "N0", "N3", "N1023", "anon"]


def test_the_metadata_is_documented() -> None:
    words = " ".join(row[0] for table in tables() if table[0][0] == "`version`" for row in table)
    assert re.findall(r"`(\w+)`", words) == [it.name for it in fields(Info)]


def test_the_words_are_documented() -> None:
    kinds = next(row[2] for table in tables() for row in table if row[0] == "`kind`" and "`new`" in row[2])
    assert tuple(re.findall(r"`(\w+)`", kinds)[: len(FAULT_WORDS)]) == FAULT_WORDS
    spelling = next(row[3] for table in tables() for row in table if row[:2] == ["`spelling`", "string"])
    assert re.findall(r"`(\w+)`", spelling) == [it.value for it in Spelling]


words = st.text(max_size=8)
flags = st.booleans()


@given(
    st.builds(
        Info,
        host=words,
        node_ids=st.lists(st.integers(0, 1023)).map(tuple),
        distances=st.lists(st.lists(st.integers(10, 255)).map(tuple)).map(tuple),
        cpus=st.dictionaries(st.integers(0, 1023), words),
        reasons=st.lists(words).map(tuple),
        command_line=st.lists(st.binary(max_size=8).map(lambda raw: raw.decode("utf-8", "surrogateescape"))).map(tuple),
        every_s=st.floats(0.001, 1e6),
        details=flags,
        policies=flags,
        complete=flags,
        ended_by=words,
    )
)
def test_metadata_comes_back(info: Info) -> None:
    text = info.to_json()
    assert text.isascii()
    assert Info.from_json(text) == info
    assert Info.from_json(arrow_schema(info).metadata[METADATA_KEY]) == info


def test_unknown_keys_are_ignored_and_missing_ones_have_defaults() -> None:
    assert Info.from_json('{"schema": 1, "host": "h", "later": [1]}') == Info(host="h")


def test_a_newer_schema_is_refused_with_the_version_to_use() -> None:
    text = json.dumps(asdict(Info()) | {"schema": SCHEMA_VERSION + 1, "version": "9.9"})
    with pytest.raises(NumatraceError, match=f"schema {SCHEMA_VERSION + 1}") as caught:
        Info.from_json(text)
    assert "9.9" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{", '{"schema": []}', '{"cpus": [1]}', '{"node_ids": "x"}', '{"distances": [1]}', "\xff"],
)
def test_damaged_metadata_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        Info.from_json(text.encode("latin-1"))


# --- the examples ---


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("docs") / "x.parquet"
    write_recording(file, make_recording_v1.samples(), make_recording_v1.INFO)
    return file


def examples(language: str, path: Path) -> list[str]:
    blocks: list[str] = re.findall(rf"```{language}\n(.*?)```", DOCS, re.DOTALL)
    assert all("run.parquet" in block for block in blocks)
    return [block.replace("run.parquet", str(path)) for block in blocks]


def test_the_placement_in_sql_is_that_of_the_reader(path: Path) -> None:
    (query,) = [block for block in examples("sql", path) if "the placement at a moment" in block]
    with open_recording(path) as recording:
        for one in recording.samples():
            found = duckdb.execute(query, {"moment": one.time}).fetchall()
            placed = [
                (shot.pid, vma.start, *pages)
                for shot in sorted(one.snapshots, key=lambda shot: shot.pid)
                for vma, pages in zip(shot.vmas, shot.pages.tolist(), strict=True)
            ]
            assert [(pid, start, *pages) for pid, start, _, _, _, *pages in found] == placed
        assert len(found) == 0 < len(duckdb.execute(query, {"moment": recording.time(0)}).fetchall())


def test_the_flows_in_sql(path: Path) -> None:
    (query,) = [block for block in examples("sql", path) if "what moved" in block]
    found = duckdb.execute(query).fetchall()
    assert found == [
        (3, 0, "numa_misplaced", 7),
        (0, 0, "compaction", 3),
        (3, 3, "compaction", 2),
        (0, 3, "syscall", 1),
    ]


def test_the_examples_in_python(path: Path) -> None:
    names: dict[str, Any] = {}
    for block in examples("python", path):
        exec(block, names)
    assert names["totals"]["N0"].tolist() == [7, 5, 4, 5, 5]
    assert sorted(names["moved"]["pages"].drop_nulls()) == [1, 2, 3]

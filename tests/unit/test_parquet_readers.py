"""A recording in the hands of others: pandas, DuckDB and polars read it without this package, types and units as
documented, and the documented SQL says what the interface says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pytest

import tracer
from tests.unit.recordings import spaced, with_policies, write_recording
from tests.unit.snapshots import REASONS, TIME, details, faults, flows, regions, sample, snapshot, vma
from tracer.model.cause import Cause
from tracer.model.policies import PolicyChange
from tracer.model.policy import Mode, Policy
from tracer.model.sample import Sample
from tracer.model.snapshot import Snapshot, Trust
from tracer.model.vma import Kind
from tracer.record.recorder import Recorder
from tracer.record.rotation import Rotation
from tracer.record.schema import Info

DOCS = Path(__file__).resolve().parents[2] / "docs" / "recording.md"
BASE = 0x7F0000000000
TABLE = vma(BASE, 16, policy=Policy(Mode.INTERLEAVE, nodes=(0, 1)))
ODD = vma(BASE + (1 << 22), 4, kind=Kind.FILE, path=b"/tmp/\xff = 'x'\\012")
HUGE = vma(BASE + (1 << 30), 1024, kind=Kind.FILE, path=b"/dev/hugepages/x", hugetlb=True, page_kb=2048)
OTHER = vma(BASE + (1 << 31), 8, kind=Kind.HEAP, path=b"[heap]")
SET = PolicyChange(TIME, True, 42, TABLE.start, TABLE.end, None, TABLE.policy, "mbind")


def shot(vmas: list[Any], pages: list[tuple[int, int]], **fields: Any) -> Snapshot:
    full = details([(1, 2, 3, 4, 5, 6)] * len(vmas))
    spans = regions([(TABLE.start, 1, 2)] if vmas else [])
    plain = snapshot(vmas, pages, details=full, regions=spans, **{"flows": flows(), "faults": faults(), **fields})
    return with_policies(plain, [(0, 0, 1, Cause.MOVED, 1, 1)], changes=(SET,))


def story() -> list[Sample]:
    """What a recording has to tell: changes, what is unmapped, an exec, an exit, and a sample with nobody left."""
    both = shot([TABLE, ODD, HUGE], [(8, 0), (3, 1), (0, 2)]), shot([TABLE, OTHER], [(5, 5), (1, 0)], pid=43)
    moved = replace(
        shot([TABLE, HUGE], [(4, 4), (0, 2)], trust=Trust(1, 2, 3, 4, 0.5)),
        flows=flows([(0, 0, 1, 1, 4, 0), (-1, 1, 0, 2, 7, 1)]),
        faults=faults([(1, 1, 0, 1, 0, 2)]),
    )
    last_words = replace(both[1], faults=faults([(1, 0, 0, 0, 43, 6)]))
    # A process that called exec: another address space under the same PID, with a VMA at the same address.
    executed = shot([OTHER], [(2, 2)], pid=43, comm=b"new")
    # And one that nobody could look at any more: its VMAs are not known.
    unseen = snapshot(flows=flows(), faults=faults([(-1, 1, 0, 1, 0, 2)]))
    return spaced(
        [
            sample(*both),
            sample(moved, both[1]),
            sample(moved, executed, ended=(last_words,), untraced=2),
            sample(executed, ended=(unseen,)),
            sample(ended=(executed,)),
        ],
        seconds=0.5,
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("readers") / "x.parquet"
    write_recording(file, story())
    return file


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as it:
        it.execute("SET TimeZone = 'UTC'")
        yield it


TYPES: dict[str, tuple[str, Any]] = {
    "timestamp[us, tz=UTC]": ("TIMESTAMP WITH TIME ZONE", pl.Datetime("us", "UTC")),
    "string": ("VARCHAR", pl.String),
    "binary": ("BLOB", pl.Binary),
    "bool": ("BOOLEAN", pl.Boolean),
    "double": ("DOUBLE", pl.Float64),
    "int8": ("TINYINT", pl.Int8),
    "int32": ("INTEGER", pl.Int32),
    "int64": ("BIGINT", pl.Int64),
    "uint64": ("UBIGINT", pl.UInt64),
}
"""What the documentation calls a type, and what DuckDB and polars do."""


def documented_types(heading: str) -> dict[str, str]:
    """Column or field -> type, from the first table after these words of docs/recording.md."""
    table = DOCS.read_text().partition(heading)[2].partition("\n|")[2].partition("\n\n")[0]
    columns = dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", table, re.MULTILINE))
    assert columns
    return columns


def documented_columns() -> dict[str, str]:
    columns = documented_types("## Columns")
    return columns | {"N1": columns["N0"]}


LISTS = ("flows", "faults", "misplaced", "threads", "policy_changes", "pressure")
POLICY = ("policy", "mode", "flags", "nodes")
"""Fields of a struct, which are documented where a thread has them."""


def struct(name: str) -> dict[str, str]:
    """Field -> type of what the elements of this column are, or of a policy that changed."""
    fields = documented_types(f"An element of `{name if name in LISTS else 'threads'}`")
    return fields if name in LISTS else {field: fields[field] for field in POLICY}


def in_duckdb(name: str, kind: str) -> str:
    if kind.startswith("list<"):
        return in_duckdb(name, kind[5:-1]) + "[]"
    if kind != "struct":
        return TYPES[kind][0]
    return f"STRUCT({', '.join(f'{field} {in_duckdb(field, it)}' for field, it in struct(name).items())})"


def in_polars(name: str, kind: str) -> Any:
    if kind.startswith("list<"):
        return pl.List(in_polars(name, kind[5:-1]))
    if kind != "struct":
        return TYPES[kind][1]
    return pl.Struct({field: in_polars(field, it) for field, it in struct(name).items()})


def test_duckdb_sees_the_documented_types(path: Path, connection: duckdb.DuckDBPyConnection) -> None:
    described = connection.execute("DESCRIBE SELECT * FROM read_parquet(?)", [str(path)]).fetchall()
    seen = {name: kind.replace('"', "") for name, kind, *_ in described}
    assert seen == {name: in_duckdb(name, kind) for name, kind in documented_columns().items()}


def test_polars_sees_the_documented_types(path: Path) -> None:
    expected = {name: in_polars(name, kind) for name, kind in documented_columns().items()}
    assert dict(pl.read_parquet_schema(path)) == expected
    assert pl.read_parquet(path).height == pl.scan_parquet(path).collect().height > 0


def test_pandas_sees_the_documented_types(path: Path) -> None:
    rows = pd.read_parquet(path)
    assert set(rows.columns) == set(documented_columns())
    assert isinstance(rows["time"].dtype, pd.DatetimeTZDtype)
    assert str(rows["time"].dtype.tz) == "UTC"
    assert rows["key"].dtype == bool
    assert set(rows["event"].map(type)) == {str}
    vmas = rows[rows["event"] == "vma"]
    # Columns that do not apply to every event have gaps, and so are reals; addresses below 2**53 survive it.
    assert vmas["start"].astype("int64").tolist()[0] == TABLE.start
    assert vmas.dropna(subset="flows")["flows"].iloc[0].tolist() == [
        {"source": 0, "destination": 1, "reason": REASONS[1], "pages": 4, "failed": 0}
    ]
    assert vmas["misplaced"].iloc[0].tolist() == [
        {"cause": "moved", "reason": REASONS[1], "node": 0, "expected": 1, "pages": 1}
    ]
    (change,) = rows.dropna(subset="policy_changes")["policy_changes"].iloc[0]
    assert (change["old"], change["new"]["policy"]) == (None, "interleave:0-1")


def test_times_are_utc_and_one_per_sample(path: Path, connection: duckdb.DuckDBPyConnection) -> None:
    expected = [it.time for it in story()]
    assert expected[0] == TIME
    assert sorted(set(pd.read_parquet(path)["time"])) == expected
    assert pl.read_parquet(path)["time"].unique().sort().to_list() == expected
    asked = connection.execute("SELECT DISTINCT epoch_us(time) FROM read_parquet(?) ORDER BY 1", [str(path)]).fetchall()
    zero = datetime(1970, 1, 1, tzinfo=UTC)
    assert [zero + timedelta(microseconds=us) for (us,) in asked] == expected


def test_names_are_text_and_bytes_where_text_is_not_exact(path: Path) -> None:
    rows = pl.read_parquet(path).filter((pl.col("event") == "vma") & pl.col("name_raw").is_not_null())
    assert rows["name"].unique().to_list() == ["/tmp/\\xff = 'x'\\012"]
    assert rows["name_raw"].unique().to_list() == [ODD.path]


def test_units(path: Path, connection: duckdb.DuckDBPyConnection) -> None:
    """Pages of page_kb KiB, bytes of addresses, nanoseconds of CPU, seconds of age."""
    huge = pl.read_parquet(path).filter(pl.col("huge")).row(0, named=True)
    assert (huge["end"] - huge["start"], huge["pages"] * huge["page_kb"]) == (4 << 20, 4096)
    query = "SELECT cpu_ns, oldest_read_s, pages FROM read_parquet(?) WHERE event = 'target' AND settling = 1"
    assert connection.execute(query, [str(path)]).fetchall()[0] == (1_234_567, 0.5, 10)


# --- the same in SQL ---


def documented(language: str, begin: str, path: Path) -> str:
    """The example of docs/recording.md that begins so, with the path of a recording."""
    blocks: list[str] = re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (block,) = [block for block in blocks if block.startswith(begin)]
    assert "run.parquet" in block
    return block.replace("run.parquet", str(path))


def placements_by_sql(query: str, moment: datetime, connection: duckdb.DuckDBPyConnection) -> list[tuple[Any, ...]]:
    return connection.execute(query, {"moment": moment}).fetchall()


def placements_by_api(recording: tracer.Recorded, index: int) -> list[tuple[Any, ...]]:
    frame = recording.vmas(at=index).sort_values(["pid", "start"])
    columns = ["pid", "start", "name", "policy", "pages", *(f"N{node}" for node in recording.node_ids)]
    return list(frame[columns].itertuples(index=False, name=None))


def test_the_documented_sql_is_the_placement_at_each_moment(path: Path, connection: duckdb.DuckDBPyConnection) -> None:
    query = documented("sql", "-- DuckDB: the placement", path)
    with tracer.open(path) as recording:
        counts = []
        for index, one in enumerate(story()):
            expected = placements_by_api(recording, index)
            assert placements_by_sql(query, one.time, connection) == expected
            assert placements_by_sql(query, one.time + timedelta(milliseconds=300), connection) == expected
            counts.append(len(expected))
    assert counts == [5, 4, 3, 1, 0]


def test_the_documented_totals_in_pandas(path: Path) -> None:
    names: dict[str, Any] = {}
    exec(documented("python", "import pandas", path), names)
    by_time = names["totals"].groupby("time")["N0"].sum()
    with tracer.open(path) as recording:
        totals = recording.totals()["N0"]
    assert by_time.tolist() == totals[: len(by_time)].tolist() == [17, 10, 6, 2]


def test_the_documented_flows(path: Path, connection: duckdb.DuckDBPyConnection) -> None:
    found = connection.execute(documented("sql", "-- DuckDB: what moved", path)).fetchall()
    with tracer.open(path) as recording:
        flows = recording.flows()
    sums = flows.groupby(["source", "destination", "reason"])["pages"].sum().sort_values(ascending=False)
    assert found == list(sums.reset_index().itertuples(index=False, name=None))
    names: dict[str, Any] = {}
    exec(documented("python", "import polars", path), names)
    moved = names["moved"]
    assert moved["reason"].to_list() == flows[flows["start"] >= 0]["reason"].tolist()


# --- many files ---


@pytest.fixture(scope="module")
def rotated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Sample]]:
    """Files of an hour each, over midnight, and what is in them."""
    directory = tmp_path_factory.mktemp("rotated") / "out"
    first = sample(shot([TABLE, ODD], [(8, 0), (3, 1)]))
    begun = replace(first, time=datetime(2025, 3, 1, 21, 30, tzinfo=UTC))
    samples = spaced([begun, *[first] * 7, *story()], seconds=1200)
    info = Info(host="a b/c", node_ids=(0, 1), details=True, flows=True, faults=True, regions=True, reasons=REASONS)
    recorder = Recorder(str(directory), info, rotate=Rotation(seconds=3600))
    for one in samples:
        recorder.write(one)
    assert recorder.close().files > 3
    return directory, samples


def test_a_directory_is_one_data_set(rotated: tuple[Path, list[Sample]], connection: duckdb.DuckDBPyConnection) -> None:
    directory, samples = rotated
    pattern = str(directory / "**" / "*.parquet")
    query = "SELECT host, CAST(date AS VARCHAR), count(DISTINCT time) FROM read_parquet(?, hive_partitioning = true) "
    by_duckdb = connection.execute(query + "GROUP BY ALL ORDER BY ALL", [pattern]).fetchall()
    days = [one.time.date().isoformat() for one in samples]
    assert by_duckdb == [("a b/c", day, days.count(day)) for day in sorted(set(days))]
    assert len(by_duckdb) == 2
    by_pandas = pd.read_parquet(directory)
    assert by_pandas["time"].nunique() == len(samples)
    assert set(by_pandas["date"].astype(str)) == set(days)
    by_polars = pl.scan_parquet(pattern, hive_partitioning=True).select("time", "host", "date").collect()
    assert by_polars["time"].n_unique() == len(samples)
    assert by_polars["host"].unique().to_list() == ["a b/c"]


def test_a_directory_is_opened_as_one_recording(rotated: tuple[Path, list[Sample]]) -> None:
    directory, samples = rotated
    with tracer.open(directory) as recording:
        assert recording.times.tolist() == [pd.Timestamp(one.time) for one in samples]
        assert recording.totals()["N0"].tolist() == [one.totals[0] for one in samples]
        assert recording.flows()["pages"].sum() == sum(
            int(it.flows.pages.sum()) for one in samples for it in (*one.ended, *one.snapshots) if it.flows
        )
        for index in (0, 4, 7, 9, len(samples) - 1):
            assert recording.vmas(at=index)["pages"].sum() == samples[index].totals.sum()


def test_the_documented_sql_reads_a_directory(
    rotated: tuple[Path, list[Sample]], connection: duckdb.DuckDBPyConnection
) -> None:
    directory, samples = rotated
    query = documented("sql", "-- DuckDB: the placement", directory / "**" / "*.parquet")
    for one in samples:
        pages = sum(row[4] for row in placements_by_sql(query, one.time, connection))
        assert pages == one.totals.sum()

"""Where recordings may go, what they are called, and what becomes of several: rotation, two recorders, old files."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas
import polars
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from tests.unit.snapshots import sample, snapshot, vma
from tracer.errors import NumatraceError, UsageError
from tracer.model.sample import Sample
from tracer.record import hidden
from tracer.record import recorder as module
from tracer.record.claim import Claim, claim
from tracer.record.place import Folder, Owner, caller
from tracer.record.recorder import Recorder, Written
from tracer.record.recording import open_recording
from tracer.record.recover import recover
from tracer.record.rotation import Rotation
from tracer.record.schema import METADATA_KEY, Info

INFO = Info(node_ids=(0, 1), host="here")
HEAP = vma(path=b"[heap]")
NOON = datetime(2025, 3, 1, 12, 0, 0, tzinfo=UTC)


def at(time: datetime, pages: int = 1) -> Sample:
    return sample(snapshot([HEAP], [(pages, 0)], time=time), time=time)


def write(recorder: Recorder, *times: datetime) -> None:
    for index, time in enumerate(times):
        recorder.write(at(time, index + 1))


def record(path: Path, *times: datetime, force: bool = False, rotate: Rotation | None = None) -> Written:
    recorder = Recorder(str(path), INFO, force, rotate)
    write(recorder, *times)
    return recorder.close("done")


def abandon(recorder: Recorder) -> None:
    """As if it had been killed: the lock is free, and everything else as it was."""
    assert recorder._spool is not None
    recorder._spool.close()
    recorder._claim.close()


def tree(path: Path) -> list[str]:
    return sorted(str(it.relative_to(path)) for it in path.rglob("*") if not it.is_dir())


# --- names that are refused, before anything is there ---


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("-", "cannot go to standard output"),
        ("", "cannot go to standard output"),
        ("x", "does not end in .parquet"),
        ("x.csv", "does not end in .parquet"),
        (".parquet", "does not end in .parquet"),
        ("folder", "is a directory"),
        ("folder/", "is a directory"),
        ("new.parquet/", "is a directory"),
    ],
)
def test_names_that_no_recording_can_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=message):
        claim(name)
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none/x.parquet", "there is no directory none"),
        ("file/x.parquet", "Not a directory"),
        ("link.parquet", "is a symbolic link"),
        ("dangling.parquet", "is a symbolic link"),
        ("fifo.parquet", "is there and no file"),
        ("n" * 250 + ".parquet", "File name too long"),
    ],
)
def test_places_where_none_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str, force: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link.parquet").symlink_to("file")
    (tmp_path / "dangling.parquet").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo.parquet")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(NumatraceError, match=message):
        claim(name, force)
    assert sorted(os.listdir(tmp_path)) == before
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("kind", ["link", "dangling", "file", "open"])
def test_a_spool_that_somebody_else_laid_there_is_refused(tmp_path: Path, kind: str) -> None:
    spool = tmp_path / ".x.parquet.numatrace"
    trap = tmp_path / "trap"
    if kind == "link":
        trap.mkdir()
        spool.symlink_to(trap)
    elif kind == "dangling":
        spool.symlink_to(trap)
    elif kind == "file":
        spool.write_text("mine")
    else:
        spool.mkdir()
        spool.chmod(0o777)
    with pytest.raises(NumatraceError, match="cannot record to"):
        claim(str(tmp_path / "x.parquet"))
    with pytest.raises(NumatraceError, match="cannot recover"):
        recover(str(tmp_path / "x.parquet"))
    (tmp_path / "x.parquet").write_bytes(b"old")
    note = recover(str(tmp_path / "x.parquet"))
    assert note is not None, "what is there can be read"
    assert "is not looked at" in note
    assert not trap.exists() or not os.listdir(trap)


@pytest.mark.parametrize("name", ["lock", "data", "live-000001", "ballast"])
def test_links_inside_the_spool_lead_nowhere(tmp_path: Path, name: str) -> None:
    """Somebody who may write there lays a link where a file will be made."""
    victim = tmp_path / "victim"
    victim.write_text("kept")
    spool = tmp_path / ".x.parquet.numatrace"
    spool.mkdir(0o700)
    (spool / name).symlink_to(victim)
    try:
        record(tmp_path / "x.parquet", NOON)
    except (NumatraceError, OSError):
        assert name in ("lock", "data")
    assert victim.read_text() == "kept"


def test_a_second_name_of_a_file_elsewhere_is_not_written_to(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    recorder = Recorder(str(tmp_path / "x.parquet"), INFO)
    write(recorder, NOON)
    abandon(recorder)
    spool = tmp_path / ".x.parquet.numatrace"
    (spool / "live-000001").unlink()
    os.link(victim, spool / "live-000001")
    with pytest.raises(NumatraceError, match="not a file of its directory's owner"):
        recover(str(tmp_path / "x.parquet"))
    assert victim.read_text() == "kept"


# --- who owns what ---


def test_only_the_owner_can_read_it_whatever_the_umask_is(tmp_path: Path) -> None:
    before = os.umask(0o277)
    try:
        recorder = Recorder(str(tmp_path / "x.parquet"), INFO)
        write(recorder, NOON)
        spool = tmp_path / ".x.parquet.numatrace"
        modes = {it.name: stat.S_IMODE(it.stat().st_mode) for it in (spool, *spool.iterdir())}
        recorder.close()
        rotated = record(tmp_path / "many", NOON, rotate=Rotation(seconds=3600))
    finally:
        os.umask(before)
    assert modes.pop(spool.name) == 0o700
    assert set(modes) == {"lock", "data", "live-000001", "ballast"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE((tmp_path / "x.parquet").stat().st_mode) == 0o600
    assert rotated.files == 1
    for it in (tmp_path / "many", *(tmp_path / "many").rglob("*")):
        assert stat.S_IMODE(it.stat().st_mode) == (0o700 if it.is_dir() else 0o600)


def test_the_caller_of_sudo_is_believed_only_by_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert caller({}) is None
    assert caller({"SUDO_UID": "0", "SUDO_GID": "0"}) is None
    assert caller({"SUDO_UID": "1000", "SUDO_GID": "100"}) == Owner(1000, 100)
    for wrong in ({"SUDO_UID": "me", "SUDO_GID": "1"}, {"SUDO_UID": "1"}, {"SUDO_UID": "-1", "SUDO_GID": "1"}):
        with pytest.raises(NumatraceError, match="cannot tell whose the recording is"):
            caller(wrong)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert caller({"SUDO_UID": "me"}) is None


# --- files that are there already ---


def test_a_file_that_is_there_is_replaced_only_when_told_to_and_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"old")
    with pytest.raises(NumatraceError, match="exists") as error:
        Recorder(str(path), INFO)
    assert "-f" in error.value.hint
    recorder = Recorder(str(path), INFO, force=True)
    write(recorder, NOON)
    assert path.read_bytes() == b"old"
    assert recorder.close() == Written(str(path), 1, 3, path.stat().st_size, 0.0, 1)
    assert pq.read_table(path).num_rows == 3


def test_a_recording_without_a_sample_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"old")
    assert Recorder(str(path), INFO, force=True).close() == Written(str(path), 0, 0, 0, 0.0, 0)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.parquet"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("what", ["file", "folder", "link"])
def test_what_was_put_there_meanwhile(tmp_path: Path, what: str, force: bool) -> None:
    path, other = tmp_path / "x.parquet", tmp_path / "other"
    other.write_bytes(b"kept")
    recorder = Recorder(str(path), INFO, force)
    write(recorder, NOON)
    if what == "file":
        path.write_bytes(b"new")
    elif what == "folder":
        path.mkdir()
    else:
        path.symlink_to(other)
    written = recorder.close()
    assert other.read_bytes() == b"kept"
    beside = not force or what == "folder"
    assert written.path == str(tmp_path / ("x_2.parquet" if beside else "x.parquet"))
    assert pq.read_table(written.path).num_rows == 3
    assert not os.path.islink(written.path)
    if beside and what == "file":
        assert path.read_bytes() == b"new"


def test_where_no_links_can_be_made_it_is_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    recorder = Recorder(str(tmp_path / "x.parquet"), INFO)
    write(recorder, NOON)
    (tmp_path / "x.parquet").write_bytes(b"new")
    assert recorder.close().path == str(tmp_path / "x_2.parquet")
    assert sorted(os.listdir(tmp_path)) == ["x.parquet", "x_2.parquet"]
    assert (tmp_path / "x.parquet").read_bytes() == b"new"


# --- two at a time, and one after a dead one ---


def test_one_recorder_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"old")
    recorder = Recorder(str(path), INFO, force=True)
    write(recorder, NOON)
    for attempt in (lambda: Recorder(str(path), INFO, True), lambda: recover(str(path)), lambda: open_recording(path)):
        with pytest.raises(NumatraceError, match=f"still being recorded by process {os.getpid()}"):
            attempt()
    write(recorder, NOON + timedelta(seconds=1))
    assert recorder.close().samples == 2
    assert recover(str(path)) is None


def test_one_recorder_at_a_time_in_a_directory_and_its_finished_files_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "many"
    recorder = Recorder(str(path), INFO, rotate=Rotation(seconds=1800))
    write(recorder, *half_hours(3))
    with pytest.raises(NumatraceError, match=f"still being recorded by process {os.getpid()}"):
        Recorder(str(path), INFO, rotate=Rotation(seconds=1800))
    note = recover(str(path))
    assert note is not None
    assert note.endswith("; what is in finished files can be read")
    with open_recording(path) as it:
        assert len(it) == 2
    assert recorder.close().samples == 3


def test_a_directory_that_vanishes_just_when_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its recorder had finished between the two steps."""
    spool = tmp_path / ".x.parquet.numatrace"
    left = 2

    def lock(path: str, folder: Folder, real: Any = hidden._lock) -> int:
        nonlocal left
        fd: int = real(path, folder)
        if left:
            left -= 1
            (spool / "lock").unlink()
            if left:
                spool.rmdir()
        return fd

    monkeypatch.setattr(hidden, "_lock", lock)
    recorder = Recorder(str(tmp_path / "x.parquet"), INFO)
    assert left == 0
    assert sorted(os.listdir(spool)) == ["ballast", "lock"]
    write(recorder, NOON)
    assert recorder.close().files == 1


def test_what_a_dead_recorder_left_is_recovered_before_the_next_begins(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    recorder = Recorder(str(path), INFO)
    write(recorder, NOON)
    abandon(recorder)
    with pytest.raises(NumatraceError, match="left unfinished"):
        claim(str(path))
    with pytest.raises(NumatraceError, match="exists"):
        Recorder(str(path), INFO)
    with open_recording(path) as it:
        assert len(it) == 1
        assert not it.info.complete
        assert it.info.ended_by == "the recorder was killed"


@pytest.mark.parametrize("force", [False, True])
def test_recovery_replaces_an_old_file_where_the_recorder_would_have(tmp_path: Path, force: bool) -> None:
    path = tmp_path / "x.parquet"
    recorder = Recorder(str(path), INFO, force)
    write(recorder, NOON, NOON + timedelta(seconds=5))
    path.write_bytes(b"old")
    abandon(recorder)
    note = recover(str(path))
    assert note is not None
    assert "recovered 2 samples up to 2025-03-01T12:00:05Z" in note
    assert ("as x_2.parquet, because x.parquet was there" in note) == (not force)
    assert sorted(os.listdir(tmp_path)) == (["x.parquet"] if force else ["x.parquet", "x_2.parquet"])
    assert (path.read_bytes() == b"old") == (not force)


def test_a_recorder_that_was_killed_before_its_first_sample_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"old")
    claimed: Claim = claim(str(path), replace=True)
    claimed.close()
    assert os.listdir(tmp_path / ".x.parquet.numatrace")
    assert recover(str(path)) is None
    assert os.listdir(tmp_path) == ["x.parquet"]
    assert path.read_bytes() == b"old"


# --- rotation ---


@pytest.mark.parametrize(
    ("text", "rotation"),
    [
        ("30m", Rotation(seconds=1800)),
        ("1h", Rotation(seconds=3600)),
        ("1.5h", Rotation(seconds=5400)),
        ("1d", Rotation(seconds=86_400)),
        ("90s", Rotation(seconds=90)),
        ("100MB", Rotation(bytes=100_000_000)),
        ("1gib", Rotation(bytes=1 << 30)),
        ("100kB", Rotation(bytes=100_000)),
    ],
)
def test_when_to_rotate(text: str, rotation: Rotation) -> None:
    assert Rotation.parse(text) == rotation


@pytest.mark.parametrize(
    "text", ["", "1", "h", "1 h", "-1h", "0h", "0.5s", "1H", "1w", "999d", "1KB", "1e3h", "\u0661h", "1h\n"]
)
def test_what_is_no_rotation(text: str) -> None:
    with pytest.raises(ValueError, match="neither a time"):
        Rotation.parse(text)


def half_hours(count: int) -> Iterator[datetime]:
    """From 22:30 on, so that a day begins between them."""
    begin = datetime(2025, 3, 1, 22, 30, 0, tzinfo=UTC)
    yield from (begin + timedelta(minutes=30 * index) for index in range(count))


def test_a_file_for_each_hour_and_day_each_complete(tmp_path: Path) -> None:
    path = tmp_path / "many"
    written = record(path, *half_hours(5), rotate=Rotation(seconds=7200))
    files = [
        "host=here/date=2025-03-01/223000.parquet",
        "host=here/date=2025-03-02/000000.parquet",
    ]
    assert tree(path) == files
    assert written == Written(str(path), 5, written.rows, sum((path / it).stat().st_size for it in files), 7200.0, 2)
    for name, reason in zip(files, ("rotation", "done"), strict=True):
        table = pq.read_table(path / name, partitioning=None)
        assert table.column("key")[0].as_py(), "it can be read by itself"
        info = Info.from_json(pq.read_schema(path / name).metadata[METADATA_KEY])
        assert (info.complete, info.ended_by) == (True, reason)
    with open_recording(path) as it:
        assert [it.time(index) for index in range(len(it))] == list(half_hours(5))
        assert [it.at(index).snapshots[0].pages.tolist() for index in range(5)] == [
            [[pages, 0]] for pages in range(1, 6)
        ]


def test_a_day_is_a_file_whatever_the_rotation(tmp_path: Path) -> None:
    record(tmp_path / "many", *half_hours(4), rotate=Rotation(bytes=10**9))
    assert [it.split("/")[1] for it in tree(tmp_path / "many")] == ["date=2025-03-01", "date=2025-03-02"]


def test_rotation_by_size(tmp_path: Path) -> None:
    times = [NOON + timedelta(seconds=index // 20, microseconds=index) for index in range(60)]
    written = record(tmp_path / "many", *times, rotate=Rotation(bytes=3000))
    names = [it.split("/")[2] for it in tree(tmp_path / "many")]
    assert written.files == len(names)
    assert 3 < len(names) < 40
    assert any("_2" in name for name in names), "two in one second"
    with open_recording(tmp_path / "many") as it:
        assert [it.time(index) for index in range(len(it))] == times


def test_rotated_files_are_one_table_for_everybody_also_while_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "many"
    recorder = Recorder(str(path), INFO, rotate=Rotation(seconds=1800))
    times = list(half_hours(6))
    write(recorder, *times)
    for done in (5, 6):
        expected = {"here": 1}, {"2025-03-01", "2025-03-02"}, set(times[:done])
        frame = pandas.read_parquet(path)
        assert ({str(it): 1 for it in frame["host"]}, {str(it) for it in frame["date"]}, set(frame["time"])) == expected
        relation = duckdb.sql(
            f"select distinct host, date, time from read_parquet('{path}/**/*.parquet', hive_partitioning=true)"
        )
        assert relation is not None
        rows = relation.fetchall()
        assert {str(row[1]) for row in rows} == expected[1]
        assert len({row[2] for row in rows}) == done
        lazy = polars.scan_parquet(path, hive_partitioning=True).select("host", "date", "time").collect()
        assert set(lazy["host"]) == {"here"}
        assert lazy["time"].n_unique() == done
        dataset = pyarrow.dataset.dataset(path, partitioning="hive")
        assert set(dataset.to_table().column("time").to_pylist()) == expected[2]
        if done == 5:
            recorder.close()


def test_a_host_of_any_name_is_one_directory(tmp_path: Path) -> None:
    for host, name in (
        ("a/../b=c d", "host=a%2F..%2Fb%3Dc%20d"),
        ("", "host=unknown"),
        ("ä.example", "host=%C3%A4.example"),
    ):
        path = tmp_path / str(len(os.listdir(tmp_path)))
        recorder = Recorder(str(path), Info(node_ids=(0, 1), host=host), rotate=Rotation(seconds=3600))
        write(recorder, NOON)
        recorder.close()
        assert os.listdir(path) == [name]
        if host:
            assert set(pandas.read_parquet(path)["host"]) == {host}


def test_a_rotated_recording_is_recovered_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "many"
    times = list(half_hours(6))
    recorder = Recorder(str(path), INFO, rotate=Rotation(seconds=3600))
    write(recorder, *times[:4])
    abandon(recorder)
    note = recover(f"{path}/")
    assert note is not None
    assert "recovered 1 sample up to 2025-03-02T00:00:00Z" in note
    assert recover(str(path)) is None
    record(path, *times[4:], rotate=Rotation(seconds=3600))
    with open_recording(path) as it:
        assert [it.time(index) for index in range(len(it))] == times
    assert os.listdir(tmp_path) == ["many"]
    assert os.listdir(path) == ["host=here"]


@pytest.mark.parametrize("why", ["no room beside it", "another disk", "here"])
def test_where_the_spool_cannot_be_beside_a_directory_it_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    path = tmp_path / "many"
    path.mkdir()
    output = "." if why == "here" else str(path)
    monkeypatch.chdir(path)
    if why == "no room beside it":

        def refuse(self: Folder, name: str, real: Any = Folder.make_folder) -> Folder:
            if name == ".many.numatrace":
                raise PermissionError(errno.EACCES, "Permission denied")
            return real(self, name)  # type: ignore[no-any-return]

        monkeypatch.setattr(Folder, "make_folder", refuse)
    elif why == "another disk":
        real = Folder.status
        root = os.stat("/dev")
        monkeypatch.setattr(
            Folder,
            "status",
            lambda self, name="": root if (it := real(self, name)).st_ino == tmp_path.stat().st_ino else it,
        )
    recorder = Recorder(output, INFO, rotate=Rotation(seconds=3600))
    write(recorder, NOON)
    assert os.listdir(tmp_path) == ["many"]
    assert os.listdir(path) == [".spool.numatrace"] or sorted(os.listdir(path)) == [".spool.numatrace", "host=here"]
    assert not [it for it in tree(path) if it.endswith(".parquet")]
    abandon(recorder)
    assert recover(output) is not None
    assert tree(path) == ["host=here/date=2025-03-01/120000.parquet"]


def test_a_directory_that_is_a_file_or_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for name, message in (("file", "is a file, and --rotate makes many"), ("link", "is a symbolic link")):
        with pytest.raises(NumatraceError, match=message):
            claim(str(tmp_path / name), rotated=True)
    assert os.listdir(tmp_path / "real") == []


def test_what_is_in_the_way_of_a_partition_is_an_error_at_once(tmp_path: Path) -> None:
    path = tmp_path / "many"
    (tmp_path / "trap").mkdir()
    path.mkdir()
    (path / "host=here").symlink_to(tmp_path / "trap")
    recorder = Recorder(str(path), INFO, rotate=Rotation(seconds=3600))
    with pytest.raises(NumatraceError, match=r"cannot record to .*Not a directory"):
        recorder.write(at(NOON))
    assert recorder.close().files == 0
    assert os.listdir(tmp_path / "trap") == []
    assert os.listdir(path) == ["host=here"]


def test_nothing_is_open_afterwards(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    record(tmp_path / "x.parquet", NOON)
    record(tmp_path / "many", *half_hours(4), rotate=Rotation(seconds=60))
    abandoned = Recorder(str(tmp_path / "y.parquet"), INFO)
    write(abandoned, NOON)
    abandon(abandoned)
    recover(str(tmp_path / "y.parquet"))
    for wrong in ("x.parquet", "none/x.parquet", "x"):
        with pytest.raises(NumatraceError):
            claim(str(tmp_path / wrong))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_recording_that_is_over_takes_no_more(tmp_path: Path) -> None:
    recorder = Recorder(str(tmp_path / "x.parquet"), INFO)
    write(recorder, NOON)
    assert recorder.close() == recorder.close()
    with pytest.raises(ValueError, match="is over"):
        recorder.write(at(NOON))
    module.prepare()

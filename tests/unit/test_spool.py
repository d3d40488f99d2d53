"""What is on the disk while a recording is written: cut anywhere it is found again, killed anywhere nothing is lost."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unit.snapshots import TIME, sample, snapshot, vma
from tracer.errors import NumatraceError
from tracer.model.sample import Sample
from tracer.record import ballast, live_part, spool
from tracer.record.claim import claim
from tracer.record.live_part import LivePart, read_live
from tracer.record.place import Folder
from tracer.record.recorder import Recorder
from tracer.record.recover import recover
from tracer.record.rows import RowMaker
from tracer.record.schema import METADATA_KEY, Info, arrow_schema
from tracer.record.spool import Sealed, Spool

INFO = Info(node_ids=(0, 1), host="here")
VMAS = [vma(0x1000000 * (row + 1), path=f"/lib/{row}.so".encode()) for row in range(20)]


def samples(count: int, first: int = 0) -> Iterator[Sample]:
    """Of one target, a second apart; in each the pages of one more VMA have changed."""
    pages = np.zeros((len(VMAS), 2), np.int64)
    for index in range(first + count):
        pages = pages.copy()
        pages[index % len(VMAS), index % 2] += index + 1
        time = TIME + timedelta(seconds=index)
        if index >= first:
            yield sample(snapshot(VMAS, pages.tolist(), time=time), time=time)


def batches(count: int) -> list[Any]:
    maker = RowMaker(INFO)
    return [maker.batch(it) for it in samples(count)]


def table(count: int) -> pa.Table:
    return pa.Table.from_batches(batches(count), arrow_schema(INFO))


def times(path: Path) -> list[int]:
    """Seconds of each sample since the first one that `samples` gives."""
    column = pq.read_table(path, columns=["time"]).column("time").to_pylist()
    return sorted({round((time - TIME).total_seconds()) for time in column})


def info_of(path: Path) -> Info:
    return Info.from_json(pq.read_schema(path).metadata[METADATA_KEY])


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory in memory: there it costs no time to wait for the disk, some hundred times."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        yield Path(path)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    with Folder(os.open(tmp_path, os.O_RDONLY), None) as it:
        yield it


# --- the live part ---


@pytest.fixture
def written(folder: Folder, tmp_path: Path) -> tuple[bytes, list[int], list[Any]]:
    """A live part of four samples with its end, the length up to each sample, and their batches."""
    given = batches(4)
    live = LivePart(folder, 1, arrow_schema(INFO))
    lengths = []
    for batch in given:
        live.append(batch)
        lengths.append(live.bytes)
    live.end("all over")
    live.close()
    return (tmp_path / "live-000001").read_bytes(), lengths, given


def read(tmp_path: Path, data: bytes) -> live_part.LiveRows:
    path = tmp_path / "cut"
    path.write_bytes(data)
    with path.open("rb") as file:
        return read_live(file.fileno())


def test_a_live_part_comes_back_with_its_end(tmp_path: Path, written: Any) -> None:
    data, _, given = written
    found = read(tmp_path, data)
    assert found.info == INFO
    assert found.batches == given
    assert found.ended_by == "all over"


def test_where_files_cannot_be_mapped_it_is_read(tmp_path: Path, written: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(mmap, "mmap", refuse)
    data, _, given = written
    assert read(tmp_path, data).batches == given


def test_of_a_live_part_that_was_cut_the_whole_samples_come_back(tmp_path: Path, written: Any) -> None:
    data, lengths, given = written
    cuts = {*range(0, len(data), 61), *(length + by for length in lengths for by in (-9, -8, -1, 0, 1, 4, 8, 9))}
    for cut in sorted(cuts):
        found = read(tmp_path, data[:cut])
        assert found.batches == given[: sum(length <= cut for length in lengths)], cut
        assert found.ended_by is None, "an end that is not whole is none"


@pytest.mark.parametrize("rubbish", [b"\0" * 5000, b"\1" * 5000, b"\xff" * 5000, bytes(range(256)) * 9])
def test_what_never_reached_the_disk_is_dropped(tmp_path: Path, written: Any, rubbish: bytes) -> None:
    data, lengths, given = written
    # Behind the second sample, and in the third one: as after a power failure.
    for at in (lengths[1], lengths[1] + 700, lengths[2] - 900):
        found = read(tmp_path, data[:at] + rubbish)
        assert found.batches == given[:2]
        assert found.ended_by is None


def test_no_changed_byte_is_believed(tmp_path: Path, written: Any) -> None:
    data, lengths, given = written
    for at in range(lengths[0], len(data), 97):
        found = read(tmp_path, data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        assert found.batches == given[: sum(length <= at for length in lengths)], at
        assert found.ended_by is None


def test_what_somebody_made_up_is_not_believed_either(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = batches(1)
    for number, (kind, message) in enumerate(
        (
            (b"rows", b"nonsense"),
            (b"rows", arrow_schema(INFO).serialize()),
            (b"end ", b"{}"),
            (b"head", b""),
            (b"what", b""),
        )
    ):
        live = LivePart(folder, number, arrow_schema(INFO))
        live.append(given[0])
        live._write(kind, message)
        found = read_live(live.fd)
        assert (found.batches, found.ended_by) == (given, None)
        live.close()


def test_a_write_that_was_cut_short_leaves_what_was_there(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = batches(3)
    live = LivePart(folder, 1, arrow_schema(INFO))
    live.append(given[0])

    def short(fd: int, data: memoryview, offset: int, real: Callable[..., int] = os.pwrite) -> int:
        if offset > live.bytes + 100:
            raise OSError(errno.ENOSPC, "full")
        return real(fd, data[:64], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", short)
        with pytest.raises(OSError, match="full"):
            live.append(given[1])
    assert (tmp_path / "live-000001").stat().st_size == live.bytes
    live.append(given[1])
    live.end("")
    found = read_live(live.fd)
    assert found.batches == given[:2]
    assert found.ended_by == ""
    live.close()


def test_data_goes_to_the_disk_once_a_second_and_less_often_where_that_is_slow(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, synced, cost = 0.0, [], 0.0

    def sync(fd: int) -> None:
        nonlocal now
        synced.append(round(now, 3))
        now += cost

    monkeypatch.setattr(os, "fdatasync", sync)
    live = LivePart(folder, 1, arrow_schema(INFO), clock=lambda: now)
    (batch,) = batches(1)
    for tenth in range(31):
        now = tenth / 10
        live.append(batch)
    assert synced == [0, 1, 2, 3]
    cost = 0.05  # a hundredth of the time between two
    for second in range(4, 20):
        now = float(second)
        live.append(batch)
    assert synced == [0, 1, 2, 3, 4, 10, 16]
    live.close()


# --- sealed parts ---


def test_a_file_of_many_sealed_parts_is_like_one_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "ROW_GROUP", 30)
    path = tmp_path / "x.parquet"
    recorder = Recorder(str(path), INFO)
    for it in samples(200):
        recorder.write(it)
    written = recorder.close("done")
    assert os.listdir(tmp_path) == ["x.parquet"]
    assert pq.read_table(path).equals(table(200))
    assert info_of(path).complete
    assert info_of(path).ended_by == "done"
    about = pq.read_metadata(path)
    assert (written.samples, written.rows, written.files) == (200, about.num_rows, 1)
    assert written.bytes == path.stat().st_size
    assert about.num_row_groups > 10
    groups = [about.row_group(index) for index in range(about.num_row_groups)]
    assert all(group.num_rows <= 80 for group in groups)
    ranges = [(it.column(0).statistics.min, it.column(0).statistics.max) for it in groups]
    assert all(before[1] <= after[0] for before, after in pairwise(ranges)), "time can be sought"


def test_other_readers_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "ROW_GROUP", 30)
    path = tmp_path / "x.parquet"
    recorder = Recorder(str(path), INFO)
    for it in samples(50):
        recorder.write(it)
    recorder.close()
    expected = sum(value for value in table(50).column("N1").to_pylist() if value)
    late = TIME + timedelta(seconds=45)

    def ask(question: str) -> Any:
        answer = duckdb.sql(question)
        assert answer is not None
        return answer.fetchall()

    assert expected
    assert pandas.read_parquet(path)["N1"].sum() == expected
    assert ask(f"select sum(N1) from '{path}'") == [(expected,)]
    assert ask(f"select count(distinct time) from '{path}' where time >= '{late}'") == [(5,)]
    assert polars.read_parquet(path)["N1"].sum() == expected
    assert pq.read_table(path, filters=[("time", ">=", late)]).num_rows == sum(it.num_rows for it in batches(50)[45:])


def test_parts_are_sealed_by_rows_by_size_and_by_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(live_part.LivePart, "age", property(lambda self: now))
    for limit, value in (("ROW_GROUP", 40), ("_SEAL_BYTES", 30_000), ("_SEAL_S", 100.0)):
        with monkeypatch.context() as patch:
            patch.setattr(spool, limit, value)
            with claim(str(tmp_path / f"{limit}.parquet")) as claimed:
                it = Spool(claimed, INFO)
                now = 0.0
                numbers = []
                for batch in batches(12):
                    now += 20.0
                    it.append(batch)
                    numbers.append(len(it.sealed.parts))
                assert numbers[0] == 0, limit
                assert 1 <= numbers[-1] < 10, limit
                it.close()


def test_row_groups_are_about_even(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "ROW_GROUP", 9)  # the first sample alone has 22 rows
    recorder = Recorder(str(tmp_path / "x.parquet"), INFO)
    recorder.write(next(samples(1)))
    recorder.close()
    about = pq.read_metadata(tmp_path / "x.parquet")
    assert [about.row_group(index).num_rows for index in range(about.num_row_groups)] == [11, 11]


@pytest.mark.parametrize("name", ["fsync", "unlink"])
def test_sealing_that_was_interrupted_is_done_again_and_not_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """By a second Ctrl-C: behind the step that put down the part's footer, and behind the one after it."""
    path = tmp_path / "x.parquet"
    sealed = tmp_path / ".x.parquet.numatrace" / "sealed-000001"
    recorder = Recorder(str(path), INFO)
    given = list(samples(5))
    for it in given[:3]:
        recorder.write(it)
    real = getattr(os, name)

    def interrupt(*arguments: Any, **more: Any) -> None:
        real(*arguments, **more)
        if sealed.exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, name, interrupt)
        patch.setattr(spool, "ROW_GROUP", 1)
        with pytest.raises(KeyboardInterrupt):
            recorder.write(given[3])
    assert sealed.exists()

    def look(self: Sealed, live: Any, again: Any = Sealed._append_row_groups) -> int:
        assert not sealed.exists(), "it would speak of bytes that are just being written"
        return again(self, live)  # type: ignore[no-any-return]

    monkeypatch.setattr(Sealed, "_append_row_groups", look)
    assert recorder.close().samples == 4
    assert pq.read_table(path).equals(table(4))


# --- killed anywhere ---

STEPS = (
    *("open", "mkdir", "rmdir", "unlink", "rename", "link", "ftruncate", "fsync", "fdatasync", "pwrite", "write"),
    *("fchmod", "posix_fallocate"),
)
"""What changes anything on the disk."""


def killed_at(step: int, work: Callable[[], object]) -> int:
    """Run `work` in another process that is killed before its `step`-th change of the disk. Returns the signal, or 0
    when there were less."""
    pid = os.fork()
    if pid == 0:
        left = step

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **more: Any) -> Any:
                nonlocal left
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                return real(*arguments, **more)

            return call

        code = 1
        try:
            for name in STEPS:
                setattr(os, name, counted(getattr(os, name)))
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0, "the work itself failed"
    return os.WTERMSIG(status)


SAMPLES = 7


def record(path: Path, progress: Path, force: bool) -> None:
    """A recording that is sealed twice; how many samples were written stands in `progress`."""
    recorder = Recorder(str(path), INFO, force)
    with progress.open("wb", buffering=0) as file:
        for it in samples(SAMPLES):
            recorder.write(it)
            file.write(b".")
    recorder.close("done")


@pytest.mark.parametrize("old", [False, True], ids=["new", "over an old file"])
def test_a_recorder_killed_at_any_step_has_lost_nothing(
    memory: Path, monkeypatch: pytest.MonkeyPatch, old: bool
) -> None:
    monkeypatch.setattr(spool, "ROW_GROUP", 26)
    whole = table(SAMPLES)
    seen = set()
    for step in range(1000):
        place = memory / str(step)
        place.mkdir()
        path, progress = place / "x.parquet", memory / f"{step}.progress"
        if old:
            path.write_bytes(b"old")
        killed = killed_at(step, partial(record, path, progress, old))
        done = progress.stat().st_size if progress.exists() else 0
        before = path.read_bytes() if path.exists() else b""
        note = recover(str(path))
        assert os.listdir(place) == (["x.parquet"] if path.exists() else []), step
        if not path.exists() or path.read_bytes() == b"old":
            assert done == 0, step
            assert old == path.exists(), step
            seen.add("nothing")
        else:
            found = pq.read_table(path)
            assert found.equals(whole.slice(0, found.num_rows)), step
            assert len(times(path)) in (done, done + 1), step
            assert (note is None) == (before == path.read_bytes()), step
            seen.add("finished" if info_of(path).complete else "some")
        shutil.rmtree(place)
        if not killed:
            assert note is None
            break
    else:
        pytest.fail("it does not end")
    assert step > 60, "the steps were not counted"
    assert seen == {"nothing", "some", "finished"}


@pytest.mark.parametrize("stop", [SAMPLES - 4, SAMPLES, -1], ids=["in the middle", "before its end", "at its end"])
def test_a_recovery_killed_at_any_step_is_done_again(memory: Path, monkeypatch: pytest.MonkeyPatch, stop: int) -> None:
    monkeypatch.setattr(spool, "ROW_GROUP", 26)
    left = memory / "left"
    left.mkdir()

    def abandon() -> None:
        recorder = Recorder(str(left / "x.parquet"), INFO)
        for it in samples(SAMPLES):
            if it.time == TIME + timedelta(seconds=stop):
                os._exit(0)
            recorder.write(it)
        if stop < 0:
            monkeypatch.setattr(Sealed, "finish", lambda *_: os._exit(0))
            recorder.close("done")
        os._exit(0)

    assert killed_at(1000, abandon) == 0
    count = SAMPLES if stop < 0 else stop
    for step in range(1000):
        place = memory / str(step)
        shutil.copytree(left, place)
        path = place / "x.parquet"
        killed = killed_at(step, partial(recover, str(path)))
        recover(str(path))
        assert os.listdir(place) == ["x.parquet"], step
        assert times(path) == list(range(count)), step
        assert pq.read_table(path).equals(table(count)), step
        assert info_of(path).complete == (stop < 0), step
        shutil.rmtree(place)
        if not killed:
            break
    assert step > 10, "the steps were not counted"


# --- no room ---


@pytest.mark.parametrize("name", ["pwrite", "posix_fallocate", "fdatasync", "fsync", "rename", "open"])
def test_an_error_at_any_step_ends_with_a_recording(memory: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Every call once: it fails that time, and then there is room, because the ballast has gone."""
    monkeypatch.setattr(spool, "ROW_GROUP", 26)
    monkeypatch.setattr(ballast, "_STEP", 4096)
    real = getattr(os, name)
    ended = set()
    for step in range(1000):
        path = memory / f"{step}.parquet"
        left = step

        def fail(*arguments: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left == -1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments, **more)

        recorder = Recorder(str(path), INFO)
        done, error = 0, None
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            try:
                for it in samples(SAMPLES):
                    recorder.write(it)
                    done += 1
            except NumatraceError as failure:
                error = failure
            written = recorder.close("done")
        assert written.files == path.exists() == (written.samples > 0), step
        assert not any("numatrace" in entry for entry in os.listdir(memory)), step
        assert written.samples in (done, done + 1), step
        if path.exists():
            assert times(path) == list(range(written.samples)), step
        if error:
            assert "No space left on device" in error.message
            ended.add("with an error")
        elif left >= 0:
            break
        else:
            ended.add("at the end, unnoticed")
    assert step > 0
    assert ended


def test_where_there_is_no_room_at_all_everything_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.parquet"
    recorder = Recorder(str(path), INFO)
    given = list(samples(4))
    for it in given[:3]:
        recorder.write(it)

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(NumatraceError, match=r"all that was recorded is kept in .*\.x\.parquet\.numatrace"):
            recorder.write(given[3])
        with pytest.raises(NumatraceError, match=r"cannot recover .* No space left on device"):
            recover(str(path))
    assert recorder.close().files == 0
    note = recover(str(path))
    assert note is not None
    assert "recovered 3 samples up to 2025-03-01T12:00:02Z" in note
    assert times(path) == [0, 1, 2]


def test_where_no_space_can_be_promised_it_is_recorded_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    recorder = Recorder(str(tmp_path / "x.parquet"), INFO)
    for it in samples(3):
        recorder.write(it)
    assert recorder.close().samples == 3


def test_the_ballast_is_always_enough_to_finish_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the rows come: what finishing writes is less than what is kept back."""
    monkeypatch.setattr(spool, "ROW_GROUP", 300)
    for count in (1, 5, 40):
        with claim(str(tmp_path / f"{count}.parquet")) as claimed:
            it = Spool(claimed, INFO)
            for batch in batches(count):
                it.append(batch)
            kept = (tmp_path / f".{count}.parquet.numatrace" / "ballast").stat().st_blocks * 512
            before = it.sealed.length
            assert it.finish("") - before + 4096 < kept, count
            it.close()

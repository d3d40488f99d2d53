"""The verb `record` as a process of its own, on real targets: whatever ends it, there is a recording. Needs root."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import random
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tracer.errors import NumatraceError
from tracer.record.claim import claim
from tracer.record.live_part import read_live
from tracer.record.recorder import Recorder
from tracer.record.recording import open_recording
from tracer.record.recover import recover
from tracer.record.schema import Info

ROOT = Path(__file__).resolve().parents[2]
NUMATRACE = (sys.executable, "-m", "tracer.cli.main")
NOBODY = 65534
PATIENCE_S = 30.0

RESTLESS = """
import mmap, time
kept = []
while True:
    area = mmap.mmap(-1, 64 * 4096)
    for page in range(0, len(area), 4096):
        area[page] = 1
    kept = [*kept[-20:], area]
    time.sleep(0.005)
"""
"""A target that maps, touches and unmaps all the time."""


@pytest.fixture(scope="module")
def restless() -> Iterator[int]:
    with running(sys.executable, "-c", RESTLESS) as process:
        yield process.pid


@contextlib.contextmanager
def running(*command: str, **more: object) -> Iterator[subprocess.Popen[str]]:
    """A process that is killed at the end, if it still runs."""
    with subprocess.Popen(command, cwd=ROOT, text=True, **more) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def recording(output: Path, *words: object, **more: object) -> Iterator[subprocess.Popen[str]]:
    """A recorder; what it says is on its pipes."""
    command = [*NUMATRACE, "record", "-o", str(output), *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with running(*command, **(pipes | more)) as process:
        yield process


def spool_of(output: Path) -> Path:
    return output.parent / f".{output.name}.numatrace"


def wait_until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, "it does not come to that"
        time.sleep(0.002)


def wait_for_samples(output: Path, count: int = 2) -> None:
    """Until the first live part has so many."""

    def there() -> bool:
        with contextlib.suppress(OSError), (spool_of(output) / "live-000001").open("rb") as live:
            return len(read_live(live.fileno()).batches) >= count
        return False

    wait_until(there)


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


@dataclass(frozen=True, slots=True)
class Found:
    """What a recording says of itself."""

    samples: int
    complete: bool
    ended_by: str
    last_live: int  # targets in the last sample
    ended: int  # address spaces that came to an end


def read(path: Path) -> Found:
    with open_recording(path) as it:
        every = list(it.samples())
        ended = sum(len(sample.ended) for sample in every)
        return Found(len(it), it.info.complete, it.info.ended_by, len(every[-1].snapshots), ended)


# --- ends in order ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_an_orderly_end(restless: int, tmp_path: Path, number: int) -> None:
    path = tmp_path / "x.parquet"
    with recording(path, "-p", restless, "--every", 0.05) as process:
        wait_for_samples(path)
        process.send_signal(number)
        code, out, err = end(process)
    assert (code, out) == (0, "")
    assert err.startswith("numatrace: recorded ")
    found = read(path)
    assert (found.complete, found.ended_by, found.last_live) == (True, "the user", 1)
    assert found.samples >= 2
    assert os.listdir(tmp_path) == ["x.parquet"]


def test_a_terminal_that_is_closed_is_an_orderly_end(restless: int, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(NUMATRACE[0], [*NUMATRACE, "record", "-o", str(path), "-p", str(restless), "--every", "0.05"])
    wait_for_samples(path)
    seen = os.read(terminal, 65536)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert b"  pages N0=" in seen, "the line that tells how far it is"
    assert read(path).complete


def test_the_end_of_the_target_is_an_orderly_end(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    with running("sleep", "60") as target, recording(path, "-p", target.pid, "--every", 0.05) as process:
        wait_for_samples(path)
        target.kill()
        assert end(process)[0] == 0
    found = read(path)
    assert (found.complete, found.ended_by, found.last_live, found.ended) == (True, "the targets ended", 0, 1)


def test_a_target_that_executes_another_program_is_recorded_on(tmp_path: Path) -> None:
    path, go = tmp_path / "x.parquet", tmp_path / "go"
    script = f"while ! test -e {go}; do sleep 0.01; done; exec sleep 60"
    with running("sh", "-c", script) as target, recording(path, "-p", target.pid, "--every", 0.05) as process:
        wait_for_samples(path)
        go.touch()
        wait_until(lambda: Path(f"/proc/{target.pid}/comm").read_text() == "sleep\n")
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert end(process)[0] == 0
    found = read(path)
    assert (found.complete, found.last_live, found.ended) == (True, 1, 1)
    with open_recording(path) as it:
        assert it.at(0).only.comm == b"sh"
        assert it.at(len(it) - 1).only.comm == b"sleep"


def test_a_duration_is_an_orderly_end(restless: int, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    with recording(path, "-p", restless, "--every", 0.1, "--duration", 0.5, "--format", "json") as process:
        code, out, _ = end(process)
    found = read(path)
    assert (code, found.complete, found.ended_by) == (0, True, "the time was over")
    said = json.loads(out)
    assert (said["samples"], said["bytes"], said["files"]) == (found.samples, path.stat().st_size, 1)
    assert 0.4 < said["seconds"] < 5


@pytest.mark.parametrize(("script", "code"), [("sleep 0.2; exit 7", 7), ("kill -9 $$", 137), ("true", 0)])
def test_the_end_of_a_command_is_an_orderly_end(tmp_path: Path, script: str, code: int) -> None:
    path = tmp_path / "x.parquet"
    with recording(path, "--every", 0.05, "--", "sh", "-c", script) as process:
        assert end(process)[0] == code
    found = read(path)
    assert (found.complete, found.ended_by, found.last_live) == (True, "the targets ended", 0)
    assert found.ended >= 1, "it was seen from its first page on"


def test_an_old_file_is_there_until_the_end(restless: int, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"old")
    with recording(path, "-p", restless, "-q", "-f", "--every", 0.05) as process:
        wait_for_samples(path)
        with recording(path, "-p", restless, "-f") as second:
            code, _, err = end(second)
            assert code == 1
            assert f"still being recorded by process {process.pid}; " in err
        assert path.read_bytes() == b"old"
        process.send_signal(signal.SIGINT)
        assert end(process) == (0, "", "")
    assert read(path).complete


# --- killed ---

NURSERY = """
import os, sys
import pandas, pyarrow.parquet
import tracer.record.recorder, tracer.session
from tracer.cli.main import main
from tracer.record import spool
# Many processes of the same kind: what they import is imported once.
for line in sys.stdin:
    rows, *words = line.split()
    pid = os.fork()
    if not pid:
        os.setsid()
        sys.stdin.close()
        spool.ROW_GROUP = int(rows)
        os._exit(main(words))
    print(pid, flush=True)
"""
KILLED = 100
AT_A_TIME = 4
EVERY_S = 0.05


class Nursery:
    """Starts recorders, each a process of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

        self._turn = threading.Lock()

    def start(self, *words: object) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._turn:
            print(*words, file=self._process.stdin, flush=True)
            return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def spool_content(output: Path) -> tuple[pa.Table, float]:
    """All rows in a spool, and the time of its last sample."""
    spool = spool_of(output)
    parts = sorted(it.name for it in spool.iterdir() if it.name.startswith("sealed-") and "." not in it.name)
    tables, last = [], 0.0
    data = (spool / "data").read_bytes()
    for name in parts:
        said, _, footer = (spool / name).read_bytes().partition(b"\n")
        about = json.loads(said)
        last = about["last"] / 1e6
        tables.append(pq.read_table(pa.BufferReader(data[: about["length"]] + footer[4:])))
    live = spool / f"live-{len(parts) + 1:06}"
    if live.exists():
        with live.open("rb") as file:
            found = read_live(file.fileno())
        if found.last is not None:
            last = found.last / 1e6
            tables.append(pa.Table.from_batches(found.batches))
    return pa.concat_tables(tables), last


def kill_one(nursery_start: Callable[..., int], path: Path, target: int, number: int) -> tuple[float, int, bool]:
    """Returns the seconds that were lost, the samples that came back, and whether the spool had sealed parts."""
    rows = 200 if number % 2 else 65_536
    pid = nursery_start(rows, "record", "-q", "-p", target, "--every", EVERY_S, "-o", path)
    wait_until(lambda: (spool_of(path) / "live-000001").exists() or (spool_of(path) / "live-000002").exists())
    time.sleep(random.Random(number).uniform(0.05, 1.0))
    os.kill(pid, signal.SIGKILL)
    killed = time.time()
    # Its parent does not wait for it.
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "Z")
    content, last = spool_content(path)
    sealed = any(it.name.startswith("sealed-") for it in spool_of(path).iterdir())
    note = recover(str(path))
    assert note is not None
    assert "recovered" in note
    assert pq.read_table(path).equals(content)
    with open_recording(path) as it:
        assert not it.info.complete
        count = len(it)
        assert it.time(count - 1).timestamp() == pytest.approx(last)
    assert os.listdir(path.parent) == [path.name]
    return killed - last, count, sealed


def test_killed_at_a_hundred_random_moments(restless: int, tmp_path: Path) -> None:
    nursery = Nursery()
    begin = time.monotonic()

    def one(number: int) -> tuple[float, int, bool]:
        place = tmp_path / str(number)
        place.mkdir()
        return kill_one(nursery.start, place / "x.parquet", restless, number)

    try:
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            results = list(pool.map(one, range(KILLED)))
    finally:
        nursery.close()
    losses, counts, sealed = zip(*results, strict=True)
    print(
        f"\nkilled {KILLED} times, recovered {len(results)}: lost at most {max(losses):.3f} s, "
        f"{sum(losses) / KILLED:.3f} s on average; {min(counts)} to {max(counts)} samples came back, "
        f"{sum(counts)} in all; {sum(sealed)} had sealed parts; {time.monotonic() - begin:.0f} s"
    )
    assert max(losses) < 1.0
    assert 0 < sum(sealed) < KILLED
    assert sum(counts) > KILLED * 3


def test_the_next_verb_recovers_and_says_so(restless: int, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    with recording(path, "-p", restless, "--every", 0.05) as process:
        wait_for_samples(path)
        process.kill()
        process.wait()
    maps = subprocess.run([*NUMATRACE, "maps", str(path)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "recovered" in maps.stderr
    assert "the recorder was killed" in maps.stderr
    assert "N0=" in maps.stdout
    again = subprocess.run([*NUMATRACE, "maps", str(path)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "recovered" not in again.stderr
    assert again.stdout == maps.stdout


# --- no room ---


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("size", ["400k", "1m", "3m"])
def test_a_full_disk_ends_with_a_recording(restless: int, tmp_path: Path, size: str) -> None:
    with small_disk(tmp_path / "disk", size) as disk:
        path = disk / "x.parquet"
        with recording(path, "-p", restless, "--every", 0.005) as process:
            code, out, err = end(process)
        found = read(path)
        assert os.listdir(disk) == ["x.parquet"]
    (line,) = err.splitlines()
    print(f"\n{size}: {found.samples} samples")
    assert (code, out) == (1, "")
    assert f"cannot go on recording to {path}: No space left on device; the {found.samples} samples up to " in line
    assert (found.complete, found.ended_by) == (True, "No space left on device")
    assert found.samples > 3


def test_a_full_disk_with_a_command(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "400k") as disk:
        path = disk / "x.parquet"
        script = f"import threading, os; threading.Timer(1.5, os._exit, [0]).start()\n{RESTLESS}"
        with recording(path, "--every", 0.005, "--", sys.executable, "-c", script) as process:
            code, _, err = end(process)
        found = read(path)
    assert code == 1, "the command was successful, and the recording was not"
    assert "No space left on device" in err
    assert found.samples > 3


def test_a_disk_that_others_fill_ends_with_a_recording(restless: int, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        path = disk / "x.parquet"
        with recording(path, "-p", restless, "--every", 0.02) as process:
            wait_for_samples(path)
            with contextlib.suppress(OSError), (disk / "fat").open("wb", buffering=0) as fat:
                while True:
                    fat.write(bytes(4096))
            code, _, err = end(process)
        found = read(path)
    assert code == 1
    assert "No space left on device" in err
    assert found.samples >= 2


def test_a_disk_that_is_full_already_runs_no_command(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "100k") as disk:
        with recording(disk / "x.parquet", "--", "touch", tmp_path / "ran") as process:
            code, _, err = end(process)
        assert os.listdir(disk) == []
    assert code == 1
    assert "No space left on device" in err
    assert not (tmp_path / "ran").exists()


# --- whose it is ---


def owners(path: Path) -> set[tuple[int, int, int]]:
    """User, group and mode of everything from `path` down."""
    every = [path, *path.rglob("*")] if path.is_dir() else [path]
    return {(it.stat().st_uid, it.stat().st_gid, stat.S_IMODE(it.stat().st_mode)) for it in every}


def test_under_sudo_it_belongs_to_the_caller(restless: int, tmp_path: Path) -> None:
    environment = os.environ | {"SUDO_UID": str(NOBODY), "SUDO_GID": str(NOBODY)}
    path, many = tmp_path / "x.parquet", tmp_path / "many"
    for output, words in ((path, ()), (many, ("--rotate", "1h"))):
        with recording(output, "-p", restless, "--every", 0.05, *words, env=environment) as process:
            wait_for_samples(output)
            assert owners(spool_of(output)) == {(NOBODY, NOBODY, 0o700), (NOBODY, NOBODY, 0o600)}
            process.send_signal(signal.SIGINT)
            assert end(process)[0] == 0
    assert owners(path) == {(NOBODY, NOBODY, 0o600)}
    assert owners(many) == {(NOBODY, NOBODY, 0o700), (NOBODY, NOBODY, 0o600)}


def test_what_root_recovers_for_somebody_is_his(restless: int, tmp_path: Path) -> None:
    environment = os.environ | {"SUDO_UID": str(NOBODY), "SUDO_GID": str(NOBODY)}
    os.chown(tmp_path, NOBODY, NOBODY)
    path = tmp_path / "x.parquet"
    with recording(path, "-p", restless, "--every", 0.05, env=environment) as process:
        wait_for_samples(path)
        process.kill()
        process.wait()
    assert recover(str(path)) is not None
    assert owners(path) == {(NOBODY, NOBODY, 0o600)}


@pytest.mark.parametrize("what", ["empty", "with data"])
def test_a_spool_of_somebody_else_is_refused(tmp_path: Path, what: str) -> None:
    """As in /tmp: the directory is root's, and everybody may make one there."""
    path = tmp_path / "x.parquet"
    recorder = Recorder(str(path), Info())
    recorder._claim.close()
    if what == "empty":
        for it in spool_of(path).iterdir():
            it.unlink()
    for it in (spool_of(path), *spool_of(path).iterdir()):
        os.chown(it, NOBODY, NOBODY)
    before = owners(spool_of(path))
    with pytest.raises(NumatraceError, match=f"belongs to the user with id {NOBODY}"):
        claim(str(path))
    with pytest.raises(NumatraceError, match=f"belongs to the user with id {NOBODY}"):
        recover(str(path))
    path.write_bytes(b"old")
    assert f"belongs to the user with id {NOBODY}" in str(recover(str(path)))
    assert owners(spool_of(path)) == before


@pytest.mark.parametrize("name", ["data", "live-000001"])
def test_a_file_that_was_not_given_to_its_owner_yet_held_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The recorder was killed between the two steps, and so before it wrote anything there."""
    path = tmp_path / "x.parquet"
    monkeypatch.setenv("SUDO_UID", str(NOBODY))
    monkeypatch.setenv("SUDO_GID", str(NOBODY))
    os.chown(tmp_path, NOBODY, NOBODY)
    claimed = claim(str(path))
    for made in ("data",) if name == "data" else ("data", name):
        os.close(claimed.spool.create(made))
    os.chown(spool_of(path) / name, 0, 0)
    claimed.close()
    assert recover(str(path)) is None
    assert os.listdir(tmp_path) == []


def as_nobody(work: Callable[[], object]) -> int:
    """Exit code of `work`, done by an ordinary user in a process of his own: 0, 1 when it raised
    NumatraceError, 2 for anything else."""
    pid = os.fork()
    if pid == 0:
        code = 2
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            work()
            code = 0
        except NumatraceError:
            code = 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@contextlib.contextmanager
def public() -> Iterator[Path]:
    """A directory that ordinary users come to: those of pytest are root's alone."""
    place = Path(f"/tmp/numatrace-test-{os.getpid()}")
    place.mkdir()
    place.chmod(0o1777)
    try:
        yield place
    finally:
        shutil.rmtree(place)


def test_an_ordinary_user_cannot_take_what_is_roots(restless: int) -> None:
    with public() as place:
        path = place / "x.parquet"
        with recording(path, "-p", restless, "--every", 0.05) as process:
            wait_for_samples(path)
            assert as_nobody(lambda: recover(str(path))) == 1
            assert as_nobody(lambda: claim(str(path))) == 1
            assert as_nobody(lambda: (spool_of(path) / "data").read_bytes()) == 2
            process.send_signal(signal.SIGINT)
            assert end(process)[0] == 0
        assert owners(path) == {(0, 0, 0o600)}


def test_an_ordinary_user_records_his_own_processes_without_hooks() -> None:
    code = textwrap.dedent("""
        import os, sys
        sys.path.insert(0, sys.argv[1])
        from tracer.cli.main import main
        sys.exit(main(["record", "-o", sys.argv[2], "--every", "0.05", "--full", "--", "sleep", "0.3"]))
    """)
    with public() as place, running("true"):
        path = place / "x.parquet"
        command: Sequence[str] = (sys.executable, "-c", code, str(ROOT), str(path))
        done = subprocess.run(
            command, cwd=place, user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "page moves and page faults are not recorded: they are seen by the hooks only" in done.stderr
        assert owners(path) == {(NOBODY, NOBODY, 0o600)}
        found = read(path)
        with open_recording(path) as it:
            assert not it.info.flows
            assert it.at(0).only.hooks == "none"
            assert it.time(0) <= datetime.now(UTC)
    assert found.complete
    assert found.samples >= 2

"""What the command says and does when it cannot do what was asked, or can do it only in a lesser way.

Real processes and the real kernel. Every time: one clear line, the right exit code, no traceback, no BPF program left
behind, and a target that still answers.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kernel.machine import bpf_programs
from tests.kernel.target import ANSWER_SECONDS, Target

ROOT = Path(__file__).resolve().parents[2]
NUMATRACE = [sys.executable, "-m", "tracer.cli.main"]
NOBODY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
FEWER_CAPABILITIES = ["setpriv", "--bounding-set", "-sys_admin,-bpf,-perfmon"]
NO_BPF_CALL = [sys.executable, str(ROOT / "tests/kernel/refuse_bpf.py")]
NO_TRACEFS = [
    "unshare",
    "--mount",
    "sh",
    "-c",
    'umount -l /sys/kernel/debug /sys/kernel/tracing 2>/dev/null; exec "$@"',
    "sh",
]
_DETAIL = re.compile(rb" (anon|dirty|mapped|mapmax|swapcache|active|writeback)=\d+")


@dataclass(frozen=True, slots=True)
class Done:
    """How a run of the command ended. said: standard error, line by line, without the `#` lines of snapshots."""

    code: int
    out: bytes
    said: list[str]


def _run(
    *words: str,
    prefix: Sequence[str] = (),
    meanwhile: Callable[[], None] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Done:
    process = subprocess.Popen(
        [*prefix, *NUMATRACE, *words],
        cwd=ROOT,
        env=os.environ | dict(environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    if meanwhile:
        meanwhile()
    try:
        out, err = process.communicate(timeout=ANSWER_SECONDS)
    finally:
        process.kill()
    text = err.decode("utf-8", "backslashreplace")
    assert "Traceback" not in text, text
    return Done(process.returncode, out, [line for line in text.splitlines() if not line.startswith("# ")])


def _refused(done: Done, code: int, *parts: str) -> None:
    """One line that says what and why, with all `parts`; what to do follows a semicolon. No output."""
    assert (done.code, done.out) == (code, b""), done
    assert len(done.said) == 1, done.said
    (line,) = done.said
    assert re.fullmatch(r"numatrace: [^;]+; .+", line), line
    for part in parts:
        assert part in line


def _as_the_kernel_says(pid: int, done: Done) -> None:
    """It worked: the text is the kernel's, without the fields that only --full prints."""
    assert done.code == 0, done
    assert done.out == _DETAIL.sub(b"", Path(f"/proc/{pid}/numa_maps").read_bytes())


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """No BPF program outlives the test. Others come and go on the machine, so each new one gets time to go."""
    before = bpf_programs()
    yield
    deadline = time.monotonic() + 60
    while left := bpf_programs() - before:
        assert time.monotonic() < deadline, f"BPF programs left: {left}"
        threading.Event().wait(0.1)


@pytest.fixture
def target() -> Iterator[Target]:
    """A process that must not mind being looked at."""
    with Target() as running:
        yield running
        assert int(running.ask("pid")) == running.pid


def _gone() -> int:
    """The PID of a process that is no more."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_no_such_process() -> None:
    pid = _gone()
    _refused(_run("maps", "-p", str(pid)), 1, f"no such process: {pid}")


def test_kernel_thread() -> None:
    pid = next(
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdecimal() and (entry / "comm").read_bytes() == b"kthreadd\n"
    )
    _refused(_run("maps", "-p", str(pid)), 1, f"{pid} (kthreadd)", "kernel thread")


def test_zombie() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    try:
        _refused(_run("maps", "-p", str(process.pid)), 1, str(process.pid), "zombie")
    finally:
        process.wait()


def test_thread_of_a_process() -> None:
    with _second_thread() as thread:
        _refused(_run("maps", "-p", str(thread)), 1, f"{thread} is a thread of process {os.getpid()}")


@contextlib.contextmanager
def _second_thread() -> Iterator[int]:
    """A thread of this process, while the block lasts; gives its id."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    assert thread.native_id is not None
    try:
        yield thread.native_id
    finally:
        end.set()
        thread.join()


@pytest.mark.parametrize("words", [(), ("--hooks", "none")], ids=["hooks", "polling"])
def test_process_that_ends_meanwhile(words: tuple[str, ...]) -> None:
    """Killed at moments spread over a whole run, so also while it is attached and seeded."""
    with Target() as target:
        for _ in range(2):  # the first one may have to compile the programs
            start = time.monotonic()
            assert _run("maps", *words, "-p", str(target.pid)).code == 0
            seconds = time.monotonic() - start
    codes = set()
    for tries, share in enumerate((0.8, 0.6, 0.4, 0.5, 0.3, 0.2, 0.1)):
        if tries >= 3 and 1 in codes:
            break
        with Target() as target:

            def kill_later(victim: Target = target, delay: float = seconds * share) -> None:
                threading.Event().wait(delay)
                victim.kill()

            done = _run("maps", *words, "-p", str(target.pid), meanwhile=kill_later)
        codes.add(done.code)
        if done.code == 0:
            assert done.out
        else:
            _refused(done, 1, str(target.pid))
    assert 1 in codes, "it was never killed in time"


def test_not_root_and_the_process_of_another(target: Target) -> None:
    _refused(_run("maps", "-p", str(target.pid), prefix=NOBODY), 1, "permission", "root")


def test_not_root_and_an_own_process() -> None:
    with Target(prefix=NOBODY) as target:
        done = _run("maps", "-p", str(target.pid), prefix=NOBODY)
        _as_the_kernel_says(target.pid, done)
        assert len(done.said) == 1, done.said
        assert "root" in done.said[0]
        target.ask("pid")


@pytest.mark.parametrize(
    ("words", "parts"), [(("--hooks", "tracepoint"), ("root",)), (("--reader", "pagemap"), ("root",))]
)
def test_not_root_and_more_than_a_user_can_have(words: tuple[str, ...], parts: tuple[str, ...]) -> None:
    with Target(prefix=NOBODY) as target:
        _refused(_run("maps", *words, "-p", str(target.pid), prefix=NOBODY), 1, *parts)


@dataclass(frozen=True, slots=True)
class Lesser:
    """A machine that lacks something. word: what the line must name."""

    word: str
    prefix: tuple[str, ...] = ()
    btf: str = ""


LESSER = {
    "no BTF": Lesser("BTF", btf="/nonexistent"),
    "no capability for BPF": Lesser("BPF", tuple(FEWER_CAPABILITIES)),
    "bpf(2) refused": Lesser("BPF", tuple(NO_BPF_CALL)),
}


def _run_lesser(lesser: Lesser, facts: Path, *words: str) -> Done:
    # Facts about the kernel are kept between runs; a machine without BTF never had any.
    environment = {"NUMATRACE_FACTS": str(facts)}
    if lesser.btf:
        environment["NUMATRACE_BTF"] = lesser.btf
    return _run(*words, prefix=lesser.prefix, environment=environment)


@pytest.mark.parametrize("name", LESSER)
def test_without_bpf_it_polls_and_says_so_in_one_line(name: str, target: Target, tmp_path: Path) -> None:
    done = _run_lesser(LESSER[name], tmp_path, "maps", "-p", str(target.pid))
    _as_the_kernel_says(target.pid, done)
    assert len(done.said) == 1, done.said
    assert LESSER[name].word in done.said[0]


@pytest.mark.parametrize("name", LESSER)
@pytest.mark.parametrize("words", [("--hooks", "tracepoint"), ("--reader", "walk")], ids=" ".join)
def test_without_bpf_what_needs_it_is_refused(
    name: str, words: tuple[str, ...], target: Target, tmp_path: Path
) -> None:
    done = _run_lesser(LESSER[name], tmp_path, "maps", *words, "-p", str(target.pid))
    _refused(done, 1, LESSER[name].word)


def test_without_tracefs_nothing_is_missing(target: Target) -> None:
    """Raw tracepoints are attached by bpf(2), and everything else that is needed is in BTF."""
    done = _run("maps", "-p", str(target.pid), "--hooks", "tracepoint", "--reader", "walk", prefix=NO_TRACEFS)
    _as_the_kernel_says(target.pid, done)
    assert done.said == []


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("maps", "-p", "1", "--frmat", "kernel"), "--frmat"),
        (("maps", "-p", "1", "--format", "xml"), "xml"),
        (("maps", "-p", "1", "--every", "0"), "'0'"),
        (("maps", "-p", "1", "--every", "-1"), "-1"),
        (("maps", "-p", "1", "--count", "0"), "'0'"),
        (("maps", "-p", "1", "--hooks", "kprobe"), "kprobe"),
        (("maps", "-p", "self"), "self"),
        (("maps",), "watch"),
        (("mpas", "-p", "1"), "mpas"),
        ((), "VERB"),
    ],
)
def test_wrong_usage(words: tuple[str, ...], part: str) -> None:
    _refused(_run(*words), 2, part)


def _start(target: Target, *words: str) -> subprocess.Popen[bytes]:
    """A run that goes on and on, after its first line."""
    command = [*NUMATRACE, "maps", "--every", "0.1", *words, "-p", str(target.pid)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().split()[1] == b"default"
    return process


def test_reader_that_closes_after_a_line(target: Target) -> None:
    """As `| head -1` does: no error, and nothing said but the lines of the snapshots."""
    process = _start(target)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    said = process.stderr.read().decode()
    assert process.wait(ANSWER_SECONDS) == 0
    process.stderr.close()
    assert [line for line in said.splitlines() if not line.startswith("# ")] == []


def test_closed_standard_output(target: Target) -> None:
    _refused(_run("maps", "-q", "-p", str(target.pid), prefix=["sh", "-c", 'exec "$@" >&-', "sh"]), 1, "closed")


def test_full_standard_output(target: Target) -> None:
    prefix = ["sh", "-c", 'exec "$@" >/dev/full', "sh"]
    _refused(_run("maps", "-q", "-p", str(target.pid), prefix=prefix), 1, "No space left")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_signals(number: signal.Signals, code: int, target: Target) -> None:
    """However it ends, no program stays (the fixture looks) and the target goes on."""
    process = _start(target, "-q")
    process.send_signal(number)
    _, said = process.communicate(timeout=ANSWER_SECONDS)
    assert (process.returncode, said) == (code, b"")


@pytest.mark.parametrize(("command", "code"), [("exit 7", 7), ("kill -TERM $$", 128 + signal.SIGTERM)])
def test_exit_code_of_a_command(command: str, code: int) -> None:
    done = _run("maps", "--count", "1", "--", "sh", "-c", command)
    assert done.code == code, done
    assert len(done.said) <= 1, done.said


@pytest.mark.parametrize(("path", "code"), [("no-such-command", 127), ("/etc/passwd", 126)])
def test_command_that_cannot_be_started(path: str, code: int) -> None:
    done = _run("maps", "--", path)
    assert (done.code, done.out) == (code, b""), done
    assert len(done.said) == 1, done.said
    assert path in done.said[0]

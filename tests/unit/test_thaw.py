"""The watcher: a process that undoes what was announced to it once we are gone. Files stand for the kernel's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tracer.errors import NumatraceError
from tracer.kernel import thaw as module
from tracer.kernel.procfs import start_time
from tracer.kernel.thaw import FREEZE_V1, FREEZE_V2, Hold, Watcher, thaw


@pytest.fixture
def cgroup(tmp_path: Path) -> Path:
    """A frozen one."""
    (tmp_path / FREEZE_V2).write_text("1")
    (tmp_path / FREEZE_V1).write_text("FROZEN")
    return tmp_path


def frozen(cgroup: Path) -> bool:
    return (cgroup / FREEZE_V2).read_text() == "1"


def wait_for(done: Callable[[], bool]) -> None:
    while not done():
        os.sched_yield()


def test_undone_in_the_words_of_each_hierarchy(cgroup: Path) -> None:
    for switch in (FREEZE_V1, FREEZE_V2):
        thaw(Hold(switch, str(cgroup)))
    assert (cgroup / FREEZE_V1).read_text() == "THAWED"
    assert not frozen(cgroup)


def test_undoing_what_was_never_done_is_harmless(tmp_path: Path) -> None:
    for home in ("", str(tmp_path)):
        thaw(Hold(FREEZE_V2, str(tmp_path / "gone"), home))
    thaw(Hold(pid=os.getpid(), started=1))
    thaw(Hold(pid=2**22 + 1, started=1))


def test_a_stopped_process_goes_on_unless_it_is_another_one() -> None:
    with subprocess.Popen(["sleep", "1000"]) as process:
        started = start_time(process.pid)
        os.kill(process.pid, signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        thaw(Hold(pid=process.pid, started=started + 1))
        assert os.waitid(os.P_PID, process.pid, os.WCONTINUED | os.WNOHANG) is None
        thaw(Hold(pid=process.pid, started=started))
        assert os.waitid(os.P_PID, process.pid, os.WCONTINUED) is not None
        process.kill()


TRACER = """
import sys
from tracer.kernel.procfs import start_time
from tracer.kernel.thaw import Hold, Watcher, FREEZE_V2
watcher = Watcher()
for cgroup in sys.argv[1:]:
    watcher.tell(Hold(FREEZE_V2, cgroup))
print(watcher.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
def test_all_is_undone_after_our_end(number: signal.Signals, tmp_path: Path) -> None:
    cgroups = [tmp_path / name for name in ("one", "two")]
    for it in cgroups:
        it.mkdir()
        (it / FREEZE_V2).write_text("1")
    words = [sys.executable, "-c", TRACER, *map(str, cgroups)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as tracer:
        assert tracer.stdout is not None
        tracer.stdout.readline()
        assert all(frozen(it) for it in cgroups)
        tracer.send_signal(number)
        tracer.wait()
    wait_for(lambda: not any(frozen(it) for it in cgroups))


def test_though_a_child_of_ours_holds_the_pipe_open(cgroup: Path) -> None:
    child = "import os, time\nif not os.fork():\n    os.close(1)\n    time.sleep(1000)\n"
    words = [sys.executable, "-c", TRACER.replace("print(", child + "print("), str(cgroup)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as it:
        assert it.stdout is not None
        it.stdout.readline()
        it.kill()
        it.wait()
        wait_for(lambda: not frozen(cgroup))
        os.killpg(it.pid, signal.SIGKILL)


def test_what_is_undone_already_is_left_alone(cgroup: Path) -> None:
    with Watcher() as watcher:
        watcher.tell(Hold(FREEZE_V2, str(cgroup)))
        watcher.forget()
    assert frozen(cgroup), "the watcher has ended, and had nothing to do"


def test_an_orderly_end_undoes_what_was_not(cgroup: Path) -> None:
    with Watcher() as watcher:
        watcher.tell(Hold(FREEZE_V2, str(cgroup)))
    assert not frozen(cgroup)


def test_nobody_is_held_for_ever(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracer that is stopped itself cannot thaw; the watcher does, and lives on."""
    monkeypatch.setattr(module, "MOST_S", 0.05)
    with Watcher() as watcher:
        watcher.tell(Hold(FREEZE_V2, str(cgroup)))
        wait_for(lambda: not frozen(cgroup))
        (cgroup / FREEZE_V2).write_text("1")
        watcher.tell(Hold(FREEZE_V2, str(cgroup)))
        wait_for(lambda: not frozen(cgroup))


def test_keys_and_requests_to_end_do_not_reach_it(cgroup: Path) -> None:
    with Watcher() as watcher:
        watcher.tell(Hold(FREEZE_V2, str(cgroup)))
        wait_for(lambda: Path(f"/proc/{watcher.pid}/comm").read_text() == "numatrace-thaw\n")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            os.kill(watcher.pid, number)
        assert os.getsid(watcher.pid) == watcher.pid
        opened = {os.readlink(f"/proc/{watcher.pid}/fd/{fd}") for fd in ("0", "1", "2")}
        assert opened == {os.devnull}
        assert frozen(cgroup)


def test_a_watcher_that_is_gone_is_told_of(cgroup: Path) -> None:
    with Watcher() as watcher:
        wait_for(lambda: Path(f"/proc/{watcher.pid}/comm").read_text() == "numatrace-thaw\n")
        os.kill(watcher.pid, signal.SIGKILL)
        os.waitid(os.P_PID, watcher.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(NumatraceError, match="is gone"):
            watcher.tell(Hold(FREEZE_V2, str(cgroup)))

"""Processes found by cgroup and by name, and PIDs in namespaces, on the kernel's own cgroups and /proc."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel import cgroups
from tests.kernel.family import Family
from tests.kernel.target import Target
from tracer.errors import NumatraceError
from tracer.kernel.processes import find_cgroup, matching, members, namespace_pid

NAME = f"nt-{os.getpid()}"
"""Of a process of this run of the tests."""


@contextlib.contextmanager
def running(*command: str | Path, started: str | None = None) -> Iterator[subprocess.Popen[str]]:
    """A command, for a while. It has begun when it has written a line."""
    with subprocess.Popen(command, executable=started, stdin=-1, stdout=-1, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield process
        finally:
            process.kill()


@pytest.fixture
def family() -> Iterator[Family]:
    with Family() as family:
        yield family


@pytest.fixture(params=cgroups.VERSIONS)
def cgroup(request: pytest.FixtureRequest, tmp_path: Path, family: Family) -> Iterator[Path]:
    """An empty cgroup, removed when the family has ended."""
    with cgroups.cgroup(request.param, tmp_path) as cgroup:
        yield cgroup
        family.close()


def test_a_cgroup_is_found_by_its_path_and_by_the_name_that_proc_shows(cgroup: Path, family: Family) -> None:
    child = cgroup / "a b"
    child.mkdir()
    cgroups.enter(child, family.pid)
    shown = {line.split(":", 2)[2] for line in Path(f"/proc/{family.pid}/cgroup").read_text().splitlines()}
    name = f"/{cgroup.name}/a b"
    assert name in shown
    for spelling in (str(child), name, name.removeprefix("/"), f"{name}/"):
        assert find_cgroup(spelling).samefile(child), spelling


def test_what_is_no_cgroup_is_refused(cgroup: Path) -> None:
    with pytest.raises(NumatraceError, match="there is no cgroup"):
        find_cgroup(f"{cgroup.name}/nothing")
    with pytest.raises(NumatraceError, match="is no cgroup"):
        find_cgroup("/proc")


def test_members_come_and_go(cgroup: Path, family: Family) -> None:
    below = cgroup / "below"
    below.mkdir()
    assert members(cgroup) == []
    first, second = family.fork(family.pid, 2)
    cgroups.enter(cgroup, first)
    cgroups.enter(below, second)
    assert members(cgroup) == sorted([first, second])
    assert members(below) == [second]
    (born,) = family.fork(second)
    assert members(below) == sorted([second, born])
    family.ask(born, "exit")
    cgroups.enter(cgroup, family.pid)
    assert members(cgroup) == sorted([family.pid, first, second])
    family.kill(second, signal.SIGKILL)
    cgroups.enter(cgroup, family.pid)
    family.ask(second, "exit")
    assert members(below) == []


def test_a_cgroup_that_is_removed_holds_nobody(cgroup: Path) -> None:
    below = cgroup / "below"
    below.mkdir()
    below.rmdir()
    assert members(below) == []


def test_members_while_children_come_and_go(cgroup: Path, family: Family) -> None:
    (child,) = family.fork(family.pid)
    cgroups.enter(cgroup, child)
    seen = set()
    for _ in range(10):
        words = ("storm", 200, 8, 1)
        family.send(child, *words)
        while family.busy():
            seen |= set(members(cgroup))
        family.receive(child, *words)
    assert child in seen
    assert len(seen) > 1
    assert members(cgroup) == [child]


def test_members_while_cgroups_come_and_go(cgroup: Path, family: Family) -> None:
    script = "import os, sys\nprint(flush=True)\nwhile True:\n os.mkdir(sys.argv[1])\n os.rmdir(sys.argv[1])"
    cgroups.enter(cgroup, family.pid)
    with running(sys.executable, "-c", script, cgroup / "below"):
        # A cgroup is removed now before it is opened, now before it is read, many times each.
        assert all(members(cgroup) == [family.pid] for _ in range(2000))


def test_a_threaded_cgroup_tells_the_processes_of_its_threads(tmp_path: Path) -> None:
    with cgroups.cgroup("v2", tmp_path) as cgroup, Target() as target, contextlib.ExitStack() as stack:
        stack.callback(target.close)
        threaded = cgroup / "threaded"
        threaded.mkdir()
        (threaded / "cgroup.type").write_text("threaded")
        cgroups.enter(cgroup, target.pid)
        target.ask("map", 1, 0, 4096, 3, 0x22, "none", 0)
        thread = int(target.ask("pinned", 1, 0, 4096, min(os.sched_getaffinity(0))))
        (threaded / "cgroup.threads").write_text(str(thread))
        with pytest.raises(OSError, match="not supported"):
            (threaded / "cgroup.procs").read_text()
        assert members(threaded) == [target.pid]
        assert members(cgroup) == [target.pid]


def test_the_root_cgroup_holds_this_process_and_no_kernel_thread() -> None:
    everybody = members(find_cgroup("/"))
    assert os.getpid() in everybody
    assert 2 not in everybody  # kthreadd
    assert everybody == sorted(set(everybody))


IDLE = "echo ready; read line"


def test_a_process_has_the_name_of_its_program_its_command_and_its_first_argument(tmp_path: Path) -> None:
    program = tmp_path / "numatrace-program-of-a-test"
    shutil.copy(shutil.which("sh") or "sh", program)
    with running("/some/where/numatrace-argument", "-c", IDLE, started=str(program)) as process:
        for name in (program.name, program.name[:15], "numatrace-argument", "numatrace-arg*", "*-program-of-a-test"):
            assert matching(name) == [process.pid], name
        assert matching(program.name.upper()) == []
        program.unlink()
        assert matching(program.name) == [process.pid]
    assert matching(program.name) == []


def test_a_name_changed_by_exec_is_seen_even_when_only_the_first_argument_changes() -> None:
    shell = shutil.which("bash")
    assert shell
    with running(shell, "-c", f"echo ready; read line; exec -a {NAME} {shell} -c '{IDLE}'") as process:
        assert matching(NAME) == []
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline()
        assert matching(NAME) == [process.pid]


def test_neither_ourselves_nor_our_ancestors_nor_who_has_no_memory() -> None:
    script = "import os; from tracer.kernel.processes import matching; print(os.getpid(), *matching('*'))"
    with subprocess.Popen(["true"]) as zombie, running("sh", "-c", IDLE) as sibling:
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    own, *found = map(int, output.split())
    assert sibling.pid in found
    assert not {own, os.getpid(), os.getppid(), zombie.pid, 1, 2} & set(found)


def test_a_process_whose_main_thread_has_ended_still_counts() -> None:
    script = f"""
import ctypes, threading, time
open("/proc/self/comm", "w").write("{NAME}")
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
print("ready", flush=True)
ctypes.CDLL(None).syscall(60, 0)  # exit of this thread alone, x86-64
"""
    with running(sys.executable, "-c", script) as process:
        stat = Path(f"/proc/{process.pid}/stat")
        while stat.read_text().rpartition(") ")[2][0] != "Z":
            os.sched_yield()
        assert matching(NAME) == [process.pid]


def test_the_pid_inside_a_pid_namespace() -> None:
    assert namespace_pid(os.getpid()) == int(os.readlink("/proc/thread-self").split("/")[0])
    inner = f"exec -a {NAME} bash -c '{IDLE}; exit'"
    with running("unshare", "--pid", "--fork", "--kill-child", "bash", "-c", inner) as outer:
        (pid,) = matching(NAME)
        assert pid != outer.pid
        assert namespace_pid(pid) == 1
        assert namespace_pid(outer.pid) == outer.pid

"""Cgroups and names of processes in made-up /proc and cgroup trees."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from tracer.errors import NumatraceError
from tracer.kernel.processes import descendants, find_cgroup, matching, members, namespace_pid
from tracer.kernel.procfs import TargetGone

OURSELVES = 50
KERNEL_THREAD = 0x00200000


class FakeProc:
    """A made-up /proc, in which we are process 50, started by sudo (40) from a shell (30)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        (root / "self").symlink_to(str(OURSELVES))
        (root / "sys").mkdir()
        self.process(30, "bash", "/usr/bin/bash")
        self.process(40, "sudo", "/usr/bin/sudo", parent=30)
        self.process(OURSELVES, "numatrace", "/usr/bin/python3", parent=40)
        self.mounts("23 1 0:21 / /proc rw - proc proc rw")

    def process(
        self,
        pid: int,
        comm: str,
        program: str | None,
        arguments: str = "",
        parent: int = 0,
        leader: int = 0,
        namespaces: Sequence[int] = (),
    ) -> None:
        """program: None for who executes none: a kernel thread, a zombie."""
        directory = self.root / str(pid)
        directory.mkdir()
        (directory / "comm").write_text(comm + "\n", errors="surrogateescape")
        (directory / "cmdline").write_text(arguments, errors="surrogateescape")
        inside = "\t".join(map(str, (pid, *namespaces)))
        status = f"Name:\t{comm}\nTgid:\t{leader or pid}\nPid:\t{pid}\nPPid:\t{parent}\nNSpid:\t{inside}\nKthread:\t0\n"
        (directory / "status").write_text(status, errors="surrogateescape")
        (directory / "stat").write_text(f"{pid} (x) S {parent} 1 1 0 -1 {KERNEL_THREAD if program is None else 0} 0")
        (directory / "task" / str(pid)).mkdir(parents=True)
        if program is not None:
            (directory / "exe").symlink_to(program)

    def mounts(self, *lines: str) -> None:
        (self.root / str(OURSELVES) / "mountinfo").write_text("".join(line + "\n" for line in lines))


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path / "proc")


def make_cgroup(directory: Path, *pids: int) -> Path:
    directory.mkdir(parents=True)
    (directory / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
    return directory


def mount_line(point: Path | str, kind: str, options: str, root: str = "/") -> str:
    return f"41 31 0:38 {root} {point} rw,relatime shared:9 - {kind} cgroup {options}"


class TestFindCgroup:
    def test_a_path_is_taken_wherever_it_is_and_links_are_resolved(self, proc: FakeProc, tmp_path: Path) -> None:
        cgroup = make_cgroup(tmp_path / "elsewhere/cpu,cpuacct/a")
        (tmp_path / "elsewhere/cpu").symlink_to("cpu,cpuacct")
        assert find_cgroup(str(tmp_path / "elsewhere/cpu/a/"), proc.root) == cgroup

    @pytest.mark.parametrize("name", ["/system.slice/x.service", "system.slice/x.service", "system.slice/x.service/"])
    def test_a_name_is_looked_for_below_the_mount(self, name: str, proc: FakeProc, tmp_path: Path) -> None:
        proc.mounts(mount_line(tmp_path / "unified", "cgroup2", "rw,nsdelegate"))
        cgroup = make_cgroup(tmp_path / "unified/system.slice/x.service")
        assert find_cgroup(name, proc.root) == cgroup

    def test_the_root_has_a_name_too(self, proc: FakeProc, tmp_path: Path) -> None:
        proc.mounts(mount_line(tmp_path / "unified", "cgroup2", "rw"))
        root = make_cgroup(tmp_path / "unified")
        assert find_cgroup("/", proc.root) == root

    def test_of_several_hierarchies_memory_comes_first_and_the_unified_one_before_the_rest(
        self, proc: FakeProc, tmp_path: Path
    ) -> None:
        kinds = {"systemd": "rw,xattr,name=systemd", "unified": "rw", "cpuset": "rw,cpuset", "memory": "rw,memory"}
        proc.mounts(
            *(
                mount_line(tmp_path / name, "cgroup2" if name == "unified" else "cgroup", options)
                for name, options in kinds.items()
            )
        )
        for name in kinds:
            cgroup = make_cgroup(tmp_path / name / "job")
            assert find_cgroup("job", proc.root) == cgroup

    def test_names_are_relative_to_the_cgroup_that_is_mounted(self, proc: FakeProc, tmp_path: Path) -> None:
        # A container that shares the host's cgroup namespace: its own cgroup is bound to the mount point.
        proc.mounts(mount_line(tmp_path / "unified", "cgroup2", "rw", root="/docker/4711"))
        own = make_cgroup(tmp_path / "unified")
        below = make_cgroup(tmp_path / "unified/docker/4711")
        assert find_cgroup("/docker/4711", proc.root) == own
        assert find_cgroup("/docker/4711/docker/4711", proc.root) == below
        with pytest.raises(NumatraceError, match="there is no cgroup /docker/4712"):
            find_cgroup("/docker/4712", proc.root)

    def test_a_mount_point_may_hold_blanks(self, proc: FakeProc, tmp_path: Path) -> None:
        proc.mounts(mount_line(f"{tmp_path}/my\\040c\\134group", "cgroup2", "rw"))
        cgroup = make_cgroup(tmp_path / "my c\\group/job")
        assert find_cgroup("job", proc.root) == cgroup

    def test_a_mount_from_above_the_namespace_has_no_names(self, proc: FakeProc, tmp_path: Path) -> None:
        proc.mounts(mount_line(tmp_path / "unified", "cgroup2", "rw", root="/.."))
        make_cgroup(tmp_path / "unified/job")
        with pytest.raises(NumatraceError, match="no cgroup file system is mounted"):
            find_cgroup("job", proc.root)

    def test_a_cgroup_that_does_not_exist(self, proc: FakeProc, tmp_path: Path) -> None:
        proc.mounts(mount_line(tmp_path / "unified", "cgroup2", "rw"))
        make_cgroup(tmp_path / "unified")
        with pytest.raises(NumatraceError, match=f"there is no cgroup nothing .*{tmp_path}/unified") as caught:
            find_cgroup("nothing", proc.root)
        assert "/proc/PID/cgroup" in caught.value.hint

    def test_a_directory_that_is_none(self, proc: FakeProc, tmp_path: Path) -> None:
        with pytest.raises(NumatraceError, match=r"is no cgroup: it holds no file cgroup\.procs") as caught:
            find_cgroup(str(tmp_path), proc.root)
        assert caught.value.hint

    def test_a_name_outside_of_the_namespace(self, proc: FakeProc, tmp_path: Path) -> None:
        proc.mounts(mount_line(tmp_path / "unified", "cgroup2", "rw"))
        make_cgroup(tmp_path / "sibling")
        with pytest.raises(NumatraceError, match="outside of this cgroup namespace") as caught:
            find_cgroup("/../sibling", proc.root)
        assert caught.value.hint

    def test_nothing_is_mounted(self, proc: FakeProc) -> None:
        with pytest.raises(NumatraceError, match="no cgroup file system is mounted") as caught:
            find_cgroup("job", proc.root)
        assert "mount -t cgroup2" in caught.value.hint

    @pytest.mark.parametrize("name", ["", "x" * 300, "x\0y"])
    def test_what_can_be_no_name(self, name: str, proc: FakeProc, tmp_path: Path) -> None:
        proc.mounts(mount_line(tmp_path, "cgroup2", "rw"))
        with pytest.raises(NumatraceError):
            find_cgroup(name, proc.root)


class TestMembers:
    def test_of_the_cgroup_and_all_below_once_and_in_order(self, proc: FakeProc, tmp_path: Path) -> None:
        for pid in (7, 8, 100, 900):
            proc.process(pid, "worker", "/usr/bin/worker")
        make_cgroup(tmp_path / "job", 900, 8)
        make_cgroup(tmp_path / "job/a/deep", 100, 8)
        make_cgroup(tmp_path / "job/b", 7)
        make_cgroup(tmp_path / "other", OURSELVES)
        assert members(tmp_path / "job", proc.root) == [7, 8, 100, 900]

    def test_not_who_has_no_memory_is_gone_or_has_no_number_here(self, proc: FakeProc, tmp_path: Path) -> None:
        proc.process(2, "kthreadd", None)
        proc.process(7, "worker", "/usr/bin/worker")
        assert members(make_cgroup(tmp_path / "job", 0, 2, 7, 4000), proc.root) == [7]

    def test_none_of_a_cgroup_that_was_removed(self, proc: FakeProc, tmp_path: Path) -> None:
        assert members(tmp_path / "job", proc.root) == []


class TestMatching:
    @pytest.fixture
    def proc(self, tmp_path: Path) -> FakeProc:
        proc = FakeProc(tmp_path / "proc")
        proc.process(101, "postgres", "/usr/lib/postgresql/15/bin/postgres", "postgres: checkpointer\0")
        proc.process(102, "train.py", "/usr/bin/python3.11", "python3\0./train.py\0")
        proc.process(103, "a-very-long-nam", "/opt/a-very-long-name (deleted)", "/opt/a-very-long-name\0-v\0")
        proc.process(104, "bash", "/usr/bin/bash", "/srv/queue-worker\0")
        proc.process(2, "kworker/0:1", None)
        proc.process(105, "train.py", None)
        proc.process(106, "", "/caf\udce9", "")
        return proc

    @pytest.mark.parametrize(
        ("pattern", "pids"),
        [
            ("postgres", [101]),
            ("post*", [101]),
            ("Post*", []),
            ("postgre", []),
            ("python3*", [102]),
            ("train.??", [102]),
            ("a-very-long-name", [103]),
            ("a-very-long-nam", [103]),
            ("*-v", []),
            ("queue-work[a-f]r", [104]),
            ("bash", [104]),
            ("sudo", []),
            ("kworker*", []),
            ("caf?", [106]),
            ("[z-a]", []),
            ("", []),
            ("*", [101, 102, 103, 104, 106]),
        ],
    )
    def test_names_of_a_process(self, pattern: str, pids: list[int], proc: FakeProc) -> None:
        assert matching(pattern, proc.root) == pids

    def test_an_exec_is_seen_at_the_next_call(self, proc: FakeProc) -> None:
        assert matching("postgres", proc.root) == [101]
        (proc.root / "101/exe").unlink()
        (proc.root / "101/exe").symlink_to("/usr/bin/psql")
        (proc.root / "101/comm").write_text("psql\n")
        (proc.root / "101/cmdline").write_text("psql\0")
        (proc.root / "104/cmdline").write_text("/srv/postgres\0")
        assert matching("postgres", proc.root) == [104]

    def test_to_an_ordinary_user_others_hide_their_programs(
        self, proc: FakeProc, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(path: str | Path) -> str:
            if str(path).endswith("/exe"):
                raise PermissionError(13, "Permission denied")
            return str(OURSELVES)

        monkeypatch.setattr(os, "readlink", refuse)
        assert matching("postgres", proc.root) == [101]
        assert matching("a-very-long-name", proc.root) == [103]
        assert matching("kworker*", proc.root) == []

    def test_a_process_that_ends_while_it_is_looked_at_is_left_out(self, proc: FakeProc) -> None:
        (proc.root / "101/comm").unlink()
        assert matching("*checkpointer", proc.root) == []

    def test_a_proc_in_which_we_are_not_has_no_ancestors_of_ours(self, proc: FakeProc) -> None:
        (proc.root / "self").unlink()
        assert matching("sudo", proc.root) == [40]


class TestDescendants:
    def test_children_and_theirs_of_any_thread(self, proc: FakeProc) -> None:
        for pid, children in {30: "40 ", 40: "50 ", OURSELVES: ""}.items():
            (proc.root / f"{pid}/task/{pid}/children").write_text(children)
        (proc.root / "30/task/31").mkdir()
        (proc.root / "30/task/31/children").write_text("60 4000 ")
        proc.process(60, "a", "/a")
        assert descendants([30], proc.root) == {40, OURSELVES, 60, 4000}
        assert descendants([40], proc.root) == {OURSELVES}
        assert descendants([OURSELVES, 9999], proc.root) == set()


class TestNamespacePid:
    def test_is_the_innermost_number(self, proc: FakeProc) -> None:
        proc.process(7, "a", "/a", namespaces=(31, 1))
        proc.process(8, "NSpid:\t99", "/a")
        assert [namespace_pid(pid, proc.root) for pid in (7, 8)] == [1, 8]

    def test_is_the_pid_on_a_kernel_without_namespaces(self, proc: FakeProc) -> None:
        proc.process(7, "a", "/a")
        (proc.root / "7/status").write_text("Name:\ta\nPid:\t7\n")
        assert namespace_pid(7, proc.root) == 7

    def test_of_nobody(self, proc: FakeProc) -> None:
        with pytest.raises(TargetGone):
            namespace_pid(9999, proc.root)

"""The held command against real processes: identity, exit codes, signals, and that it does not run too early."""

from __future__ import annotations

import json
import os
import pwd
import signal
import sys
from pathlib import Path

import pytest

from tracer.errors import NumatraceError
from tracer.kernel.launch import CommandError, HeldCommand

WHO = """
import json, os
print(json.dumps({"uid": os.getresuid(), "gid": os.getresgid(), "groups": sorted(os.getgroups()),
                  "env": {k: v for k, v in os.environ.items() if k in ("HOME", "USER", "LOGNAME") or "SUDO" in k}}))
"""


def python(code: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-c", code, *arguments)


def test_waits_until_released(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    with HeldCommand(("touch", str(mark))) as command:
        held_name = Path(f"/proc/{command.pid}/comm").read_text()
        own_name = Path("/proc/self/comm").read_text()
        assert command.poll() is None
        assert held_name == own_name, "before release it must still be the fork of this process"
        assert not mark.exists()
        command.release()
        assert command.wait() == 0
    assert mark.exists()


def test_release_returns_after_exec() -> None:
    with HeldCommand(("sleep", "60")) as command:
        command.release()
        try:
            assert Path(f"/proc/{command.pid}/comm").read_text() == "sleep\n"
        finally:
            command.send(signal.SIGKILL)
        assert command.wait() == 128 + signal.SIGKILL


def test_closing_a_held_command_ends_it_unrun(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    descriptors = len(os.listdir("/proc/self/fd"))
    command = HeldCommand(("touch", str(mark)))
    command.close()
    assert not mark.exists()
    assert not Path(f"/proc/{command.pid}").exists()
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_no_descriptor_is_left_open_or_handed_down() -> None:
    descriptors = os.listdir("/proc/self/fd")
    # What whoever started the tests left open for children is not ours to judge.
    inherited = {int(number) for number in descriptors if _is_inheritable(int(number))}
    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, True)
    code = f"import os; os.write({write_end}, ' '.join(os.listdir('/proc/self/fd')).encode())"
    with HeldCommand(python(code)) as command:
        os.close(write_end)
        command.release()
        assert command.wait() == 0
    with open(read_end, "rb") as pipe:
        seen = {int(number) for number in pipe.read().split()}
    assert len(os.listdir("/proc/self/fd")) == len(descriptors)
    # One more is the directory that listdir itself has open.
    assert len(seen - inherited - {write_end}) == 1


def _is_inheritable(descriptor: int) -> bool:
    try:
        return os.get_inheritable(descriptor)
    except OSError:
        return False


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_exit_code(code: int) -> None:
    with HeldCommand(python(f"raise SystemExit({code})")) as command:
        command.release()
        assert command.wait() == code
        assert command.poll() == code, "the code must stay known after the process was reaped"


def test_exit_code_of_a_signal() -> None:
    with HeldCommand(python("import os, signal; os.kill(os.getpid(), signal.SIGTERM)")) as command:
        command.release()
        assert command.wait() == 128 + signal.SIGTERM


def test_killed_while_held() -> None:
    with HeldCommand(("true",)) as command:
        os.kill(command.pid, signal.SIGKILL)
        command.release()
        assert command.wait() == 128 + signal.SIGKILL


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("no-such-command-anywhere", 127, "No such file"),
        ("/no/such/path", 127, "No such file"),
        ("/etc/passwd/x", 127, "Not a directory"),
        ("/etc", 126, "Permission denied"),
        ("/etc/passwd", 126, "Permission denied"),
    ],
)
def test_cannot_exec(name: str, code: int, words: str) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    with HeldCommand((name,)) as command, pytest.raises(CommandError, match=words) as caught:
        command.release()
    assert caught.value.exit_code == code
    assert name in caught.value.message
    assert caught.value.hint
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert not Path(f"/proc/{command.pid}").exists()


def test_script_without_interpreter_line(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("exit 0\n")
    script.chmod(0o755)
    with HeldCommand((str(script),)) as command, pytest.raises(CommandError, match="Exec format error") as caught:
        command.release()
    assert caught.value.exit_code == 126
    assert f"sh {script}" in caught.value.hint


def test_arguments_reach_the_command_as_they_are(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("--", "-p", "a b", "", "\N{SNOWMAN}", "\udcff")
    code = "import os, sys; open(sys.argv[1], 'wb').write(b'|'.join(map(os.fsencode, sys.argv[2:])))"
    with HeldCommand(python(code, str(out), *words)) as command:
        command.release()
        assert command.wait() == 0
    assert out.read_bytes() == b"|".join(map(os.fsencode, words))


def test_signals_are_as_a_shell_would_leave_them(tmp_path: Path) -> None:
    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN, "Python ignores SIGPIPE, the command must not"
    out = tmp_path / "status"
    with HeldCommand(("cp", "/proc/self/status", str(out))) as command:
        command.release()
        assert command.wait() == 0
    status = dict(line.split(":\t", 1) for line in out.read_text().splitlines() if ":\t" in line)
    bits = {number: 1 << (number - 1) for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ)}
    for number, bit in bits.items():
        assert not int(status["SigIgn"], 16) & bit, f"{number!r} is ignored in the command"
        assert not int(status["SigBlk"], 16) & bit, f"{number!r} is blocked in the command"


@pytest.fixture
def caller() -> pwd.struct_passwd:
    """An ordinary user; Debian always has `games`, with a group of its own."""
    assert os.geteuid() == 0, "this test changes identity and needs root"
    return pwd.getpwnam("games")


def run_as_caller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uid: int, gid: int) -> dict[str, object]:
    monkeypatch.setenv("SUDO_UID", str(uid))
    monkeypatch.setenv("SUDO_GID", str(gid))
    monkeypatch.setenv("SUDO_USER", "whoever")
    monkeypatch.setenv("SUDO_COMMAND", "numatrace maps")
    monkeypatch.setenv("HOME", "/root")
    read_end, write_end = os.pipe()
    saved = os.dup(1)
    os.dup2(write_end, 1)
    os.close(write_end)
    try:
        command = HeldCommand(("/usr/bin/python3", "-I", "-c", WHO))
    finally:
        os.dup2(saved, 1)
        os.close(saved)
    with command:
        command.release()
        with open(read_end, "rb") as pipe:
            answer = pipe.read()
        assert command.wait() == 0
    result = json.loads(answer)
    assert isinstance(result, dict)
    return result


def test_under_sudo_runs_as_the_caller(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caller: pwd.struct_passwd
) -> None:
    seen = run_as_caller(monkeypatch, tmp_path, caller.pw_uid, caller.pw_gid)
    assert seen["uid"] == [caller.pw_uid] * 3
    assert seen["gid"] == [caller.pw_gid] * 3
    assert seen["groups"] == sorted(os.getgrouplist(caller.pw_name, caller.pw_gid))
    assert seen["env"] == {"HOME": caller.pw_dir, "USER": caller.pw_name, "LOGNAME": caller.pw_name}
    assert os.geteuid() == 0, "the tracer itself must keep its privilege"


def test_under_sudo_with_an_unknown_uid(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    uid = 60_123
    with pytest.raises(KeyError):
        pwd.getpwuid(uid)
    seen = run_as_caller(monkeypatch, tmp_path, uid, 60_124)
    assert (seen["uid"], seen["gid"], seen["groups"]) == ([uid] * 3, [60_124] * 3, [60_124])


def test_root_calling_sudo_stays_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = run_as_caller(monkeypatch, tmp_path, 0, 0)
    assert seen["uid"] == [0, 0, 0]


@pytest.mark.parametrize(("uid", "gid"), [("games", "60"), ("5", ""), ("-1", "60"), ("5", "6x")])
def test_nonsense_from_sudo_is_refused(monkeypatch: pytest.MonkeyPatch, uid: str, gid: str) -> None:
    monkeypatch.setenv("SUDO_UID", uid)
    monkeypatch.setenv("SUDO_GID", gid)
    with pytest.raises(NumatraceError, match="SUDO_UID"):
        HeldCommand(("true",))

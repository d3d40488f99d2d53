"""A command that is started, but held before its first instruction until the hooks are attached.

The child is a fork that waits on a pipe and then calls exec, so its process id is known, and traced, from the start.
Run under sudo, the command gets the identity of the user who called sudo: root is for tracing only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import signal
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NoReturn, Self

from tracer.errors import NumatraceError

__all__ = ["CommandError", "HeldCommand"]

_NOT_EXECUTABLE = 126
_NOT_FOUND = 127
_SIGNALLED = 128
"""Exit codes as a shell gives them; a command that a signal ended gives 128 and the number of the signal."""

_REPORT = struct.Struct("=Bi")
"""What the child says when it cannot start: stage and errno."""
_STAGE_IDENTITY = 1
_STAGE_EXEC = 2


class CommandError(NumatraceError):
    """The command cannot be started; the exit code is the one that a shell would give."""

    def __init__(self, message: str, hint: str, exit_code: int) -> None:
        super().__init__(message, hint)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class _Identity:
    """Who the command runs as, and the variables that go with it."""

    uid: int
    gid: int
    name: str
    home: str

    def take(self) -> None:
        """Become that user for good. Groups first and uid last: each step needs the privilege the last one drops."""
        if self.name:
            os.initgroups(self.name, self.gid)
        else:
            os.setgroups([self.gid])
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """`base` as the user would have it, without what sudo says about itself."""
        environment = {key: value for key, value in base.items() if not key.startswith("SUDO_")}
        if self.name:
            environment |= {"HOME": self.home, "USER": self.name, "LOGNAME": self.name}
        return environment


def _caller(environment: Mapping[str, str]) -> _Identity | None:
    """The user who called sudo, or None where nobody did (or root did)."""
    uid_text, gid_text = environment.get("SUDO_UID", ""), environment.get("SUDO_GID", "")
    # Only root can change identity; anybody can set these variables, and for anybody else they mean nothing.
    if os.geteuid() != 0 or not uid_text:
        return None
    if not (uid_text.isdecimal() and gid_text.isdecimal()):
        raise NumatraceError(
            f"cannot tell whose command to run: SUDO_UID is {uid_text!r} and SUDO_GID is {gid_text!r}",
            "both must be numbers, as sudo sets them; unset SUDO_UID to run the command as root",
        )
    uid, gid = int(uid_text), int(gid_text)
    if uid == 0:
        return None
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return _Identity(uid, gid, "", "")
    return _Identity(uid, gid, entry.pw_name, entry.pw_dir)


class HeldCommand:
    """A child process that runs `argv` once `release()` is called. Closing it before that ends it unrun.

    pid: its process id, the same before and after exec. Raises NumatraceError if it cannot be forked.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        if not argv:
            raise ValueError("a command needs a name")
        self.argv = tuple(argv)
        self._code: int | None = None
        identity = _caller(os.environ)
        environment = identity.environment(os.environ) if identity else dict(os.environ)
        # os.pipe() makes close-on-exec ends: exec closes the child's end of `report`, which is how success shows.
        go_read, self._go = os.pipe()
        self._report, report_write = os.pipe()
        try:
            self.pid = os.fork()
        except OSError as error:
            for descriptor in (go_read, self._go, self._report, report_write):
                os.close(descriptor)
            raise NumatraceError(f"cannot start a process for {argv[0]}: {error.strerror}", "end some others") from None
        if self.pid == 0:
            # The child must not hold the writing end of `go`: it could not see that its parent is gone.
            os.close(self._go)
            _run(self.argv, environment, identity, go_read, report_write)
        os.close(go_read)
        os.close(report_write)
        self._held = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def release(self) -> None:
        """Let it run. Returns when exec has happened, so that the process has its new address space.

        Raises CommandError where exec failed: exit code 127 for a command that is not found, otherwise 126.
        """
        if not self._held:
            return
        self._held = False
        try:
            os.write(self._go, b"\n")
        except BrokenPipeError:
            pass  # killed while it was held; the report is then empty, and its exit code tells the rest
        finally:
            os.close(self._go)
        with open(self._report, "rb") as pipe:
            report = pipe.read()
        if len(report) == _REPORT.size:
            self.wait()
            stage, number = _REPORT.unpack(report)
            raise self._failure(stage, number)

    def _failure(self, stage: int, number: int) -> CommandError:
        name, why = self.argv[0], os.strerror(number)
        if stage == _STAGE_IDENTITY:
            return CommandError(
                f"cannot run {name} as the user who called sudo: {why}", "unset SUDO_UID to run it as root", 1
            )
        if number in (errno.ENOENT, errno.ENOTDIR):
            return CommandError(
                f"cannot run {name}: {why}", "check the spelling, or give the whole path: sudo changes PATH", _NOT_FOUND
            )
        if number == errno.ENOEXEC:
            hint = f"a script needs a first line such as #!/bin/sh, or: -- sh {name}"
        else:
            hint = "it must be a file that this user may execute; see ls -l"
        return CommandError(f"cannot run {name}: {why}", hint, _NOT_EXECUTABLE)

    def poll(self) -> int | None:
        """The exit code, or None while it runs (or is held)."""
        return self._reap(os.WNOHANG)

    def wait(self) -> int:
        """Wait for its end; the exit code as a shell gives it."""
        code = self._reap(0)
        assert code is not None
        return code

    def _reap(self, options: int) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self.pid, options)
            if pid == self.pid:
                code = os.waitstatus_to_exitcode(status)
                self._code = _SIGNALLED - code if code < 0 else code
        return self._code

    def send(self, signal_number: int) -> None:
        """Pass a signal on to the command, unless it has ended. May be called from a signal handler.

        It does not reap: the handler may have interrupted `wait()`, which would then find no child. A process that
        has ended but was not reaped keeps its id, so the signal cannot reach another one.
        """
        if self._code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal_number)

    def close(self) -> None:
        """End it if it is still held; a command that was released is left alone."""
        if not self._held:
            return
        self._held = False
        os.close(self._go)
        os.close(self._report)
        self.wait()


def _run(
    argv: Sequence[str], environment: Mapping[str, str], identity: _Identity | None, go: int, report: int
) -> NoReturn:
    """The child: wait for the word, then become the command. Never returns, whatever happens."""
    stage = _STAGE_IDENTITY
    try:
        _restore_signals()
        if os.read(go, 1):
            if identity:
                identity.take()
            stage = _STAGE_EXEC
            os.execvpe(argv[0], list(argv), environment)
    except OSError as error:
        os.write(report, _REPORT.pack(stage, error.errno or 0))
    except BaseException:
        # No other way out: this is a copy of the whole tracer, and nothing of it may run twice.
        os._exit(_NOT_EXECUTABLE)
    os._exit(_NOT_FOUND)


def _restore_signals() -> None:
    """Python's own settings, which exec would hand down: it handles SIGINT and ignores SIGPIPE and SIGXFSZ.

    A signal that was ignored before Python started (nohup does that) stays ignored, as it would in a shell.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)

"""The one error type that a user is meant to see.

Everything that can go wrong for a reason outside the program (no such process, no permission, a kernel
that refuses BPF) is raised as `NumatraceError` and printed once, in `tracer.cli.main`. A traceback is a bug.
"""

from __future__ import annotations

__all__ = ["HooksMissing", "NumatraceError", "UsageError"]


class NumatraceError(Exception):
    """Could not do it: one line saying what and why, one hint saying what to do, and the exit code 1."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if hint:  # Python prints it below the message where nobody catches the error: a notebook
            self.add_note(hint)


class UsageError(NumatraceError):
    """The command line cannot be understood: exit code 2."""

    exit_code = 2


class HooksMissing(NumatraceError):
    """What was asked for is told by the BPF hooks only, and they cannot be used here."""

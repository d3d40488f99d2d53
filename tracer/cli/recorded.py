"""Recordings as the verbs open them: says what was recovered, and asks whether what is wanted was recorded."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tracer.cli.messages import note
from tracer.errors import NumatraceError

if TYPE_CHECKING:
    from tracer.record.recording import Recording

__all__ = ["is_recording", "open_file"]

_MAGIC = b"PAR1"
"""The first bytes of every parquet file."""


def is_recording(text: str) -> bool:
    """Whether a word of the command line is meant as a recording: by its name, or because there is one.

    Only a glance: what is wrong with it `open_file` says.
    """
    if text.endswith(".parquet") or os.path.isdir(text):
        return True
    try:
        with open(text, "rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except (OSError, ValueError):
        return False


def open_file(path: str, quiet: bool = False) -> Recording:
    """The recording at `path`, a file or a rotated directory; a context manager.

    What a recorder that was killed left behind is made readable first, which a note says unless quiet.
    NumatraceError where it is no recording, or still being written.
    """
    try:
        from tracer.record.recording import open_recording
        from tracer.record.recover import recover
    except ImportError as error:
        raise NumatraceError(f"cannot read recordings: {error}", "pip install pyarrow") from None

    recovered = recover(path)
    if recovered and not quiet:
        note(recovered)
    return open_recording(path)

"""Recordings as the verbs read them: opened with a word about what was recovered, and the part that was asked for."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from tracer.cli.messages import note
from tracer.cli.progress import Progress
from tracer.errors import NumatraceError, UsageError
from tracer.model.moments import parse_moment

if TYPE_CHECKING:
    from tracer.model.sample import Sample
    from tracer.model.snapshot import Snapshot
    from tracer.record.recording import Recording

__all__ = ["Beat", "Chosen", "is_recording", "open_file", "span_of"]

_MAGIC = b"PAR1"
"""The first bytes of every parquet file."""
_LOOKS = 3
"""How many of the last samples are looked at one by one for a live target: most recordings end with their target."""
_MOST_NAMED = 8


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
    NumatraceError where it is no recording, has no samples, or is still being written.
    """
    try:
        from tracer.record.recording import open_recording
        from tracer.record.recover import recover
    except ImportError as error:
        raise NumatraceError(f"cannot read recordings: {error}", "pip install pyarrow") from None

    recovered = recover(path)
    if recovered and not quiet:
        note(recovered)
    try:
        return open_recording(path)
    except NumatraceError as error:
        if error.hint or os.path.lexists(path):
            raise
        raise NumatraceError(error.message, "give what numatrace record wrote; a command goes after --") from None


def span_of(arguments: Namespace, recording: Recording) -> tuple[int | None, int]:
    """Indices of the samples that --from and --to mean. None without --from: all, also what was before the first."""
    first = None if arguments.first is None else parse_moment(arguments.first, recording)
    last = len(recording) - 1 if arguments.last is None else parse_moment(arguments.last, recording)
    if first is not None and first > last:
        raise UsageError("--from lies after --to", "exchange them")
    return first, last


class Beat:
    """Which of the samples of a recording are due when one is wanted every so many seconds.

    The times of samples are a little off the beat they were taken on, so the next one to it counts.
    """

    def __init__(self, start_s: float, every_s: float, recorded_every_s: float) -> None:
        """start_s: when beat 0 is. recorded_every_s: seconds between samples."""
        self._start = start_s - min(every_s, recorded_every_s) / 2
        self._every = every_s
        self._last = 0

    def due(self, time_s: float) -> bool:
        """Whether a beat came, other than beat 0, since this was asked before."""
        beat = int((time_s - self._start) // self._every)
        came = beat > self._last
        self._last = max(beat, self._last)
        return came


class Chosen:
    """The targets of a recording that -p and --name choose; all of them without.

    NumatraceError for a PID or a name that the recording has not.
    """

    def __init__(self, recording: Recording, arguments: Namespace, any_will_do: bool = False) -> None:
        """any_will_do: one of the PIDs is enough, because the others may be in another recording."""
        self._recording = recording
        self._pids = frozenset(arguments.pid)
        self._name: str = arguments.name or ""
        self._all = not (self._pids or self._name)
        self._targets: dict[int, set[str]] | None = None
        if not self._all:
            self._check(any_will_do)

    @property
    def several(self) -> bool:
        """Whether there may be more than one target, so that an output has to tell them apart as a live one does."""
        if self._all and self._recorded_several:
            return True
        return bool(self._name) or len(self._pids or self._known()) > 1

    @property
    def open_ended(self) -> bool:
        """Whether a sample without any target is worth showing."""
        return bool(self._name) or (self._all and self._recorded_with("--cgroup", "--name"))

    @property
    def _recorded_several(self) -> bool:
        return self._recorded_with("--follow-forks", "--cgroup", "--name")

    def _recorded_with(self, *options: str) -> bool:
        words = list(self._recording.info.command_line)
        ours = words[: words.index("--")] if "--" in words else words
        return any(word.partition("=")[0] in options for word in ours)

    def _known(self) -> dict[int, set[str]]:
        """PIDs of all targets of the recording, with the names they had."""
        if self._targets is None:
            table = self._recording.rows("target", "ended", columns=("pid", "comm"))
            self._targets = {}
            for pid, comm in zip(*(table.column(name).to_pylist() for name in ("pid", "comm")), strict=True):
                self._targets.setdefault(pid, set()).add(comm or "")
        return self._targets

    def _check(self, any_will_do: bool) -> None:
        known = self._known()
        missing = sorted(self._pids - known.keys())
        if missing and not (any_will_do and self._pids & known.keys()):
            raise NumatraceError(f"process {missing[0]} is not in the recording", f"it has {self._listed()}")
        if self._name and not any(self._is_named(comm) for names in known.values() for comm in names):
            raise NumatraceError(
                f"no process with a name like {self._name} is in the recording", f"it has {self._listed()}"
            )

    def _listed(self) -> str:
        known = self._known()
        shown = [f"{pid} ({', '.join(sorted(known[pid]))})" for pid in sorted(known)[:_MOST_NAMED]]
        return ", ".join(shown) + (f" and {len(known) - _MOST_NAMED} more" if len(known) > _MOST_NAMED else "")

    def _is_named(self, comm: str) -> bool:
        from fnmatch import fnmatchcase

        return bool(self._name) and fnmatchcase(comm, self._name)

    def _has(self, snapshot: Snapshot) -> bool:
        from tracer.render.paths import text_name

        return snapshot.pid in self._pids or self._is_named(text_name(snapshot.comm))

    def of(self, sample: Sample) -> Sample:
        """The sample with these targets only."""
        if self._all:
            return sample
        snapshots, ended = (tuple(filter(self._has, them)) for them in (sample.snapshots, sample.ended))
        return replace(sample, snapshots=snapshots, ended=ended)

    def at(self, index: int) -> Sample:
        """One sample of the recording."""
        return self.of(self._recording.at(index))

    def samples(self, first: int, last: int, progress: Progress | None = None) -> Iterator[Sample]:
        """Those of the recording, in order, the last one included. progress: says how far it is."""
        try:
            for number, sample in enumerate(self._recording.samples(first, last)):
                if progress is not None:
                    progress("reading", number, last - first + 1)
                yield self.of(sample)
        finally:
            if progress is not None:
                progress.clear()

    def last_alive(self) -> int:
        """Index of the last sample with a live target. NumatraceError where there was none at any time."""
        count = len(self._recording)
        for index in range(count - 1, max(count - 1 - _LOOKS, -1), -1):
            if self.at(index).snapshots:
                return index
        table = self._recording.rows("target", columns=("time", "pid", "comm"))
        pids, comms = (table.column(name).to_pylist() for name in ("pid", "comm"))
        for row in range(len(pids) - 1, -1, -1):
            if self._all or pids[row] in self._pids or self._is_named(comms[row] or ""):
                return self._recording.index_at(table.column("time")[row].as_py())
        raise NumatraceError("no process was seen alive in the recording", "its flows and faults may still be there")

"""The verb `replay`: a recording in the same view that `live` shows processes in, with a time line."""

from __future__ import annotations

import os
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tracer.cli import options, screen
from tracer.cli.recorded import Chosen, open_file
from tracer.cli.verb import Verb
from tracer.errors import UsageError
from tracer.model.moments import FORMS, parse_moment

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tracer.live.source import Activity
    from tracer.model.sample import Sample
    from tracer.record.recording import Recording

__all__ = ["VERB", "play"]

_MOST_SPEED = 100_000.0
_INSTEAD = "for text: numatrace maps FILE --at TIME, or numatrace diff FILE; for a page: numatrace report FILE"

_DESCRIPTION = """\
Plays a recording that numatrace record wrote in the view that numatrace live has, with a time line at the bottom:
Space plays and stops, the arrows left and right step by a sample (with Shift by 10, with Ctrl by 60), Home and End go
to both ends, g to a time that you type, + and - change the speed. F1 or ? lists all keys. Above the middle of the time
line is the place of the sample shown; the lines below show when pages moved and when there were page faults.

It begins with the first sample, or with that of --at, and stands still until you press Space. -p and --name choose
among the processes that were recorded."""


def _configure(parser: ArgumentParser) -> None:
    options.add_file(parser)
    options.add_choice(parser)
    parser.add_argument("--at", type=options.moment, metavar="TIME", help=f"begin at this moment: {FORMS}")
    parser.add_argument(
        "--speed",
        type=_speed,
        default=None,
        metavar="X",
        help="play at once, X seconds of the recording in a second: 1, 0.5, 60",
    )
    options.add_general(parser)


def _speed(text: str) -> float:
    try:
        speed = float(text.lower().removesuffix("x"))
    except ValueError:
        speed = 0.0
    if not 0.0 < speed <= _MOST_SPEED:
        raise ArgumentTypeError(f"{text!r} is not a speed: give a number above 0 and up to {_MOST_SPEED:.0f}")
    return speed


def _run(arguments: Namespace) -> int:
    file = options.recording(arguments)
    if file is None:
        raise UsageError("there is nothing to play", "give the FILE that numatrace record wrote")
    return play(arguments, file)


def play(arguments: Namespace, path: str) -> int:
    """Show the recording at `path`. arguments: `pid`, `name`, `no_color`, `quiet`; `at` and `speed` where a verb has
    them. Returns the exit code."""
    screen.need_terminal("replay", _INSTEAD)
    with open_file(path, arguments.quiet) as recording:
        tape = _Tape(path, recording, arguments)
        at, speed = getattr(arguments, "at", None), getattr(arguments, "speed", None)
        start = 0 if at is None else parse_moment(at, recording)
        from tracer.live.app import NumatraceApp
        from tracer.live.history import History

        history = History(screen.colour(arguments))
        app = NumatraceApp(history, recorded=tape, start=start, speed=speed or 1.0, playing=speed is not None)
        return screen.show(app)


class _Tape:
    """A `tracer.live.source.Recorded`. Samples that follow each other are read on, not looked up again."""

    def __init__(self, path: str, recording: Recording, arguments: Namespace) -> None:
        self._recording = recording
        self._chosen = Chosen(recording, arguments)
        self.title = f"{os.path.basename(os.path.normpath(path))} {recording.time(0).astimezone():%Y-%m-%d}"
        self._going: Iterator[Sample] | None = None
        self._next = -1

    def __len__(self) -> int:
        return len(self._recording)

    def time(self, index: int) -> datetime:
        return self._recording.time(index)

    def samples(self, first: int, last: int) -> Iterator[Sample]:
        if self._going is None or self._next != first:
            self._going = self._chosen.samples(first, len(self) - 1)
        for index in range(first, last + 1):
            self._next = -1  # should reading fail, it begins anew
            sample = next(self._going)
            self._next = index + 1
            yield sample

    def activity(self, first: int, last: int) -> Activity:
        from tracer.live.source import Activity

        table = self._recording.rows(
            "target", "ended", "vma", columns=("time", "flows", "faults"), first=first, last=last
        )
        times = self._recording.times[first : last + 1]
        return Activity(_per_sample(table, "flows", "pages", times), _per_sample(table, "faults", "count", times))

    def moment(self, text: str) -> int:
        return parse_moment(text, self._recording)


def _per_sample(table: Any, column: str, field: str, times: npt.NDArray[np.datetime64]) -> npt.NDArray[np.int64]:
    """Sums of a field of lists of structures, by the time of the row."""
    import numpy as np

    sums = np.zeros(len(times), np.int64)
    for stamps, lists in zip(table.column("time").chunks, table.column(column).chunks, strict=True):
        counts = lists.flatten().field(field).to_numpy(zero_copy_only=False)
        rows = np.repeat(np.arange(len(lists)), np.nan_to_num(_lengths(lists)).astype(np.int64))
        samples = np.searchsorted(times, stamps.to_numpy(zero_copy_only=False).astype("datetime64[us]"))
        np.add.at(sums, samples[rows], counts)
    return sums


def _lengths(lists: Any) -> npt.NDArray[np.float64]:
    """Of each list; not a number for none."""
    lengths: npt.NDArray[np.float64] = lists.value_lengths().to_numpy(zero_copy_only=False).astype(float)
    return lengths


VERB = Verb(
    name="replay",
    summary="play a recording in the view of live, with a time line",
    description=_DESCRIPTION,
    usage="FILE [--at TIME] [--speed X] [-p PID] [--name PATTERN] [options]",
    configure=_configure,
    run=_run,
)

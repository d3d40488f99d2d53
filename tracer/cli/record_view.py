"""What becomes of the samples of the verb `record`: they are written, a line tells how far it is, and at last where."""

from __future__ import annotations

import json
import math
import os
import shlex
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

from tracer.cli.messages import note
from tracer.cli.options import Target
from tracer.cli.output import Output
from tracer.cli.progress import Progress
from tracer.cli.watch import Wants
from tracer.errors import NumatraceError

if TYPE_CHECKING:
    from tracer.model.sample import Sample
    from tracer.record.claim import Claim
    from tracer.record.recorder import Recorder, Written
    from tracer.record.rotation import Rotation
    from tracer.record.schema import Info

__all__ = ["RecordView"]

_LINE_S = 0.1
"""The line is not written more often: nobody can read it."""


class RecordView:
    """The view of a watch, on a place that was claimed for it. Whoever makes it calls `leave` at last.

    wants: what the samples carry. interrupted: whether somebody has asked for the end. failed: the error that ended the
    recording before its time.
    """

    def __init__(
        self,
        claim: Claim,
        target: Target,
        arguments: Namespace,
        recovered: str | None,
        output: Output | None,
    ) -> None:
        self.progress = Progress(arguments.quiet)
        self.wants = Wants()
        self.interrupted: Callable[[], bool] = lambda: False
        self.failed: NumatraceError | None = None
        self._claim = claim
        self._rotation: Rotation | None = arguments.rotate
        self._target = target
        self._arguments = arguments
        self._recovered = recovered
        self._output = output
        self._recorder: Recorder | None = None
        self._told = False
        self._over = False
        self._seconds = 0.0
        self._line_at = -math.inf
        self._ended_by = ""

    def ready(self) -> None:
        """Import what writing takes: that would be a long time between the first sample and the second."""
        from tracer.record.recorder import prepare

        prepare()

    # --- the view ---

    def take(self, sample: Sample, seconds: float) -> bool:
        """Write it. Raises NumatraceError where that cannot go on."""
        if self._recorder is None:
            self._recorder = self._start(sample)
        with self._failing():
            self._recorder.write(sample)
        self._seconds += seconds
        self._told |= bool(sample.snapshots or sample.ended) or self._target.selection.open_ended
        self._show_line(self._recorder, sample)
        return self._told

    def show(self) -> None:
        """Nothing: all was done when it was taken."""

    def finish(self) -> None:
        """Make a file of it, and say so. Raises NumatraceError where that cannot be done."""
        if self._recorder is None or self._over:
            return
        self._over = True
        self._ended_by = self._why()
        self.progress.line("finishing ...")
        with _undisturbed(bool(self._target.command)), self._failing():
            written = self._recorder.close(self._ended_by)
        self.progress.clear()
        self._say(written)

    def leave(self) -> None:
        """Whatever happened: what was recorded of a target is a file afterwards, and otherwise nothing is left."""
        if self._recorder is None or not (self._told or self.failed):
            with suppress(OSError):
                self._claim.discard()
        elif not self._over:
            self.finish()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """The recorder has saved what could be saved before it raises."""
        try:
            yield
        except NumatraceError as error:
            self._over = True
            self.failed = error
            self._ended_by = error.message
            self.progress.clear()
            if self._recorder is not None:
                self._say(self._recorder.written())
            raise

    # --- its parts ---

    def _start(self, sample: Sample) -> Recorder:
        from tracer.record.recorder import Recorder

        arguments = self._arguments
        info = _info(sample, arguments, self._target, self.wants)
        return Recorder(arguments.output, info, arguments.force, self._rotation, self._claim)

    def _why(self) -> str:
        """What has ended the watch, for the metadata."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, KeyboardInterrupt):
            return error.message if isinstance(error, NumatraceError) else f"a bug: {error!r}"
        if error is not None or self.interrupted():
            return "the user"
        duration = self._arguments.duration
        if duration is not None and self._seconds >= duration:
            return "the time was over"
        return "the targets ended"

    def _show_line(self, recorder: Recorder, sample: Sample) -> None:
        now = time.monotonic()
        if now - self._line_at >= _LINE_S:
            self._line_at = now
            self.progress.line(progress_line(self._seconds, recorder.samples, recorder.bytes, sample))

    def _say(self, written: Written) -> None:
        if self._output is not None:
            from tracer.render.stream import json_line

            self._output.write(json_line("recording", self._facts(written)).encode("ascii") + b"\n")
        if self._arguments.quiet or self.failed is not None:
            return
        if not written.files:
            note(f"nothing was recorded, and {written.path} not written")
            return
        for line in summary(written, self._rotation is not None):
            note(line)

    def _facts(self, written: Written) -> dict[str, object]:
        from tracer.render.paths import text_name

        return {
            "path": text_name(os.fsencode(written.path)),
            "samples": written.samples,
            "rows": written.rows,
            "bytes": written.bytes,
            "seconds": written.seconds,
            "files": written.files,
            "ended_by": self._ended_by,
            "recovered": self._recovered,
        }


@contextmanager
def _undisturbed(afterwards: bool) -> Iterator[None]:
    """A request to end that comes while it is ending changes nothing. afterwards: it is for somebody else too (the
    command), and is passed on when all is done."""
    came: list[int] = []

    def keep(number: int, frame: FrameType | None) -> None:
        came.append(number)

    ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {end: signal.signal(end, keep) for end in ends if signal.getsignal(end) is not signal.SIG_IGN}
    try:
        yield
    finally:
        for end, handler in before.items():
            signal.signal(end, handler)
        for number in came if afterwards else ():
            os.kill(os.getpid(), number)


def progress_line(seconds: float, samples: int, size: int, sample: Sample) -> str:
    """`0:01:23  83 samples  2 targets  1.2 MB  pages N0=1.2M N1=300`, the most important first: it may be cut."""
    targets = len(sample.snapshots)
    pages = " ".join(
        f"N{node}={_short(count)}" for node, count in zip(sample.node_ids, sample.totals.tolist(), strict=True)
    )
    return (
        f"{_clock(seconds)}  {samples} {_plural('sample', samples)}  {targets} {_plural('target', targets)}  "
        f"{_size(size)}  pages {pages}"
    )


def summary(written: Written, rotated: bool) -> Sequence[str]:
    """Lines that say what was written, and how to open it."""
    samples = f"{written.samples} {_plural('sample', written.samples)}"
    files = f"{written.files} {_plural('file', written.files)} in " if rotated else ""
    shell, python = shlex.quote(written.path), json.dumps(written.path, ensure_ascii=False)
    return (
        f"recorded {samples} in {_clock(written.seconds)} to {files}{written.path} ({_size(written.bytes)})",
        f"open it with: numatrace replay {shell}   or in Python: pandas.read_parquet({python})",
    )


def _plural(word: str, count: int) -> str:
    return word if count == 1 else word + "s"


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _size(size: int) -> str:
    return _short(size, ("B", "kB", "MB", "GB", "TB"), " ")


def _short(count: int, units: Sequence[str] = ("", "k", "M", "G", "T"), blank: str = "") -> str:
    """Three digits or so: 999, 12.3k, 1.2M."""
    power = min(max(0, (len(str(count)) - 1) // 3), len(units) - 1)
    value = count / 1000**power
    return f"{value:.0f}{blank}{units[0]}" if not power else f"{value:.3g}{blank}{units[power]}"


def _info(sample: Sample, arguments: Namespace, target: Target, wants: Wants) -> Info:
    """What the file says about the recording. Raises NumatraceError where /sys cannot be read."""
    from tracer.kernel.topology import read_topology
    from tracer.model.policy import format_nodes
    from tracer.record.schema import Info
    from tracer.render.timestamp import timestamp

    topology = read_topology()
    nodes = sample.node_ids
    uname = os.uname()
    return Info(
        host=uname.nodename,
        kernel=uname.release,
        node_ids=nodes,
        distances=tuple(tuple(topology.distances.get(node, {}).get(other, 0) for other in nodes) for node in nodes),
        cpus={node: format_nodes(cpus) for node, cpus in topology.cpus.items()},
        reasons=sample.reasons,
        command_line=tuple(sys.argv),
        targets=tuple(_words(target)),
        every_s=arguments.every,
        spelling=sample.snapshots[0].spelling.value if sample.snapshots else "named",
        details=wants.details,
        flows=wants.flows,
        faults=wants.faults,
        threads=wants.threads,
        regions=wants.regions,
        policies=wants.policies,
        started=timestamp(sample.time),
    )


def _words(target: Target) -> Iterator[str]:
    """What was selected, for people."""
    selection = target.selection
    if target.command:
        yield "command " + shlex.join(target.command)
    yield from (f"process {pid}" for pid in selection.pids)
    if selection.cgroup:
        yield f"control group {selection.cgroup}"
    if selection.name:
        yield f"processes named {selection.name}"
    if selection.follow_forks:
        yield "and their children"

"""The verb `diff`: what moved, grew, shrank, came and went between two moments of a recording, or of two."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from tracer.cli import messages, options
from tracer.cli.output import Output
from tracer.cli.progress import Progress
from tracer.cli.recorded import Chosen, open_file
from tracer.cli.verb import Verb
from tracer.errors import NumatraceError, UsageError
from tracer.model.moments import parse_moment

if TYPE_CHECKING:
    from tracer.model.accumulate import FlowRow
    from tracer.model.difference import Difference
    from tracer.model.sample import Sample
    from tracer.record.recording import Recording

__all__ = ["VERB"]


_DESCRIPTION = """\
Prints what differs between two moments of a recording: pages on each node, what moved from node to node, and the memory
areas that grew, shrank, appeared, disappeared, or got another policy. Without --from it begins with the first sample,
without --to it ends with the last one that has a live process. The exit code is 0 whether there are differences or not.

Areas of one recording belong together if they overlap and map the same: the same file, or memory without one. An area
that was split or merged in between is shown as one. If flows were recorded, what moved is what they say, from which
node to which; otherwise moved is the least that can have moved: what some nodes lost and others got.

With two recordings it compares a moment of the one with a moment of the other: --from is for the first one, --to for
the second one, and --at for both; the default is the last sample with a live process. Two runs have different
addresses, so areas belong together that have the same name, kind, permissions and offset; where several have, those of
the same length, in order of address, and then the longest with the longest. Processes belong together by name, in order
of their PIDs; if each recording has one, these two.

Pages are counted as in numa_maps: a transparent huge page is 512 pages, a page of hugetlbfs is 1. -p and --name choose
among the processes that were recorded. The lines on standard error that begin with # say how far the counts of both
moments can be believed."""


def _configure(parser: ArgumentParser) -> None:
    options.add_file(parser, "+", "a recording, or two: files or directories of numatrace record")
    options.add_span(parser, at="of two recordings: this moment of both")
    options.add_choice(parser)
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="text: tables; json: one object (default: text)"
    )
    options.add_vmas(parser)
    options.add_general(parser)


def _run(arguments: Namespace) -> int:
    files: list[str] = arguments.file
    options.check_choice(arguments)
    if len(files) > 2:
        raise UsageError(f"{len(files)} recordings were given", "give one, or two to compare with each other")
    if len(files) == 1:
        return _run_one(arguments, files[0])
    return _run_two(arguments, files[0], files[1])


def _run_one(arguments: Namespace, path: str) -> int:
    if arguments.at is not None:
        raise UsageError("--at is for two recordings", "give --from and --to")
    with open_file(path, arguments.quiet) as recording:
        chosen = Chosen(recording, arguments)
        first = 0 if arguments.first is None else parse_moment(arguments.first, recording)
        last = chosen.last_alive() if arguments.last is None else parse_moment(arguments.last, recording)
        if first > last:
            raise UsageError("--from lies after --to", "exchange them")
        if first == last:
            raise UsageError("both moments are the same sample", "give --from and --to further apart")
        before, after = chosen.at(first), chosen.at(last)
        _check_there(before, after)
        from tracer.model.difference import compare

        replaced = _replaced(recording, first + 1, last)
        flows = _flows(chosen, first + 1, last, Progress(arguments.quiet)) if recording.info.flows else None
        difference = compare(before, after, True, replaced, flows)
        _print(arguments, difference, (before, after), (path, path), chosen.several)
    return 0


def _run_two(arguments: Namespace, one: str, other: str) -> int:
    if arguments.at is not None and (arguments.first is not None or arguments.last is not None):
        raise UsageError("--at is a moment of both, and --from and --to are one each", "choose")
    with open_file(one, arguments.quiet) as first, open_file(other, arguments.quiet) as second:
        chosen = [Chosen(recording, arguments, any_will_do=True) for recording in (first, second)]
        moments = (arguments.at or arguments.first, arguments.at or arguments.last)
        samples = []
        for recording, its, moment in zip((first, second), chosen, moments, strict=True):
            samples.append(its.at(its.last_alive() if moment is None else parse_moment(moment, recording)))
        before, after = samples
        _check_there(before, after)
        from tracer.model.difference import compare

        several = any(its.several for its in chosen)
        _print(arguments, compare(before, after, False), (before, after), (one, other), several, same_run=False)
    return 0


def _check_there(before: Sample, after: Sample) -> None:
    if not (before.snapshots or after.snapshots):
        raise NumatraceError("at neither of the two moments any process was there", "give other moments")


def _replaced(recording: Recording, first: int, last: int) -> frozenset[int]:
    """PIDs of address spaces that ended in these samples."""
    ended = recording.rows("ended", columns=("pid",), first=first, last=last)
    return frozenset(ended.column("pid").to_pylist())


def _flows(chosen: Chosen, first: int, last: int, progress: Progress) -> list[FlowRow]:
    """What flowed in these samples, sums by VMA."""
    from tracer.model.accumulate import FlowSums

    sums = FlowSums()
    for sample in chosen.samples(first, last, progress):
        for snapshot in (*sample.ended, *sample.snapshots):
            sums.add(snapshot)
    return sums.rows()


def _print(
    arguments: Namespace,
    difference: Difference,
    samples: tuple[Sample, Sample],
    paths: tuple[str, str],
    several: bool,
    same_run: bool = True,
) -> None:
    from tracer.render import diff, trust

    output = Output()
    before, after = (diff.Moment(sample.time, os.fsencode(path)) for sample, path in zip(samples, paths, strict=True))
    if arguments.format == "json":
        output.write(diff.json_line(difference, before, after, same_run).encode("ascii") + b"\n")
        return
    if not arguments.quiet:
        for sample in samples:
            for snapshot in sample.snapshots:
                messages.write(trust.line(snapshot))
    lines = diff.lines(difference, before, after, same_run, arguments.vmas, several)
    output.write_lines(line.encode() for line in lines)


VERB = Verb(
    name="diff",
    summary="print what differs between two moments of a recording, or of two",
    description=_DESCRIPTION,
    usage="FILE [--from TIME] [--to TIME] | FILE FILE [--at TIME | --from TIME --to TIME] [-p PID] [--name PATTERN] "
    "[--format text|json] [--vmas N] [options]",
    configure=_configure,
    run=_run,
)

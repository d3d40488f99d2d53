"""The verb `faults`: who touched pages first, and where that put them."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tracer.cli import happened, options
from tracer.cli.verb import Verb
from tracer.cli.watch import Wants

if TYPE_CHECKING:
    from tracer.model.accumulate import FaultSums, Period

__all__ = ["VERB"]

_DESCRIPTION = """\
Answers the question who put these pages on that node. Unless a memory policy says otherwise a page is placed on the
node of the CPU that touches it first. This prints the page faults of a process by the node of the CPU that faulted
and the node of the page that it got. It watches until the process ends, until --duration is over or until Ctrl-C, and
then prints what happened meanwhile; with --every it prints that of each interval as well. A command after -- is
watched from its first page on; the exit code is the command's. Pages that were there before are not in it: to see who
placed those, start the program with this verb.

--node N leaves only the faults whose page is on node N. --threads tells the threads apart.

The first table has a row for each kind of fault and node of CPUs, and a column for each node of pages. The kinds:
new, a page where none was; huge, the same with a huge page; cow, a write to a shared page, which gave a page of its
own; major, a page that had to be read from a disk; hint, NUMA balancing asks who uses the page; other, the rest. The
first four decide where a page is, and placed is their sum; hint and other find it there. The column none is for
faults that left no page that counts, such as the zero page. The second table names the memory areas behind it.

Pages are those that the faults were about: 512 for a transparent huge page, otherwise 1. KiB says the same in bytes.
A line on standard error that begins with # says for each process how far this can be believed: lost is 0 when no
event was lost.

With FILE, what numatrace record wrote, it prints what happened then: all of it, or from --from to --to. -p and
--name choose among the processes that were recorded."""


def _configure(parser: ArgumentParser) -> None:
    options.add_target(parser, file=True)
    parser.add_argument("--threads", action="store_true", help="tell the threads apart")
    parser.add_argument(
        "--node", type=options.node, metavar="N", help="only faults whose page is on node N: who put pages there"
    )
    happened.add_period(parser)
    options.add_reading(parser)
    options.add_general(parser)


def _run(arguments: Namespace) -> int:
    threads, node = arguments.threads, arguments.node

    def sums() -> FaultSums:
        from tracer.model.accumulate import FaultSums

        return FaultSums()

    def lines(period: Period[FaultSums], what: str, several: bool) -> Iterable[str]:
        from tracer.render import faults

        return faults.lines(period, what, arguments.vmas, several, threads, node)

    def json_line(period: Period[FaultSums]) -> str:
        from tracer.render import faults

        return faults.json_line(period, threads, node)

    report = happened.Report("faults", sums, lines, json_line)
    return happened.run(arguments, report, Wants(faults=True, threads=threads))


VERB = Verb(
    name="faults",
    summary="print who touched pages first, and on which node that put them",
    description=_DESCRIPTION,
    usage=f"{options.FILE_USAGE} [--threads] [--node N] {happened.PERIOD_USAGE} [options]",
    configure=_configure,
    run=_run,
    takes_command=True,
)

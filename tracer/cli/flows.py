"""The verb `flows`: pages that moved from node to node, and why."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tracer.cli import happened, options
from tracer.cli.verb import Verb
from tracer.cli.watch import Wants

if TYPE_CHECKING:
    from tracer.model.accumulate import FlowSums, Period

__all__ = ["VERB"]

_DESCRIPTION = """\
Prints which pages of a process moved from one node to another, and why. It watches until the process ends, until
--duration is over or until Ctrl-C, and then prints what happened meanwhile; with --every it prints that of each
interval as well. A command after -- is watched from its first page on; the exit code is the command's.

The first table has a row for each reason and node that pages left, and a column for each node that they reached. The
reasons are the kernel's: numa_misplaced is NUMA balancing; syscall is move_pages, migrate_pages or migratepages;
mempolicy_mbind is mbind with MPOL_MF_MOVE; compaction makes room for huge pages and stays on its node; demotion and
promotion go down and up between tiers of memory. Pages that were to move and stayed where they were are counted
apart, as failed. The destination is where the page really is, not where it was sent.

The second table names the memory areas behind it. The third is about the whole machine, so that one can see how much
of its migration belongs to what was watched.

Pages are counted as in numa_maps: a transparent huge page is 512 pages, a page of hugetlbfs is 1. KiB says the same
in bytes. A line on standard error that begins with # says for each process how far this can be believed: lost is 0
when no event was lost.

With FILE, what numatrace record wrote, it prints what happened then: all of it, or from --from to --to. -p and
--name choose among the processes that were recorded."""


def _configure(parser: ArgumentParser) -> None:
    options.add_target(parser, file=True)
    happened.add_period(parser)
    options.add_reading(parser)
    options.add_general(parser)


def _run(arguments: Namespace) -> int:
    def sums() -> FlowSums:
        from tracer.model.accumulate import FlowSums

        return FlowSums()

    def lines(period: Period[FlowSums], what: str, several: bool) -> Iterable[str]:
        from tracer.render import flows

        return flows.lines(period, what, arguments.vmas, several)

    def json_line(period: Period[FlowSums]) -> str:
        from tracer.render import flows

        return flows.json_line(period)

    report = happened.Report("flows", sums, lines, json_line)
    return happened.run(arguments, report, Wants(flows=True))


VERB = Verb(
    name="flows",
    summary="print which pages moved from node to node, and why",
    description=_DESCRIPTION,
    usage=f"{options.FILE_USAGE} {happened.PERIOD_USAGE} [options]",
    configure=_configure,
    run=_run,
    takes_command=True,
)

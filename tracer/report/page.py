"""The page: one HTML file that needs nothing else, runs no script, and shows foreign names as text only."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from tracer import __version__
from tracer.render.palette import node_colour
from tracer.render.timestamp import timestamp
from tracer.report import flows, heatmap, policies, tables, totals, touch
from tracer.report.figure import png, svg
from tracer.report.history import History
from tracer.report.words import amount, count, duration, shortened, shown

__all__ = ["PLOTS", "page", "pictures"]

Progress = Callable[[str, int, int], None]

_COMMAND_CHARACTERS = 600
_AREAS = 25
_PAIRS = 40


@dataclass(frozen=True, slots=True)
class Plot:
    """name: of its file, and of its place on the page. draw: None where there is nothing to draw."""

    name: str
    title: str
    description: str
    draw: Callable[[History], Figure | None]


PLOTS = (
    Plot(
        "totals",
        "Memory on each node over time",
        "Stacked areas, one for each NUMA node; the table of nodes has the numbers.",
        totals.draw,
    ),
    Plot(
        "heatmap",
        "Address space over time, coloured by node",
        "Time from left to right, addresses from bottom to top; the colour is that of the node with most memory there.",
        heatmap.draw,
    ),
    Plot(
        "flows",
        "What moved, from which node, for which reason, to which node",
        "Bands from the nodes that memory left, through the reasons, to the nodes that it reached; "
        "the table of flows has the numbers.",
        flows.draw,
    ),
    Plot(
        "touch",
        "First touch: node of the CPU against node of the memory",
        "A grid with a row for each node whose CPUs touched memory first and a column for each node it then lay on.",
        touch.draw,
    ),
)


def pictures(history: History, progress: Progress) -> dict[str, bytes]:
    """PNG files by name, without the plots for which there is nothing to draw."""
    files = {}
    for place, plot in enumerate(PLOTS):
        progress("drawing", place, len(PLOTS))
        figure = plot.draw(history)
        if figure is not None:
            files[f"{plot.name}.png"] = png(figure)
    return files


def page(history: History, title: str, progress: Progress) -> str:
    """The HTML. title: foreign as well, or empty."""
    plots: dict[str, Markup] = {}
    for place, plot in enumerate(PLOTS):
        progress("drawing", place, len(PLOTS))
        figure = plot.draw(history)
        if figure is not None:
            # Made by ElementTree, which has escaped all text in it.
            plots[plot.name] = Markup(svg(figure, plot.name, plot.title, plot.description))
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = environment.from_string(resources.files("tracer.report").joinpath("template.html.j2").read_text("utf-8"))
    return template.render(
        title=shown(title) or f"NUMA placement of {_subject(history)}",
        version=__version__,
        plots=plots,
        colours=[node_colour(node) for node in history.node_ids],
        nodes=history.node_ids,
        facts=_facts(history),
        figures=_figures(history),
        trust=_trust(history),
        cpus=bool(history.info.cpus),
        node_rows=tables.node_rows(history),
        areas=tables.changed_areas(history, _AREAS),
        most_areas=_AREAS,
        flow_rows=tables.flow_rows(history),
        pair_rows=tables.pair_rows(history, _PAIRS),
        most_pairs=_PAIRS,
        machine_rows=tables.machine_rows(history),
        faults=tables.faults(history),
        policies=tables.policy_rows(history),
        ruled=policies.told(history.rulings, history.node_ids),
        asked={"flows": history.info.flows, "faults": history.info.faults, "regions": history.spans is not None},
        targets=len(history.targets),
        shown_targets={"totals": totals.TARGETS, "heatmap": heatmap.TARGETS},
    )


def _subject(history: History) -> str:
    largest = history.ranked_targets() or list(range(len(history.targets)))
    if not largest:
        return "no process"
    target = history.targets[largest[0]]
    more = f" and {len(history.targets) - 1} more" if len(history.targets) > 1 else ""
    return f"{shown(target.comm)} (PID {target.pid}){more}"


def _facts(history: History) -> list[tuple[str, str]]:
    info = history.info
    started, ended = (timestamp(time, "seconds") for time in (history.started, history.ended))
    state = "complete" if info.complete else "recovered: the recorder did not come to its orderly end"
    ended_by = f" ({shown(info.ended_by)})" if info.complete and info.ended_by else ""
    command = shortened(shown(shlex.join(info.command_line)), _COMMAND_CHARACTERS)
    return [
        ("Host", shown(info.host) or "unknown"),
        ("Kernel", shown(info.kernel) or "unknown"),
        ("Command", command or "unknown"),
        ("Watched", shown(", ".join(info.targets)) or "unknown"),
        ("Processes", _processes(history)),
        ("Time", f"{started} to {ended} ({duration(history.seconds)})"),
        ("Samples", f"{count(len(history.times))}, every {info.every_s:g} s"),
        ("Recording", state + ended_by),
        ("Recorded by", f"numatrace {shown(info.version)}"),
    ]


def _processes(history: History) -> str:
    number, ended = len(history.targets), sum(target.ended_at >= 0 for target in history.targets)
    if not ended:
        return count(number)
    return f"{count(number)}, {'all' if number == ended else f'{count(ended)} of them'} ended"


def _figures(history: History) -> list[tuple[str, str]]:
    """What one wants to know first: a number and what it is."""
    sums = history.sums.sum(axis=1)
    moved = sum(flow.kib for flow in history.flows if flow.source != flow.destination)
    local = touch.local_share(history)
    figures = [(amount(int(sums[history.final])), "memory at the end"), (amount(int(sums.max())), "most at any time")]
    if history.info.flows:
        figures.append((amount(moved), "moved between nodes"))
    if local is not None:
        figures.append((f"{100 * local:.1f} %", "of first touches local"))
    return figures


def _trust(history: History) -> list[tuple[str, str, str]]:
    """What, how much, and what it means."""
    doubts, samples = history.doubts, len(history.times)
    refresh = doubts.refresh_ns / 1e6
    share = f"{100 * refresh.sum() / 1e3 / history.seconds:.3g} %" if history.seconds else "unknown (one sample)"
    ways = sorted({f"{shown(it.hooks)} / {shown(it.reader)}" for it in history.targets if it.hooks})
    some = f"in {{}} of {count(samples)} samples"
    return [
        ("Hooks / reader", ", ".join(ways) or "unknown", "what told of changes, and what counted the pages"),
        ("Lost events", count(doubts.lost), "each one leads to an audit of every target"),
        (
            "Settling, at most",
            count(doubts.settling),
            f"regions that changed while read; {some.format(count(doubts.settling_samples))}",
        ),
        (
            "Unexplained, at most",
            count(doubts.unexplained),
            f"changes without a place; {some.format(count(doubts.unexplained_samples))}",
        ),
        ("Drift", f"{count(doubts.drift)} pages", "counters found wrong though nothing was in doubt"),
        ("Oldest count, at most", f"{doubts.oldest_read_s:.3f} s", "since a count was last confirmed"),
        ("Untraced processes", count(doubts.untraced), "for lack of room in the table of targets"),
        ("CPU of a refresh", f"{refresh.mean():.3f} ms mean, {refresh.max():.3f} ms at most", "all targets together"),
        ("Share of one core", share, "refreshes, over the whole time"),
    ]

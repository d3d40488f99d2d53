"""What stands about the verdict on one VMA: which it is, what it rests on, and each cause with its pages and remedy."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.style import Style

from tracer.live.figures import count_text, fit, safe
from tracer.live.sheet import Ink, Line, plain
from tracer.model.policies import Policies
from tracer.model.policy import format_nodes
from tracer.model.verdict import CauseCount, Finding, Verdict
from tracer.render.causes import explain, remedy
from tracer.render.policy_words import by_node

__all__ = ["cut", "short_lines", "usable_words", "verdict_style", "why_lines"]

_COUNT = 9


def verdict_style(verdict: Verdict, ink: Ink) -> Style:
    """A skewed one is to be seen, what nothing can be said of is not in the way."""
    if verdict is Verdict.SKEWED:
        return ink.warning
    return ink.bold if verdict is Verdict.AS_PROMISED else ink.dim


def usable_words(finding: Finding, policies: Policies) -> str:
    """Whose policy it is, and which nodes it can use."""
    whose = "its own" if policies.own[finding.row] else "the task's"
    usable = f"can use N{format_nodes(finding.usable)}" if finding.usable else "can use no node"
    return f"{whose}, {usable}"


def why_lines(finding: Finding, width: int, ink: Ink) -> list[Line]:
    """As many lines as it takes."""
    lines = _said(finding, width, ink)
    if finding.causes:
        lines.append(_heading(width, ink))
    for cause in finding.causes:
        lines += _cause(cause, width, ink)
    return lines


def short_lines(finding: Finding, width: int, height: int, ink: Ink) -> list[Line]:
    """At most `height` lines. Where there is no room for all: a line for each cause, without remedies."""
    lines = why_lines(finding, width, ink)
    if len(lines) <= height:
        return lines
    heading = f"{'pages':>{_COUNT - 1}} elsewhere, because (w: all of it, and what helps)"
    lines = [*_said(finding, width, ink), [plain(fit(heading, width), ink.dim)]]
    for cause in finding.causes:
        text = fit(f"{safe(explain(cause.cause, cause.reason))} ({by_node(cause.nodes)})", width - _COUNT)
        lines.append([plain(f"{count_text(cause.pages):>{_COUNT - 1}} ", ink.bold), plain(text)])
    return cut(lines, 0, height, "w: all", ink)


def _said(finding: Finding, width: int, ink: Ink) -> list[Line]:
    """The verdict, and what it rests on."""
    word = finding.verdict.value
    text = textwrap.wrap(f"{word}: {safe(finding.why)}", max(width, 20))
    first: Line = [plain(text[0][: len(word)], verdict_style(finding.verdict, ink)), plain(text[0][len(word) :])]
    return [first, *([plain(line)] for line in text[1:])]


def _heading(width: int, ink: Ink) -> Line:
    return [plain(fit(f"{'pages':>{_COUNT - 1}} elsewhere, because", width), ink.dim)]


def _cause(cause: CauseCount, width: int, ink: Ink) -> list[Line]:
    room = max(width - _COUNT, 20)
    said = textwrap.wrap(f"{safe(explain(cause.cause, cause.reason))} ({by_node(cause.nodes)})", room)
    lines: list[Line] = [[plain(f"{count_text(cause.pages):>{_COUNT - 1}} ", ink.bold), plain(said[0])]]
    lines += [[plain(" " * _COUNT + line)] for line in said[1:]]
    if advice := remedy(cause.cause, cause.reason):
        wrapped = textwrap.wrap(f"→ {safe(advice)}", room, subsequent_indent="  ")
        lines += [[plain(" " * _COUNT + line, ink.dim)] for line in wrapped]
    return lines


def cut(lines: Sequence[Line], top: int, height: int, how: str, ink: Ink) -> list[Line]:
    """`height` of these lines, from `top` on; the last one tells of what is left out. how: to see it."""
    left = len(lines) - top
    if left <= height:
        return list(lines[top:])
    if height <= 1:
        return [*lines[top : top + height]]
    more = left - height + 1
    return [*lines[top : top + height - 1], [plain(f"and {more} more lines ({how})", ink.dim)]]

"""Pages of a VMA per node beside what its policy promises: a line for each node, with a bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tracer.live.figures import amount, fit, signed
from tracer.live.history import Unit
from tracer.live.sheet import Ink, Line, plain
from tracer.model.placement import Expectation, apportion
from tracer.model.policy import Policy
from tracer.render.palette import contrast_text, node_colour
from tracer.render.shares import expected_word

__all__ = ["Shares", "share_lines"]

_NODE, _PAGES, _SHARE, _EXPECTED, _DIFFERENCE = 5, 9, 8, 11, 12
_LEFT = _NODE + _PAGES + _SHARE + _EXPECTED + _DIFFERENCE


@dataclass(frozen=True, slots=True)
class Shares:
    """What is shown. pages: of the VMA, one number for each of `node_ids`. page_kb: how large they are. found: pages
    more than promised, by node, where a verdict has them; otherwise they are found out here."""

    policy: Policy
    expected: Expectation
    node_ids: Sequence[int]
    pages: Sequence[int]
    page_kb: int
    found: Sequence[int] | None = None

    @property
    def differences(self) -> list[int | None]:
        """Pages more (or fewer) than promised, by node; None where nothing is promised about it."""
        shares = self.expected.shares
        if shares is not None and self.found is not None:
            return list(self.found)
        if shares is not None:
            promised = apportion(shares, sum(self.pages)).tolist()
            return [has - should for has, should in zip(self.pages, promised, strict=True)]
        return [
            None if self.expected.allows(node) else has for node, has in zip(self.node_ids, self.pages, strict=True)
        ]


def share_lines(shares: Shares, unit: Unit, width: int, height: int, ink: Ink) -> list[Line]:
    """A heading and a line for each node. Where there is no room for all, those with the largest differences and the
    most pages, and a line about the others."""
    heading = fit("node", _NODE) + f"{_unit_word(unit):>{_PAGES}}{'share':>{_SHARE}}{'expected':>{_EXPECTED}}"
    lines: list[Line] = [[plain(heading + f"{'difference':>{_DIFFERENCE}}", ink.dim)]]
    differences = shares.differences
    places = list(range(len(shares.node_ids)))
    shown = _chosen(shares, differences, height - 1)
    lines += [_node_line(shares, at, differences[at], unit, width, ink) for at in shown]
    if hidden := set(places) - set(shown):
        pages = sum(shares.pages[at] for at in hidden)
        text = amount(pages, pages * shares.page_kb, sum(shares.pages) * shares.page_kb, unit)
        lines.append([plain(fit("rest", _NODE) + f"{text:>{_PAGES}}  on {len(hidden)} more nodes", ink.dim)])
    return lines[: max(height, 0)]


def _unit_word(unit: Unit) -> str:
    return "bytes" if unit is Unit.BYTES else "pages"


def _chosen(shares: Shares, differences: Sequence[int | None], room: int) -> list[int]:
    places = range(len(shares.node_ids))
    if len(places) <= room:
        return list(places)
    weightiest = sorted(places, key=lambda at: (-abs(differences[at] or 0), -shares.pages[at]))
    return sorted(weightiest[: max(room - 1, 0)])


def _node_line(shares: Shares, at: int, difference: int | None, unit: Unit, width: int, ink: Ink) -> Line:
    node, pages = shares.node_ids[at], shares.pages[at]
    total = sum(shares.pages)
    kib, all_kib = pages * shares.page_kb, total * shares.page_kb
    share = pages / total if total else 0.0
    promised = None if shares.expected.shares is None else float(shares.expected.shares[at])
    expected = expected_word(shares.policy, shares.expected, node) if promised is None else f"{promised:.1%}"
    # A share of the whole VMA stands in the next column anyway.
    texts = [amount(pages, kib, all_kib, unit if unit is Unit.BYTES else Unit.PAGES).rjust(_PAGES)]
    texts += [f"{share:>{_SHARE}.1%}", (expected or "none").rjust(_EXPECTED)]
    line = [plain(fit(f"N{node}", _NODE), ink.node(node, bold=True)), plain("".join(texts))]
    text = "" if difference is None else _difference(difference, shares.page_kb, all_kib, unit)
    wrong = difference is not None and abs(difference) > max(1, total // 100)
    line.append(plain(text.rjust(_DIFFERENCE), ink.warning if wrong and text else ink.none))
    return line + _bar(node, share, promised, width - _LEFT - 1, ink)


def _difference(pages: int, page_kb: int, all_kib: int, unit: Unit) -> str:
    if not pages:
        return "0"
    return signed(amount(pages, pages * page_kb, all_kib, unit))


def _bar(node: int, share: float, promised: float | None, width: int, ink: Ink) -> Line:
    """With a mark where the promised share would end."""
    if width < 4:
        return []
    filled = int(np.ceil(share * width)) if share else 0
    line: Line = [plain(" ")]
    if not promised:
        return [*line, ink.bar(node, filled)]
    mark = min(width - 1, round(promised * width))
    if mark >= filled:
        return [*line, ink.bar(node, filled), plain(" " * (mark - filled) + "│", ink.bold)]
    colour = node_colour(node)
    on_bar = plain("│", ink.painted(contrast_text(colour), colour))
    return [*line, ink.bar(node, mark), on_bar, ink.bar(node, filled - mark - 1)]

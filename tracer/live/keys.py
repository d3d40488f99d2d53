"""Which key does what: for the screen, for its last line, and for the help."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.message import Message

from tracer.live.figures import fit, safe
from tracer.live.panel import Line, Panel

__all__ = ["HELP", "LIVE_KEYS", "REPLAY_KEYS", "Footer", "Key", "TakesKeys", "help_lines", "labelled"]


@runtime_checkable
class TakesKeys(Protocol):
    """A screen that does by itself what its keys stand for; others have bindings."""

    def take_key(self, event: events.Key) -> None:
        """Do it, at once."""


@dataclass(frozen=True, slots=True)
class Key:
    """action: the name of a method of the main screen without `do_`, with its argument. keys: as Textual names them.

    shown: how they are written. label: for the last line of the screen, empty where there is no room for it.
    text: for the help. spare: which go first where the screen is narrow.
    """

    action: str
    keys: tuple[str, ...]
    shown: str
    label: str
    text: str
    spare: int = 1


_COMMON = (
    Key("help", ("f1", "question_mark"), "F1 ?", "Help", "this text", 0),
    Key("search", ("f3", "slash"), "F3 /", "Search", "go to the next row with a text; F3 again: the one after it"),
    Key("search_on", ("n",), "n", "", "the next row with the text last searched for"),
    Key("filter", ("f4", "backslash"), "F4 \\", "Filter", "only rows with a text in name, policy or address"),
    Key("tree", ("f5", "t"), "F5 t", "Tree", "group by process; Enter on a process folds it"),
    Key("menu", ("f6",), "F6", "Sort", "choose the column to sort by"),
    Key("sort_next", ("greater_than_sign", "full_stop"), ">", "", "sort by the next column"),
    Key("sort_previous", ("less_than_sign", "comma"), "<", "", "sort by the column before"),
    Key("invert", ("i", "I"), "I", "Invert", "sort the other way round", 3),
    Key("unit", ("u",), "u", "Unit", "pages, bytes, percent of all pages shown", 2),
    Key("hide", ("h",), "h", "Hide", "hide VMAs without pages, then those below 1 MiB, then none", 2),
    Key("choose", ("enter",), "Enter", "", "look into the VMA under the cursor"),
    Key("flows", ("f",), "f", "Flows", "which pages moved from node to node, and why", 1),
    Key("policies", ("m",), "m", "", "memory policies: verdicts in all, those of threads, and what changed"),
    Key("up", ("up", "k"), "Up", "", "one row up"),
    Key("down", ("down", "j"), "Down", "", "one row down"),
    Key("page_up", ("pageup",), "PgUp", "", "a screen up"),
    Key("page_down", ("pagedown",), "PgDn", "", "a screen down"),
)
_QUIT = (
    Key("escape", ("escape",), "Esc", "", "end a filter"),
    Key("quit", ("q", "f10", "ctrl+c"), "F10 q", "Quit", "leave; also Ctrl-C", 0),
)
LIVE_KEYS = (
    *_COMMON,
    Key("home", ("home",), "Home", "", "the first row"),
    Key("end", ("end",), "End", "", "the last row"),
    Key("pause", ("space", "p"), "Space p", "Pause", "hold the view; samples are taken all the same", 1),
    Key("step -1", ("left_square_bracket", "left"), "[ Left", "Step", "the sample before (holds the view)", 2),
    Key("step 1", ("right_square_bracket", "right"), "] Right", "", "the next sample"),
    Key("step -10", ("shift+left",), "Shift-Left", "", "ten samples back; Shift-Right: on"),
    Key("step 10", ("shift+right",), "", "", ""),
    Key("step -60", ("ctrl+left",), "Ctrl-Left", "", "sixty samples back; Ctrl-Right: on"),
    Key("step 60", ("ctrl+right",), "", "", ""),
    Key("fold", ("plus", "minus", "equals_sign"), "+ -", "", "fold or unfold the process of the row, in the tree"),
    *_QUIT,
)
REPLAY_KEYS = (
    *_COMMON,
    Key("pause", ("space", "p"), "Space p", "Play", "play the recording, or stop", 1),
    Key("step -1", ("left_square_bracket", "left"), "[ Left", "Step", "the sample before", 2),
    Key("step 1", ("right_square_bracket", "right"), "] Right", "", "the next sample"),
    Key("step -10", ("shift+left",), "Shift-Left", "", "ten samples back; Shift-Right: on"),
    Key("step 10", ("shift+right",), "", "", ""),
    Key("step -60", ("ctrl+left",), "Ctrl-Left", "", "sixty samples back; Ctrl-Right: on"),
    Key("step 60", ("ctrl+right",), "", "", ""),
    Key("first", ("home",), "Home", "", "the first sample of the recording"),
    Key("last", ("end",), "End", "", "the last one"),
    Key("jump", ("g",), "g", "Jump", "go to a time: 12:03:30, +90s (from the start), -10s (from the end)", 2),
    Key("faster", ("plus", "equals_sign"), "+", "", "play faster"),
    Key("slower", ("minus",), "-", "", "play more slowly"),
    Key("home", ("ctrl+home",), "Ctrl-Home", "", "the first row"),
    Key("end", ("ctrl+end",), "Ctrl-End", "", "the last row"),
    *_QUIT,
)


def labelled(keys: tuple[Key, ...], policies: bool) -> tuple[Key, ...]:
    """For the last line of the screen. policies: whether they are read, so that there is something to see."""
    if not policies:
        return keys
    return tuple(replace(key, label="Policy") if key.action == "policies" else key for key in keys)


_KEY_STYLE = Style(bold=True)
_LABEL_STYLE = Style(reverse=True)


class Footer(Panel):
    """The keys, in the last line. A message takes their place until the next key is pressed."""

    class Clicked(Message):
        """On the label of a key. action: of that key."""

        def __init__(self, action: str) -> None:
            super().__init__()
            self.action = action

    def __init__(self, keys: tuple[Key, ...]) -> None:
        super().__init__()
        self.message = ""
        self._keys = keys

    def offer(self, keys: tuple[Key, ...]) -> None:
        """Other keys from now on."""
        if keys != self._keys:
            self._keys = keys
            self.draw()

    def say(self, message: str) -> None:
        """Show a message, or with an empty one the keys."""
        if message != self.message:
            self.message = message
            self.draw()

    def make_lines(self, width: int, screen_height: int) -> list[Line]:
        if self.message:
            return [[Segment(fit(safe(self.message), width), _LABEL_STYLE)]]
        line: list[Segment] = []
        for key in self._fitting(width):
            line += [Segment(_first_name(key), _KEY_STYLE), Segment(key.label, _LABEL_STYLE), Segment(" ")]
        return [line]

    def _fitting(self, width: int) -> list[Key]:
        shown = [key for key in self._keys if key.label]
        while shown and sum(map(_cells, shown)) - 1 > width:
            # The last ones of those that can be spared most.
            spare = max(key.spare for key in shown)
            shown.remove([key for key in shown if key.spare == spare][-1])
        return shown

    def on_click(self, event: events.Click) -> None:
        at = 0
        for key in self._fitting(self.size.width):
            if at <= event.x < at + _cells(key) - 1:
                self.post_message(self.Clicked(key.action))
            at += _cells(key)


def _first_name(key: Key) -> str:
    return key.shown.split()[0]


def _cells(key: Key) -> int:
    return len(_first_name(key)) + len(key.label) + 1


_HELP_WIDTH = 78
"""Cells of what the help says of the screen: it fits on the narrowest terminal that is common."""

HELP = """\
Each row is a memory area (VMA). PAGES are counted as in /proc/PID/numa_maps: a page of hugetlbfs is 1, a transparent
huge page 512. NODES shows on which nodes they are, each node in its colour or with its digit. CHANGE is against the
sample before, FLT/s are page faults and MOV/s pages that moved, per second since then.

Where policies are read, VERDICT says whether the pages lie as the policy promises: ok, skewed (by more than chance and
huge pages explain), small (too few pages to say), n/a (the policy does not govern these pages, or leaves no choice).
Enter on a row tells why.

In the head, lost, settling, unexplained and drift are 0 as long as every count is exact. oldest: how long ago the
stalest count was confirmed. refresh: CPU time that the last sample took, and regions of 2 MiB that it read."""


def help_lines(keys: tuple[Key, ...]) -> list[str]:
    """The keys, one a line, and what the screen shows."""
    lines = [f"{key.shown:>12}  {key.text}" for key in keys if key.shown]
    for paragraph in HELP.split("\n\n"):
        lines += ["", *textwrap.wrap(paragraph, _HELP_WIDTH)]
    return lines

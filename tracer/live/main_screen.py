"""The first screen: head, table, time line, and what its keys do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from textual import events
from textual.app import ComposeResult
from textual.screen import Screen

from tracer.live.drill import VmaScreen
from tracer.live.header import Header
from tracer.live.history import History
from tracer.live.keys import LIVE_KEYS, REPLAY_KEYS, Footer, Key, help_lines, labelled
from tracer.live.menu import HelpScreen, SortScreen
from tracer.live.prompt import Prompt, Typed
from tracer.live.rows import Column
from tracer.live.table import VmaTable
from tracer.live.timeline import TimeLine

if TYPE_CHECKING:
    from tracer.live.app import NumatraceApp

__all__ = ["MainScreen"]

_SEARCH, _FILTER, _JUMP = "Search", "Filter", "Go to"


class MainScreen(Screen[None]):
    """history: what is shown. timeline: of a recording; None for processes that run."""

    CSS = "MainScreen { layout: vertical; }"

    def __init__(self, history: History, title: str, timeline: TimeLine | None) -> None:
        super().__init__()
        self.keys: tuple[Key, ...] = REPLAY_KEYS if timeline is not None else LIVE_KEYS
        self.header = Header(history, title)
        self.table = VmaTable(history, self._look_into)
        self.timeline = timeline
        self.prompt = Prompt(self._typed)
        self.footer = Footer(self.keys)
        self._needle = ""
        self._before_filter = ""

    def compose(self) -> ComposeResult:
        yield self.header
        yield self.table
        if self.timeline is not None:
            yield self.timeline
        yield self.prompt
        yield self.footer

    @property
    def _app(self) -> NumatraceApp:
        return cast("NumatraceApp", self.app)

    def refresh_from(self, history: History) -> None:
        """The history shows another sample, or in another way."""
        self.header.state = self._app.state_text()
        self.header.draw()
        self.table.take()
        self.footer.offer(labelled(self.keys, self.table.judged))
        if self.timeline is not None:
            self.timeline.draw()

    def on_screen_resume(self) -> None:
        """What was on top is gone, and time has passed meanwhile."""
        self._app.redraw()

    # --- keys ---

    def on_paste(self, event: events.Paste) -> None:
        event.stop()
        if self.prompt.purpose:
            self.prompt.paste(event.text)

    def take_key(self, event: events.Key) -> None:
        if self.prompt.purpose:
            self.prompt.take(event)
            return
        for key in self.keys:
            if event.key in key.keys:
                self.footer.say("")
                self.perform(key.action)
                return

    def perform(self, action: str) -> None:
        """Do what a key stands for."""
        name, _, argument = action.partition(" ")
        method: Callable[..., None] = getattr(self, f"do_{name}")
        method(*([int(argument)] if argument else []))

    def on_footer_clicked(self, message: Footer.Clicked) -> None:
        self.perform(message.action)

    def _look_into(self, pid: int, start: int) -> None:
        self.app.push_screen(VmaScreen(self._app.history, pid, start))

    def on_time_line_wanted(self, message: TimeLine.Wanted) -> None:
        self._app.seek(message.index)

    def do_help(self) -> None:
        self.app.push_screen(HelpScreen(help_lines(self.keys)))

    def do_quit(self) -> None:
        self._app.leave()

    def do_escape(self) -> None:
        self.table.set_layout(replace(self.table.layout_of_rows, needle=""))

    # --- the table ---

    def do_up(self) -> None:
        self.table.move(-1)

    def do_down(self) -> None:
        self.table.move(1)

    def do_page_up(self) -> None:
        self.table.page(-1)

    def do_page_down(self) -> None:
        self.table.page(1)

    def do_home(self) -> None:
        self.table.to_end(False)

    def do_end(self) -> None:
        self.table.to_end(True)

    def do_choose(self) -> None:
        self.table.choose()

    def do_fold(self) -> None:
        key = self.table.selected()
        if key is not None and self.table.layout_of_rows.tree:
            self.table.fold(key[0])

    def do_tree(self) -> None:
        layout = self.table.layout_of_rows
        self.table.set_layout(replace(layout, tree=not layout.tree))

    def do_menu(self) -> None:
        def chosen(column: Column | None) -> None:
            if column is not None:
                self.table.set_layout(replace(self.table.layout_of_rows, sort=column, inverted=False))

        columns = self.table.columns
        self.app.push_screen(SortScreen(columns, self.table.layout_of_rows.sort), chosen)

    def do_sort_next(self) -> None:
        self._sort_beside(1)

    def do_sort_previous(self) -> None:
        self._sort_beside(-1)

    def _sort_beside(self, by: int) -> None:
        layout = self.table.layout_of_rows
        columns = self.table.columns
        if layout.sort not in columns:
            layout = replace(layout, sort=Column.ADDRESS)
        column = columns[(columns.index(layout.sort) + by) % len(columns)]
        self.table.set_layout(replace(layout, sort=column, inverted=False))

    def do_invert(self) -> None:
        layout = self.table.layout_of_rows
        self.table.set_layout(replace(layout, inverted=not layout.inverted))

    def do_hide(self) -> None:
        layout = self.table.layout_of_rows
        self.table.set_layout(replace(layout, hidden=layout.hidden.next))
        self.footer.say(f"{layout.hidden.next.value} ({self.table.count_text()})")

    def do_unit(self) -> None:
        history = self._app.history
        history.unit = history.unit.next
        self._app.redraw()

    def do_flows(self) -> None:
        from tracer.live.flows_screen import FlowsScreen

        self.app.push_screen(FlowsScreen(self._app.history))

    def do_policies(self) -> None:
        from tracer.live.policies_screen import PoliciesScreen

        self.app.push_screen(PoliciesScreen(self._app.history, self.table.verdicts))

    # --- time ---

    def do_pause(self) -> None:
        self._app.action_pause()

    def do_step(self, by: int) -> None:
        self._app.action_step(by)

    def do_first(self) -> None:
        self._app.seek(0)

    def do_last(self) -> None:
        self._app.seek(-1)

    def do_faster(self) -> None:
        self._app.faster(1)

    def do_slower(self) -> None:
        self._app.faster(-1)

    def do_jump(self) -> None:
        self.prompt.ask(_JUMP)

    # --- what is typed ---

    def do_search(self) -> None:
        self.prompt.ask(_SEARCH, self._needle)

    def do_search_on(self) -> None:
        if self._needle and not self.table.search(self._needle, True):
            self.footer.say(f"no row with {self._needle}")

    def do_filter(self) -> None:
        self._before_filter = self.table.layout_of_rows.needle
        self.prompt.ask(_FILTER, self._before_filter)

    def _typed(self, message: Typed) -> None:
        if message.purpose == _FILTER:
            text = self._before_filter if message.done is False else message.text
            self.table.set_layout(replace(self.table.layout_of_rows, needle=text))
            if message.done and text:
                self.footer.say(f"only rows with {text}: {self.table.count_text()} (Esc shows all)")
        elif message.purpose == _SEARCH:
            self._search(message)
        elif message.done:
            self._app.jump(message.text)

    def _search(self, message: Typed) -> None:
        """While it is typed, to the next one from the cursor on; with F3, to the one after it."""
        self._needle = message.text
        if not message.text or message.done is False:
            return
        onward = message.done is True and self.prompt.purpose == _SEARCH
        found = self.table.search(message.text, onward)
        self.footer.say("" if found else f"no row with {message.text}")

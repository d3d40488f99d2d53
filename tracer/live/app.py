"""The application: it owns the history, the thread that fills it, and the screens that show it.

`NumatraceApp(source)` watches processes, `NumatraceApp(recorded=...)` plays a recording. It is run by the command
line, and by tests without a terminal.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, cast

from textual import events
from textual.app import App
from textual.binding import Binding, BindingType
from textual.screen import Screen

from tracer.errors import NumatraceError
from tracer.live.feed import Feed
from tracer.live.history import History
from tracer.live.keys import TakesKeys
from tracer.live.main_screen import MainScreen
from tracer.live.player import Player
from tracer.live.source import Recorded, Source, Tick
from tracer.live.terminal import Driver
from tracer.live.timeline import TimeLine

__all__ = ["NumatraceApp"]


class _Shows(Protocol):
    def refresh_from(self, history: History) -> None: ...


class NumatraceApp(App[None]):
    """history: where the samples go. source: of samples of processes, with the first one that was taken already; or
    recorded: a recording, the sample to start at, the speed, and whether it plays from the start. notes: what the user
    should know at first.

    error: what ended the samples, if it was an error, for whoever ran this to tell again when the view is gone.
    ended_by: the signal (SIGTERM or SIGHUP) that ended the view.
    """

    TITLE = "numatrace"
    ENABLE_COMMAND_PALETTE = False
    ALLOW_SELECT = False
    AUTO_FOCUS = None
    CSS = "Screen { background: ansi_default; color: ansi_default; overflow: hidden; }"
    # These are for every screen: whatever is shown can be stepped through time.
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c,ctrl+q,f10", "leave", priority=True, show=False, system=True),
        Binding("space,p", "pause", show=False),
        Binding("left_square_bracket", "step(-1)", show=False),
        Binding("right_square_bracket", "step(1)", show=False),
        Binding("u", "unit", show=False),
    ]

    def __init__(
        self,
        history: History,
        source: Source | None = None,
        recorded: Recorded | None = None,
        first: Tick | None = None,
        start: int = 0,
        speed: float = 1.0,
        playing: bool = False,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(driver_class=Driver, ansi_color=True)
        self.animation_level = "none"
        self.history = history
        self.error: NumatraceError | None = None
        self._title = source.title if source is not None else recorded.title if recorded is not None else ""
        self._recorded = recorded
        self._start, self._playing = start, playing
        self._notes = notes
        self.ended_by: int | None = None
        self.mistake: BaseException | None = None
        self._background: asyncio.Task[None] | None = None
        self._jumping: asyncio.Task[None] | None = None
        self.feed = Feed(source, history, self._woken) if source is not None else None
        self.player = Player(recorded, history, self.redraw, self.crash) if recorded is not None else None
        if self.player is not None:
            self.player.speed = speed
        if first is not None:
            history.arrive(first)
        history.take_in()

    def get_default_screen(self) -> Screen[Any]:
        timeline = None
        if self._recorded is not None and self.player is not None:
            timeline = TimeLine(self._recorded, self.player)
        return MainScreen(self.history, self._title, timeline)

    @property
    def main(self) -> MainScreen:
        """The screen with the table."""
        return cast(MainScreen, self.screen_stack[0])

    async def on_mount(self) -> None:
        self.theme = "ansi-dark" if "ansi-dark" in self.available_themes else "textual-ansi"
        if self.feed is not None:
            self.feed.start()
        if self.player is not None:
            self.player.start(self._start)
            if self._playing:
                self.player.play(True)
            self._background = asyncio.create_task(self.player.look_around())
        if not self.is_headless:
            self._handle_signals()
        self.redraw()
        if self._notes:
            self.main.footer.say("; ".join(self._notes))

    def on_unmount(self) -> None:
        if self.player is not None:
            self.player.stop()
        if self.feed is not None:
            self.feed.stop()

    def _handle_signals(self) -> None:
        """End in order, so that the terminal is as it was before."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._end_by, number)

    def _end_by(self, number: int) -> None:
        self.ended_by = number
        self.leave()

    def hang_up(self) -> None:
        """The terminal is gone, and nobody has sent the signal that says so."""
        self._end_by(signal.SIGHUP)

    def crash(self, error: BaseException) -> None:
        """A mistake of ours in a thread or a task, where nobody would see it: leave, so that it can be raised."""
        self.mistake = error
        self.leave()

    async def on_event(self, event: events.Event) -> None:
        """Keys are dealt with here and now, by the screen that is on top now. Textual would put them into the queue of
        that screen, and of two keys that come at once the second would still go to a screen that the first has left.
        """
        if not isinstance(event, events.Key) or event.is_forwarded:
            await super().on_event(event)
        elif not await self._check_bindings(event.key, priority=True):
            if isinstance(self.screen, TakesKeys):
                self.screen.take_key(event)
            else:
                await self._check_bindings(event.key)

    # --- drawing ---

    def _woken(self) -> None:
        feed = self.feed
        news = self.history.take_in()
        if feed is not None and feed.ended:
            self.error = feed.error
            if feed.crash is not None:
                self.crash(feed.crash)
        if news or (feed is not None and feed.ended):
            self.redraw()

    def redraw(self) -> None:
        """All screens show the history as it is now; one that nobody sees waits until it is seen."""
        if not self.is_running or not self.screen_stack:
            return
        if self.error is not None:
            self._tell(self.error)
        if self.player is not None and self.player.error is not None:
            self._tell(self.player.error)
            self.player.error = None
        self._show(self.screen)

    def _tell(self, error: NumatraceError) -> None:
        self.main.footer.say(f"{error.message}; {error.hint}" if error.hint else error.message)

    def _show(self, screen: Screen[Any]) -> None:
        if hasattr(screen, "refresh_from"):
            cast(_Shows, screen).refresh_from(self.history)

    def state_text(self) -> str:
        """The time shown, and in which state the view is."""
        history = self.history
        words = []
        if self.feed is not None:
            if self.feed.error is not None:
                words.append("ended by an error")
            elif self.feed.ended:
                words.append(self.feed.words or "exited")
            if not history.following:
                behind = f" {history.behind} back" if history.behind else ""
                words.append(f"paused{behind}")
        if history.current.node_ids:
            date = "%Y-%m-%d " if self.player is not None else ""
            words.append(f"{history.current.time.astimezone():{date}%H:%M:%S}")
        return "  ".join(words)

    # --- what the screens ask for ---

    def leave(self) -> None:
        """Quit."""
        self.exit()

    def action_leave(self) -> None:
        self.leave()

    def action_pause(self) -> None:
        """Hold the view, or go on; of a recording: play, or stop."""
        if self.player is not None:
            self.player.play(not self.player.playing)
        else:
            self.history.follow(not self.history.following)
        self.redraw()

    def action_step(self, by: int) -> None:
        """So many samples on, or (negative) back."""
        if self.player is not None:
            self.player.play(False)
            self.player.step(by)
        else:
            self.history.hold()
            self.history.step(by)
        self.redraw()

    def action_unit(self) -> None:
        """Show pages in the next unit."""
        self.main.do_unit()

    def seek(self, index: int) -> None:
        """Show a sample of the recording; -1 for the last."""
        if self.player is not None:
            self.player.play(False)
            self.player.seek(index if index >= 0 else len(self.player) - 1)

    def faster(self, by: int) -> None:
        """Play faster or (negative) more slowly."""
        if self.player is not None:
            self.player.faster(by)
            self.redraw()

    def jump(self, text: str) -> None:
        """To a time that was typed."""
        if self.player is not None:
            self._jumping = asyncio.create_task(self._jump(self.player, text))

    async def _jump(self, player: Player, text: str) -> None:
        try:
            self.seek(await player.moment(text))
        except NumatraceError as error:
            self._tell(error)

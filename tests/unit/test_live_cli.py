"""`numatrace live` on a terminal, with a made-up session: from its words to its exit code."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.unit.live_fakes import HEAP
from tests.unit.live_terminal import Terminal, with_session
from tracer.cli.main import main

STEADY = "Script([at(number) for number in range(1000)], nap)"
FAST = ("--every", "0.05")
QUIT = "q"


def live(script: str = STEADY, *words: str) -> list[str]:
    return with_session(script, "live", *(words or ("-p", "4711", *FAST)))


# Off a terminal


def test_without_a_terminal_it_says_what_to_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["live", "-p", "1"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for words in ("needs a terminal", "numatrace maps --every 1", "numatrace record -o"):
        assert words in error


@pytest.mark.parametrize("redirected", ["<input", ">output"])
def test_with_half_a_terminal(redirected: str, tmp_path: Path) -> None:
    (tmp_path / "input").touch()
    program = " ".join(f"'{word}'" if "'" not in word else f'"{word}"' for word in ["true"])
    command = ["sh", "-c", f'cd {tmp_path}; exec "$@" {redirected}', program, *live()]
    with Terminal(command) as terminal:
        assert terminal.wait() == 2
        assert b"needs a terminal" in terminal.output
        assert b"\x1b[" not in terminal.output


@pytest.mark.parametrize("kind", ["dumb", ""])
def test_a_terminal_that_cannot_move_its_cursor(kind: str) -> None:
    with Terminal(live(), environment={"TERM": kind}) as terminal:
        assert terminal.wait() == 2
        assert b"TERM is" in terminal.output
        assert b"\x1b[" not in terminal.output


def test_standard_error_may_be_a_file(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Terminal(["sh", "-c", f'exec "$@" 2>{log}', "sh", *live()]) as terminal:
        terminal.until_text("4711 postgres", "[heap]")
        terminal.type(QUIT)
        assert terminal.wait() == 0
        assert terminal.is_restored()
    assert log.read_bytes() == b""


# On one


def test_it_shows_and_leaves_the_terminal_as_it_was() -> None:
    with Terminal(live()) as terminal:
        terminal.until_text("numatrace  4711 postgres", "N3[", "[heap]", "F1Help")
        terminal.until_text("+10")
        terminal.type(QUIT)
        assert terminal.wait() == 0
        assert terminal.is_restored()
        assert terminal.after.strip() == ""


@pytest.mark.parametrize("exported", [{}, {"COLUMNS": "80", "LINES": "24"}], ids=["", "exported"])
def test_resize(exported: dict[str, str]) -> None:
    with Terminal(live(), environment=exported) as terminal:
        terminal.until_text("[heap]")
        terminal.resize(120, 40)
        terminal.until_text("interleave:0-3")
        terminal.resize(50, 12)
        terminal.until(lambda: "POLICY" not in terminal.text and "F1Help" in terminal.text)
        terminal.type(QUIT)
        assert terminal.wait() == 0


@pytest.mark.parametrize("how", ["--no-color", "NO_COLOR", ""])
def test_colours(how: str) -> None:
    words = ("-p", "4711", *FAST, *([how] if how.startswith("-") else []))
    variables = {"NO_COLOR": "1"} if how == "NO_COLOR" else {}
    with Terminal(live(STEADY, *words), environment=variables) as terminal:
        terminal.until_text("[heap]", "00112233" if how else "████████")
        terminal.type("f")
        terminal.until_text("numa_misplaced")
        for keys, word in [
            ("q", "[heap]"),
            ("jj\r", "PID 4711"),
            ("q", "[heap]"),
            ("?", "any other key"),
            ("x", "[heap]"),
        ]:
            terminal.type(keys)
            terminal.until_text(word)
        terminal.type(QUIT)
        assert terminal.wait() == 0
        assert (38 in terminal.colours()) == (how == "")
        if how:
            assert terminal.colours() <= {49}


def test_keys_that_come_all_at_once_each_go_to_the_screen_that_is_there_by_then() -> None:
    with Terminal(live()) as terminal:
        terminal.until_text("[heap]")
        terminal.type("fq?xjj\rq?x/heap\r\r")
        terminal.until_text("PID 4711", f"{HEAP:x}")
        terminal.type("qfq?xf?qqq")
        assert terminal.wait() == 0
        assert terminal.after.strip() == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_in_order(number: signal.Signals) -> None:
    with Terminal(live()) as terminal:
        terminal.until_text("[heap]")
        terminal.process.send_signal(number)
        assert terminal.wait() == 128 + number
        assert terminal.is_restored()
        assert "Traceback" not in terminal.after


def test_a_closed_terminal_ends_it() -> None:
    with Terminal(live()) as terminal:
        terminal.until_text("[heap]")
        # Whoever watched is gone, and with it the terminal, for all who have it open.
        os.close(terminal._theirs)
        os.close(terminal._ours)
        try:
            assert terminal.process.wait(30) == 128 + signal.SIGHUP
        finally:
            terminal._ours, terminal._theirs = os.pipe()


def test_the_target_exits() -> None:
    script = "Script([at(0), at(1), TargetGone('process 4711 has exited')], nap)"
    with Terminal(live(script)) as terminal:
        terminal.until_text("exited", "1511")
        terminal.type(QUIT)
        assert terminal.wait() == 0
        assert terminal.after.strip() == ""


def test_the_target_is_gone_before_it_begins() -> None:
    with Terminal(live("Script([TargetGone('process 4711 has exited', 'choose another')], nap)")) as terminal:
        assert terminal.wait() == 1
        assert b"numatrace: process 4711 has exited; choose another" in terminal.output
        assert b"1049h" not in terminal.output


def test_an_error_is_shown_and_told_again_at_the_end() -> None:
    script = "Script([at(0), NumatraceError('the kernel said no', 'ask it again')], nap)"
    with Terminal(live(script)) as terminal:
        terminal.until_text("the kernel said no", "[heap]")
        terminal.type(QUIT)
        assert terminal.wait() == 1
        assert terminal.after.strip() == "numatrace: the kernel said no; ask it again"


def test_a_mistake_of_ours_comes_to_light_on_a_terminal_that_works() -> None:
    with Terminal(live("Script([at(0), KeyError('a mistake')], nap)")) as terminal:
        assert terminal.wait() == 1
        assert terminal.is_restored()
        assert "KeyError: 'a mistake'" in terminal.after


def test_without_hooks_there_are_no_flows_and_no_complaint() -> None:
    script = """Script([at(0, replace(process(), flows=None, faults=None))], nap,
        notes=['children are not followed here'])"""
    with Terminal(live(script, "-p", "4711", "--hooks", "none", *FAST)) as terminal:
        terminal.until_text("[heap]", "children are not followed here")
        terminal.type("j")
        terminal.until_text("F1Help")
        terminal.type(QUIT)
        assert terminal.wait() == 0


def test_where_flows_are_refused_it_goes_without(tmp_path: Path) -> None:
    log = tmp_path / "options"
    script = f"""
def refuse(progress):
    options = script.events[-2][2]
    print(options.flows, options.faults, options.regions, file=open({str(log)!r}, "a"))
    if options.flows:
        raise HooksMissing("flows are seen by the hooks only")
script = Script([at(0)], nap, start=refuse)
"""
    command = live("script")
    command[2] = command[2].replace("install(script)", script + "install(script)")
    with Terminal(command) as terminal:
        terminal.until_text("[heap]")
        terminal.type(QUIT)
        assert terminal.wait() == 0
    assert log.read_text().splitlines() == ["True True True", "False False True"]


def test_what_happened_can_be_left_out(tmp_path: Path) -> None:
    log = tmp_path / "options"
    script = f"""
def look(progress):
    options = script.events[-2][2]
    print(options.flows, options.faults, file=open({str(log)!r}, "a"))
script = Script([at(0)], nap, start=look)
"""
    command = live("script", "-p", "4711", *FAST, "--no-flows", "--no-faults")
    command[2] = command[2].replace("install(script)", script + "install(script)")
    with Terminal(command) as terminal:
        terminal.until_text("[heap]")
        terminal.type(QUIT)
        assert terminal.wait() == 0
    assert log.read_text().splitlines() == ["False False"]


# A slow terminal


def test_a_terminal_that_stands_still_delays_no_sample(tmp_path: Path) -> None:
    log = tmp_path / "samples"
    script = f"""
counter = iter(range(100_000))
def step():
    number = next(counter)
    with open({str(log)!r}, "a") as file:
        file.write(".")
    return at(number)
script = Script([step], nap)
"""
    command = live("script", "-p", "4711", "--every", "0.01")
    command[2] = command[2].replace("install(script)", script + "install(script)")
    with Terminal(command) as terminal:
        terminal.until_text("[heap]")
        taken = log.stat().st_size
        # Nobody reads: the terminal's buffer is full after some screens.
        limit = time.monotonic() + 60
        while log.stat().st_size < taken + 400:
            assert time.monotonic() < limit, "the samples stand still with the terminal"
            time.sleep(0.02)
        terminal.until(lambda: f" {1501 + 10 * (taken + 400):d}"[:3] in terminal.text)
        terminal.type(QUIT)
        assert terminal.wait() == 0


# A command


def test_a_command_ends_and_its_exit_code_is_ours() -> None:
    script = "Script([at(0), at(1), TargetGone('it has exited')], nap)"
    command = live(script, *FAST, "--", "sh", "-c", "echo PRINTED; echo PRINTED >&2; read line; exit 3")
    with Terminal(command) as terminal:
        terminal.until_text("exited with code 3", "[heap]")
        terminal.type(QUIT)
        assert terminal.wait() == 3
        assert b"PRINTED" not in terminal.output
        assert terminal.is_restored()


def test_a_command_goes_on_when_the_view_is_left() -> None:
    with Terminal(live(STEADY, *FAST, "--", "sleep", "300")) as terminal:
        terminal.until_text("[heap]")
        terminal.type(QUIT)
        assert terminal.wait() == 0
        words = terminal.after.strip()
        assert words.startswith("numatrace: sleep goes on as process ")
        pid = int(words.split()[-1])
        try:
            assert Path(f"/proc/{pid}/comm").read_text() == "sleep\n"
        finally:
            os.kill(pid, signal.SIGKILL)


def test_whoever_ends_us_ends_the_command() -> None:
    with Terminal(live(STEADY, *FAST, "--", "sleep", "300")) as terminal:
        terminal.until_text("[heap]")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.wait() == 128 + signal.SIGTERM
        assert terminal.is_restored()


def test_a_command_that_cannot_be_run() -> None:
    with Terminal(live(STEADY, *FAST, "--", "no-such-command")) as terminal:
        assert terminal.wait() == 127
        assert b"numatrace: cannot run no-such-command" in terminal.output
        assert b"1049h" not in terminal.output


# Wrong usage


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("live", "there is nothing to watch"),
        ("live --", "no command after --"),
        ("live -p 1 -- true", "both -p and a command"),
        ("live --every 0 -p 1", "--every"),
        ("live one.parquet two.parquet", "one recording at a time"),
        ("live x.parquet --follow-forks", "--follow-forks is about live processes"),
        ("live x.parquet --no-faults", "--no-faults is about live processes"),
        ("live x.parquet --every 2", "--every is about live processes"),
    ],
)
def test_wrong_usage(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1

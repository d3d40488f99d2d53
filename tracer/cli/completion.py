"""The verb `completion`: a script that teaches a shell the verbs and options."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, _SubParsersAction
from typing import Any

from tracer.cli.output import Output
from tracer.cli.verb import Verb
from tracer.errors import NumatraceError

__all__ = ["VERB"]

_SHELLS = ("bash", "zsh", "tcsh")


def _configure(parser: ArgumentParser) -> None:
    parser.add_argument("shell", choices=_SHELLS, help="the shell to write it for")


def _run(arguments: Namespace) -> int:
    try:
        import shtab
    except ImportError:
        raise NumatraceError(
            "cannot write completions: the Python package shtab is missing", "pip install shtab"
        ) from None
    from tracer.cli.main import build_parser

    parser = build_parser()
    _name_files(parser, {"FILE": shtab.FILE, "DIR": shtab.DIRECTORY, "PATH": shtab.DIRECTORY})
    script: str = shtab.complete(parser, shell=arguments.shell)
    Output().write(script.encode() + b"\n")
    return 0


def _name_files(parser: ArgumentParser, kinds: dict[str, Any]) -> None:
    """Says which words of the parser and its verbs are completed as files. kinds: by metavar, as shtab spells them."""
    for action in parser._actions:
        if isinstance(action, _SubParsersAction):
            for sub in dict.fromkeys(action.choices.values()):
                _name_files(sub, kinds)
        elif isinstance(action.metavar, str) and action.metavar in kinds:
            # How shtab wants to be told: https://docs.iterative.ai/shtab/use/#main-usage
            action.complete = kinds[action.metavar]  # type: ignore[attr-defined]


VERB = Verb(
    name="completion",
    summary="print a completion script for a shell",
    description="Prints a script that completes verbs, options and files in a shell. For bash: "
    "numatrace completion bash > /etc/bash_completion.d/numatrace",
    usage="(bash | zsh | tcsh)",
    configure=_configure,
    run=_run,
)

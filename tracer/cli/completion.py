"""The verb `completion`: a script that teaches a shell the verbs and options."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

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

    script: str = shtab.complete(build_parser(), shell=arguments.shell)
    Output().write(script.encode() + b"\n")
    return 0


VERB = Verb(
    name="completion",
    summary="print a completion script for a shell",
    description="Prints a script that completes verbs and options in a shell. For bash: "
    "numatrace completion bash > /etc/bash_completion.d/numatrace",
    usage="(bash | zsh | tcsh)",
    configure=_configure,
    run=_run,
)

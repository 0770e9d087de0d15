"""What a person or a program reads of a command."""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console


def print_anything() -> None:
    """Let standard output and error take every character: one that the locale has not is written as its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def console(stderr: bool = False) -> Console:
    """Where people read."""
    from rich.console import Console

    return Console(stderr=stderr)


def say(text: str, error: bool = False) -> None:
    """One line for a person."""
    typer.echo(text, err=error)


def print_json(document: Any) -> None:
    """The one JSON document of a command, to standard output."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=not is_unicode()))


def is_unicode() -> bool:
    """Whether standard output takes every character as it is; in JSON another one has its own escape."""
    return (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "").startswith("utf")


def print_error(error: Exception) -> None:
    """An error's sentence, to standard error."""
    from rayml.errors import SpecError

    typer.echo(str(error) if isinstance(error, SpecError) else f"error: {error}", err=True)


def go_on() -> str:
    """The command that was typed."""
    import shlex

    from rayml.redact.text import redacted

    return redacted(shlex.join(["rayml", *sys.argv[1:]]))


def print_bug() -> None:
    """A bug in rayml, with all that helps to find it and nothing secret."""
    import traceback

    from rayml.redact.text import redacted

    sys.stderr.write(redacted(traceback.format_exc()))

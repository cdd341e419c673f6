"""What every command prints through."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

# Lines stay lines: a terminal wraps them itself, and a file or pipe wants them whole.
out = Console(highlight=False, markup=False, soft_wrap=True)
notes = Console(highlight=False, markup=False, soft_wrap=True, stderr=True)
"""For what is not the answer."""

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout and nothing else.")]


def error_line(error: BaseException) -> str:
    """An error and what was noted about it, as one line."""
    return "; ".join(" ".join(part.split()) for part in (str(error), *getattr(error, "__notes__", ())))


def usage_line(error: typer.TyperException) -> str:
    """A command line that is refused: the option, the value if that is what is wrong, and whose help says
    more. '' where help has been shown in place of an error."""
    if not (usage := error.format_message().rstrip(".")):
        return ""
    for told in getattr(error.__cause__, "errors", list)():  # by pydantic, which names no value
        usage = usage.replace("Input should be", f"found '{told['input']}', expected")
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "dualpath"
    return f"{usage.replace('Value error, ', '')}; see '{command} --help'"


def print_json(document: Any) -> None:
    """One indented document on stdout."""
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")

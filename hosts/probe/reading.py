"""What files and commands say, in the forms that every other part asks for."""

import subprocess
from typing import Any, Dict, List

Facts = Dict[str, Any]


def text(path: str) -> str:
    """A file without the white space around it; empty if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def number(path: str, otherwise: int = -1) -> int:
    """A file that holds a number; ``otherwise`` if it does not."""
    try:
        return int(text(path))
    except ValueError:
        return otherwise


def output(argv: List[str], timeout_s: float = 8.0) -> str:
    """What a command prints; empty if there is none of that name, or it fails."""
    try:
        done = _run(argv, subprocess.DEVNULL, timeout_s)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def complaint(argv: List[str], timeout_s: float = 8.0) -> str:
    """Why a command fails, in its last line; empty if it does not."""
    try:
        done = _run(argv, subprocess.STDOUT, timeout_s)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    lines = done.stdout.strip().splitlines() or [f"exit status {done.returncode}"]
    return lines[-1] if done.returncode else ""


def reason(error: BaseException) -> str:
    """An exception in words."""
    said = getattr(error, "strerror", None) or str(error)
    return said if isinstance(error, OSError) and said else f"{type(error).__name__}: {said}"


def _run(argv: List[str], errors: int, timeout_s: float) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        timeout=timeout_s,
        universal_newlines=True,  # "text" of Python 3.6
    )

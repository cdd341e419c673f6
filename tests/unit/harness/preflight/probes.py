"""The probe, as a host runs it: the script on some Python's standard input, in namespaces of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.preflight.program import program

TIMEOUT_S = 60.0


def probe(
    stores: Sequence[Mapping[str, str]] = (),
    directory: str = "~/.cache/dualpath",
    argv: Sequence[str] = (sys.executable, "-"),
    cwd: Path | None = None,
) -> bytes:
    """What it prints; the command reads the script."""
    script = program({"directory": directory, "stores": list(stores)})
    done = subprocess.run(argv, input=script, capture_output=True, timeout=TIMEOUT_S, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()
    json.loads(done.stdout)
    return done.stdout


def unshared(*options: str) -> tuple[str, ...]:
    """The command that runs the rest in new namespaces, as root of a user namespace of its own."""
    return ("unshare", "--user", "--map-root-user", *options, "--")


def obstacle(*options: str) -> str | None:
    """Why such namespaces are not to be had here."""
    try:
        done = subprocess.run(
            [*unshared(*options), "true"], capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except FileNotFoundError as error:
        return f"{error.filename}: not found"
    return done.stderr.strip() or None


def in_shell(setup: str, *options: str) -> tuple[str, ...]:
    """The argv of a probe in new namespaces, after some lines of shell there."""
    return (*unshared(*options), "sh", "-ec", f'{setup}\nexec "$0" -', sys.executable)


def sections(facts: Any) -> dict[str, str]:
    """Errors by part."""
    return {name: part.error for name, part in facts.parts().items() if part.error}

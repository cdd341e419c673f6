"""What a person, or a log, sees of a run: bars on a terminal; elsewhere a line a phase, at once."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

LINE = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ +\d+\.\d s  (.+)")
LONG = "priming the storage with [not/markup] " + 300 * "x"
SCRIPT = f"""
import sys
from harness.progress import RunProgress
with RunProgress() as progress:
    progress.phase({LONG!r})
    progress.begin_repetition("1/2 prefill_only", 64)
    progress.advance(32)
    print("read", file=sys.stdout, flush=True)
    sys.stdin.readline()
    progress.end_repetition("1/2 prefill_only: JCT 1.00 s")
    progress.begin_repetition("dual_path at 0.2 agents/s", None)
    progress.end_repetition("dual_path at 0.2 agents/s: steady")
"""


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"COLUMNS": "20", "TERM": "xterm-256color"},
        {"FORCE_COLOR": "1", "TTY_INTERACTIVE": "1"},
        {"TERM": "dumb"},
    ],
    ids=lambda environment: " ".join(environment) or "nothing set",
)
def test_a_pipe_gets_whole_lines_at_once_and_nothing_else(environment: dict[str, str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "read\n"
        # It waits: what it has said by now is in the pipe.
        so_far = [process.stderr.readline(), process.stderr.readline()]
        _, rest = process.communicate("go on\n", timeout=20)
    lines = [*so_far, *rest.splitlines(keepends=True)]
    matches = [LINE.fullmatch(line.removesuffix("\n")) for line in lines]
    assert [match and match[1] for match in matches] == [
        LONG,
        "1/2 prefill_only: replaying 64 turns",
        "1/2 prefill_only: JCT 1.00 s",
        "dual_path at 0.2 agents/s: replaying",
        "dual_path at 0.2 agents/s: steady",
    ]
    assert all(line[:-1].isprintable() and line.endswith("\n") for line in lines)


def test_a_terminal_gets_bars_and_the_same_words() -> None:
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "400"},
    ) as process:
        os.close(theirs)
        shown = b"".join(iter(lambda: _read(ours), b"")).decode()
        os.close(ours)
    assert process.returncode == 0
    assert f" s\x1b[0m  {LONG}" in shown
    assert " turns " in shown
    assert "1/2 prefill_only: JCT 1.00 s" in shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # EIO: nobody has the other end open any more
        return b""

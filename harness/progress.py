"""What a person (or a log) sees while a run goes on."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text


class RunProgress:
    """Phases as lines, repetitions as bars on a terminal; elsewhere all as lines with the time of day (UTC).

    All on stderr, each line at once. Off a terminal there are no bars and no colours, whatever the
    environment asks for (CI jobs set FORCE_COLOR), and a line is as long as it is.
    """

    def __init__(self) -> None:
        self._bars = _bars() if sys.stderr.isatty() else None
        self._task: TaskID | None = None
        self._began_at = time.monotonic()

    def __enter__(self) -> RunProgress:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()

    def phase(self, text: str) -> None:
        """A line of its own, with the time since the start."""
        since = f"{time.monotonic() - self._began_at:6.1f} s"
        if self._bars:
            self._bars.console.print(Text.assemble((since, "dim"), f"  {text}"), soft_wrap=True)
        else:
            sys.stderr.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {since}  {text}\n")
            sys.stderr.flush()

    def begin_repetition(self, label: str, turns: int | None) -> None:
        """A bar of ``turns``; None: nobody knows how many it will be."""
        if self._bars:
            self._task = self._bars.add_task(label, total=turns)
        else:
            self.phase(f"{label}: replaying" + ("" if turns is None else f" {turns} turns"))

    def advance(self, turns: int) -> None:
        """So many turns are done."""
        if self._bars and self._task is not None:
            self._bars.advance(self._task, turns)

    def end_repetition(self, text: str) -> None:
        """Replace the bar by a line."""
        if self._bars and self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None
        self.phase(text)


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("turns"),
        TimeElapsedColumn(),
        console=Console(stderr=True, highlight=False),
    )

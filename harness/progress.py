"""What a person (or a log) sees while a run goes on."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class RunProgress:
    """Phases as lines, repetitions as bars on a terminal and as lines elsewhere; all on stderr."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("turns"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._began_at = time.monotonic()

    def __enter__(self) -> RunProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def phase(self, text: str) -> None:
        """A line of its own, with the time since the start."""
        self._bar.console.print(
            f"[dim]{time.monotonic() - self._began_at:6.1f} s[/dim]  {text}", soft_wrap=True
        )

    def begin_repetition(self, label: str, turns: int | None) -> None:
        """A bar of ``turns``; None: nobody knows how many it will be."""
        self._task = self._bar.add_task(label, total=turns)

    def advance(self, turns: int) -> None:
        """So many turns are done."""
        if self._task is not None:
            self._bar.advance(self._task, turns)

    def end_repetition(self, text: str) -> None:
        """Replace the bar by a line."""
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
        self.phase(text)

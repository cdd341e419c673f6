"""What a CI job reads of a run beside its directory: JUnit XML, a step summary, and whether it got slower.

The files say how the command ended, however it ended: a CI that finds none, or yesterday's, reports the
wrong thing. Until then the JUnit file says that the run has not ended.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Annotated, Self

import typer

from harness.console import error_line
from harness.run_store import RunDirectoryError, RunStoreError, disk_error
from reports import ReportError, Summary, junit, step_summary
from reports.atomic_file import write_atomically
from reports.metadata import read_metadata
from reports.problem import Problem
from reports.regression import regression

JunitOption = Annotated[
    Path | None,
    typer.Option("--junit", metavar="FILE", help="Write JUnit XML: a test case a gate, policy and problem."),
]
SummaryOption = Annotated[
    Path | None,
    typer.Option("--summary", metavar="FILE", help="Append half a page of Markdown to FILE."),
]
FailBelowOption = Annotated[
    float | None,
    typer.Option(metavar="RATIO", min=0, help="Exit with 1 if the speedup's interval ends below RATIO."),
]

_NOT_ENDED = "the run has not ended: it is still going on, or was killed"


@dataclass
class Outputs:
    """A context in which ``experiment`` is run, or reported: give it the analysis once there is one.

    At its end it writes the files that are asked for. An exception is an error there, but for an exit that
    the command decided on. Raises RunDirectoryError at its begin where a file cannot be written.
    """

    experiment: str
    junit: Path | None = None
    summary: Path | None = None
    fail_below: float | None = None
    _directory: Path = field(default=Path(), init=False)
    _analysis: Summary | None = field(default=None, init=False)

    def analysed(self, directory: Path, analysis: Summary) -> None:
        """There are records in ``directory``, and this is what they say."""
        self._directory, self._analysis = directory, analysis

    def regression(self) -> Problem | None:
        """What is wrong with the speedup, where one is asked for."""
        if self.fail_below is None or self._analysis is None:
            return None
        return regression(self._analysis, self.fail_below)

    def __enter__(self) -> Self:
        for option, path in (("--junit", self.junit), ("--summary", self.summary)):
            if path and path.exists() and not path.is_file():
                raise RunDirectoryError(f"{option}: {path}: not a regular file, expected one or none")
        try:
            self._write(junit.failed_document(self.experiment, _NOT_ENDED), "")
        except RunStoreError as error:
            raise RunDirectoryError(str(error)) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, typer.Exit):
            error = None
        try:
            self._conclude(None if error is None else error_line(error) or type(error).__name__)
        except (RunStoreError, ReportError) as second:
            if error is None:
                raise
            error.add_note(str(second))

    def _conclude(self, error: str | None) -> None:
        if self._analysis is not None:
            metadata = read_metadata(self._directory)
            self._write(
                junit.document(metadata, self._analysis, fail_below=self.fail_below, error=error),
                step_summary.document(
                    self._analysis, self._directory, regression=self.regression(), error=error
                ),
            )
        elif error is not None:
            self._write(
                junit.failed_document(self.experiment, error),
                step_summary.failed_document(self.experiment, error),
            )

    def _write(self, cases: str, section: str) -> None:
        """Replace the JUnit file by ``cases``, append ``section`` to the summary; raises RunStoreError."""
        if self.junit:
            try:
                self.junit.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self.junit.resolve(), cases.encode())
            except OSError as error:
                raise disk_error(error, self.junit) from None
        if self.summary:
            try:
                self.summary.parent.mkdir(parents=True, exist_ok=True)
                with self.summary.open("a", encoding="utf-8") as file:
                    file.write(section)
            except OSError as error:
                raise disk_error(error, self.summary) from None

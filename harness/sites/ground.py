"""What a site is made on: this machine, or a rack. The interface of the two."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Protocol

from harness.experiment import Experiment
from harness.preparation import Preparation
from harness.run import Run
from harness.sites.base import Site

OpenSite = Callable[[], AbstractAsyncContextManager[Site]]
"""Opens the site anew for each attempt at a run; what it needs is freed when it is left."""


class Ground(Protocol):
    """Where hosts come from."""

    @property
    def name(self) -> str:
        """What it is called beside what was measured there."""
        ...

    def prepared(self, experiment: Experiment) -> Preparation:
        """The experiment as it is run there, prepared; raises what `prepare` does, also if it cannot be run
        there."""
        ...

    def describe(self) -> dict[str, Any]:
        """``mode``, ``storage`` and ``labels`` of metadata.json's ``emulation``."""
        ...

    def raised(self, run: Run) -> AbstractContextManager[OpenSite]:
        """Everything that has to be there before the first attempt, until the run's end."""
        ...

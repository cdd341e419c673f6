from __future__ import annotations

from pathlib import Path

import pytest
from stored_run_builder import StoredRunBuilder


@pytest.fixture(scope="session")
def io_bound_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete, valid, I/O-bound run of both policies; read only."""
    return StoredRunBuilder().write(tmp_path_factory.mktemp("io_bound") / "run")

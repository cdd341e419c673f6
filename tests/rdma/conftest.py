"""Runs are driven as in the integration tests: the same command, the same accounts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
pytest.register_assert_rewrite("run_driver")

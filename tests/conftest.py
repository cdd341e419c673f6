"""Settings of the whole suite."""

from __future__ import annotations

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("run_driver")  # whose checks are those of the runs in integration and rdma

# Machines that share their cores are late now and then; how fast code is, benchmarks say.
settings.register_profile("shared-machine", deadline=None)
settings.load_profile("shared-machine")

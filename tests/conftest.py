"""Settings of the whole suite."""

from __future__ import annotations

import pytest
from hypothesis import settings

# Modules with checks of their own: those of runs in integration and rdma, and what a GPU's driver gave out.
pytest.register_assert_rewrite("run_driver", "fake_cuda", "fake_cufile")

# Machines that share their cores are late now and then; how fast code is, benchmarks say.
settings.register_profile("shared-machine", deadline=None)
settings.load_profile("shared-machine")

"""Settings of the whole suite."""

from __future__ import annotations

from hypothesis import settings

# Machines that share their cores are late now and then; how fast code is, benchmarks say.
settings.register_profile("shared-machine", deadline=None)
settings.load_profile("shared-machine")

"""The upper bound (paper 7.1): nothing is read, moved or persisted; only compute takes time."""

from __future__ import annotations

from harness.scheduling.engines import ScheduledEngines
from harness.scheduling.policy import Policy, read_nowhere

ORACLE = Policy("oracle", ScheduledEngines, read_nowhere)

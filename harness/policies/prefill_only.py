"""Basic: the prefill host always reads (paper 7.1), as PD-disaggregated servers do today."""

from __future__ import annotations

from harness.scheduling.engines import ScheduledEngines
from harness.scheduling.policy import Policy, read_on_prefill

PREFILL_ONLY = Policy("prefill_only", ScheduledEngines, read_on_prefill)

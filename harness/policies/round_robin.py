"""Both read paths without scheduling: engines and sides in turn, whatever their load (paper 7, ablation)."""

from __future__ import annotations

from harness.scheduling.engines import RoundRobinEngines
from harness.scheduling.policy import Policy, alternate

ROUND_ROBIN = Policy("round_robin", RoundRobinEngines, alternate)

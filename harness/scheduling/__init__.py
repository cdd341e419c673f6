"""The request scheduler of paper 6.1: pure, without I/O or clock, one round at a time."""

from __future__ import annotations

from harness.scheduling.engines import RoundRobinEngines, ScheduledEngines
from harness.scheduling.load import ClusterLoad, Engine, Limits, Placement, ReadPath, Request
from harness.scheduling.policy import Policy
from harness.scheduling.scheduler import RequestScheduler

__all__ = [
    "ClusterLoad",
    "Engine",
    "Limits",
    "Placement",
    "Policy",
    "ReadPath",
    "Request",
    "RequestScheduler",
    "RoundRobinEngines",
    "ScheduledEngines",
]

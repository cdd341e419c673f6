"""Routing policies: where a turn is prefilled, where decoded, and which side reads its hit KV.

A policy is one pure function of the request and the cluster's load; it does no I/O and reads no clock.
"""

from __future__ import annotations

from collections.abc import Callable

from harness.policies.decode_only import decode_only
from harness.policies.dual_path import dual_path
from harness.policies.load import ClusterLoad, Engine, Placement, Request
from harness.policies.oracle import oracle
from harness.policies.prefill_only import prefill_only

Policy = Callable[[Request, ClusterLoad], Placement]

POLICIES: dict[str, Policy] = {
    "prefill_only": prefill_only,
    "dual_path": dual_path,
    "decode_only": decode_only,
    "oracle": oracle,
}

__all__ = ["POLICIES", "ClusterLoad", "Engine", "Placement", "Policy", "Request"]

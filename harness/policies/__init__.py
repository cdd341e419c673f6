"""Routing policies: which engines serve a turn, and which side reads its hit KV; one policy a module."""

from __future__ import annotations

from harness.policies.decode_only import DECODE_ONLY
from harness.policies.dual_path import DUAL_PATH
from harness.policies.oracle import ORACLE
from harness.policies.prefill_only import PREFILL_ONLY
from harness.policies.round_robin import ROUND_ROBIN
from harness.policies.split import SPLIT
from harness.scheduling import Policy

POLICIES: dict[str, Policy] = {
    policy.name: policy for policy in (PREFILL_ONLY, DUAL_PATH, DECODE_ONLY, ROUND_ROBIN, SPLIT, ORACLE)
}

__all__ = ["POLICIES"]

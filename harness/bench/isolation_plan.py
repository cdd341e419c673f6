"""What an isolation benchmark measures, as the command line says it."""

from __future__ import annotations

from typing import Literal

import msgspec

from harness.bench.isolation_metrics import Scenario
from harness.experiment import Transport

BLOCK_TOKENS = 64
CollectivesBy = Literal["transport", "gloo", "nccl"]


class IsolationPlan(msgspec.Struct, frozen=True):
    """``hosts`` are all alike; ``batch_tokens`` an engine computes of ``context_tokens``; ``seconds`` count,
    emulated, of each scenario in each round. KV moves by ``transport``; ``collectives`` by the same, or by a
    library on the same NICs in the same classes."""

    scenarios: tuple[Scenario, ...]
    rounds: int
    seconds: float
    hosts: int
    model: str
    profile: str
    bytes_divisor: float
    time_dilation: float
    batch_tokens: int
    context_tokens: int
    kv_depth: int
    collectives: CollectivesBy = "transport"
    transport: Transport = Transport()

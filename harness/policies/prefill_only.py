"""Basic: the prefill host always reads (paper 7.1), as PD-disaggregated servers do today."""

from __future__ import annotations

from harness.policies.load import ClusterLoad, Placement, Request


def prefill_only(request: Request, load: ClusterLoad) -> Placement:
    """Least-loaded engines by tokens; hit KV: storage -> prefill host."""
    return Placement(load.least_loaded_prefill(), load.least_loaded_decode(), "prefill")

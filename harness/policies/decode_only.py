"""The mirror image of Basic: the decode host always reads."""

from __future__ import annotations

from harness.policies.load import ClusterLoad, Placement, Request


def decode_only(request: Request, load: ClusterLoad) -> Placement:
    """Least-loaded engines by tokens; hit KV: storage -> decode host -> prefill host, layer by layer."""
    return Placement(load.least_loaded_prefill(), load.least_loaded_decode(), "decode")

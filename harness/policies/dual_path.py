"""DualPath: read on the side whose host has the shorter read queue (paper 6.1, path choice)."""

from __future__ import annotations

from harness.policies.load import ClusterLoad, Placement, ReadPath, Request


def dual_path(request: Request, load: ClusterLoad) -> Placement:
    """Least-loaded engines by tokens, then the shorter of their two hosts' read queues."""
    prefill, decode = load.least_loaded_prefill(), load.least_loaded_decode()
    queue = load.read_queue_tokens
    path: ReadPath = "prefill" if queue[prefill.host] <= queue[decode.host] else "decode"
    return Placement(prefill, decode, path)

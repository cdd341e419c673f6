"""The upper bound (paper 7.1): nothing is read, moved or persisted; only compute takes time."""

from __future__ import annotations

from harness.policies.load import ClusterLoad, Placement, Request


def oracle(request: Request, load: ClusterLoad) -> Placement:
    """Least-loaded engines by tokens; no path."""
    return Placement(load.least_loaded_prefill(), load.least_loaded_decode(), "none")

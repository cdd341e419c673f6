"""Connecting to a Ray cluster, or what is in the way, in words."""

from __future__ import annotations

import logging
import re
import socket

import ray

from harness.launchers.ray.words import why_not_connected

_ADDRESS = re.compile(r"(?P<host>[^\[\]:/]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]+)")
_PROBE_TIMEOUT_S = 5.0


def connect(address: str) -> str:
    """Make this process a driver of the cluster; '' if it is one now, or what is in the way."""
    if problem := "" if address == "auto" else _unreachable(address):
        return problem
    try:
        ray.init(address, log_to_driver=False, configure_logging=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        return (
            f"no Ray cluster at '{address}': {' '.join(str(error).split())}; fix: `ray start --head`, or "
            "launcher.address in the inventory"
        )
    except (RuntimeError, ValueError) as error:
        return why_not_connected(error)
    return ""


def _unreachable(address: str) -> str:
    """Ray itself would try for minutes, and say little of it."""
    if (found := _ADDRESS.fullmatch(address)) is None:
        return f"launcher.address: found '{address}', expected host:port or auto"
    try:
        host = found["host"].strip("[]")
        with socket.create_connection((host, int(found["port"])), timeout=_PROBE_TIMEOUT_S):
            return ""
    except (OSError, OverflowError) as error:
        return (
            f"no Ray cluster at '{address}': {error}; fix: `ray start --head` there, or launcher.address in "
            "the inventory"
        )

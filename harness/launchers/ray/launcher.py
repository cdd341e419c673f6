"""The launcher on a Ray cluster: asks a driver process, which ends with it."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from harness.cluster.processes import wait_exit
from harness.host_error import HostError
from harness.inventory import Inventory, RayLauncher
from harness.launchers.base import Completed
from harness.launchers.ray.messages import (
    MAX_BYTES,
    Answer,
    Cancel,
    Done,
    Ended,
    Lost,
    Open,
    Opened,
    Reach,
    Reached,
    Request,
    Run,
    Start,
)
from harness.launchers.remote import put_line, run_line, start_line
from harness.launchers.words import cannot_put, took_too_long, unknown_host
from hosts.line import Line

_END_TIMEOUT_S = 15.0
_Waiting = asyncio.Future[Answer]


class RayHosts:
    """`Launcher` on the hosts of an inventory, by a driver process that it owns."""

    kind = "ray"

    def __init__(self, hosts: Sequence[str], driver: subprocess.Popen[bytes], line: Line, said: int) -> None:
        self.hosts: Sequence[str] = tuple(hosts)
        self._driver = driver
        self._line = line
        self._said = said
        self._waiting: dict[int, _Waiting] = {}
        self._ids = itertools.count()
        self._answers = asyncio.create_task(self._take_answers())

    @classmethod
    async def opened(cls, inventory: Inventory) -> Self:
        """Start a driver and let it connect. Raises HostError if it cannot."""
        section = inventory.launcher
        assert isinstance(section, RayLauncher), "the registry chooses by it"
        nodes = {host.name: host.node for host in inventory.hosts}
        own, its = socket.socketpair()
        said = os.memfd_create("driver")
        try:
            with its:
                driver = _start_driver(its.fileno(), said)
            line = Line(*await asyncio.open_unix_connection(sock=own), MAX_BYTES)
    

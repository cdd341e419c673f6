"""Which transports can be tested here, and two ends of one in this process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from hosts.config import TransportConfig
from hosts.transport import Connection, Region, Transport, open_transport

VERBS_ADDRESSES = os.environ.get("DUALPATH_VERBS_ADDRESSES", "").split(",")
"""Of two RDMA ports that reach each other; where there are none, verbs are not collected (tox -e rdma has
them)."""
VERBS = ["verbs"] if len(VERBS_ADDRESSES) == 2 else []
NIXL = ["nixl"] if find_spec("nixl_cu12") else []
BETWEEN_PROCESSES = ["tcp", *VERBS, *NIXL]
KINDS = ["memory", *BETWEEN_PROCESSES]
REGION_BYTES = 1 << 20
SLOWNESS = {"memory": 1, "tcp": 1, "nixl": 1, "verbs": 10}
"""Factor for short timeouts: RDMA is tested in an emulated machine, where connecting takes a second."""
TEST_TIMEOUT_S = {"memory": 30, "tcp": 30, "nixl": 30, "verbs": 90}
"""Some start three processes one after another, which takes each of them ten seconds there."""


class Pair(NamedTuple):
    """An initiator connected to a target, a region of random bytes at each."""

    initiator: Transport
    target: Transport
    connection: Connection
    local: Region
    remote: Region
    notifications: list[bytes]


def config_of(kind: str, end: int, **config: Any) -> TransportConfig:
    """Of the initiator's end, 0, or of the target's, 1."""
    address = VERBS_ADDRESSES[end] if kind == "verbs" else "127.0.0.1"
    return TransportConfig(kind=kind, bind_address=address, **config)  # type: ignore[arg-type]


@asynccontextmanager
async def pair(kind: str, nbytes: int = REGION_BYTES, **config: Any) -> AsyncIterator[Pair]:
    initiator, target = [await open_transport(config_of(kind, end, **config)) for end in (0, 1)]
    try:
        notifications: list[bytes] = []
        target.on_notification(notifications.append)
        rng = np.random.default_rng(1)
        local, remote = (end.register(rng.integers(0, 256, nbytes, np.uint8)) for end in (initiator, target))
        connection = await initiator.connect(target.address)
        yield Pair(initiator, target, connection, local, remote, notifications)
    finally:
        await initiator.close()
        await target.close()


def over_pair(kind: str, test: Callable[[Pair], Coroutine[Any, Any, None]], **config: Any) -> None:
    async def run() -> None:
        async with asyncio.timeout(TEST_TIMEOUT_S[kind]), pair(kind, **config) as ends:
            await test(ends)

    asyncio.run(run())

"""A transport endpoint in a process of its own: ``python transport_peer.py CONFIG BYTES``.

CONFIG is a `TransportConfig` as JSON. Prints its address and `RemoteRegion` as JSON, fills the region with
7s, and echoes every notification to standard output until its standard input ends.
"""

from __future__ import annotations

import asyncio
import sys

import msgspec
import numpy as np

from hosts.config import TransportConfig
from hosts.transport import open_transport


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def serve(config: TransportConfig, nbytes: int) -> None:
    transport = await open_transport(config)
    transport.on_notification(lambda payload: say(payload.decode()))
    region = transport.register(np.full(nbytes, 7, np.uint8))
    say(msgspec.json.encode((transport.address, region.remote)).decode())
    await asyncio.to_thread(sys.stdin.read)
    await transport.close()


if __name__ == "__main__":
    asyncio.run(serve(msgspec.json.decode(sys.argv[1], type=TransportConfig), int(sys.argv[2])))

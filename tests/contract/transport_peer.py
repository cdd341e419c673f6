"""A transport endpoint in a process of its own: ``python transport_peer.py BYTES PACE``.

Prints its address and region key, fills the region with 7s, and echoes every notification to
standard output until its standard input ends.
"""

from __future__ import annotations

import asyncio
import sys

import numpy as np

from hosts.config import TransportConfig
from hosts.transport import open_transport


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def serve(nbytes: int, pace_bytes_per_s: float) -> None:
    transport = await open_transport(TransportConfig(kind="tcp", pace_bytes_per_s=pace_bytes_per_s))
    transport.on_notification(lambda payload: say(payload.decode()))
    region = transport.register(np.full(nbytes, 7, np.uint8))
    say(f"{transport.address} {region.remote.key}")
    await asyncio.to_thread(sys.stdin.read)
    await transport.close()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2])))

"""A transport endpoint in a process of its own: ``python transport_peer.py CONFIG BYTES [ADDRESS REGION]``.

CONFIG is a `TransportConfig` as JSON. Prints its address and `RemoteRegion` as JSON, fills the region with
7s, and echoes every notification to standard output until its standard input ends. Told the ADDRESS and
REGION of another endpoint, it reads from and writes to its first half as much as it can, until it is killed.
"""

from __future__ import annotations

import asyncio
import sys

import msgspec
import numpy as np

from hosts.config import TransportConfig
from hosts.transport import Connection, Region, RemoteRegion, Strided, open_transport

PIECE_BYTES = 64 * 1024


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def serve(config: TransportConfig, nbytes: int, elsewhere: tuple[str, RemoteRegion] | None) -> None:
    transport = await open_transport(config)
    transport.on_notification(lambda payload: say(payload.decode()))
    region = transport.register(np.full(nbytes, 7, np.uint8))
    say(msgspec.json.encode((transport.address, region.remote)).decode())
    if elsewhere is not None:
        address, remote = elsewhere
        await strain(await transport.connect(address), region, remote)
    await asyncio.to_thread(sys.stdin.read)
    await transport.close()


async def strain(connection: Connection, local: Region, remote: RemoteRegion) -> None:
    pieces = remote.length // PIECE_BYTES // 4
    here, there = Strided(0, pieces * PIECE_BYTES), Strided(0, PIECE_BYTES, pieces, 2 * PIECE_BYTES)
    while True:
        reads = [connection.read(local, here, remote, there) for _ in range(4)]
        await asyncio.gather(*reads, connection.write(local, here, remote, there, b"written"))


if __name__ == "__main__":
    target = (sys.argv[3], msgspec.json.decode(sys.argv[4], type=RemoteRegion)) if sys.argv[3:] else None
    asyncio.run(serve(msgspec.json.decode(sys.argv[1], type=TransportConfig), int(sys.argv[2]), target))

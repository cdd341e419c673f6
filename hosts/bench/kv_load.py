"""KV as the replay moves it: Layer Blocks between all hosts, so many transfers outstanding that every compute
NIC is busy both ways."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hosts.bench.load import closed_loop
from hosts.bench.phases import KvObserved, KvTransfers, Offer, Phase, PhaseClock, until
from hosts.buffers import BufferArena
from hosts.transport import Strided, Transport

_PAGE_BYTES = 4096


class KvLoad:
    """This host's reads and writes. See `Traffic`. Its region: Full Blocks that peers read and write a layer
    of, then a slot for each transfer of its own."""

    def __init__(self, transport: Transport, host: str, transfers: KvTransfers) -> None:
        self._transport, self._host, self._transfers = transport, host, transfers
        self._layer_bytes = transfers.blocks * transfers.geometry.layer_block_bytes
        self._full_bytes = transfers.blocks * transfers.geometry.full_block_bytes
        self._peers: list[Offer] = []

    async def offer(self, hosts: int) -> Offer:
        """Full Blocks, and a slot for each of this host's transfers."""
        slots = 2 * self._transfers.depth * (hosts - 1)
        arena = BufferArena(self._full_bytes + slots * self._layer_bytes, _PAGE_BYTES)
        self._region = self._transport.register(arena.view)
        return Offer(self._host, "kv", self._transport.address, self._region.remote)

    async def meet(self, offers: Sequence[Offer]) -> None:
        """Know the peers."""
        self._peers = [offer for offer in offers if offer.host != self._host]

    async def run(self, phase: Phase) -> KvObserved:
        """Worker w has peer w modulo their number; the first half of each peer's read, the others write."""
        clock = PhaseClock(phase)
        geometry, blocks = self._transfers.geometry, self._transfers.blocks
        peers = [
            (peer.region, await self._transport.connect(peer.address, phase.traffic_class))
            for peer in self._peers
        ]
        layers = itertools.cycle(range(geometry.layers))

        async def transfer(worker: int) -> None:
            region, connection = peers[worker % len(peers)]
            reads = worker // len(peers) < self._transfers.depth
            here = Strided(self._full_bytes + worker * self._layer_bytes, self._layer_bytes)
            there = Strided(
                next(layers) * geometry.layer_block_bytes,
                geometry.layer_block_bytes,
                blocks,
                geometry.full_block_bytes,
            )
            await (connection.read if reads else connection.write)(self._region, here, region, there)

        await until(clock.begins_at)
        observed = await closed_loop(
            transfer,
            2 * self._transfers.depth * len(peers),
            self._layer_bytes,
            phase.seconds,
            phase.warm_up_s,
            cool_down_s=phase.cool_down_s,
        )
        return KvObserved(observed)

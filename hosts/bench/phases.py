"""What the control node and the traffic processes of an isolation benchmark tell each other.

One JSON document a line over one TLS stream (`hosts.credentials`), which the process opens: it sends an
`Offer`, gets `Peers`, says `Ready`, and then answers each `Phase` with `Done`, or with `Failed`. The stream's
end is its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Generic, Literal, Protocol, TypeVar

import msgspec

from hosts.bench.load import Observed
from hosts.claim import Claim
from hosts.compute.timed import sleep_until
from hosts.config import Geometry, TrafficClass, TransportConfig
from hosts.credentials import Credentials
from hosts.transport import RemoteRegion

LINE_BYTES = 4 * 1024 * 1024
_Received = TypeVar("_Received")


class Burst(msgspec.Struct, frozen=True):
    """One collective operation of a layer, the same on every host.

    Each host sends ``bytes_to_peer`` to each of its peers; ``period_s`` is from its start to that of the
    next one, as long as the network keeps up.
    """

    collective: str
    bytes_to_peer: int
    period_s: float


class BurstCycle(msgspec.Struct, frozen=True, tag="collectives"):
    """Model communication: a layer's bursts, again and again."""

    bursts: tuple[Burst, ...]


class KvTransfers(msgspec.Struct, frozen=True, tag="kv"):
    """KV: ``depth`` reads and as many writes outstanding with each peer, each of one layer of ``blocks``
    Full Blocks (paper 4.1): strided at the host that holds the Full Blocks, contiguous at the other."""

    geometry: Geometry
    blocks: int
    depth: int


Load = Literal["collectives", "kv"]
CollectiveLibrary = Literal["gloo", "nccl"]


class TorchGroup(msgspec.Struct, frozen=True):
    """Collectives of torch.distributed: by NCCL on ``gpu`` (index, UUID or PCI address; '': the host's
    first), or by Gloo on the CPU. ``python`` as in `ComputeConfig`."""

    library: CollectiveLibrary
    gpu: str = ""
    python: str = ""


class TrafficConfig(msgspec.Struct, frozen=True):
    """A traffic process: who it is and where the control node listens, of how many ``hosts`` its host is one,
    and what it sends.

    Bursts go by ``group`` or, without one, through the transport, whose address and classes both keep to.
    With a ``claim`` the process holds its host for the run. ``first``: it goes before all ordinary processes.
    """

    credentials: Credentials
    hosts: int
    transport: TransportConfig
    traffic: BurstCycle | KvTransfers
    group: TorchGroup | None = None
    claim: Claim | None = None
    first: bool = False

    @property
    def load(self) -> Load:
        """Which kind of load that is."""
        return "collectives" if isinstance(self.traffic, BurstCycle) else "kv"


class Offer(msgspec.Struct, frozen=True, tag="offer"):
    """Where a process with this kind of load is reached and what it offers, if that is a region."""

    host: str
    load: Load
    address: str
    region: RemoteRegion = RemoteRegion(0, 0)


class Peers(msgspec.Struct, frozen=True, tag="peers"):
    """The others of the same load, in the same order for everyone."""

    offers: list[Offer]


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The peers are known and connected."""


class Phase(msgspec.Struct, frozen=True, tag="phase"):
    """Load the network in ``traffic_class``, beginning ``begin_in_s`` after this is heard: a warm-up,
    ``seconds`` that count, and a cool-down, so that what begins in time is completed under the same load.

    Hosts hear it at about the same time; nobody's clock is compared with another's.
    """

    traffic_class: TrafficClass
    begin_in_s: float
    warm_up_s: float
    seconds: float
    cool_down_s: float

    @property
    def duration_s(self) -> float:
        """All three parts."""
        return self.warm_up_s + self.seconds + self.cool_down_s


class BurstTime(msgspec.Struct, frozen=True, array_like=True):
    """A burst's position in the cycle, and seconds from its start on this host to its last byte from every
    peer."""

    position: int
    seconds: float


class CollectivesObserved(msgspec.Struct, frozen=True, tag="collectives_observed"):
    """Bursts that began in the time that counts; ``bytes`` arrived in it."""

    bursts: list[BurstTime]
    bytes: int
    seconds: float


class KvObserved(msgspec.Struct, frozen=True, tag="kv_observed"):
    """Transfers completed in the time that counts, reads and writes, as their initiator sees them."""

    transfers: Observed


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The phase is over. ``cpu_busy`` is the share of this machine's cores, all of them, that was not idle
    while it counted."""

    observed: CollectivesObserved | KvObserved
    cpu_busy: float


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The process gave up: which, and why."""

    host: str
    load: Load
    reason: str


FromControl = Peers | Phase
FromHost = Offer | Ready | Done | Failed


class Traffic(Protocol):
    """What loads the network of a host."""

    async def offer(self, hosts: int) -> Offer:
        """Get ready to be one of so many."""
        ...

    async def meet(self, offers: Sequence[Offer]) -> None:
        """Know the others; ``offers`` as in `Peers`."""
        ...

    async def run(self, phase: Phase) -> CollectivesObserved | KvObserved:
        """Load the network for a phase."""
        ...


class Lines(Generic[_Received]):
    """Messages over a stream; ``receive`` gives None when it has ended."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, received: type[_Received]
    ) -> None:
        self._reader, self._writer = reader, writer
        self._decoder = msgspec.json.Decoder(received)

    async def send(self, message: FromControl | FromHost) -> None:
        """Send one message."""
        self._writer.write(msgspec.json.encode(message) + b"\n")
        await self._writer.drain()

    async def receive(self) -> _Received | None:
        """The next message, or None."""
        line = await self._reader.readline()
        return self._decoder.decode(line) if line else None

    async def close(self) -> None:
        """Say that there is no more; a peer that is gone already is none to tell."""
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


class PhaseClock:
    """A phase on this host's monotonic clock, in seconds, that is heard now."""

    def __init__(self, phase: Phase) -> None:
        self.begins_at = time.monotonic() + phase.begin_in_s
        self.counts_from = self.begins_at + phase.warm_up_s
        self.counts_until = self.counts_from + phase.seconds
        self.ends_at = self.counts_until + phase.cool_down_s

    def counts(self, at: float) -> bool:
        """Whether a moment is in the part that counts."""
        return self.counts_from <= at < self.counts_until


async def until(at: float) -> None:
    """Until a moment of the monotonic clock, in seconds."""
    await sleep_until(round(at * 1e9))

"""Messages between the control node and its agents, and in band between agents.

Sizes are in the units the hosts move (already scaled); durations are nanoseconds on the sending
host's monotonic clock, never comparable across hosts. A turn costs four small control messages
(an order; read done, first token, turn done), or five where both hosts read.

Wire: one stream an agent (`hosts.line` over TLS), which the agent opens; each message is an ``Envelope``. A
command (id > 0) is answered by exactly one envelope of the same id; an event carries id 0.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from hosts.claim import Claim
from hosts.config import (
    ComputeConfig,
    EngineConfig,
    Geometry,
    Network,
    NicConfig,
    PageKind,
    RailConfig,
    StorageConfig,
)
from hosts.peer_input import decoded
from hosts.transport.base import RemoteRegion
from workloads.layout import BlockRange, Span

PROTOCOL_VERSION = 7
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
HEARTBEAT_S = 5.0
"""The control node sends each agent something, if only a `Ping` as an event, at least this often."""
LEASE_S = 30.0
"""An agent that has heard nothing for so long ends by itself."""

Role = Literal["prefill", "decode", "storage"]
TransferKind = Literal["storage_read", "storage_write", "layer_read", "layer_write"]
RdmaKind = Literal["none", "software", "roce", "infiniband"]
"""How a NIC's RDMA bytes relate to its interface's counters (`hosts.counters`): there are none, or none that
are counted; inside them (Soft-RoCE); beside them (RoCE hardware); instead of them (an InfiniBand port counts
IPoIB, too)."""


class _Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Base of everything that travels; the class name is the tag."""


# --- life cycle ------------------------------------------------------------------------------


class Hello(_Message, frozen=True):
    """Agent -> control node, first frame: who and what this is."""

    host: str
    protocol_version: int
    facts: dict[str, str]


class HostConfig(_Message, frozen=True):
    """Control node -> agent, once. The host's engines are one group, whose leader is the agent: it asks
    for work every ``fetch_interval_s`` (paper section 6). ``rails`` are its compute NICs, at least one. With
    a ``claim`` the host is the run's alone."""

    host: str
    role: Role
    engines: int
    geometry: Geometry
    buffer_bytes: int
    buffer_pages: PageKind
    storage: StorageConfig
    rails: tuple[RailConfig, ...]
    nics: tuple[NicConfig, ...]
    engine: EngineConfig
    compute: ComputeConfig
    fetch_interval_s: float
    content_seed: int
    verify_every: int
    telemetry_interval_s: float
    turn_timeout_s: float
    claim: Claim | None = None


class Ready(_Message, frozen=True):
    """The agent listens for its peers at ``addresses`` and offers them its buffer as ``regions``, one each a
    rail."""

    addresses: tuple[str, ...]
    regions: tuple[RemoteRegion, ...]


class Peers(_Message, frozen=True):
    """Transport addresses of every host, by name, one a rail."""

    addresses: dict[str, tuple[str, ...]]


class Done(_Message, frozen=True):
    """The command succeeded and has nothing else to say."""


class Failed(_Message, frozen=True):
    """The command, or the turn ``turn_id`` if not 0, failed on ``host``."""

    host: str
    reason: str
    turn_id: int = 0


class Ping(_Message, frozen=True):
    """Answered by `Done`, which times the control plane; as an event a heartbeat, and not answered."""


class Shutdown(_Message, frozen=True):
    """Free everything and exit; answered by `Done` first."""


# --- storage preparation and ceilings --------------------------------------------------------


class StoredObject(msgspec.Struct, frozen=True, array_like=True):
    """An object of whole Full Blocks and the block ids in it, in order."""

    key: str
    blocks: tuple[BlockRange, ...]


class Prime(_Message, frozen=True):
    """Write these objects (content from block ids), outside the measured window."""

    objects: tuple[StoredObject, ...]


class Remove(_Message, frozen=True):
    """Delete every object below ``prefix``."""

    prefix: str


class MeasureStorage(_Message, frozen=True):
    """Read ``objects`` round and round through the host's storage path for ``duration_s``."""

    objects: tuple[tuple[str, int], ...]
    duration_s: float


class MeasureTransfer(_Message, frozen=True):
    """Read from the buffer of ``peer``, ``regions`` by its rails, through all compute NICs for
    ``duration_s``."""

    peer: str
    regions: tuple[RemoteRegion, ...]
    duration_s: float


class Ceiling(_Message, frozen=True):
    """Payload rate of a path when the run uses it for nothing else."""

    bytes_per_s: float


# --- a repetition ----------------------------------------------------------------------------


class BeginRepetition(_Message, frozen=True):
    """Start the repetition's clock, counters and telemetry, and ask for work from now on.

    ``layerwise``: prefill holds one layer's KV in HBM at a time (paper 4.1), or, if not, all of it.
    """

    layerwise: bool


class Fetch(_Message, frozen=True):
    """Agent -> control node, regularly: the leader asks for work for its group (paper section 6)."""


class EndRepetition(_Message, frozen=True):
    """Stop telemetry and asking for work; answered by `RepetitionReport`."""


class ClassBytes(msgspec.Struct, frozen=True):
    """What a NIC carried of one class during a repetition, headers included.

    ``traffic_class``: ``high``, ``low``, or ``priority N`` as the device numbers it. ``rx_bytes`` is None
    where only what is sent is classed.
    """

    traffic_class: str
    tx_bytes: int
    rx_bytes: int | None


class NicSamples(msgspec.Struct, frozen=True):
    """Cumulative counters at ``HostSamples.at_ns``: of the interface, and of its RDMA port.

    ``rdma_port`` is '' if it has none; ``rdma_*_bytes`` are empty unless ``rdma_kind`` is ``roce`` or
    ``infiniband``. ``classes``, and ``errors`` by counter, are growth over the whole repetition.
    """

    name: str
    network: Network
    rdma_port: str = ""
    rdma_kind: RdmaKind = "none"
    rx_bytes: list[int] = []
    tx_bytes: list[int] = []
    rdma_rx_bytes: list[int] = []
    rdma_tx_bytes: list[int] = []
    classes: list[ClassBytes] = []
    errors: dict[str, int] = {}


class GpuSample(msgspec.Struct, frozen=True, array_like=True):
    """One sample of a GPU; a value is None where the GPU or its driver does not have it, and all are if there
    is an ``error``: what NVML said instead.

    ``at_ns`` is since the repetition began; PCIe bytes, sent and received by the GPU, are since its first
    sample; the rest is as it was then. ``utilization_percent``: of the driver's last sampling period (1/6 to
    1 s), the time in which a kernel ran. ``clocks_event_reasons``: bits of nvmlClocksEventReason*.
    """

    at_ns: int
    sample_cost_ns: int
    utilization_percent: int | None = None
    memory_used_bytes: int | None = None
    pcie_tx_bytes: int | None = None
    pcie_rx_bytes: int | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    clocks_event_reasons: int | None = None
    temperature_celsius: int | None = None
    power_mw: int | None = None
    error: str = ""


class GpuSamples(msgspec.Struct, frozen=True):
    """A GPU, its index NVML's, and what it did at instants of its own."""

    index: int
    uuid: str
    name: str
    memory_bytes: int | None
    max_sm_clock_mhz: int | None
    samples: list[GpuSample] = []


class HostSamples(msgspec.Struct, frozen=True):
    """Telemetry of one host and repetition; every list has one entry a sample, ``nics`` and ``gpus`` one a
    device.

    Bytes are cumulative: ``storage_*`` the storage back-end's payload, ``disk_*`` all disks of the machine.
    """

    at_ns: list[int]
    cpu_busy_fraction: list[float]
    agent_cpu_s: list[float]
    memory_used_bytes: list[int]
    storage_read_bytes: list[int]
    storage_written_bytes: list[int]
    disk_read_bytes: list[int]
    disk_written_bytes: list[int]
    sample_cost_ns: list[int]
    nics: list[NicSamples]
    gpus: list[GpuSamples]

    @property
    def cost_ns(self) -> int:
        """CPU time that sampling took."""
        return sum(self.sample_cost_ns) + sum(s.sample_cost_ns for gpu in self.gpus for s in gpu.samples)


class EngineBatch(msgspec.Struct, frozen=True, array_like=True):
    """One engine's part of a forward pass; ``attention_ns`` is predicted (emulated time)."""

    engine: int
    attention_ns: int
    requests: int
    new_tokens: int
    cached_tokens: int


class ForwardPass(msgspec.Struct, frozen=True, array_like=True):
    """One forward pass of the engines that run in step; an engine without work is there, too."""

    begin_at_ns: int
    end_at_ns: int
    batches: tuple[EngineBatch, ...]


class RepetitionReport(_Message, frozen=True):
    """Bytes are counted where they arrived, independent of what the turns claim."""

    storage_read_bytes: int
    storage_written_bytes: int
    agent_cpu_s: float
    telemetry_cpu_s: float
    samples: HostSamples
    forwards: tuple[ForwardPass, ...]


# --- a turn ----------------------------------------------------------------------------------


class TurnOrder(_Message, frozen=True):
    """Control node -> decode host: serve one turn.

    The hit prefix ``hit_blocks`` is what ``decode_reads`` (by the decode host) and then
    ``prefill_reads`` (by the prefill host) concatenate to. ``new_blocks`` are the missed full prompt
    blocks; those at the positions ``persisted`` among them are stored as ``prompt_key``. ``generated``
    become full while decoding, one object each; one without a key is not stored. A partially filled
    last block (``tail_tokens`` > 0) moves but is never persisted. Unless ``moves``, no KV is read,
    moved or persisted.
    """

    turn_id: int
    moves: bool
    prefill_host: str
    prefill_engine: int
    decode_engine: int
    hit_blocks: tuple[BlockRange, ...]
    decode_reads: tuple[Span, ...]
    prefill_reads: tuple[Span, ...]
    new_blocks: tuple[BlockRange, ...]
    prompt_key: str
    persisted: tuple[BlockRange, ...]
    generated: tuple[StoredObject, ...]
    hit_tokens: int
    new_tokens: int
    tail_tokens: int
    output_tokens: int

    @property
    def prompt_tokens(self) -> int:
        """Cached and missed tokens."""
        return self.hit_tokens + self.new_tokens


class PrefillRequest(_Message, frozen=True):
    """Decode host -> prefill host, in band: the prompt's KV goes to ``target`` at ``target_offset``.

    ``decode_part_read``: what the decode host reads is there; if not, `DecodePartRead` follows.
    """

    order: TurnOrder
    decode_host: str
    decode_part_read: bool
    target: RemoteRegion | None
    target_offset: int


class DecodePartRead(_Message, frozen=True):
    """Decode host -> prefill host, in band: the decode host's part of a split read is in its buffer."""

    turn_id: int


class Transfer(msgspec.Struct, frozen=True, array_like=True):
    """One stage of a turn that moved bytes, on the initiator's clock since the repetition began."""

    kind: TransferKind
    host: str
    peer: str
    bytes: int
    operations: int
    begin_at_ns: int
    end_at_ns: int


class PrefillDone(_Message, frozen=True):
    """Prefill host -> decode host, in band after the last layer is placed."""

    turn_id: int
    allocate_ns: int
    read_ns: int
    hbm_wait_ns: int
    engine_wait_ns: int
    compute_ns: int
    transfer_ns: int
    chunks: int
    verified_blocks: int
    mismatched_blocks: int
    transfers: tuple[Transfer, ...]


class PrefillFailed(_Message, frozen=True):
    """Prefill host -> decode host, in band: the turn cannot be served."""

    turn_id: int
    reason: str


class ReadDone(_Message, frozen=True):
    """The sender's part of a turn's hit KV is in its buffer."""

    turn_id: int


class FirstToken(_Message, frozen=True):
    """The prompt's KV is whole in the decode host's buffer and the first token exists."""

    turn_id: int


class TurnDone(_Message, frozen=True):
    """Everything about a finished turn; durations as named in the record schema."""

    turn_id: int
    allocate_ns: int
    read_ns: int
    hbm_wait_ns: int
    engine_wait_ns: int
    compute_ns: int
    transfer_ns: int
    chunks: int
    hbm_load_ns: int
    second_token_ns: int
    decode_ns: int
    persist_ns: int
    persisted_bytes: int
    verified_blocks: int
    mismatched_blocks: int
    transfers: tuple[Transfer, ...]


Message = (
    Hello
    | HostConfig
    | Ready
    | Peers
    | Done
    | Failed
    | Ping
    | Shutdown
    | Prime
    | Remove
    | MeasureStorage
    | MeasureTransfer
    | Ceiling
    | BeginRepetition
    | Fetch
    | EndRepetition
    | RepetitionReport
    | TurnOrder
    | ReadDone
    | FirstToken
    | TurnDone
)
InBand = PrefillRequest | DecodePartRead | PrefillDone | PrefillFailed


class Envelope(msgspec.Struct, frozen=True, array_like=True):
    """``id`` > 0: a command or its answer; 0: an event."""

    id: int
    body: Message


_encoder = msgspec.msgpack.Encoder()
_in_band: msgspec.msgpack.Decoder[InBand] = msgspec.msgpack.Decoder(InBand)


def encode(message: InBand) -> bytes:
    """As a notification's payload."""
    return _encoder.encode(message)


def decode_in_band(payload: bytes) -> InBand:
    """Raises `ProtocolError` on anything that is not an in-band message."""
    return decoded(payload, _in_band)

"""What a host's parts are configured with, as the control node sends it."""

from __future__ import annotations

from typing import Literal

import msgspec

from hosts.kernel_times import KernelTimes

Network = Literal["management", "storage", "compute"]
TrafficClass = Literal["low", "high"]
PageKind = Literal["base", "transparent", "hugetlb"]
"""Pages behind a buffer: the kernel's ordinary ones, huge ones where it can make some (madvise(2)), or huge
ones from its reserved pool."""


class Geometry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Full Block is [layers, layer_block_bytes], a Layer Block one row of it (paper 4.1)."""

    layers: int
    block_tokens: int
    layer_block_bytes: int

    @property
    def full_block_bytes(self) -> int:
        """Bytes of one Full Block as moved."""
        return self.layers * self.layer_block_bytes


CacheMode = Literal["page", "direct"]
ReadEngine = Literal["io_uring", "threads", "nixl"]
TransportKind = Literal["tcp", "verbs", "nixl", "memory"]
ComputeKind = Literal["timed", "torch"]
DeviceKind = Literal["cuda", "cpu"]
CopyKind = Literal["cuda", "nic"]
"""KV between host memory and HBM: by the device's copy engines, or by the compute NIC (paper 5.2)."""


class StorageConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the KV store is: ``url`` for http, ``root`` for posix.

    ``read_streams`` ranges of at most ``read_chunk_bytes`` are in flight at once. ``cache`` (posix): through
    the page cache or past it (O_DIRECT); ``engine`` (posix): threads are also what is used without io_uring;
    ``nixl`` is NIXL's POSIX backend, an error where it is not installed.
    ``pace_bytes_per_s`` > 0 limits the rate in the agent (loopback mode, where no NIC does).
    """

    kind: Literal["http", "posix", "memory"]
    url: str = ""
    root: str = ""
    read_streams: int = 4
    read_chunk_bytes: int = 256 * 1024
    cache: CacheMode = "page"
    engine: ReadEngine = "io_uring"
    timeout_s: float = 10.0
    pace_bytes_per_s: float = 0.0


class ClassMark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How packets of a traffic class are marked (paper section 5, appendix A.1).

    ``service_level`` selects the virtual lane on InfiniBand; ``traffic_class`` is the byte in the global
    routing header or, on RoCE v2 and TCP, in the IP header (its upper six bits are the DSCP). Fabrics look
    at the one or at the other, so both are always set.
    """

    service_level: int
    traffic_class: int


EXPEDITED_FORWARDING = 0xB8
"""DSCP 46 (RFC 3246) in its place in the byte."""


def default_classes() -> dict[TrafficClass, ClassMark]:
    """KV low and unmarked, model communication high and expedited."""
    return {"low": ClassMark(0, 0), "high": ClassMark(1, EXPEDITED_FORWARDING)}


class VerbsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """RDMA verbs: the port, and how its queue pairs are used.

    ``device``, ``port`` and ``gid_index`` name the port; without a device it is the one that has the
    transport's bind address. ``mtu_bytes`` 0 is the port's own. ``queue_pairs`` to each peer of
    ``send_depth`` work requests, each of at most ``max_entries`` pieces of local memory; messages up to
    ``inline_bytes`` travel in the request. ``reconnect``: after an error the next operation makes a new
    connection; if not, it fails.
    """

    device: str = ""
    port: int = 1
    gid_index: int = -1
    mtu_bytes: int = 0
    queue_pairs: int = 1
    send_depth: int = 1024
    max_entries: int = 16
    inline_bytes: int = 64
    completion: Literal["events", "polling"] = "events"
    reconnect: bool = True


class TransportConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How Layer Blocks move; ``pace_bytes_per_s`` as in `StorageConfig`.

    Hosts connect only with those that have the same ``key`` (`hosts.transport.proof`). An empty one lets in
    everybody who has none either: for benchmarks on one machine.
    """

    kind: TransportKind
    bind_address: str = "127.0.0.1"
    timeout_s: float = 10.0
    pace_bytes_per_s: float = 0.0
    classes: dict[TrafficClass, ClassMark] = msgspec.field(default_factory=default_classes)
    verbs: VerbsConfig = VerbsConfig()
    key: bytes = b""

    def __repr__(self) -> str:
        return f"TransportConfig({self.kind!r}, {self.bind_address!r})"  # not the key


class RailConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A compute NIC of a host, ``nic`` if its interface is known, and the transport through it."""

    transport: TransportConfig
    nic: str = ""


class EngineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one engine (GPU) of the host can do, in real units; ``time_dilation`` stretches what takes time.

    ``gpu_flops`` is its effective rate; ``hbm_bytes_per_s`` bounds what reads weights and KV;
    ``copy_bytes_per_s`` is host memory to HBM and back, through its compute NIC (paper 5.1).
    ``weight_bytes`` lie in its HBM, ``kv_hbm_bytes`` are left for KV. ``compute_quota_s`` bounds a
    forward pass's predicted attention time (6.2). With ``kernels``, as measured on such an engine, times are
    predicted from them, and from how many ``host_engines`` ask from one process; without, from FLOPs and
    bytes over these rates.
    """

    model: str
    gpu_flops: float
    hbm_bytes_per_s: float
    copy_bytes_per_s: float
    weight_bytes: float
    kv_hbm_bytes: float
    decode_overhead_s: float
    compute_quota_s: float
    time_dilation: float
    kernels: KernelTimes | None = None
    host_engines: int = 1


class ComputeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What computes: ``timed`` waits by the engine's figures, ``torch`` runs kernels on ``device`` and copies
    KV there and back by ``copy``.

    ``gpus`` (index, UUID or PCI address) are the engines' in their order; without them, the host's GPUs in
    turn. Experts are spread over ``expert_engines`` engines. ``python``, if not empty, has the host's torch
    where this process's environment has none.
    """

    kind: ComputeKind = "timed"
    device: DeviceKind = "cuda"
    gpus: tuple[str, ...] = ()
    expert_engines: int = 1
    python: str = ""
    copy: CopyKind = "cuda"


class NicConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An interface to sample and the network it is on.

    ``shaped_classes``: which class of traffic a leaf of its queueing discipline carries, by class id (tc(8)),
    where an emulated link has such leaves.
    """

    name: str
    network: Network
    shaped_classes: dict[str, TrafficClass] = {}

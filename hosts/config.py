"""What a host's parts are configured with, as the control node sends it."""

from __future__ import annotations

from typing import Literal

import msgspec

Network = Literal["management", "storage", "compute"]


class Geometry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Full Block is [layers, layer_block_bytes], a Layer Block one row of it (paper 4.1)."""

    layers: int
    block_tokens: int
    layer_block_bytes: int

    @property
    def full_block_bytes(self) -> int:
        """Bytes of one Full Block as moved."""
        return self.layers * self.layer_block_bytes


class StorageConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the KV store is: ``url`` for http, ``root`` for posix.

    ``read_streams`` ranges of at most ``read_chunk_bytes`` are in flight at once.
    ``pace_bytes_per_s`` > 0 limits the rate in the agent (loopback mode, where no NIC does).
    """

    kind: Literal["http", "posix", "memory"]
    url: str = ""
    root: str = ""
    read_streams: int = 4
    read_chunk_bytes: int = 256 * 1024
    timeout_s: float = 10.0
    pace_bytes_per_s: float = 0.0


class TransportConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How Layer Blocks move; ``pace_bytes_per_s`` as in `StorageConfig`."""

    kind: Literal["tcp", "memory"]
    bind_address: str = "127.0.0.1"
    timeout_s: float = 10.0
    pace_bytes_per_s: float = 0.0


class EngineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one engine (GPU) of the host can do, in real units; ``time_dilation`` stretches what takes time.

    ``gpu_flops`` is its effective rate; ``hbm_bytes_per_s`` bounds what reads weights and KV;
    ``copy_bytes_per_s`` is host memory to HBM and back, through its compute NIC (paper 5.1).
    ``weight_bytes`` lie in its HBM, ``kv_hbm_bytes`` are left for KV. ``compute_quota_s`` bounds a
    forward pass's predicted attention time (6.2).
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


class NicConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An interface to sample and the network it is on."""

    name: str
    network: Network

"""What computes on a prefill or decode host: the interface that every compute back-end implements.

A prefill back-end is given a forward pass layer by layer: when a layer's KV lies in host memory it is begun,
and once it is computed its KV may be handed over. A decode back-end does one step after the other. What a
back-end does in between, really or by the clock, is its own: copy, compute, copy back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hosts.compute.prediction import Piece, Prediction
from workloads.models import Model


class ComputeError(Exception):
    """The work cannot be done: on which device, what failed, and what to do."""


class CachedKv(Protocol):
    """KV in host memory. Rows are Layer Blocks as moved: [blocks, layer_block_bytes], any stride apart."""

    @property
    def copied_tokens(self) -> int:
        """Tokens whose KV is copied from this host's memory to HBM."""

    def cached_rows(self, layer: int) -> Sequence[NDArray[np.uint8]]:
        """The layer's KV of all cached tokens, in their order."""


class PassKv(CachedKv, Protocol):
    """A prompt's KV in host memory during a pass: cached, and what the pass computes."""

    @property
    def moves(self) -> bool:
        """Whether any KV is copied and handed over; if not, none lies here."""

    def new_rows(self, layer: int) -> NDArray[np.uint8]:
        """Where the layer's KV of the tokens computed now goes."""

    def new_salts(self) -> NDArray[np.uint64]:
        """What their content differs by (`hosts.content.salts`), one a row."""

    def fill_new(self) -> None:
        """Put the content of all layers there at once, for a back-end that computes nothing."""


class ResidentKv(Protocol):
    """A prompt's KV of all layers in HBM, until it is freed."""

    def free(self) -> None:
        """Give the HBM back; safe to call twice."""


class Chunk(NamedTuple):
    """What a pass computes of one prompt; ``resident``: without layerwise prefill, its KV in HBM."""

    piece: Piece
    kv: PassKv
    resident: ResidentKv | None = None


class Decoding(Protocol):
    """A request that decodes."""

    @property
    def context_tokens(self) -> int:
        """Tokens whose KV the next one sees."""

    @property
    def resident(self) -> ResidentKv | None:
        """Its KV, if any was moved."""


class Forward(AbstractAsyncContextManager["Forward"], Protocol):
    """One forward pass, layer after layer in order. After its end, also an early one, nothing uses the
    chunks' memory any more."""

    def begin(self, layer: int, ready_at_ns: int) -> None:
        """The layer's KV has been in host memory since ``ready_at_ns`` (monotonic); work on it may start.

        At most one layer is begun before the one before it is computed.
        """

    async def computed(self, layer: int) -> None:
        """Until the layer is computed and its KV is back in host memory."""

    @property
    def compute_ns(self) -> int:
        """What its computing takes or, in a back-end that measures, took; copies not included."""


class DecodeSteps(Protocol):
    """Decode steps of a group of engines, one directly after the other."""

    async def step(self, batches: Sequence[Sequence[Decoding]]) -> None:
        """One token for every request; ``batches[e]`` is what engine e decodes."""


class Compute(Protocol):
    """The engines of one host. Those in one call run in step; ``prediction`` plans their work."""

    @property
    def prediction(self) -> Prediction:
        """Times by the hardware profile."""

    def forward(self, engines: range, batches: Sequence[Sequence[Chunk]]) -> Forward:
        """A pass that begins now; ``batches[e]`` is the batch of ``engines[e]``. Of chunks that are not
        resident HBM holds a layer at a time, and the next one."""

    def decode(self, engines: range) -> DecodeSteps:
        """Steps that begin now."""

    async def load(self, engine: int, kv: CachedKv, tokens: int) -> ResidentKv:
        """All layers' KV, copied to the engine's HBM, where there is room for that of ``tokens``."""

    async def close(self) -> None:
        """Free what the engines hold."""


async def all_layers(forward: Forward, layers: int) -> None:
    """A pass whose KV is in host memory from the beginning: a layer begins while the one before computes."""
    for layer in range(layers):
        forward.begin(layer, 0)
        if layer:
            await forward.computed(layer - 1)
    await forward.computed(layers - 1)


def in_step(engines: int, model: Model) -> Iterable[range]:
    """The engines of a host as groups that run in step: all, or each by itself without experts."""
    size = engines if model.expert_parallel else 1
    return (range(first, first + size) for first in range(0, engines, size or 1))

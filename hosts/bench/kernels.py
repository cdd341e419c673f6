"""What a model's kernels take on this host's device, point by point: the raw data of a compute calibration.

    python -m hosts.bench.kernels KERNELS_AS_JSON

Every point is measured in several rounds, each in an order of its own, so that a clock that drifts or
throttles shows in all points alike.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from typing import Literal

import msgspec

from hosts.claim import Claim, ClaimedError, claimed
from hosts.compute import ComputeError
from hosts.compute.torch.importing import require_torch
from hosts.config import DeviceKind

TokenPart = Literal["dense", "experts", "head"]
_START_S = 300.0
"""Importing torch and making weights."""
_SLOWER = 5
"""Runs that take longer than the time that a point is given."""


class AttentionPoint(msgspec.Struct, frozen=True):
    """A layer of the model's attention kind ``kind`` for ``requests`` alike; 1 new token is decoding."""

    kind: int
    cached_tokens: int
    new_tokens: int
    requests: int = 1


class TokenPoint(msgspec.Struct, frozen=True):
    """A layer's MLP (``part`` dense or experts) or the head, for ``tokens`` tokens. Experts are those of one
    of ``engines`` engines that share them."""

    part: TokenPart
    tokens: int
    engines: int = 1


class Kernels(msgspec.Struct, frozen=True):
    """What is measured: points of ``model``, each for ``seconds``, in ``rounds``. ``python`` as in
    `ComputeConfig`. With a ``claim`` the process holds its host meanwhile."""

    model: str
    device: DeviceKind
    gpu: str
    attention: tuple[AttentionPoint, ...]
    tokens: tuple[TokenPoint, ...]
    seconds: float
    rounds: int
    python: str = ""
    claim: Claim | None = None

    @property
    def deadline_s(self) -> float:
        """By when they are measured, or something hangs."""
        points = len(self.attention) + len(self.tokens)
        return _START_S + _SLOWER * points * self.seconds


class PointTimes(msgspec.Struct, frozen=True):
    """Seconds of a point on the device, and those of asking for it: 0 where asking is computing."""

    device_s: float
    asking_s: float


class Measured(msgspec.Struct, frozen=True):
    """Median seconds of every point, in their order, and what they were measured on; ``gemm_flops_per_s``:
    the best rate of a large BF16 matrix product beside them.

    At ``not_captured`` points ``device_s`` is the longer of computing and asking: the device would not record
    them, ``reason`` says why for the first.
    """

    device: str
    software: str
    gemm_flops_per_s: float
    attention: tuple[PointTimes, ...]
    tokens: tuple[PointTimes, ...]
    not_captured: int = 0
    reason: str = ""


def main() -> int:
    """Entry point of the process that measures, with the torch that it is told to use."""
    kernels = msgspec.json.decode(sys.argv[1], type=Kernels)
    try:
        found = asyncio.run(_measured_alone(kernels))
    except (ClaimedError, ComputeError) as error:
        sys.exit(str(error))
    sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
    return 0


async def _measured_alone(kernels: Kernels) -> Measured:
    """In a thread: whoever else wants the host is told who has it."""
    async with AsyncExitStack() as stack:
        if kernels.claim is not None:
            await stack.enter_async_context(claimed(kernels.claim))
        return await asyncio.to_thread(_measured, kernels)


def _measured(kernels: Kernels) -> Measured:
    require_torch(kernels.python)
    from hosts.compute.torch.measuring import measured

    return measured(kernels)


if __name__ == "__main__":
    sys.exit(main())

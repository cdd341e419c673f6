"""``dualpath bench layerwise``: how well a pass hides the loading of its KV."""

from __future__ import annotations

import asyncio
import statistics
from functools import partial
from typing import get_args

import msgspec
from rich.console import Console

from harness.bench.contest import in_turn
from hosts.bench.layerwise import LayerwisePass, PassPart, PromptShape
from hosts.config import ComputeConfig, DeviceKind, TransportConfig
from workloads.models import find_model, prefill_flops

_SEEN = 0.1
"""Of the longer part; what is shorter is lost in the noise of the longer one's time."""


class LayerwiseReport(msgspec.Struct, frozen=True):
    """Seconds of every part in each round; ``nbytes`` are loaded, ``flops`` computed if the engine shares
    experts with none."""

    shape: PromptShape
    device: DeviceKind
    copy: str
    expert_engines: int
    nbytes: int
    flops: int
    rounds: dict[PassPart, list[float]]

    def seconds(self, part: PassPart) -> float:
        """The median of the rounds."""
        return statistics.median(self.rounds[part])

    @property
    def over_longest(self) -> float:
        """Time of the pass over that of the longer of its parts: 1 where the other hides behind it wholly,
        the median of the rounds' own ratios."""
        load, compute, together = (self.rounds[part] for part in ("load", "compute", "together"))
        return statistics.median(
            whole / max(parts) for whole, *parts in zip(together, load, compute, strict=True)
        )

    @property
    def hidden(self) -> float | None:
        """How much of the shorter part is hidden: 1 all of it, 0 if one follows the other, less if both
        together take longer than that; the median of the rounds' own shares. None where that part is too
        short to be seen beside the other."""
        load, compute, together = (self.rounds[part] for part in ("load", "compute", "together"))
        shorter, longer = sorted((self.seconds("load"), self.seconds("compute")))
        if shorter < _SEEN * longer:
            return None
        return statistics.median(
            (sum(parts) - whole) / min(parts) for whole, *parts in zip(together, load, compute, strict=True)
        )


def bench_layerwise(
    shape: PromptShape, config: ComputeConfig, transport: TransportConfig, rounds: int, seconds: float
) -> LayerwiseReport:
    """Verify a pass, then time it and its parts in turn; ``transport`` is used if its NIC copies. Raises
    `ComputeError`, `TransferError`."""
    model, geometry = find_model(shape.model), shape.geometry
    parts: tuple[PassPart, ...] = get_args(PassPart)
    with asyncio.Runner() as runner:
        running = LayerwisePass(shape, config)
        try:
            runner.run(running.open(transport))
            runner.run(running.verify())
            tools = {part: partial(_seconds, runner, running, part, seconds) for part in parts}
            found = in_turn(tools, rounds)
        finally:
            runner.run(running.close())
    return LayerwiseReport(
        shape=shape,
        device=config.device,
        copy=f"{transport.kind} at {transport.bind_address}" if config.copy == "nic" else "copy engines",
        expert_engines=config.expert_engines,
        nbytes=shape.cached_tokens // shape.block_tokens * geometry.full_block_bytes,
        flops=prefill_flops(model, shape.cached_tokens, shape.new_tokens),
        rounds=found,
    )


def _seconds(runner: asyncio.Runner, running: LayerwisePass, part: PassPart, seconds: float) -> float:
    return runner.run(running.time(part, seconds))


def print_layerwise(report: LayerwiseReport, out: Console) -> None:
    """A line a part, and what it comes to."""
    shape, load, compute = report.shape, report.seconds("load"), report.seconds("compute")
    out.print(
        f"{shape.model}: {shape.new_tokens} tokens over {shape.cached_tokens} cached, one engine, "
        f"{report.device}, copies: {report.copy}"
    )
    out.print(f"load      {load * 1e3:9.3f} ms  {report.nbytes / load / 1e9:.3g} GB/s of KV, all layers")
    out.print(f"compute   {compute * 1e3:9.3f} ms  {report.flops / compute / 1e12:.3g} TFLOP/s")
    out.print(f"together  {report.seconds('together') * 1e3:9.3f} ms  layer by layer, new KV copied back")
    out.print(f"{report.over_longest:.2f} x the longer of load and compute ({_hidden(report)})")


def _hidden(report: LayerwiseReport) -> str:
    share = report.hidden
    if share is None:
        return f"the other is less than {_SEEN:.0%} of it, too short to be seen"
    if share < 0:
        more = -share * min(report.seconds("load"), report.seconds("compute"))
        return f"nothing is hidden: together takes {more * 1e3:.3g} ms more than one after the other"
    return f"{share:.0%} of the other is hidden behind it"

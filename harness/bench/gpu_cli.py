"""``dualpath bench copies`` and ``layerwise``: between a host's memory and a GPU's."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from harness.bench.copies import bench_copies
from harness.bench.copies_table import print_copies
from harness.bench.layerwise import bench_layerwise, print_layerwise
from harness.bench.options import RoundsOption, SecondsOption, names, sizes
from harness.console import JsonOption, out, print_json
from harness.experiment import ExperimentError
from hosts.bench.device_copies import Layer
from hosts.bench.layerwise import PromptShape
from hosts.config import ComputeConfig, CopyKind, DeviceKind, TransportConfig, TransportKind
from hosts.cuda.copies import Direction

gpu_bench = typer.Typer()
_DIRECTIONS: dict[str, Direction] = {"h2d": "h2d", "d2h": "d2h"}


@gpu_bench.command(
    "copies",
    epilog="Examples: `dualpath bench copies` (a minute) · "
    "`dualpath bench copies --block 41984 --layers 61 --direction h2d --gpu 1 --json`",
)
def copies_command(
    block: Annotated[
        str, typer.Option(help="Layer Block sizes, separated by commas.")
    ] = "4K,16K,64K,256K,1M",
    blocks: Annotated[int, typer.Option(min=1, help="Layer Blocks of a layer, one a Full Block.")] = 512,
    layers: Annotated[
        int, typer.Option(min=1, help="Layers of a Full Block: Layer Blocks are so many apart on the host.")
    ] = 2,
    direction: Annotated[
        str, typer.Option(help="h2d, host memory to GPU, d2h, or both, separated by a comma.")
    ] = "h2d,d2h",
    gpu: Annotated[int, typer.Option(min=0, help="Which, of those that CUDA_VISIBLE_DEVICES shows.")] = 0,
    seconds: SecondsOption = 0.25,
    rounds: RoundsOption = 4,
    json: JsonOption = False,
) -> None:
    """Rate and CPU of copying a layer to and from a GPU: a copy a block, batched, pitched, all at once.

    Takes blocks x block bytes of GPU memory, and layers times as much page-locked host memory.
    """
    each = [Layer(nbytes, blocks, layers) for nbytes in sizes("block", block)]
    report = bench_copies(gpu, names("direction", direction, _DIRECTIONS), each, rounds, seconds)
    if json:
        print_json(report)
    else:
        print_copies(report, out)


@gpu_bench.command(
    "layerwise",
    epilog="Examples: `dualpath bench layerwise --model deepseek-v3.2-660b --engines 32` · `dualpath bench "
    "layerwise --copy nic --address 10.0.0.1` (through the NIC there) · `dualpath bench layerwise --model "
    "toy-latent --device cpu` (a try without a GPU)",
)
def layerwise_command(
    model: Annotated[str, typer.Option(help="Whose layers.")] = "dualpath-27b",
    cached: Annotated[
        int, typer.Option(min=64, help="Cached tokens, rounded down to blocks of 64.")
    ] = 32_768,
    new: Annotated[int, typer.Option(min=1, help="Tokens that are computed.")] = 429,
    engines: Annotated[int, typer.Option(min=1, help="Engines that share the experts.")] = 8,
    device: Annotated[DeviceKind, typer.Option(help="What computes.")] = "cuda",
    gpu: Annotated[str, typer.Option(help="Which GPU: index, UUID or PCI address.")] = "",
    copy: Annotated[
        CopyKind, typer.Option(help="What copies KV: the GPU's copy engines, or a NIC by --transport.")
    ] = "cuda",
    transport: Annotated[
        TransportKind | None,
        typer.Option(
            help="How the NIC copies: verbs, nixl; tcp to try without one [default: verbs].",
            show_default=False,
        ),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="The NIC's address [default: 127.0.0.1].", show_default=False)
    ] = None,
    seconds: SecondsOption = 0.5,
    rounds: RoundsOption = 4,
    json: JsonOption = False,
) -> None:
    """A prefill pass whose KV is loaded layer by layer, beside loading alone and computing alone."""
    if device == "cpu" and gpu:
        raise ExperimentError(
            f"--gpu: found {gpu} beside --device cpu, which uses none; expected --device cuda"
        )
    if copy != "nic" and (transport or address):
        raise ExperimentError(
            f"--transport, --address: found {transport or address} beside --copy {copy}, which uses no NIC; "
            "expected --copy nic"
        )
    shape = PromptShape(model, cached - cached % 64, new, 64)
    config = ComputeConfig("torch", device, (gpu,) if gpu else (), engines, copy=copy)
    through = TransportConfig(transport or "verbs", address or "127.0.0.1")
    report = bench_layerwise(shape, config, through, rounds, seconds)
    if json:
        derived = {"over_longest": report.over_longest, "hidden": report.hidden}
        print_json({**msgspec.to_builtins(report), **derived})
    else:
        print_layerwise(report, out)

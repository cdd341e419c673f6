"""The ``dualpath bench`` commands: raw rates of transports, stores and copies, each beside the tool that
evaluators know, or beside each other."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from harness import interrupts
from harness.bench.contest_table import print_contests
from harness.bench.copies import bench_copies
from harness.bench.copies_table import print_copies
from harness.bench.gpu_storage import GpuStorageCase, bench_gpu_storage
from harness.bench.gpu_storage_table import print_answers
from harness.bench.isolation import bench_isolation
from harness.bench.isolation_grounds import EmulatedHosts, IsolationGround, RackHosts
from harness.bench.isolation_metrics import SCENARIOS, Scenario
from harness.bench.isolation_plan import CollectivesBy, IsolationPlan
from harness.bench.isolation_table import print_qos, print_report
from harness.bench.layerwise import bench_layerwise, print_layerwise
from harness.bench.options import at_most, in_words, names, sizes
from harness.bench.storage import StorageCase, bench_storage
from harness.bench.transport import Ends, bench_transport
from harness.cluster import inside_user_namespace, probe, reexec_in_user_namespace
from harness.console import JsonOption, out, print_json
from harness.experiment import ExperimentError, Transport, load_experiment
from harness.grounds import InventoryOption
from harness.inventory import load_inventory
from harness.progress import RunProgress
from hosts.bench.device_copies import Layer
from hosts.bench.layerwise import PromptShape
from hosts.bench.reads import Reads
from hosts.bench.transfers import Transfers
from hosts.config import (
    ComputeConfig,
    CopyKind,
    DeviceKind,
    ReadEngine,
    StorageConfig,
    TransportConfig,
    TransportKind,
)
from hosts.cuda.copies import Direction
from hosts.qos import find_qos

bench = typer.Typer(
    name="bench", help="Raw rates of single parts, beside perftest, iperf3 and fio.", no_args_is_help=True
)
_TRANSPORTS: dict[str, TransportKind] = {"tcp": "tcp", "verbs": "verbs", "nixl": "nixl"}
_ENGINES: dict[str, ReadEngine] = {"io_uring": "io_uring", "threads": "threads", "nixl": "nixl"}
_DIRECTIONS: dict[str, Direction] = {"h2d": "h2d", "d2h": "d2h"}
_SCENARIOS: dict[str, Scenario] = {str(name): name for name in SCENARIOS}

_RoundsOption = Annotated[int, typer.Option(min=1, help="Times that every tool measures, A B B A.")]
_SecondsOption = Annotated[float, typer.Option(min=0.1, help="Length of one measurement.")]
_PeerOption = Annotated[
    bool, typer.Option("--peer/--no-peer", help="Run the peer tool where it is installed.")
]


@bench.command(
    "transport", epilog="Example: `dualpath bench transport --kind tcp,nixl --block 64M --depth 2`"
)
def transport_command(
    kind: Annotated[
        str, typer.Option(help="Transports that measure in turn: tcp, verbs or nixl, separated by commas.")
    ] = "tcp",
    address: Annotated[str, typer.Option(help="Where the initiator's NIC is.")] = "127.0.0.1",
    peer_address: Annotated[str, typer.Option(help="Where the target's NIC is.")] = "127.0.0.1",
    direction: Annotated[Literal["read", "write"], typer.Option(help="One-sided operation.")] = "read",
    block: Annotated[str, typer.Option(help="Block sizes, separated by commas: 64K,1M,64M.")] = "1M",
    batch: Annotated[int, typer.Option(min=1, help="Blocks an operation: Layer Blocks of a layer.")] = 1,
    depth: Annotated[int, typer.Option(min=1, help="Operations outstanding.")] = 4,
    traffic_class: Annotated[Literal["low", "high"], typer.Option(help="Traffic class.")] = "low",
    memory: Annotated[
        Literal["host", "gpu"], typer.Option(help="Where the blocks lie at both ends.")
    ] = "host",
    seconds: _SecondsOption = 3.0,
    rounds: _RoundsOption = 4,
    peer: _PeerOption = True,
    json: JsonOption = False,
) -> None:
    """Bandwidth, operations, latency and CPU of a transport between two processes of this machine."""
    ends = [
        Ends(
            TransportConfig(kind=name, bind_address=address),
            TransportConfig(kind=name, bind_address=peer_address),
        )
        for name in names("kind", kind, _TRANSPORTS)
    ]
    cases = [
        bench_transport(
            ends, Transfers(direction, nbytes, batch, depth, traffic_class, seconds, memory), rounds, peer
        )
        for nbytes in sizes(block)
    ]
    if json:
        print_json(cases)
        return
    print_contests(
        (
            (
                f"{direction} {in_words(case.transfers.block_bytes)} x {batch}, depth {depth}, "
                f"{traffic_class} class, {memory} memory",
                case.contest,
            )
            for case in cases
        ),
        out,
    )


@bench.command(
    "storage",
    epilog="Examples: `dualpath bench storage /mnt/kv --block 1M --depth 16 --cache direct` · `dualpath "
    "bench storage /mnt/kv --memory gpu` (GPUDirect Storage beside reads into host memory and copies)",
)
def storage_command(
    root: Annotated[
        Path,
        typer.Argument(exists=True, file_okay=False, help="A directory of the file system to read from."),
    ],
    block: Annotated[str, typer.Option(help="Block sizes, separated by commas: 64K,1M,64M.")] = "1M",
    depth: Annotated[int, typer.Option(min=1, help="Reads outstanding.")] = 16,
    size: Annotated[str, typer.Option(help="Size of the file that is written for it.")] = "1G",
    order: Annotated[
        Literal["sequential", "random"], typer.Option(help="Order of the blocks.")
    ] = "sequential",
    cache: Annotated[
        Literal["direct", "page"], typer.Option(help="Past the page cache, or through it.")
    ] = "direct",
    engine: Annotated[
        str,
        typer.Option(help="What asks the kernel, in turn: io_uring, threads or nixl, separated by commas."),
    ] = "io_uring",
    memory: Annotated[
        Literal["host", "gpu"],
        typer.Option(help="Where the blocks go; gpu: by cuFile, and through the host's memory."),
    ] = "host",
    gpu: Annotated[int, typer.Option(min=0, help="Which, of those that CUDA_VISIBLE_DEVICES shows.")] = 0,
    seconds: _SecondsOption = 3.0,
    rounds: _RoundsOption = 4,
    peer: _PeerOption = True,
    json: JsonOption = False,
) -> None:
    """Bandwidth, operations, latency and CPU of reads from a directory."""
    (file_bytes,) = sizes(size)
    configs = [
        StorageConfig(kind="posix", root=str(root), read_streams=depth, cache=cache, engine=name)
        for name in names("engine", engine, _ENGINES)
    ]
    each = [Reads(nbytes, depth, order == "random", seconds) for nbytes in at_most(file_bytes, sizes(block))]
    cases: Sequence[StorageCase | GpuStorageCase]
    if memory == "gpu":
        if cache != "direct":
            raise ExperimentError(
                f"cache: found {cache}, cuFile reads past it: expected direct with --memory gpu"
            )
        cases = [bench_gpu_storage(gpu, configs, reads, file_bytes, rounds) for reads in each]
    else:
        cases = [bench_storage(configs, reads, file_bytes, rounds, peer) for reads in each]
    if json:
        print_json(cases)
        return
    what = f"depth {depth}, cache {cache}, {memory} memory"
    print_contests(
        ((f"{order} {in_words(case.reads.block_bytes)}, {what}", case.contest) for case in cases), out
    )
    if on_gpu := [case for case in cases if isinstance(case, GpuStorageCase)]:
        print_answers(on_gpu, out)
    for asked, used in {pair for case in cases for pair in case.engines.items() if pair[0] != pair[1]}:
        out.print(f"{asked}: there is none here, read with {used}")


@bench.command(
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
    seconds: _SecondsOption = 0.25,
    rounds: _RoundsOption = 4,
    json: JsonOption = False,
) -> None:
    """Rate and CPU of copying a layer to and from a GPU: a copy a block, batched, pitched, all at once.

    Takes blocks x block bytes of GPU memory, and layers times as much page-locked host memory.
    """
    each = [Layer(nbytes, blocks, layers) for nbytes in sizes(block)]
    report = bench_copies(gpu, names("direction", direction, _DIRECTIONS), each, rounds, seconds)
    if json:
        print_json(report)
    else:
        print_copies(report, out)


@bench.command(
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
        TransportKind, typer.Option(help="How the NIC copies: verbs, nixl; tcp to try without one.")
    ] = "verbs",
    address: Annotated[str, typer.Option(help="The NIC's address.")] = "127.0.0.1",
    seconds: _SecondsOption = 0.5,
    rounds: _RoundsOption = 4,
    json: JsonOption = False,
) -> None:
    """A prefill pass whose KV is loaded layer by layer, beside loading alone and computing alone."""
    shape = PromptShape(model, cached - cached % 64, new, 64)
    config = ComputeConfig("torch", device, (gpu,) if gpu else (), engines, copy=copy)
    report = bench_layerwise(shape, config, TransportConfig(transport, address), rounds, seconds)
    if json:
        derived = {"over_longest": report.over_longest, "hidden": report.hidden}
        print_json({**msgspec.to_builtins(report), **derived})
    else:
        print_layerwise(report, out)


@bench.command(
    "isolation",
    epilog="Examples: `dualpath bench isolation` (five minutes) · `dualpath bench isolation --collectives "
    "gloo` · `dualpath bench isolation --inventory rack.toml --collectives nccl --transport-of my.toml` · "
    "`dualpath bench isolation --show-qos`",
)
def isolation_command(
    inventory: InventoryOption = None,
    collectives: Annotated[
        CollectivesBy,
        typer.Option(
            help="What performs them: our transport, or torch.distributed with Gloo (CPUs) or NCCL (GPUs)."
        ),
    ] = "transport",
    transport_of: Annotated[
        str | None,
        typer.Option(
            help="Experiment whose \\[transport] moves KV and marks the classes: a name or a TOML file "
            "[default: TCP, high class DSCP 46].",
            show_default=False,
        ),
    ] = None,
    hosts: Annotated[
        int | None,
        typer.Option(min=2, max=16, help="Hosts of the emulated cluster [default: 4].", show_default=False),
    ] = None,
    model: Annotated[str, typer.Option(help="Whose layers the collectives are of.")] = "deepseek-v3.2-660b",
    batch_tokens: Annotated[int, typer.Option(min=1, help="Tokens an engine computes in a pass.")] = 1024,
    context: Annotated[int, typer.Option(min=1, help="Cached tokens before them.")] = 32_721,
    profile: Annotated[str, typer.Option(help="Hardware profile.")] = "hopper-400g",
    bytes_divisor: Annotated[
        float | None,
        typer.Option(
            min=1,
            help="Real bytes over emulated ones [default: 230; with --inventory 1].",
            show_default=False,
        ),
    ] = None,
    time_dilation: Annotated[
        float | None,
        typer.Option(
            min=1,
            help="Emulated seconds of a real one [default: 280; with --inventory 1].",
            show_default=False,
        ),
    ] = None,
    kv_depth: Annotated[int, typer.Option(min=1, help="Reads, and writes, outstanding with a peer.")] = 2,
    scenarios: Annotated[str, typer.Option(help="Which, separated by commas.")] = ",".join(SCENARIOS),
    seconds: _SecondsOption = 10.0,
    rounds: _RoundsOption = 6,
    show_qos: Annotated[
        bool, typer.Option("--show-qos", help="Show this host's class settings; measure nothing.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Whether traffic classes keep KV out of the way of model communication.

    On an emulated cluster or, with an inventory, between all of its prefill and decode hosts, each with its
    first compute NIC.
    """
    if show_qos:
        ports = find_qos()
        if json:
            print_json(ports)
        else:
            print_qos(ports, out)
        return
    rack = None if inventory is None else load_inventory(inventory)
    if rack is not None and hosts is not None:
        raise ExperimentError(
            "--hosts: is for the emulated cluster; with --inventory all its prefill and decode hosts are used"
        )
    plan = IsolationPlan(
        scenarios=tuple(names("scenarios", scenarios, _SCENARIOS)),
        rounds=rounds,
        seconds=seconds,
        hosts=sum(h.role != "storage" for h in rack.hosts) if rack else hosts or 4,
        model=model,
        profile=profile,
        bytes_divisor=bytes_divisor or (1 if rack else 230),
        time_dilation=time_dilation or (1 if rack else 280),
        batch_tokens=batch_tokens,
        context_tokens=context,
        kv_depth=kv_depth,
        collectives=collectives,
        transport=Transport() if transport_of is None else load_experiment(transport_of).transport,
    )
    with RunProgress() as progress:
        ground: IsolationGround = RackHosts(rack, progress.phase) if rack else _emulated_hosts()
        interrupts.install()
        report = bench_isolation(plan, ground)
    if json:
        print_json(report)
    else:
        print_report(report, out)


def _emulated_hosts() -> IsolationGround:
    """As this machine allows them; in a user namespace, the command is started again inside one."""
    choice = probe()
    if choice.mode == "user_namespaces" and not inside_user_namespace():
        reexec_in_user_namespace(sys.orig_argv)
    return EmulatedHosts(choice.mode)

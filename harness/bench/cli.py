"""The ``dualpath bench`` commands: raw rates of transports, stores and copies, each beside the tool that
evaluators know, or beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from harness.bench.contest_table import print_contests
from harness.bench.gpu_cli import gpu_bench
from harness.bench.gpu_storage import GpuStorageCase, bench_gpu_storage
from harness.bench.gpu_storage_table import print_answers
from harness.bench.isolation_cli import isolation_bench
from harness.bench.options import RoundsOption, SecondsOption, at_most, in_words, names, sizes
from harness.bench.storage import StorageCase, bench_storage
from harness.bench.transport import Ends, bench_transport
from harness.console import JsonOption, out, print_json
from harness.experiment import ExperimentError
from hosts.bench.reads import Reads
from hosts.bench.transfers import Transfers
from hosts.config import ReadEngine, StorageConfig, TransportConfig, TransportKind

bench = typer.Typer(
    name="bench", help="Raw rates of single parts, beside perftest, iperf3 and fio.", no_args_is_help=True
)
bench.add_typer(gpu_bench)
bench.add_typer(isolation_bench)
_TRANSPORTS: dict[str, TransportKind] = {"tcp": "tcp", "verbs": "verbs", "nixl": "nixl"}
_ENGINES: dict[str, ReadEngine] = {"io_uring": "io_uring", "threads": "threads", "nixl": "nixl"}

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
    seconds: SecondsOption = 3.0,
    rounds: RoundsOption = 4,
    peer: _PeerOption = True,
    json: JsonOption = False,
) -> None:
    """Bandwidth, operations, latency and CPU of a transport between two processes of this machine."""
    kinds = names("kind", kind, _TRANSPORTS)
    if memory == "gpu" and "tcp" in kinds:
        raise ExperimentError(
            "--memory: found gpu beside --kind tcp, which moves no GPU memory; expected --kind verbs or nixl"
        )
    ends = [
        Ends(
            TransportConfig(kind=name, bind_address=address),
            TransportConfig(kind=name, bind_address=peer_address),
        )
        for name in kinds
    ]
    cases = [
        bench_transport(
            ends, Transfers(direction, nbytes, batch, depth, traffic_class, seconds, memory), rounds, peer
        )
        for nbytes in sizes("block", block)
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
    root: Annotated[Path, typer.Argument(help="A directory of the file system to read from.")],
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
    gpu: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Which, of those that CUDA_VISIBLE_DEVICES shows [default: the first].",
            show_default=False,
        ),
    ] = None,
    seconds: SecondsOption = 3.0,
    rounds: RoundsOption = 4,
    peer: _PeerOption = True,
    json: JsonOption = False,
) -> None:
    """Bandwidth, operations, latency and CPU of reads from a directory."""
    if not root.is_dir():
        raise ExperimentError(
            f"{root}: found no such directory, expected one of the file system to read from"
        )
    if memory == "host" and gpu is not None:
        raise ExperimentError(
            f"--gpu: found {gpu} beside --memory host, which is on none; expected --memory gpu"
        )
    (file_bytes,) = sizes("size", size)
    configs = [
        StorageConfig(kind="posix", root=str(root), read_streams=depth, cache=cache, engine=name)
        for name in names("engine", engine, _ENGINES)
    ]
    each = [
        Reads(nbytes, depth, order == "random", seconds)
        for nbytes in at_most(file_bytes, sizes("block", block))
    ]
    cases: Sequence[StorageCase | GpuStorageCase]
    if memory == "gpu":
        if cache != "direct":
            raise ExperimentError(
                f"--cache: found {cache}, cuFile reads past it: expected direct with --memory gpu"
            )
        cases = [bench_gpu_storage(gpu or 0, configs, reads, file_bytes, rounds) for reads in each]
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

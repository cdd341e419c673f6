"""The ``dualpath bench`` commands: raw rates of transports and stores, each beside the tool that evaluators
know."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import typer
from rich.table import Table

from harness import interrupts
from harness.bench.contest import Contest
from harness.bench.isolation import IsolationPlan, bench_isolation
from harness.bench.isolation_metrics import SCENARIOS, Scenario
from harness.bench.isolation_table import print_qos, print_report
from harness.bench.storage import bench_storage
from harness.bench.transport import Ends, bench_transport
from harness.cluster import inside_user_namespace, probe, reexec_in_user_namespace
from harness.console import JsonOption, out, print_json
from harness.experiment import ExperimentError
from hosts.bench.reads import Reads
from hosts.bench.transfers import Transfers
from hosts.config import ReadEngine, StorageConfig, TransportConfig, TransportKind
from hosts.qos import find_qos

bench = typer.Typer(
    name="bench", help="Raw rates of single parts, beside perftest, iperf3 and fio.", no_args_is_help=True
)
_TRANSPORTS: dict[str, TransportKind] = {"tcp": "tcp", "verbs": "verbs", "nixl": "nixl"}
_ENGINES: dict[str, ReadEngine] = {"io_uring": "io_uring", "threads": "threads", "nixl": "nixl"}
_Name = TypeVar("_Name", bound=str)
_SUFFIXES = {"k": 2**10, "m": 2**20, "g": 2**30}

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
        for name in _names("kind", kind, _TRANSPORTS)
    ]
    cases = [
        bench_transport(
            ends, Transfers(direction, nbytes, batch, depth, traffic_class, seconds, memory), rounds, peer
        )
        for nbytes in _sizes(block)
    ]
    if json:
        print_json(cases)
        return
    _print((f"{direction} {_size(case.transfers.block_bytes)} x {batch}", case.contest) for case in cases)


@bench.command(
    "storage", epilog="Example: `dualpath bench storage /mnt/kv --block 1M --depth 16 --cache direct`"
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
    seconds: _SecondsOption = 3.0,
    rounds: _RoundsOption = 4,
    peer: _PeerOption = True,
    json: JsonOption = False,
) -> None:
    """Bandwidth, operations, latency and CPU of reads from a directory."""
    (file_bytes,) = _sizes(size)
    configs = [
        StorageConfig(kind="posix", root=str(root), read_streams=depth, cache=cache, engine=name)
        for name in _names("engine", engine, _ENGINES)
    ]
    cases = [
        bench_storage(configs, Reads(nbytes, depth, order == "random", seconds), file_bytes, rounds, peer)
        for nbytes in _sizes(block)
    ]
    if json:
        print_json(cases)
        return
    _print((f"{order} {_size(case.reads.block_bytes)}, {cache}", case.contest) for case in cases)
    for asked, used in {pair for case in cases for pair in case.engines.items() if pair[0] != pair[1]}:
        out.print(f"{asked}: there is none here, read with {used}")


@bench.command(
    "isolation",
    epilog="Examples: `dualpath bench isolation` (five minutes) · `dualpath bench isolation --show-qos`",
)
def isolation_command(
    hosts: Annotated[int, typer.Option(min=2, max=16, help="Hosts of the emulated cluster.")] = 4,
    model: Annotated[str, typer.Option(help="Whose layers the collectives are of.")] = "deepseek-v3.2-660b",
    batch_tokens: Annotated[int, typer.Option(min=1, help="Tokens an engine computes in a pass.")] = 1024,
    context: Annotated[int, typer.Option(min=1, help="Cached tokens before them.")] = 32_721,
    profile: Annotated[str, typer.Option(help="Hardware profile.")] = "hopper-400g",
    bytes_divisor: Annotated[float, typer.Option(min=1, help="Real bytes over emulated ones.")] = 230,
    time_dilation: Annotated[float, typer.Option(min=1, help="Emulated seconds of a real one.")] = 280,
    kv_depth: Annotated[int, typer.Option(min=1, help="Reads, and writes, outstanding with a peer.")] = 2,
    scenarios: Annotated[str, typer.Option(help="Which, separated by commas.")] = ",".join(SCENARIOS),
    seconds: _SecondsOption = 10.0,
    rounds: _RoundsOption = 6,
    show_qos: Annotated[
        bool, typer.Option("--show-qos", help="Show this host's class settings; measure nothing.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Whether traffic classes keep KV out of the way of model communication, on an emulated cluster."""
    if show_qos:
        ports = find_qos()
        if json:
            print_json(ports)
        else:
            print_qos(ports, out)
        return
    plan = IsolationPlan(
        scenarios=_scenarios(scenarios),
        rounds=rounds,
        seconds=seconds,
        hosts=hosts,
        model=model,
        profile=profile,
        bytes_divisor=bytes_divisor,
        time_dilation=time_dilation,
        batch_tokens=batch_tokens,
        context_tokens=context,
        kv_depth=kv_depth,
    )
    choice = probe()
    if choice.mode == "user_namespaces" and not inside_user_namespace():
        reexec_in_user_namespace(sys.orig_argv)
    interrupts.install()
    report = bench_isolation(plan, choice.mode)
    if json:
        print_json(report)
    else:
        print_report(report, out)


def _scenarios(text: str) -> tuple[Scenario, ...]:
    """Names separated by commas; ExperimentError for one that there is not."""
    names = {str(known): known for known in SCENARIOS}
    for name in text.split(","):
        if name not in names:
            raise ExperimentError(f"scenarios: found '{name}', expected some of {', '.join(names)}")
    return tuple(dict.fromkeys(names[name] for name in text.split(",")))


def _print(cases: Iterable[tuple[str, Contest]]) -> None:
    table = Table("what", "tool", "GB/s", "operations/s", "p50", "p99", "CPU s/GB", "first / this", box=None)
    for what, contest in cases:
        first = next(iter(contest.rounds))
        for tool in contest.rounds:
            result = contest.median(tool)
            ratio = "" if tool == first else f"{contest.ratio(first, tool):.0%}"
            table.add_row(
                what,
                tool,
                f"{result.bytes_per_s / 1e9:.3f}",
                _shown(result.operations_per_s, "{:.0f}"),
                _shown(result.latency_s_p50, "{:.2f} ms", 1e3),
                _shown(result.latency_s_p99, "{:.2f} ms", 1e3),
                _shown(result.cpu_s_per_gb, "{:.2f}"),
                ratio,
            )
    out.print(table)
    out.print(
        "medians over rounds; first / this: the first tool's bandwidth over this one's, the median of the "
        "rounds' own ratios"
    )


def _shown(value: float | None, form: str, factor: float = 1.0) -> str:
    return "" if value is None else form.format(value * factor)


def _names(option: str, text: str, known: dict[str, _Name]) -> list[_Name]:
    """``tcp,nixl`` as those, each once; ExperimentError for one that is not ``known``."""
    for name in text.split(","):
        if name.strip() not in known:
            raise ExperimentError(f"{option}: found '{name}', expected some of {', '.join(known)}")
    return list(dict.fromkeys(known[name.strip()] for name in text.split(",")))


def _sizes(text: str) -> list[int]:
    """``64K,1M`` in bytes; ExperimentError for anything else."""
    sizes = []
    for part in text.split(","):
        number, factor = part.strip(), 1
        if number and number[-1].lower() in _SUFFIXES:
            number, factor = number[:-1], _SUFFIXES[number[-1].lower()]
        if not number.isdigit() or not int(number):
            raise ExperimentError(f"size: found '{part}', expected bytes such as 4096, 64K, 1M or 1G")
        sizes.append(int(number) * factor)
    return sizes


def _size(nbytes: int) -> str:
    for suffix, factor in reversed(_SUFFIXES.items()):
        if nbytes % factor == 0:
            return f"{nbytes // factor}{suffix.upper()}iB"
    return f"{nbytes} B"

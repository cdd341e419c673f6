"""``dualpath bench isolation``: on an emulated cluster, or on the hosts of an inventory."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from harness import interrupts
from harness.bench.isolation import bench_isolation
from harness.bench.isolation_grounds import EmulatedHosts, IsolationGround, RackHosts
from harness.bench.isolation_metrics import SCENARIOS, Scenario
from harness.bench.isolation_plan import CollectivesBy, IsolationPlan
from harness.bench.isolation_table import print_qos, print_report
from harness.bench.options import RoundsOption, SecondsOption, names
from harness.cluster import inside_user_namespace, probe, reexec_in_user_namespace
from harness.console import JsonOption, out, print_json
from harness.experiment import ExperimentError, Transport, load_experiment
from harness.grounds import InventoryOption
from harness.inventory import load_inventory
from harness.progress import RunProgress
from hosts.qos import find_qos

isolation_bench = typer.Typer()
_SCENARIOS: dict[str, Scenario] = {str(name): name for name in SCENARIOS}


@isolation_bench.command(
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
    seconds: SecondsOption = 10.0,
    rounds: RoundsOption = 6,
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

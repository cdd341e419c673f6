"""``dualpath calibrate``: paths, which is what it does unless asked for something else, and compute."""

from __future__ import annotations

import shlex
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from typer.core import TyperGroup

from harness import interrupts
from harness.calibration.compute import calibrate_compute, measured_here
from harness.calibration.compute_options import check_new_profile, expert_engines
from harness.calibration.kernel_points import ComputePlan
from harness.calibration.kernels_table import kernels_remarks, kernels_table
from harness.calibration.measure import calibrate
from harness.calibration.on_host import host_of, measured_on
from harness.calibration.result import calibration_file, save
from harness.calibration.table import remarks, storage_table, transfer_table
from harness.console import JsonOption, out, print_json
from harness.experiment import ExperimentError, load_experiment, load_profile, to_toml
from harness.grounds import InventoryOption, ModeOption, ground_of
from harness.inventory import load_inventory
from harness.progress import RunProgress
from harness.run_store import disk_error
from hosts.config import DeviceKind
from reports.atomic_file import write_atomically
from workloads.models import find_model


class _PathsUnlessNamed(TyperGroup):
    """So that ``dualpath calibrate EXPERIMENT`` measures paths."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in (*self.commands, "--help", "-h"):
            args = ["paths", *args]
        rest: list[str] = super().parse_args(ctx, args)
        return rest


calibrate_commands = typer.Typer(
    name="calibrate",
    cls=_PathsUnlessNamed,
    help="Measure what paths carry and what kernels take: ceilings, and times that runs are judged by.",
    epilog="`dualpath calibrate EXPERIMENT` is `dualpath calibrate paths EXPERIMENT`.",
)


@calibrate_commands.command(
    "paths", epilog="Example: `dualpath calibrate io_bound_1p2d --inventory rack.toml --seconds 5`"
)
def paths_command(
    experiment: Annotated[
        str, typer.Argument(help="Whose reads, transport and profile are used: a name or a TOML file.")
    ] = "demo",
    inventory: InventoryOption = None,
    mode: ModeOption = "auto",
    seconds: Annotated[float, typer.Option(min=0.1, max=60, help="How long each path is measured.")] = 2.0,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Logs and the result [default: runs/calibration-TIME].", show_default=False
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Measure what every storage path and every pair of compute NICs carries, alone and all at once.

    With an inventory the result is stored beside it: runs there say when it is stale, or no longer true.
    """
    interrupts.install()
    directory = directory or Path("runs") / f"calibration-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    with RunProgress() as progress:
        ground = ground_of(inventory, mode)
        calibration = calibrate(load_experiment(experiment), directory, ground, progress, seconds)
    stored = directory / "calibration.json"
    if inventory is not None:
        stored = calibration_file(inventory)
        save(calibration, stored)
    if json:
        print_json(msgspec.to_builtins(calibration))
        return
    out.print(storage_table(calibration))
    out.print(transfer_table(calibration))
    for line in remarks(calibration):
        out.print(line)
    out.print(f"calibration: {stored}")


@calibrate_commands.command(
    "compute",
    epilog="Examples: `dualpath calibrate compute dualpath-27b --engines 8,16 --out h200.toml` · `dualpath "
    "calibrate compute dualpath-27b --inventory rack.toml --host p0` · `dualpath calibrate compute "
    "toy-latent --device cpu` (a try without a GPU)",
)
def compute_command(
    model: Annotated[str, typer.Argument(help="Whose kernels.")],
    profile: Annotated[
        str, typer.Option(help="Hardware profile that the kernels are added to: a name or a TOML file.")
    ] = "hopper-400g",
    device: Annotated[DeviceKind, typer.Option(help="What computes.")] = "cuda",
    gpu: Annotated[
        str,
        typer.Option(help="Which GPU: index, UUID or PCI address [default: the first].", show_default=False),
    ] = "",
    engines: Annotated[
        str | None,
        typer.Option(
            help="Engines that share the experts: those of all prefill hosts together, and of all decode "
            "hosts, such as 8,16 [default: a host's; with --inventory those of each role].",
            show_default=False,
        ),
    ] = None,
    inventory: InventoryOption = None,
    host: Annotated[
        str,
        typer.Option(
            help="Which host of the inventory measures [default: the first prefill host].", show_default=False
        ),
    ] = "",
    longest_context: Annotated[int, typer.Option(min=4096, help="Cached tokens, at most.")] = 65_536,
    most_tokens: Annotated[int, typer.Option(min=512, help="Tokens of a pass, at most.")] = 4096,
    seconds: Annotated[float, typer.Option(min=0.01, help="How long each point is measured.")] = 0.3,
    rounds: Annotated[int, typer.Option(min=1, help="In how many rounds.")] = 3,
    output: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="The new profile, or that of --profile to add to it [default: profile-MODEL.toml].",
            show_default=False,
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Measure a model's kernels on a GPU and write a hardware profile that predicts by them.

    The GPU is this machine's or, with an inventory, a host's, which needs torch for its Python.
    An experiment uses it by `cluster.profile = "FILE"`; its times are then what was measured, not FLOPs over
    an assumed rate.
    """
    if inventory is None and host:
        raise ExperimentError(
            f"--host: found {host} without --inventory; expected --inventory, whose host it is"
        )
    if device == "cpu" and gpu:
        raise ExperimentError(
            f"--gpu: found {gpu} beside --device cpu, which uses none; expected --device cuda"
        )
    output = output or Path(f"profile-{model}.toml")
    check_new_profile(output, profile)
    base, of = load_profile(profile), find_model(model)
    rack = None if inventory is None else load_inventory(inventory)
    plan = ComputePlan(
        model=of,
        device=device,
        gpu=gpu,
        expert_engines=expert_engines(engines, of, base, rack),
        longest_context=longest_context,
        most_tokens=most_tokens,
        seconds=seconds,
        rounds=rounds,
        command=shlex.join(["dualpath", *sys.argv[1:]]),
    )
    if rack is None:
        kernels = calibrate_compute(plan, measured_here)
    else:
        with RunProgress() as progress:
            measure = partial(measured_on, rack, host_of(rack, host), progress.phase)
            kernels = calibrate_compute(plan, measure)
    try:
        write_atomically(output.resolve(), to_toml(base.with_kernels(of, kernels)).encode())
    except OSError as error:
        raise disk_error(error, output) from None
    if json:
        print_json(kernels)
        return
    out.print(kernels_table(kernels[0]))
    for line in kernels_remarks(kernels):
        out.print(line)
    out.print(f"profile: {output}")

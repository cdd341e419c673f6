"""``dualpath calibrate``."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from harness import interrupts
from harness.calibration.measure import calibrate
from harness.calibration.result import calibration_file, save
from harness.calibration.table import remarks, storage_table, transfer_table
from harness.console import JsonOption, out, print_json
from harness.experiment import load_experiment
from harness.grounds import InventoryOption, ModeOption, ground_of
from harness.progress import RunProgress


def calibrate_command(
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

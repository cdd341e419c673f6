"""What the command line says about where a run takes place."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from harness.calibration.result import calibration_file
from harness.calibration.result import load as load_calibration
from harness.cluster import inside_user_namespace, probe, reexec_in_user_namespace
from harness.inventory import load_inventory
from harness.sites.emulated import EmulatedGround
from harness.sites.ground import Ground
from harness.sites.rack import RackGround

ModeName = Literal["auto", "network_namespaces", "user_namespaces", "loopback"]
ModeOption = Annotated[
    ModeName, typer.Option("--mode", help="Kind of emulated cluster; auto takes the best that works here.")
]
InventoryOption = Annotated[
    Path | None,
    typer.Option(
        "--inventory", help="Real hosts to run on, instead of an emulated cluster.", show_default=False
    ),
]


def ground_of(inventory: Path | None, mode: ModeName) -> Ground:
    """The rack of an inventory or, without one, this machine; raises ExperimentError or ClusterError.

    For an emulated cluster in a user namespace, the command is started again inside one.
    """
    if inventory is not None:
        return RackGround(load_inventory(inventory), load_calibration(calibration_file(inventory)))
    choice = probe(None if mode == "auto" else mode)
    if choice.mode == "user_namespaces" and not inside_user_namespace():
        reexec_in_user_namespace(sys.orig_argv)
    return EmulatedGround(choice)


def ground_again(run_directory: Path, mode: ModeName) -> Ground:
    """That of an earlier run, to go on with it."""
    inventory = run_directory / "inventory.toml"
    return ground_of(inventory if inventory.exists() else None, mode)

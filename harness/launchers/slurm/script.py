"""A job for sbatch(1) that runs dualpath inside its own allocation."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from harness.experiment import ExperimentError
from harness.inventory import Inventory, SlurmLauncher
from harness.launchers.slurm.allocation import allocation_options

_NOTICE_S = 60


def sbatch_script(inventory: Inventory, command: Sequence[str], directory: Path) -> str:
    """The script of a job with a node for each host, which runs ``command`` in ``directory`` on the first.

    Slurm signals the command a minute or two before the time limit: what it has measured is saved and
    reported. Raises ExperimentError for an inventory of which no job can be made.
    """
    section = inventory.launcher
    if not isinstance(section, SlurmLauncher):
        raise ExperimentError(f"--print: found inventory {inventory.name}, expected one of kind 'slurm'")
    if section.job_id:
        raise ExperimentError(
            f"launcher.job_id: found '{section.job_id}', expected none with --print, which makes a job"
        )
    options = [
        "--job-name=dualpath",
        *allocation_options(section, inventory.hosts),
        f"--chdir={directory}",
        f"--signal=B:TERM@{_NOTICE_S}",
    ]
    # exec: the signal is for the command, not for a shell.
    lines = [*(f"#SBATCH {shlex.quote(option)}" for option in options), f"exec {shlex.join(command)}"]
    return "".join(f"{line}\n" for line in ("#!/bin/sh", *lines))

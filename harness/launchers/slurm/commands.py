"""Slurm's own commands, which find their cluster as they do for the user."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping, Sequence

from harness.host_error import HostError

TIMEOUT_S = 30.0
"""For a command that only asks the controller."""


def environment() -> Mapping[str, str]:
    """Ours without what describes the job that we may be in: it would be taken for options of ours."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    return own | ({"SLURM_CONF": os.environ["SLURM_CONF"]} if "SLURM_CONF" in os.environ else {})


def require(command: str) -> None:
    """Raises HostError if it is not installed: none of them is, then."""
    if shutil.which(command) is None:
        raise HostError(
            "control",
            f"{command} is not installed; fix: run dualpath where Slurm's commands are, on a login node or "
            "inside a job",
        )


async def begin(
    *argv: str,
    stdout: int = asyncio.subprocess.PIPE,
    stderr: int = asyncio.subprocess.PIPE,
    pass_fds: Sequence[int] = (),
) -> asyncio.subprocess.Process:
    """Start one of them with a pipe to its stdin, out of a terminal's reach."""
    return await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        pass_fds=pass_fds,
        env=environment(),
        process_group=0,
    )


async def ask(*argv: str) -> str:
    """What one of them answers; raises HostError with its own words."""
    process = await begin(*argv)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            told, said = await process.communicate()
    except TimeoutError:
        raise HostError("control", f"{argv[0]}: no answer within {TIMEOUT_S:g} s, is slurmctld up?") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise HostError("control", f"{' '.join(argv)}: {reason(said) or f'status {process.returncode}'}")
    return told.decode(errors="replace").strip()


def reason(said: bytes) -> str:
    """The line of a command's complaints that says most: what slurmstepd shouts, else the last one."""
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    if loud := [line for line in lines if "***" in line]:
        return loud[-1].partition("***")[2].strip("* ")
    line = lines[-1] if lines else ""
    for prefix in ("srun: ", "salloc: ", "squeue: ", "scontrol: ", "slurm_load_jobs ", "error: "):
        line = line.removeprefix(prefix)
    return line

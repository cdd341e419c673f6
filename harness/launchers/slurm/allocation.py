"""A Slurm allocation: one that there is, or one that is made and lasts as long as this process wants it."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from harness.host_error import HostError
from harness.inventory import ANY_NODE, InventoryHost, SlurmLauncher
from harness.launchers.slurm.commands import ask, begin, reason, require

_RELEASE_TIMEOUT_S = 10.0

# Arguments: salloc and its options. It is ended when our stdin is, by close() or because the kernel has
# closed what a killed process had open: an allocation is given back then, and one still pending cancelled.
_HOLD = """\
exec 3<&0 </dev/null
"$@" --kill-command=KILL sh -c 'echo "$SLURM_JOB_ID $SLURM_JOB_NODELIST"; exec sleep infinity' &
salloc=$!
{ cat <&3; kill -s TERM "$salloc"; } >/dev/null 2>&1 &
exec 3<&-
wait "$salloc"
status=$?
kill "$!"
exit "$status"
"""


@dataclass(frozen=True, slots=True)
class Allocation:
    """Nodes in Slurm's order; ``salloc`` holds them, None for a job that is somebody else's."""

    job_id: str
    nodes: tuple[str, ...]
    salloc: asyncio.subprocess.Process | None = None

    async def close(self) -> None:
        """Give the nodes back, if they were allocated here."""
        if self.salloc is not None:
            await _release(self.salloc)


async def open_allocation(section: SlurmLauncher, hosts: Sequence[InventoryHost]) -> Allocation:
    """The job ``job_id``, or the one that this process is in, or a new one with a node for each host.

    Raises HostError with Slurm's own words; when the new job has not begun within ``queue_timeout_s``, with
    the reason that Slurm has for that.
    """
    require("srun")
    if job_id := section.job_id or os.environ.get("SLURM_JOB_ID", ""):
        return await _existing(job_id)
    return await _made(section, hosts)


def placed(hosts: Sequence[InventoryHost], allocation: Allocation) -> dict[str, str]:
    """A node for each host: the one that it names or, where it names none, the next that nobody names."""
    named = [host.node for host in hosts if host.node != ANY_NODE]
    missing = [node for node in named if node not in allocation.nodes]
    rest = iter([node for node in allocation.nodes if node not in named])
    if missing or len(hosts) > len(allocation.nodes):
        wanted = f"nodes {', '.join(missing)}" if missing else f"{len(hosts)} nodes"
        raise HostError(
            "control",
            f"job {allocation.job_id}: found nodes {', '.join(allocation.nodes)}, expected {wanted}; fix: "
            "'node' of the hosts in the inventory, or another allocation",
        )
    return {host.name: host.node if host.node != ANY_NODE else next(rest) for host in hosts}


def allocation_options(section: SlurmLauncher, hosts: Sequence[InventoryHost]) -> list[str]:
    """Of an allocation that has a whole node for each host; sbatch(1) takes the same ones."""
    named = [host.node for host in hosts if host.node != ANY_NODE]
    return [
        f"--nodes={len(hosts)}",
        *([f"--nodelist={','.join(named)}"] if named else []),
        "--ntasks-per-node=1",
        "--exclusive",
        "--mem=0",  # all of it
        *([f"--partition={section.partition}"] if section.partition else []),
        *([f"--account={section.account}"] if section.account else []),
        f"--time={section.time_limit}",
        *section.options,
    ]


async def _existing(job_id: str) -> Allocation:
    told = await ask("squeue", "--noheader", f"--jobs={job_id}", "--states=all", "--format=%T %N")
    state, _, nodes = told.partition(" ")
    if state != "RUNNING":
        raise HostError(
            "control",
            f"launcher.job_id: job {job_id} is {state.lower() or 'over'}, expected a running one; fix: make "
            "a new allocation, or leave job_id out and one is made for each run",
        )
    return Allocation(job_id, await _names(nodes))


async def _made(section: SlurmLauncher, hosts: Sequence[InventoryHost]) -> Allocation:
    name = f"dualpath-{secrets.token_hex(4)}"
    options = [*allocation_options(section, hosts), f"--job-name={name}"]
    salloc = await begin("sh", "-c", _HOLD, "sh", "salloc", *options)
    try:
        granted = await _granted(salloc, name, section.queue_timeout_s)
        job_id, _, nodes = granted.partition(" ")
        return Allocation(job_id, await _names(nodes), salloc)
    except BaseException:
        await _release(salloc)
        raise


async def _granted(salloc: asyncio.subprocess.Process, name: str, timeout_s: float) -> str:
    """The job's id and nodes, once it has them."""
    assert salloc.stdout is not None
    assert salloc.stderr is not None
    try:
        async with asyncio.timeout(timeout_s):
            if granted := (await salloc.stdout.readline()).decode():
                return granted.strip()
            said = await salloc.stderr.read()
    except TimeoutError:
        why = await ask("squeue", "--noheader", f"--name={name}", "--format=job %A waits: %r")
        raise HostError(
            "control",
            f"no nodes within {timeout_s:g} s ({why or 'the job has just ended'}); fix: a larger "
            "queue_timeout_s, or other nodes, partition or options in the inventory",
        ) from None
    raise HostError("control", f"salloc: {reason(said) or 'ended without a word'}")


async def _release(salloc: asyncio.subprocess.Process) -> None:
    """End it, which gives the nodes back; slurmctld gets some seconds to answer."""
    assert salloc.stdin is not None
    salloc.stdin.close()
    try:
        async with asyncio.timeout(_RELEASE_TIMEOUT_S):
            await salloc.wait()
    except TimeoutError:
        os.killpg(salloc.pid, signal.SIGKILL)
        await salloc.wait()


async def _names(nodes: str) -> tuple[str, ...]:
    return tuple((await ask("scontrol", "show", "hostnames", nodes)).split())

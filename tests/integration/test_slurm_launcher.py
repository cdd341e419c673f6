"""A real Slurm: allocations that are made and given back, or somebody else's, and dualpath inside a job."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from racks.base import OwnInventory, works
from racks.slurm_lab import OBSTACLE, SlurmLab, slurm_lab
from run_driver import dualpath, write_experiment

from harness.cluster import probe
from harness.host_error import HostError
from harness.inventory import load_inventory
from harness.launchers import Launcher, open_launcher

NO_NAMESPACES = probe().unavailable.get("network_namespaces")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(NO_NAMESPACES is not None, reason=f"no network namespaces: {NO_NAMESPACES}"),
    pytest.mark.skipif(OBSTACLE is not None, reason=f"no Slurm: {OBSTACLE}"),
]
SOON_S = 10.0
ANY_NODE = {
    "node": "*",
    "address": "",
    "storage_nic": {"name": "stor0"},
    "compute_nics": [{"name": "comp0"}],
}
BY_ORDER = {"p0": ANY_NODE, "d0": ANY_NODE}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmLab]:
    with slurm_lab(tmp_path_factory.mktemp("rack")) as raised:
        yield raised


@pytest.fixture
def rack(lab: SlurmLab, tmp_path: Path) -> Iterator[OwnInventory]:
    rack = OwnInventory(lab, tmp_path)
    yield rack
    until_no_jobs(rack.lab)


def until_no_jobs(lab: SlurmLab) -> None:
    lab.until(lambda: not lab.jobs(), "no jobs", SOON_S)


@contextmanager
def job(lab: SlurmLab, *options: str) -> Iterator[str]:
    """A running allocation of ours, by its id."""
    lab.ask("salloc", "--no-shell", "--quiet", "--job-name=ours", *options)
    [job_id] = lab.ask("squeue", "--noheader", "--name=ours", "--format=%A").split()
    try:
        yield job_id
    finally:
        lab.ask("scancel", job_id)


async def nodes(launcher: Launcher) -> dict[str, str]:
    told = [await launcher.run(host, ["hostname"]) for host in launcher.hosts]
    return dict(zip(launcher.hosts, (done.stdout.decode().strip() for done in told), strict=True))


# --- allocations -------------------------------------------------------------------------------------------


def test_an_allocation_is_made_and_given_back(rack: OwnInventory) -> None:
    async def test(launcher: Launcher) -> None:
        [described] = rack.lab.ask("squeue", "--noheader", "--format=%T %D %j").splitlines()
        state, count, name = described.split()
        assert (state, count) == ("RUNNING", "3")
        assert name.startswith("dualpath-")
        await works(launcher)

    rack.over(test)
    until_no_jobs(rack.lab)


@pytest.mark.parametrize("how", ["job_id", "SLURM_JOB_ID"])
def test_inside_an_allocation(rack: OwnInventory, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with job(rack.lab, "--nodes=3") as job_id:
        if how == "job_id":
            rack.over(works, job_id=job_id)
        else:
            monkeypatch.setenv("SLURM_JOB_ID", job_id)
            monkeypatch.setenv("SLURM_NTASKS", "3")
            rack.over(works)
        assert rack.lab.jobs() == [job_id]


def test_a_job_that_is_not_there_or_over(rack: OwnInventory) -> None:
    assert rack.refusal("control", job_id="99999").endswith("Invalid job id specified")
    with job(rack.lab, "--nodes=1") as job_id:
        pass
    until_no_jobs(rack.lab)
    assert f"job {job_id} is cancelled, expected a running one; fix: " in rack.refusal(
        "control", job_id=job_id
    )


def test_an_allocation_without_a_host_s_node(rack: OwnInventory) -> None:
    with job(rack.lab, "--nodelist=p0") as job_id:
        assert f"job {job_id}: found nodes p0, expected nodes storage, d0" in rack.refusal(
            "control", job_id=job_id
        )


def test_roles_by_order(rack: OwnInventory) -> None:
    async def test(launcher: Launcher) -> None:
        # Slurm has nodes by name, not in the inventory's order.
        assert await nodes(launcher) == {"storage": "storage", "p0": "d0", "d0": "p0"}

    rack.over(test, BY_ORDER)


@pytest.mark.parametrize(
    ("launcher", "said"),
    [
        ({"partition": "nope"}, "salloc: Job submit/allocate failed: Invalid partition name specified"),
        ({"options": ["--no-such-option"]}, "salloc: "),
        ({"options": ["--constraint=nope"]}, "salloc: Job submit/allocate failed: Invalid feature"),
    ],
)
def test_what_slurm_refuses(rack: OwnInventory, launcher: Mapping[str, Any], said: str) -> None:
    assert said in rack.refusal("control", **launcher)


def test_no_slurm(rack: OwnInventory, monkeypatch: pytest.MonkeyPatch) -> None:
    inventory = load_inventory(rack.written())
    monkeypatch.setenv("PATH", "/nowhere")

    async def test() -> None:
        async with open_launcher(inventory):
            pass

    with pytest.raises(HostError, match="srun is not installed; fix: run dualpath where"):
        asyncio.run(test())


def test_a_queue_that_takes_too_long(rack: OwnInventory) -> None:
    with job(rack.lab, "--nodelist=d0", "--exclusive") as job_id:
        said = rack.refusal("control", queue_timeout_s=1.5)
        assert said.startswith("no nodes within 1.5 s (job ")
        assert "waits: Resources" in said or "waits: Priority" in said or "waits: None" in said
        rack.lab.until(lambda: rack.lab.jobs() == [job_id], "no other job", SOON_S)


OWNER = """
import asyncio, sys
from pathlib import Path
from harness.inventory import load_inventory
from harness.launchers import open_launcher

async def main():
    async with open_launcher(load_inventory(Path(sys.argv[1]))) as launcher:
        await launcher.start("p0", ["sleep", "300"], stdin=b"", log=Path(sys.argv[1] + ".log"))
        await asyncio.sleep(300)

asyncio.run(main())
"""


@pytest.mark.parametrize("state", ["RUNNING", "PENDING"])
def test_a_control_node_that_is_killed_leaves_no_job(rack: OwnInventory, state: str) -> None:
    lab = rack.lab

    def states() -> list[str]:
        listed = lab.ask("squeue", "--noheader", "--format=%T %j").splitlines()
        return [line.split()[0] for line in listed if "dualpath-" in line]

    with job(lab, "--nodes=1", "--exclusive") if state == "PENDING" else nullcontext():
        owner = subprocess.Popen([*lab.prefix, sys.executable, "-c", OWNER, str(rack.written())])
        try:
            lab.until(lambda: states() == [state], f"a job that is {state}", SOON_S)
        finally:
            owner.kill()
            owner.wait()
        lab.until(lambda: not states(), "no job of the one that was killed", SOON_S)


# --- commands ----------------------------------------------------------------------------------------------


def test_a_job_that_is_cancelled_is_a_host_that_is_lost(rack: OwnInventory) -> None:
    async def test(launcher: Launcher) -> None:
        log = rack.directory / "log"
        started = await launcher.start("p0", ["sh", "-c", "echo on; sleep 300"], stdin=b"", log=log)
        running = asyncio.create_task(launcher.run("d0", ["sleep", "300"], timeout_s=60))
        await asyncio.to_thread(rack.lab.until, lambda: log.exists() and log.read_text(), "a command")
        rack.lab.ask("scancel", *rack.lab.jobs())
        said = await started.wait()
        assert said.startswith("lost: ")
        assert "CANCELLED" in said
        with pytest.raises(HostError, match=r"lost while sleep 300 ran: ") as caught:
            await running
        assert caught.value.host == "d0"
        with pytest.raises(HostError, match="lost while true ran: "):
            await launcher.run("p0", ["true"])

    rack.over(test)


def test_what_a_command_gets_of_our_environment(rack: OwnInventory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "secret")
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.1 1 192.0.2.2 22")

    async def test(launcher: Launcher) -> None:
        names = {line.split(b"=")[0] for line in (await launcher.run("p0", ["env"])).stdout.splitlines()}
        assert {b"PATH", b"HOME", b"SLURM_JOB_ID", b"SLURM_LAUNCH_NODE_IPADDR"} <= names
        assert not {b"A_TOKEN", b"SSH_CONNECTION"} & names

    rack.over(test)


# --- dualpath in a job -------------------------------------------------------------------------------------


def test_the_script_that_is_printed_runs_in_its_job(
    rack: OwnInventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By order, and with nothing in the inventory that is not known before the job has its nodes."""
    lab = rack.lab
    document = tomllib.loads(rack.written(BY_ORDER).read_text())
    del document["control_address"]
    document["hosts"].reverse()
    inventory = rack.directory / "any.toml"
    inventory.write_text(tomli_w.dumps(document))
    words = ["run", str(write_experiment(rack.directory)), "--inventory", "any.toml", "--out", "run"]
    printed = dualpath(*words, "--print", cwd=rack.directory)
    assert printed.returncode == 0, printed.stderr
    script = rack.directory / "job.sh"
    script.write_text(printed.stdout)
    command = shutil.which("dualpath", path=str(Path(sys.executable).parent))
    assert command is not None
    monkeypatch.setenv("PATH", f"{Path(command).parent}:{os.environ['PATH']}")
    lab.ask("sbatch", "--output=job.log", str(script))
    lab.until(lambda: not lab.jobs(), "the job is over", 90)
    said = (rack.directory / "job.log").read_text()
    metadata = json.loads((rack.directory / "run" / "metadata.json").read_text())
    assert metadata["status"] == "complete", said
    assert metadata["emulation"]["mode"] == "rack"

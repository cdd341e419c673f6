"""Where hosts come to be in an allocation, what is asked of Slurm, and what is made of its complaints."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_driver import dualpath, write_experiment

from harness.experiment import ExperimentError
from harness.host_error import HostError
from harness.inventory import Inventory, InventoryHost, SlurmLauncher, SshLauncher, load_inventory
from harness.launchers.slurm.allocation import Allocation, allocation_options, placed
from harness.launchers.slurm.commands import environment, reason
from harness.launchers.slurm.script import sbatch_script

RACK = """
[launcher]
kind = "slurm"
partition = "gpu"
[storage]
mount = "/mnt/kv"
[[hosts]]
name = "p0"
role = "prefill"
node = "*"
storage_nic = { name = "ens1" }
compute_nics = [{ name = "ens2" }]
[[hosts]]
name = "d0"
role = "decode"
node = "*"
storage_nic = { name = "ens1" }
compute_nics = [{ name = "ens2" }]
"""


def hosts(*nodes: str) -> list[InventoryHost]:
    return [InventoryHost(name=f"h{n}", role="decode", node=node) for n, node in enumerate(nodes)]


@pytest.mark.parametrize(
    ("nodes", "where"),
    [
        (["b", "a"], ["b", "a"]),
        (["*", "*"], ["a", "b"]),
        (["*", "a", "*"], ["b", "a", "c"]),
    ],
)
def test_hosts_are_on_the_node_they_name_or_the_next(nodes: list[str], where: list[str]) -> None:
    asked = hosts(*nodes)
    assert list(placed(asked, Allocation("7", ("a", "b", "c"))).values()) == where


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [(["a", "x", "y"], "nodes x, y"), (["*", "*", "*"], "3 nodes"), (["*", "z"], "nodes z")],
)
def test_an_allocation_that_lacks_nodes(nodes: list[str], expected: str) -> None:
    with pytest.raises(HostError, match=f"job 7: found nodes a, b, expected {expected}; fix: "):
        placed(hosts(*nodes), Allocation("7", ("a", "b")))


def test_what_is_asked_of_slurm() -> None:
    assert allocation_options(SlurmLauncher(), hosts("a", "b")) == [
        "--nodes=2",
        "--nodelist=a,b",
        "--ntasks-per-node=1",
        "--exclusive",
        "--mem=0",
        "--time=60",
    ]
    section = SlurmLauncher(partition="gpu", account="perf", time_limit=30, options=("--constraint=h100",))
    assert allocation_options(section, hosts("*", "*"))[1:] == [
        "--ntasks-per-node=1",
        "--exclusive",
        "--mem=0",
        "--partition=gpu",
        "--account=perf",
        "--time=30",
        "--constraint=h100",
    ]


def test_options_of_the_job_we_are_in_are_not_taken_for_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "64")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/a.conf")
    assert "SLURM_NTASKS" not in environment()
    assert environment()["SLURM_CONF"] == "/etc/slurm/a.conf"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("", ""),
        ("salloc: error: a\nsalloc: error: Job submit/allocate failed: b\n", "Job submit/allocate failed: b"),
        ("slurm_load_jobs error: Invalid job id specified\n", "Invalid job id specified"),
        (
            "slurmstepd: error: *** STEP 7.1 ON n CANCELLED AT 2030-01-01T00:00:00 DUE TO TIME LIMIT ***\n"
            "srun: error: n: task 0: Killed\n",
            "STEP 7.1 ON n CANCELLED AT 2030-01-01T00:00:00 DUE TO TIME LIMIT",
        ),
    ],
)
def test_what_a_complaint_comes_to(said: str, expected: str) -> None:
    assert reason(said.encode()) == expected


# --- the job's script --------------------------------------------------------------------------------------


def test_the_script_of_a_job() -> None:
    section = SlurmLauncher(partition="gpu", time_limit=90, options=("--constraint=a b",))
    inventory = Inventory(hosts=tuple(hosts("a", "*")), launcher=section)
    script = sbatch_script(inventory, ["dualpath", "run", "it's.toml"], Path("/home/u/it"))
    assert script == (
        "#!/bin/sh\n"
        "#SBATCH --job-name=dualpath\n"
        "#SBATCH --nodes=2\n"
        "#SBATCH --nodelist=a\n"
        "#SBATCH --ntasks-per-node=1\n"
        "#SBATCH --exclusive\n"
        "#SBATCH --mem=0\n"
        "#SBATCH --partition=gpu\n"
        "#SBATCH --time=90\n"
        "#SBATCH '--constraint=a b'\n"
        "#SBATCH --chdir=/home/u/it\n"
        "#SBATCH --signal=B:TERM@60\n"
        "exec dualpath run 'it'\"'\"'s.toml'\n"
    )


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (SshLauncher(), "found inventory rack, expected one of kind 'slurm'"),
        (SlurmLauncher(job_id="7"), "found '7'"),
    ],
)
def test_no_job_can_be_made_of_it(section: SshLauncher | SlurmLauncher, said: str) -> None:
    inventory = Inventory(hosts=tuple(hosts("a")), launcher=section, name="rack")
    with pytest.raises(ExperimentError, match=said):
        sbatch_script(inventory, ["dualpath"], Path("/"))


def test_print(tmp_path: Path) -> None:
    (tmp_path / "rack.toml").write_text(RACK)
    experiment = str(write_experiment(tmp_path))
    words = ["run", experiment, "--inventory", "rack.toml", "--out", "a b"]
    done = dualpath(*words, "--print", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    script = done.stdout.splitlines()
    assert script[0] == "#!/bin/sh"
    assert f"#SBATCH --chdir={tmp_path}" in script
    assert script[-1] == f"exec dualpath run {experiment} --inventory rack.toml --out 'a b'"


def test_print_without_an_inventory() -> None:
    done = dualpath("run", "demo", "--print")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--print: found no --inventory" in done.stderr


# --- roles by order ----------------------------------------------------------------------------------------


def test_hosts_on_any_node_have_no_address_yet(tmp_path: Path) -> None:
    file = tmp_path / "rack.toml"
    file.write_text(RACK)
    assert [(host.node, host.address) for host in load_inventory(file).hosts] == [("*", ""), ("*", "")]


def test_any_node_is_only_slurms_to_give(tmp_path: Path) -> None:
    file = tmp_path / "rack.toml"
    file.write_text(RACK.replace('kind = "slurm"\npartition = "gpu"', 'kind = "ssh"'))
    with pytest.raises(ExperimentError, match=r"hosts\[0\] \(p0\).node: found '\*', expected a node"):
        load_inventory(file)

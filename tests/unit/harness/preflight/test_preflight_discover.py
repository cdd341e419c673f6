"""A first inventory, from what hosts say of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from recorded_rack import NUMBERS, facts, interface, inventory, judged, told

from harness.experiment import ExperimentError
from harness.inventory import Inventory, InventoryHost, SlurmLauncher, SshLauncher, load_inventory
from harness.preflight import Finding, HostFacts
from harness.preflight.facts import Mount, Mounts, Network, Rdma
from harness.preflight.first_inventory import common_mounts, first_inventory
from harness.preflight.guesses import guess
from harness.preflight.judgement import Answer

ALL: dict[str, Answer] = {name: facts(name) for name in NUMBERS}


def bare(**changes: object) -> Inventory:
    """The hosts as they are named to ``discover``."""
    hosts = tuple(
        InventoryHost(name=host.name, role=host.role, address=host.address, node=host.address)
        for host in inventory().hosts
    )
    return replace(inventory(), **{"hosts": hosts, **changes})


def read_again(text: str, directory: Path) -> Inventory:
    file = directory / "rack.toml"
    file.write_text(text, encoding="utf-8")
    return load_inventory(file)


def with_nics(*nics: tuple[str, float]) -> HostFacts:
    """p0 with eth0 for the management and other NICs by name and rate, none with RDMA."""
    there = [interface(name, f"10.{at}.0.1", gbit_per_s=rate) for at, (name, rate) in enumerate(nics, 1)]
    network = Network(interfaces=(interface("eth0", "10.0.0.1", gbit_per_s=25.0), *there))
    return replace(facts("p0"), network=network, rdma=Rdma(), stores=())


def test_what_is_discovered_is_ready(tmp_path: Path) -> None:
    text = first_inventory(bare(), ALL)
    assert text == first_inventory(bare(), ALL)
    found = read_again(text, tmp_path)
    assert [host.name for host in found.hosts] == ["p0", "d0", "d1"]
    assert isinstance(found.launcher, SshLauncher)
    host = found.hosts[0]
    assert (host.address, host.node, host.engines) == ("10.0.0.1", "10.0.0.1", 1)
    assert host.storage_nic is not None
    assert (host.storage_nic.name, host.storage_nic.gbit_per_s, host.storage_nic.numa) == ("eth1", 400.0, 0)
    (compute,) = host.compute_nics
    assert (compute.name, compute.device, compute.port) == ("eth2", "mlx5_2", 1)
    assert host.gpus == ("0000:17:00.0",)
    assert not [f for f in told(judged(found)) if f.severity in ("error", "warning")]
    assert "# 10.1.0.1; the way to 10.1.0.9, where http://10.1.0.9:8080/kv is" in text
    assert "# 10.2.0.1; RDMA, Ethernet, ACTIVE" in text
    assert "guess" not in text.partition("[launcher]")[2]


def test_without_rdma_the_fastest_that_are_left() -> None:
    host = bare().hosts[0]
    found = guess(host, with_nics(("eth2", 25.0), ("eth10", 400.0), ("eth9", 400.0)))
    assert found.host.storage_nic is not None
    assert found.host.storage_nic.name == "eth2"
    assert found.storage_reason == "guess: the first without RDMA; which way the storage is, is not known"
    assert [nic.name for nic in found.host.compute_nics] == ["eth9", "eth10"]
    assert set(found.compute_reasons) == {"guess: the fastest that is left"}


@pytest.mark.parametrize("nics", [[], [("eth1", 400.0)]])
def test_where_there_are_too_few_nics_they_are_shared(nics: list[tuple[str, float]]) -> None:
    found = guess(bare().hosts[0], with_nics(*nics))
    only = nics[0][0] if nics else "eth0"
    assert found.host.storage_nic is not None
    assert (found.host.storage_nic.name, found.host.compute_nics[0].name) == (only, only)
    assert found.storage_reason.startswith("guess")
    assert found.compute_reasons == ("guess: the storage NIC, too; no other one has an address",)


def test_a_storage_client_needs_no_nics() -> None:
    host = replace(bare().hosts[0], role="storage")
    assert guess(host, facts("p0")).host == host


def test_who_did_not_answer_is_a_remark_until_it_does(tmp_path: Path) -> None:
    refused = Finding("error", "p0", "reachable", "refuses user bob\nfor good")
    text = first_inventory(bare(), {**ALL, "p0": refused})
    assert '# p0 could not be asked: refuses user bob for good\n# [[hosts]]\n# name = "p0"\n' in text
    with pytest.raises(ExperimentError, match="found none of role 'prefill'"):
        read_again(text, tmp_path)
    uncommented = text.replace('# [[hosts]]\n# name = "p0"\n# role', '[[hosts]]\nname = "p0"\nrole')
    with pytest.raises(ExperimentError, match="found no storage_nic"):
        read_again(uncommented, tmp_path)


def test_mounts_that_all_hosts_have_are_offered(tmp_path: Path) -> None:
    mounts: Mapping[str, HostFacts] = {
        name: facts(
            name,
            mounts=Mounts(mounts=(Mount("/mnt/kv", "lustre", "a@tcp:/kv"), Mount(f"/{name}", "nfs", "x"))),
        )
        for name in NUMBERS
    }
    assert common_mounts(mounts) == ["/mnt/kv"]
    text = first_inventory(bare(storage=None), mounts)
    assert "Network file systems on all hosts: /mnt/kv.\n# [storage]\n" in text
    with pytest.raises(ExperimentError, match="found no storage"):
        read_again(text, tmp_path)


def test_what_the_launcher_was_told_is_kept(tmp_path: Path) -> None:
    slurm = SlurmLauncher(partition="gpu", options=("--exclusive", '--constraint="h100"'), time_limit=30)
    assert read_again(first_inventory(bare(launcher=slurm), ALL), tmp_path).launcher == slurm


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.text(max_size=20))
def test_whatever_hosts_call_themselves_it_stays_toml(words: str, tmp_path: Path) -> None:
    known = facts("p0")
    gpu = replace(known.gpus.gpus[0], name=words)
    odd = replace(known, machine=replace(known.machine, os=words), gpus=replace(known.gpus, gpus=(gpu,)))
    found = read_again(first_inventory(bare(), {**ALL, "p0": odd}), tmp_path)
    assert found == read_again(first_inventory(bare(), ALL), tmp_path)

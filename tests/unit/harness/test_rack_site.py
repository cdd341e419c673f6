"""What an agent is told of its host: what the inventory says, else what the host itself does."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from harness.bundle import Installed
from harness.cluster import ModeChoice, Nic
from harness.experiment import Compute, ExperimentError, load_experiment
from harness.host_error import HostError
from harness.inventory import ComputeNic, Inventory, InventoryHost, SshLauncher, StorageNic, StoragePlace
from harness.preflight import Finding, HostFacts, Preflight
from harness.preflight.facts import Address, Interface, Management, Network
from harness.preflight.facts import Python as HostsPython
from harness.sites import rack
from harness.sites.base import SiteRail
from harness.sites.emulated import EmulatedGround
from harness.sites.ground import Ground
from harness.sites.rack import RackGround


def interface(name: str, *addresses: str) -> Interface:
    listed = tuple(Address(address, 24) for address in addresses)
    return Interface(name, "UP", True, 9000, 400.0, "mlx5_core", False, 0, listed, 0.0, 0.0)


FACTS = HostFacts(
    python=HostsPython(),
    network=Network(
        interfaces=(
            interface("eth1", "10.1.0.1"),
            interface("eth2", "fe80::1", "10.2.0.1", "10.2.0.2"),
            interface("eth3"),
            interface("eth4", "10.3.0.1"),
        ),
        management=Management(address="10.0.0.1"),
    ),
)
HOST = InventoryHost(
    "p0",
    "prefill",
    "p0",
    storage_nic=StorageNic("eth1", gbit_per_s=400.0),
    compute_nics=(ComputeNic("eth2"),),
)
RACK = Inventory((HOST,), SshLauncher(), name="r", storage=StoragePlace(mount="/mnt/kv"))


def site_host(host: InventoryHost = HOST, inventory: Inventory = RACK) -> rack.SiteHost:
    return rack._host(inventory, host, FACTS, Installed("/home/dualpath", "/home/environment"), "0123abcd")


def test_addresses_are_the_hosts_own_where_the_inventory_has_none() -> None:
    assert site_host().rails == (SiteRail("10.2.0.1", "eth2"),)  # the first that another host can name
    stated = replace(HOST, compute_nics=(ComputeNic("eth2", address="10.2.0.2"),))
    assert site_host(stated).rails == (SiteRail("10.2.0.2", "eth2"),)
    assert site_host(replace(HOST, role="storage", compute_nics=())).rails == (SiteRail("10.0.0.1"),)


def test_every_compute_nic_is_a_rail() -> None:
    both = replace(HOST, compute_nics=(ComputeNic("eth2"), ComputeNic("eth4", device="mlx5_1")))
    assert site_host(both).rails == (
        SiteRail("10.2.0.1", "eth2"),
        SiteRail("10.3.0.1", "eth4", ("mlx5_1", 1, -1)),
    )
    assert [nic.name for nic in site_host(both).nics] == ["eth1", "eth2", "eth4"]


def test_no_rate_is_held_against_real_nics() -> None:
    assert site_host().nics == (Nic("eth1", "storage", "10.1.0.1"), Nic("eth2", "compute", "10.2.0.1"))
    emulated = replace(RACK, scale="experiment")
    assert [nic.bytes_per_s for nic in site_host(inventory=emulated).nics] == [50e9, None]


@pytest.mark.parametrize("name", ["eth3", "eth9"])
def test_a_nic_without_an_address_is_named(name: str) -> None:
    with pytest.raises(HostError, match=f"host p0: NIC {name}: has no address, expected one; fix: "):
        site_host(replace(HOST, storage_nic=StorageNic(name)))


@pytest.mark.parametrize(
    ("place", "root", "url"),
    [
        (StoragePlace(mount="/mnt/kv"), "/mnt/kv/dualpath-0123abcd", ""),
        (StoragePlace(url="http://s0:8080/kv/"), "", "http://s0:8080/kv/dualpath-0123abcd"),
    ],
)
def test_a_run_has_a_place_of_its_own(place: StoragePlace, root: str, url: str) -> None:
    for host, inventory in ((HOST, replace(RACK, storage=place)), (replace(HOST, storage=place), RACK)):
        storage = site_host(host, inventory).storage
        assert (storage.root, storage.url, storage.pace_bytes_per_s) == (root, url, 0.0)


def test_an_rdma_port_is_the_inventorys_or_found_by_the_address() -> None:
    assert site_host().rails[0].rdma is None
    named = replace(HOST, compute_nics=(ComputeNic("eth2", device="mlx5_2", port=2, gid_index=3),))
    assert site_host(named).rails[0].rdma == ("mlx5_2", 2, 3)


def test_on_real_links_kernels_may_replay_an_experiment_that_is_scaled() -> None:
    """An experiment's scale is of an emulated cluster; where that is the ground, kernels refuse it."""
    loaded = load_experiment("io_bound_1p1d")
    computing = replace(loaded, compute=Compute(kind="torch"))
    decode = replace(HOST, name="d0", role="decode")
    real = replace(RACK, hosts=(HOST, decode))
    assert RackGround(real).prepared(computing).scale.time_dilation == 1
    emulated = EmulatedGround(ModeChoice("loopback", {}))
    emulated.prepared(loaded)
    grounds: list[Ground] = [emulated, RackGround(replace(real, scale="experiment"))]
    for ground in grounds:
        with pytest.raises(ExperimentError, match=r"scale\.time_dilation: found 8 beside compute\.kind"):
            ground.prepared(computing)


def test_the_ground_is_called_by_rack_and_launcher() -> None:
    assert RackGround(RACK).name == "rack r, launched by ssh; links real"
    assert RackGround(replace(RACK, scale="experiment")).describe() == {
        "mode": "rack",
        "storage": "posix",
        "labels": ["rack r, launched by ssh; links made for the experiment's scale"],
    }


def test_the_address_towards_a_host_is_the_one_that_packets_carry() -> None:
    assert rack._address_towards("127.0.0.1") == "127.0.0.1"
    with pytest.raises(
        HostError, match=r"host control: no way to host\.invalid: .*; fix: set control_address"
    ):
        rack._address_towards("host.invalid")


def test_the_first_error_is_raised_and_the_others_are_counted() -> None:
    worst = [
        Finding("warning", "p0", "load", "busy"),
        Finding("error", "d0", "lock", "run 1 measures here", "wait"),
        Finding("error", "d1", "lock", "run 1 measures here", "wait"),
    ]
    with pytest.raises(HostError) as caught:
        rack._heeded(Preflight({}, worst))
    assert str(caught.value) == (
        "host d0: lock: run 1 measures here; fix: wait; and 1 more, see 'dualpath check'"
    )


def test_warnings_are_kept_beside_the_results() -> None:
    found = [
        Finding("warning", "p0", "load", "busy"),
        Finding("warning", "", "mtu", "two"),
        Finding("info", "p0", "nic", "x"),
    ]
    assert rack._heeded(Preflight({}, found)) == ["check, host p0, load: busy", "check, mtu: two"]

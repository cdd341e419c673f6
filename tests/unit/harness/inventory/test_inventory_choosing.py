"""Which of an inventory's hosts an experiment takes, and what they change of it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from harness.experiment import Experiment, ExperimentError, load_experiment
from harness.inventory import ComputeNic, Inventory, InventoryHost, SshLauncher, StorageNic, StoragePlace
from harness.inventory.choosing import chosen_hosts, on_hosts


def host(name: str, role: Any, **change: Any) -> InventoryHost:
    nics = {"storage_nic": StorageNic(name="s"), "compute_nics": (ComputeNic(name="c"),)}
    return InventoryHost(name=name, role=role, **({} if role == "storage" else nics), **change)


def inventory(**change: Any) -> Inventory:
    hosts = (
        host("d0", "decode"),
        host("p0", "prefill"),
        host("w", "storage"),
        host("d1", "decode"),
        host("p1", "prefill"),
        host("d2", "decode"),
    )
    rack = Inventory(name="rack", hosts=hosts, launcher=SshLauncher(), storage=StoragePlace(mount="/mnt/kv"))
    return replace(rack, **change)


def experiment(prefill: int, decode: int) -> Experiment:
    loaded = load_experiment("demo")
    cluster = replace(loaded.cluster, prefill_hosts=prefill, decode_hosts=decode)
    return replace(loaded, cluster=cluster)


def test_the_first_of_each_role_in_the_inventorys_order_and_all_storage_clients() -> None:
    taken = chosen_hosts(inventory(), experiment(1, 2))
    assert [host.name for host in taken.hosts] == ["d0", "p0", "w", "d1"]


def test_too_few_are_said() -> None:
    with pytest.raises(
        ExperimentError, match=r"cluster\.prefill_hosts: found 3, but inventory rack has 2 of that role"
    ):
        chosen_hosts(inventory(), experiment(3, 1))


def test_on_real_links_nothing_is_scaled() -> None:
    adapted = on_hosts(experiment(1, 1), inventory())
    assert (adapted.scale.bytes_divisor, adapted.scale.time_dilation, adapted.scale.layers_divisor) == (
        1,
        1,
        1,
    )
    assert on_hosts(adapted, inventory()) == adapted


def test_links_made_for_an_experiment_keep_its_scale() -> None:
    given = experiment(1, 1)
    assert on_hosts(given, inventory(scale="experiment")) == given


def test_engines_are_the_hosts() -> None:
    hosts = tuple(replace(host, engines=4) if host.role != "storage" else host for host in inventory().hosts)
    adapted = on_hosts(experiment(1, 1), inventory(hosts=hosts))
    assert adapted.cluster.replace == {"engines_per_host": 4.0}


def test_hosts_of_different_size_are_refused_where_both_are_taken() -> None:
    hosts = tuple(replace(host, engines=4) if host.name == "d2" else host for host in inventory().hosts)
    on_hosts(experiment(1, 2), inventory(hosts=hosts))
    with pytest.raises(ExperimentError, match=r"hosts\.engines: found .*d2 4, expected as many on each"):
        on_hosts(experiment(1, 3), inventory(hosts=hosts))

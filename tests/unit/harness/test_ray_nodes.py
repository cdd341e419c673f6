"""Which node of a Ray cluster a host is, from what `ray.nodes()` says."""

from __future__ import annotations

from typing import Any

import pytest

from harness.launchers.ray.nodes import NoNodeError, find, node_of


def described(number: int, **changes: Any) -> dict[str, Any]:
    """An element of ``ray.nodes()``, as Ray 2.60 gives it, without what is not looked at."""
    return {
        "NodeID": f"{number:056x}",
        "Alive": True,
        "NodeManagerAddress": f"10.0.0.{number}",
        "NodeManagerHostname": f"gpu{number}",
        "NodeName": f"10.0.0.{number}",
        "DeathReasonMessage": "",
        "Resources": {"CPU": 8.0, "GPU": 8.0, "memory": 1e9, "object_store_memory": 1e9}
        | {f"node:10.0.0.{number}": 1.0, "accelerator_type:H100": 1.0, f"slot{number}": 1.0, "rack": 1.0},
        "Labels": {"ray.io/node-id": f"{number:056x}", "place": f"a{number}", "hall": "north"},
    } | changes


NODES = [node_of(described(number)) for number in (1, 2, 3)]


@pytest.mark.parametrize("name", [f"{2:056x}", "10.0.0.2", "gpu2", "slot2", "place=a2"])
def test_every_name_that_only_one_node_has(name: str) -> None:
    assert find(name, NODES).address == "10.0.0.2"


@pytest.mark.parametrize("name", ["rack", "hall=north"])
def test_a_name_that_several_have(name: str) -> None:
    with pytest.raises(NoNodeError, match=f"3 nodes of the cluster are called '{name}': 10.0.0.1 .*fix: "):
        find(name, NODES)


@pytest.mark.parametrize("name", ["CPU", "node:10.0.0.2", "accelerator_type:H100", "place", "gpu"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(
        NoNodeError, match=r"no node .* expected one of 10\.0\.0\.1 \(gpu1, .*slot1.*\), 10\."
    ):
        find(name, NODES)


def test_of_a_node_that_came_back_the_one_alive() -> None:
    dead = node_of(described(2, NodeID="d" * 56, Alive=False, DeathReasonMessage="no heartbeats"))
    assert find("gpu2", [dead, *NODES]).id == f"{2:056x}"
    with pytest.raises(NoNodeError, match="its node 'gpu2' is dead: no heartbeats; fix: `ray start`"):
        find("gpu2", [NODES[0], dead])


def test_of_many_nodes_some_are_shown() -> None:
    with pytest.raises(NoNodeError, match="2 more; fix: "):
        find("gpu99", [node_of(described(number)) for number in range(10)])


def test_a_cluster_without_labels() -> None:
    assert find("gpu1", [node_of(described(1, Labels=None))]).address == "10.0.0.1"

"""Which node of a Ray cluster a host is: pure, from what the cluster says of its nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_OF_EVERY_NODE = ("CPU", "GPU", "memory", "object_store_memory")
_OF_RAY = ("node:", "accelerator_type:")
_SHOWN_NODES = 8


class NoNodeError(Exception):
    """No node, or more than one, is what a host was said to be; in words."""


@dataclass(frozen=True)
class Node:
    """A node and all that it can be called. ``death``: why it is dead, '' while it is alive."""

    id: str
    address: str
    names: frozenset[str]
    death: str = ""

    def __str__(self) -> str:
        others = sorted(self.names - {self.id, self.address})
        return f"{self.address} ({', '.join(others)})" if others else self.address


def node_of(described: Mapping[str, Any]) -> Node:
    """From an element of ``ray.nodes()``."""
    identity, address = described["NodeID"], described["NodeManagerAddress"]
    names = {identity, address, described["NodeManagerHostname"], described["NodeName"]}
    names |= {
        resource
        for resource in described["Resources"]
        if resource not in _OF_EVERY_NODE and not resource.startswith(_OF_RAY)
    }
    labels = described.get("Labels") or {}
    names |= {f"{key}={value}" for key, value in labels.items() if not key.startswith("ray.io/")}
    death = "" if described["Alive"] else described.get("DeathReasonMessage") or "it has left the cluster"
    return Node(identity, address, frozenset(names), death)


def find(wanted: str, nodes: Sequence[Node]) -> Node:
    """The only node alive that is called so: by its id, address, host name, a custom resource, or a label
    (``key=value``). Raises NoNodeError."""
    named = [node for node in nodes if wanted in node.names]
    alive = [node for node in named if not node.death]
    if len(alive) == 1:
        return alive[0]
    if alive:
        raise NoNodeError(
            f"{len(alive)} nodes of the cluster are called '{wanted}': {_shown(alive)}; fix: 'node' in the "
            "inventory, to what only one of them has"
        )
    if named:
        raise NoNodeError(f"its node '{wanted}' is dead: {named[-1].death}; fix: `ray start` it again")
    raise NoNodeError(
        f"no node of the cluster is called '{wanted}', expected one of "
        f"{_shown([node for node in nodes if not node.death])}; fix: 'node' in the inventory, to a node's "
        "id, address, host name, custom resource or label"
    )


def _shown(nodes: Sequence[Node]) -> str:
    more = [f"{len(nodes) - _SHOWN_NODES} more"] if len(nodes) > _SHOWN_NODES else []
    return ", ".join([*map(str, nodes[:_SHOWN_NODES]), *more])

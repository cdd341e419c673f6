"""Inventories by file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from harness.experiment import ExperimentError
from harness.experiment.toml import decode
from harness.inventory.sections import ANY_NODE, Inventory, SlurmLauncher, StoragePlace, default_names


def load_inventory(path: Path) -> Inventory:
    """The inventory in a TOML file; raises ExperimentError with everything that is wrong with it."""
    inventory = default_names(decode(path, Inventory), path.stem)
    if problems := list(_problems(inventory)):
        raise ExperimentError("; ".join(f"{path}: {problem}" for problem in problems))
    return inventory


def _problems(inventory: Inventory) -> Iterator[str]:
    """What the types cannot say, a line each."""
    twice = {"", ANY_NODE}
    for key in ("name", "address", "node"):
        counts = Counter(getattr(host, key) for host in inventory.hosts)
        for value in [value for value, count in counts.items() if count > 1 and value not in twice]:
            twice.add(value)  # once a value: an address or node that is left out is the name
            owners = ", ".join(host.name for host in inventory.hosts if getattr(host, key) == value)
            yield (
                f"hosts: found {key} '{value}' {counts[value]} times ({owners}), expected a host of its own "
                "for each entry: a host has one role and is listed once"
            )
    for role in ("prefill", "decode"):
        if not any(host.role == role for host in inventory.hosts):
            yield f"hosts: found none of role '{role}', expected at least one"
    if inventory.storage is not None:
        yield from _storage("storage", inventory.storage)
    for index, host in enumerate(inventory.hosts):
        at = f"hosts[{index}] ({host.name})"
        if host.node == ANY_NODE and not isinstance(inventory.launcher, SlurmLauncher):
            yield f"{at}.node: found '{ANY_NODE}', expected a node: only Slurm gives any that is free"
        if host.storage is not None:
            yield from _storage(f"{at}.storage", host.storage)
        elif inventory.storage is None:
            yield f"{at}: found no storage, expected [storage] with mount or url, or one of the host's own"
        if host.role != "storage" and host.storage_nic is None:
            yield f"{at}: found no storage_nic, expected the interface that storage is read through"
        if host.role != "storage" and not host.compute_nics:
            yield f"{at}: found no compute_nics, expected the interface that KV moves between hosts through"
        yield from _repeated(f"{at}.compute_nics", [nic.name for nic in host.compute_nics])
        yield from _repeated(f"{at}.gpus", [gpu.lower() for gpu in host.gpus])


def _repeated(at: str, names: list[str]) -> Iterator[str]:
    """A name that is there more than once, for each."""
    for name, count in Counter(names).items():
        if count > 1:
            yield f"{at}: found '{name}' {'twice' if count == 2 else f'{count} times'}, expected each once"


def _storage(at: str, place: StoragePlace) -> Iterator[str]:
    if bool(place.mount) == bool(place.url):
        yield f"{at}: expected exactly one of 'mount' and 'url'"
    if place.mount and not place.mount.startswith("/"):
        yield f"{at}.mount: found '{place.mount}', expected an absolute path"
    if place.url and not place.url.startswith("http://"):
        yield f"{at}.url: found '{place.url}', expected http://HOST[:PORT][/PATH]"

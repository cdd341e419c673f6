"""An experiment on an inventory's hosts: which of them it takes, and what of it the hosts decide."""

from __future__ import annotations

from msgspec.structs import replace

from harness.experiment import Experiment, ExperimentError, Scale
from harness.inventory.sections import Inventory, InventoryHost


def chosen_hosts(inventory: Inventory, experiment: Experiment) -> Inventory:
    """The inventory with the hosts that the experiment takes: the first of each role, all storage clients.

    Raises ExperimentError where there are fewer.
    """
    wanted = {"prefill": experiment.cluster.prefill_hosts, "decode": experiment.cluster.decode_hosts}
    taken: list[InventoryHost] = inventory.of_role("storage")
    for role, count in wanted.items():
        hosts = [host for host in inventory.hosts if host.role == role]
        if len(hosts) < count:
            raise ExperimentError(
                f"cluster.{role}_hosts: found {count}, but inventory {inventory.name} has {len(hosts)} of "
                "that role; list more hosts, or use fewer"
            )
        taken += hosts[:count]
    return replace(inventory, hosts=tuple(host for host in inventory.hosts if host in taken))


def on_hosts(experiment: Experiment, inventory: Inventory) -> Experiment:
    """The experiment with the inventory's engines a host and, on links at the hardware's own rate, with
    nothing scaled down. Raises ExperimentError where hosts differ in engines."""
    hosts = [host for host in chosen_hosts(inventory, experiment).hosts if host.role != "storage"]
    engines = {host.engines for host in hosts}
    if len(engines) > 1:
        listed = ", ".join(f"{host.name} {host.engines or 'the profile’s'}" for host in hosts)
        raise ExperimentError(
            f"hosts.engines: found {listed}, expected as many on each host that an experiment takes"
        )
    cluster = experiment.cluster
    if (count := engines.pop()) is not None:
        cluster = replace(cluster, replace={**cluster.replace, "engines_per_host": float(count)})
    scale = Scale(bytes_divisor=1, time_dilation=1) if inventory.scale == "real" else experiment.scale
    return replace(experiment, cluster=cluster, scale=scale)

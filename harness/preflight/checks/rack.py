"""What only a look at several hosts shows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from harness.preflight.case import Rack
from harness.preflight.facts import HostFacts
from harness.preflight.findings import Finding

_LOCAL_FILE_SYSTEMS = ("ext", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "ramfs", "overlay")


def one_role_a_host(rack: Rack) -> Iterator[Finding]:
    """No host is listed twice: two agents would share its NICs, and its lock keeps the second out."""
    same: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for host in rack.answered:
        machine = rack.facts[host.name].machine
        if machine.boot_id and machine.network_namespace:
            same[machine.boot_id, machine.network_namespace].append(host.name)
    for first, *others in same.values():
        for other in others:
            yield Finding(
                "error",
                other,
                "one role a host",
                f"is the same host as {first} ({rack.facts[other].machine.hostname}, one kernel and network)",
                f"take {first} or {other} out of the inventory, or give it the address of a host of its own",
            )
        if not others:
            yield Finding("ok", first, "one role a host", rack.facts[first].machine.hostname)
    machines: defaultdict[str, list[str]] = defaultdict(list)
    for (boot_id, _), (first, *_) in same.items():
        machines[boot_id].append(first)
    for names in machines.values():
        if len(names) > 1:
            yield Finding(
                "info",
                "",
                "one role a host",
                f"{', '.join(names)} are containers or namespaces of one machine: they share CPUs and memory",
            )


def python_versions(rack: Rack) -> Iterator[Finding]:
    """One bundle is built for all hosts: one minor version, one platform."""
    versions = {host.name: _version(rack.facts[host.name]) for host in rack.answered}
    versions = {name: version for name, version in versions.items() if version}
    if not versions:
        return
    (common, _), *_ = Counter(versions.values()).most_common(1)
    for name, version in versions.items():
        if version != common:
            yield Finding(
                "error",
                name,
                "python versions",
                f"Python {version}, most others have {common}",
                f"install Python {common.split()[0]} there, or name one that all hosts have in the "
                "inventory (python)",
            )


def _version(facts: HostFacts) -> str:
    """As far as compiled packages depend on it; empty if unknown."""
    found = facts.python
    return f"{'.'.join(map(str, found.release))} on {found.platform}" if found.platform else ""


def shared_store(rack: Rack) -> Iterator[Finding]:
    """A directory that several machines read is on a file system that they share."""
    local: defaultdict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for host in rack.answered:
        facts = rack.facts[host.name]
        for store in facts.stores:
            if store.mount and store.directory and store.file_system.startswith(_LOCAL_FILE_SYSTEMS):
                local[store.mount][facts.machine.boot_id].append(host.name)
    for mount, machines in local.items():
        if len(machines) > 1:
            for name in (name for names in machines.values() for name in names):
                (store,) = rack.facts[name].stores
                yield Finding(
                    "error",
                    name,
                    "storage",
                    f"{mount}: is {store.file_system} of this machine alone ({store.source} at "
                    f"{store.mounted_at}), others do not see what is written: not mounted?",
                    f"mount the shared file system at {mount}, or correct storage.mount in the inventory",
                )

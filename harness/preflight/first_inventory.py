"""A first inventory as TOML, with a remark on where each line comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import tomli_w

from harness.inventory import ComputeNic, Inventory, InventoryHost, StorageNic
from harness.preflight.case import in_words
from harness.preflight.facts import HostFacts
from harness.preflight.findings import Finding, one_line
from harness.preflight.guesses import Guess, guess
from harness.preflight.judgement import Answer

_HEAD = """\
# A first inventory, from what the hosts said of themselves. Lines with "guess" deserve a look; then
# `dualpath check --inventory THIS_FILE` looks at all of it.
"""


def first_inventory(inventory: Inventory, answers: Mapping[str, Answer]) -> str:
    """The inventory's hosts with their NICs and GPUs; one that did not answer is a comment."""
    launcher = msgspec.to_builtins(inventory.launcher)
    defaults = msgspec.to_builtins(type(inventory.launcher)())
    lines = [_HEAD, "[launcher]"]
    lines += [_line(key, value) for key, value in launcher.items() if value != defaults[key] or key == "kind"]
    lines += ["", *_storage(inventory, answers)]
    for host in inventory.hosts:
        answer = answers[host.name]
        if isinstance(answer, HostFacts):
            lines += ["", *_host(guess(host, answer), answer)]
        else:
            lines += ["", *_silent(host, answer)]
    return "\n".join(lines) + "\n"


def common_mounts(answers: Mapping[str, Answer]) -> list[str]:
    """Network file systems that all hosts that answered have mounted at one place."""
    known = [answer for answer in answers.values() if isinstance(answer, HostFacts)]
    mounted = [{mount.mount for mount in facts.mounts.mounts} for facts in known]
    return sorted(set.intersection(*mounted)) if mounted else []


def _storage(inventory: Inventory, answers: Mapping[str, Answer]) -> list[str]:
    if inventory.storage is None:
        found = ", ".join(common_mounts(answers)) or "none"
        return [
            f"# The KV store: its mount or url is not known. Network file systems on all hosts: {found}.",
            "# [storage]",
            '# mount = "/mnt/kv"',
        ]
    key = "mount" if inventory.storage.mount else "url"
    return ["[storage]", _line(key, getattr(inventory.storage, key))]


def _host(found: Guess, facts: HostFacts) -> list[str]:
    host, network = found.host, facts.network
    lines = ["[[hosts]]", *_identity(host), _comment(_what_it_is(facts))]
    if host.engines is not None:
        lines.append(f"{_line('engines', host.engines)} # one a GPU")

    def remark(nic: StorageNic | ComputeNic, reason: str) -> str:
        interface = network.interface(nic.name)
        address = f"{interface.usable[0].address}; " if interface and interface.usable else ""
        return _comment(f"{address}{reason}")

    if host.storage_nic is not None:
        lines.append(
            f"storage_nic = {_table(host.storage_nic)} {remark(host.storage_nic, found.storage_reason)}"
        )
    elif host.role != "storage":
        lines.append('# storage_nic = { name = "" } # none found: no interface is up with an address')
    if host.compute_nics:
        lines.append("compute_nics = [")
        for nic, reason in zip(host.compute_nics, found.compute_reasons, strict=True):
            lines.append(f"  {_table(nic)}, {remark(nic, reason)}")
        lines.append("]")
    if host.gpus:
        lines.append("gpus = [")
        for gpu in facts.gpus.gpus:
            node = f", NUMA node {gpu.numa}" if gpu.numa >= 0 else ""
            lines.append(f"  {_value(gpu.pci)}, {_comment(gpu.name + node)}")
        lines.append("]")
    return lines


def _silent(host: InventoryHost, why: Finding) -> list[str]:
    return [
        _comment(f"{host.name} could not be asked: {why.evidence}"),
        "# [[hosts]]",
        *(f"# {line}" for line in _identity(host)),
    ]


def _identity(host: InventoryHost) -> list[str]:
    keys = {"name": host.name, "role": host.role, "address": host.address, "node": host.node}
    own: dict[str, str | int] = {k: v for k, v in keys.items() if k in ("name", "role") or v != host.name}
    own |= {"user": host.user, "port": host.port}
    return [_line(key, value) for key, value in own.items() if value]


def _what_it_is(facts: HostFacts) -> str:
    machine = facts.machine
    return (
        f"{machine.hostname}: {machine.os}, kernel {machine.kernel}, {facts.load.cpus} CPUs, "
        f"{in_words(facts.memory.total_bytes)}, Python {facts.python.version}, {len(facts.gpus.gpus)} GPUs"
    )


def _table(nic: StorageNic | ComputeNic) -> str:
    """Inline, without what is left at its default."""
    defaults = msgspec.to_builtins(type(nic)(name=""))
    values: Sequence[tuple[str, Any]] = list(msgspec.to_builtins(nic).items())
    return "{ " + ", ".join(_line(key, value) for key, value in values if value != defaults[key]) + " }"


def _line(key: str, value: Any) -> str:
    return f"{key} = {_value(value)}"


def _value(value: Any) -> str:
    return tomli_w.dumps({"value": value}).removeprefix("value = ").strip()


def _comment(text: str) -> str:
    return f"# {one_line(text)}"

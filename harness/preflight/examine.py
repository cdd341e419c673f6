"""Preflight of a rack: every host is asked about itself, then about its peers; then all of it is judged."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec.structs import replace

from harness.host_error import HostError
from harness.inventory import Inventory, InventoryHost
from harness.inventory.sections import Role
from harness.launchers import Launcher
from harness.preflight.case import address_of
from harness.preflight.facts import HostFacts, Reach, decode_facts, decode_reach
from harness.preflight.findings import Finding
from harness.preflight.judgement import Answer, findings
from harness.preflight.needs import Needs
from harness.preflight.pairs import chosen_peers
from harness.preflight.program import program
from hosts.rails import share

_RUN_TIMEOUT_S = 40.0
"""Above the probe's own deadline, so that it can still say what hangs."""
_HOST_TIMEOUT_S = 90.0
"""With the connection to the host, for which a launcher has its own deadline."""
_NO_SUCH_COMMAND = 127
_ROLES: tuple[Role, Role] = ("prefill", "decode")


@dataclass(frozen=True, slots=True)
class Preflight:
    """``facts`` are of the hosts that answered."""

    facts: Mapping[str, HostFacts]
    findings: list[Finding]

    @property
    def errors(self) -> int:
        """Findings that keep a run from being valid, or from starting."""
        return sum(finding.severity == "error" for finding in self.findings)


async def examine(launcher: Launcher, inventory: Inventory, needs: Needs | None) -> Preflight:
    """Ask all hosts at once and judge what they say:

    1. each looks at itself (`hosts.probe`); one that cannot be reached is a finding
    2. each prefill host looks for decode hosts' compute NICs through its own, and the other way round, rail
       by rail
    3. every check of every host, and of the rack

    Raises nothing for a host that fails.
    """
    answers = await ask(launcher, inventory)
    facts = {name: answer for name, answer in answers.items() if isinstance(answer, HostFacts)}
    asked = peers_questions(inventory, facts)
    found = await asyncio.gather(*(_reach(launcher, inventory, name, asked[name]) for name in asked))
    for name, reach in zip(asked, found, strict=True):
        answers[name] = facts[name] = replace(facts[name], reach=reach)
    return Preflight(facts, findings(inventory, answers, needs))


async def ask(launcher: Launcher, inventory: Inventory) -> dict[str, Answer]:
    """What every host says of itself, or why it does not, in the inventory's order."""
    answers = await asyncio.gather(*(_ask_host(launcher, inventory, host) for host in inventory.hosts))
    return {host.name: answer for host, answer in zip(inventory.hosts, answers, strict=True)}


async def _ask_host(launcher: Launcher, inventory: Inventory, host: InventoryHost) -> Answer:
    place = host.storage or inventory.storage
    stores = [{"mount": place.mount} if place.mount else {"url": place.url}] if place else []
    questions = {"directory": inventory.directory, "stores": stores}
    began_at_s = time.time()
    try:
        facts = decode_facts(await _run(launcher, inventory, host.name, questions))
    except _PythonError as error:
        return _unanswered(error, "python")
    except HostError as error:
        return _unanswered(error, "reachable")
    except msgspec.MsgspecError as error:
        return _unanswered(HostError(host.name, f"its answer cannot be read: {error}"), "reachable")
    # Its clock was read after we began to ask, and before we had the answer.
    ahead_s = (facts.ended_at_s - time.time(), facts.began_at_s - began_at_s)
    return replace(facts, clock_offset_s=ahead_s)


class _PythonError(HostError):
    """The host answers, its Python does not."""


async def _run(launcher: Launcher, inventory: Inventory, host: str, questions: Mapping[str, Any]) -> bytes:
    """What the probe prints there; raises HostError."""
    try:
        async with asyncio.timeout(_HOST_TIMEOUT_S):
            done = await launcher.run(
                host, [inventory.python, "-"], stdin=program(questions), timeout_s=_RUN_TIMEOUT_S
            )
    except TimeoutError:
        raise HostError(host, f"no answer within {_HOST_TIMEOUT_S:g} s") from None
    if done.status:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        hint = f"; fix: install {inventory.python} there, or name another in the inventory (python)"
        raise _PythonError(
            host,
            f"'{inventory.python} -' ended with exit status {done.status}: {last or 'no word'}"
            + (hint if done.status == _NO_SUCH_COMMAND else ""),
        )
    return done.stdout


def _unanswered(error: HostError, check: str) -> Finding:
    evidence, _, fix = error.reason.partition("; fix: ")
    return Finding("error", error.host, check, evidence, fix)


def peers_questions(inventory: Inventory, facts: Mapping[str, HostFacts]) -> dict[str, list[dict[str, Any]]]:
    """For each compute NIC of a host, from which address to look for which peers' NIC of the same rail and
    family (IPv4 or IPv6); not for hosts without a compute NIC or anyone to look for."""
    hosts = [host for host in inventory.hosts if host.compute_nics and host.name in facts]
    questions: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    most = max((len(host.compute_nics) for host in hosts), default=0)
    for rail in range(most):
        nics = {host.name: host.compute_nics[share(rail, most, len(host.compute_nics))] for host in hosts}
        addresses = {name: address_of(nic, facts[name]) for name, nic in nics.items()}
        for is_ipv6 in (False, True):
            alike = {name for name, address in addresses.items() if address and (":" in address) == is_ipv6}
            prefill, decode = (
                [host.name for host in inventory.of_role(role) if host.name in alike] for role in _ROLES
            )
            for name, peers in chosen_peers(prefill, decode).items():
                interface = facts[name].network.interface(nics[name].name)
                if interface and peers:
                    looked_for = {peer: addresses[peer] for peer in peers}
                    asked = {"nic": nics[name].name, "source": addresses[name], "mtu": interface.mtu}
                    questions[name].append({**asked, "peers": looked_for})
    return dict(questions)


async def _reach(
    launcher: Launcher, inventory: Inventory, host: str, questions: Sequence[Mapping[str, Any]]
) -> Reach:
    try:
        return decode_reach(await _run(launcher, inventory, host, {"reach": questions}))
    except (HostError, msgspec.MsgspecError) as error:
        return Reach(error=getattr(error, "reason", str(error)))

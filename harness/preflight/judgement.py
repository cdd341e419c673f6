"""All findings at once: a pure function of the inventory, what its hosts said, and what is needed."""

from __future__ import annotations

from collections.abc import Mapping

from harness.inventory import Inventory
from harness.preflight.case import Case, Rack
from harness.preflight.checks import HOST_CHECKS, RACK_CHECKS
from harness.preflight.checks.host import python
from harness.preflight.facts import HostFacts
from harness.preflight.findings import Finding
from harness.preflight.needs import Needs

Answer = HostFacts | Finding
"""What a host says of itself, or why it says nothing."""


def findings(inventory: Inventory, answers: Mapping[str, Answer], needs: Needs | None) -> list[Finding]:
    """What there is to say of the rack and of every host, in the inventory's order."""
    facts = {name: answer for name, answer in answers.items() if isinstance(answer, HostFacts)}
    rack = Rack(inventory, {name: said for name, said in facts.items() if said.complete}, needs)
    found = [finding for check in RACK_CHECKS for finding in check(rack)]
    if needs is None:
        found.append(
            Finding(
                "info",
                "",
                "experiment",
                "none given: transport, buffers, room and cache mode of the storage are not judged",
                "dualpath check EXPERIMENT --inventory FILE",
            )
        )
    for host in inventory.hosts:
        answer = answers[host.name]
        if isinstance(answer, Finding):
            found.append(answer)
            continue
        case = Case(rack, host, answer)
        for check in HOST_CHECKS if answer.complete else (python,):
            found.extend(check(case))
    return found

"""What ``dualpath check`` prints for people: hosts that have the same to say together, worst first."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from rich.console import Console

from harness.inventory import Inventory
from harness.preflight.case import listed
from harness.preflight.examine import Preflight
from harness.preflight.findings import ORDER, Finding, Severity, one_line, worst_first

_WORDS: dict[Severity, tuple[str, str]] = {
    "error": ("error", "errors"),
    "warning": ("warning", "warnings"),
    "info": ("note", "notes"),
    "ok": ("check passed", "checks passed"),
}
_NAMED_HOSTS = 16


def print_preflight(preflight: Preflight, inventory: Inventory, out: Console) -> None:
    """Findings, each with its evidence and fix; of checks that passed, how many."""
    by_host: defaultdict[str, list[Finding]] = defaultdict(list)
    for finding in worst_first(preflight.findings):
        by_host[finding.host].append(finding)
    alike: defaultdict[tuple[tuple[str, ...], ...], list[str]] = defaultdict(list)
    for name in ("", *(host.name for host in inventory.hosts)):
        if found := by_host[name]:
            alike[tuple((f.severity, f.check, f.evidence, f.fix) for f in _told(found))].append(name)
    for names in sorted(alike.values(), key=lambda names: ORDER[by_host[names[0]][0].severity]):
        found = by_host[names[0]]
        out.print(f"{listed(names, _NAMED_HOSTS) or 'rack'}: {_counted(found)}")
        for finding in _told(found):
            out.print(f"  {_WORDS[finding.severity][0]:<8} {finding.check}: {one_line(finding.evidence)}")
            if finding.fix:
                out.print(f"           fix: {one_line(finding.fix)}")
    out.print(
        f"\n{inventory.name}: {'not ready' if preflight.errors else 'ready'}; {len(preflight.facts)} of "
        f"{len(inventory.hosts)} hosts answered, {_counted(preflight.findings)}"
    )


def _told(found: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.severity != "ok"]


def _counted(found: Iterable[Finding]) -> str:
    """``2 errors, 1 warning, 17 checks passed``."""
    counts = Counter(finding.severity for finding in found)
    return ", ".join(
        f"{counts[severity]} {words[counts[severity] != 1]}"
        for severity, words in _WORDS.items()
        if counts[severity]
    )

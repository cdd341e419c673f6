"""Says at the end which back-ends passed how much of the contract suites, by name."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import pytest

_PROPERTY = "contract of"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and item.path.parent == Path(__file__).parent:
            kind = item.callspec.params.get("kind") if hasattr(item, "callspec") else None
            if kind is not None:
                suite = item.path.stem.split("_")[1]  # test_transport_contract_apart is of transport, too
                item.user_properties.append((_PROPERTY, f"{suite}, {kind}"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, value in getattr(report, "user_properties", []):
                if name == _PROPERTY:
                    outcomes[value][outcome] += 1
    if outcomes:
        terminalreporter.section("contract suites")
    for contract, counted in sorted(outcomes.items()):
        terminalreporter.line(f"{contract}: {', '.join(f'{n} {what}' for what, n in counted.items())}")

"""What ``dualpath check`` prints."""

from __future__ import annotations

import io

from recorded_rack import NUMBERS, facts, inventory, judged, told
from rich.console import Console

from harness.preflight import Finding, HostFacts, Preflight
from harness.preflight.judgement import Answer
from harness.preflight.table import print_preflight


def printed(**answers: Answer) -> list[str]:
    silent = [name for name, answer in answers.items() if isinstance(answer, Finding)]
    known: dict[str, HostFacts] = {name: facts(name) for name in NUMBERS if name not in silent}
    out = io.StringIO()
    console = Console(file=out, highlight=False, markup=False, soft_wrap=True)
    print_preflight(Preflight(known, judged(**answers)), inventory(), console)
    return out.getvalue().splitlines()


def test_hosts_that_have_the_same_to_say_are_together_and_the_worst_is_first() -> None:
    down = Finding("error", "d0", "reachable", "gone\x1b[31m\nfor good", "look at it")
    lines = printed(d0=down)
    passed = sum(finding.severity == "ok" and finding.host == "p0" for finding in judged(d0=down))
    assert lines == [
        "d0: 1 error",
        "  error    reachable: gone [31m for good",
        "           fix: look at it",
        f"p0, d1: 1 note, {passed} checks passed",
        "  note     storage room: http://10.1.0.9:8080/kv: cannot be asked; 2000 GB will be written",
        "",
        f"rack: not ready; 2 of 3 hosts answered, 1 error, 2 notes, {2 * passed} checks passed",
    ]


def test_a_rack_that_is_ready() -> None:
    assert not [finding for finding in told(judged()) if finding.severity != "info"]
    assert printed()[-1].startswith("rack: ready; 3 of 3 hosts answered, 3 notes, ")

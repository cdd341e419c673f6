"""Break something in each of many runs on a rack, and hold every one against what is expected of it.

    .venv/bin/python tools/inject_faults.py --seed 1 --runs 100 [--fault NAME ...] [--out DIR]
    .venv/bin/python tools/inject_faults.py --seed 1 --runs 100 --list

The rack is one of network namespaces on this machine with a real sshd in each, as the tests have it
(tests/integration/racks): this needs root, and a C compiler for clocks that step. What breaks, where and when
is drawn from the seed for each run by itself: ``--from 37 --runs 1`` repeats run 37. About 20 s a run.

Prints a line a run and a table by fault; exits 1 if an expectation fails. Runs for which one did are kept
with --out, beside outcomes.jsonl.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

# What the tests and this have in common is no part of the package.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "integration"))
from racks.fault_rack import fault_rack
from racks.fault_run import Draw, Outcome, drawn, suffer
from racks.faults import FAULTS

RUNS_A_RACK = 25
"""After so many another rack is raised."""


def main() -> int:
    """Draw, run, print."""
    arguments = parsed()
    numbers = range(arguments.first, arguments.first + arguments.runs)
    draws = drawn(arguments.seed, numbers, arguments.fault or tuple(FAULTS))
    if arguments.list:
        print(*draws, sep="\n")
        return 0
    outcomes = []
    for outcome in suffered(draws, arguments.out):
        print(outcome, flush=True)
        outcomes.append(outcome)
    print(f"\nseed {arguments.seed}, {len(outcomes)} runs\n\n{table(outcomes)}")
    return int(any(outcome.wrong for outcome in outcomes))


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--from", type=int, default=0, dest="first", metavar="N", help="number of the first")
    parser.add_argument("--fault", action="append", choices=list(FAULTS), help="only this one, or these")
    parser.add_argument("--list", action="store_true", help="print what is drawn, and do nothing")
    parser.add_argument("--out", type=Path, help="a folder for outcomes.jsonl and for what went wrong")
    return parser.parse_args()


def suffered(draws: Sequence[Draw], out: Path | None) -> Iterator[Outcome]:
    """What comes of each, on a few racks one after the other."""
    for first in range(0, len(draws), RUNS_A_RACK):
        with (
            tempfile.TemporaryDirectory(prefix="dualpath-faults-") as directory,
            fault_rack(Path(directory)) as rack,
        ):
            for draw in draws[first : first + RUNS_A_RACK]:
                outcome = suffer(rack, draw)
                if out:
                    keep(outcome, rack.runs, out)
                yield outcome


def keep(outcome: Outcome, runs: Path, out: Path) -> None:
    """A line; and the run's directory, which is still there if something was wrong."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "outcomes.jsonl").open("ab") as lines:
        lines.write(msgspec.json.encode(outcome) + b"\n")
    if outcome.wrong and (runs / outcome.draw.name).exists():
        shutil.copytree(runs / outcome.draw.name, out / outcome.draw.name, dirs_exist_ok=True)


def table(outcomes: Sequence[Outcome]) -> str:
    """By fault, in Markdown: how many runs, how they ended, and how long after the strike. ``cleaned up``:
    runs that left something to `dualpath cleanup`; ``busy``: results with gates that this machine failed."""
    lines = [
        "| fault | runs | as expected | exit status | over after, s | free after, s | cleaned up | busy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in FAULTS:
        of = [outcome for outcome in outcomes if outcome.draw.fault == name]
        if not of:
            continue
        cells = [
            len(of),
            sum(not outcome.wrong for outcome in of),
            ", ".join(sorted({str(outcome.code) for outcome in of})),
            span([outcome.end_s for outcome in of]),
            span([outcome.end_s + outcome.gone_s for outcome in of]),
            sum(bool(outcome.cleaned) for outcome in of),
            sum(bool(outcome.gates) for outcome in of),
        ]
        lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def span(seconds: Sequence[float]) -> str:
    """The least and the most."""
    return f"{min(seconds):.1f}-{max(seconds):.1f}"


if __name__ == "__main__":
    sys.exit(main())

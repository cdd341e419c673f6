"""Run one experiment, unchanged, on the emulated cluster and behind every launcher; compare the speedups.

    .venv/bin/python tools/measure_launchers.py runs/launchers [--experiment io_bound_1p2d] [--rounds 2]

Each rack is this machine's namespaces at the experiment's rates, with real sshds, slurmds or Ray nodes in
them. The order turns round in every second round (A B C D D C B A). Runs what is not in the folder yet,
prints a Markdown table, exits 1 if the speedups of two launchers are more than 5 % apart or a run is not
valid. Quiet machine: about 2 minutes a run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.cluster import ClusterSpec
from harness.experiment import load_experiment
from harness.preparation import prepare

sys.path.append(str(Path(__file__).parents[1] / "tests" / "integration"))
from racks.labs import RACKS

APART = 0.05
Run = dict[str, Any]


def main() -> int:
    """Run, compare, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the runs are or go")
    parser.add_argument("--experiment", default="io_bound_1p2d", help="a shipped one's name or a TOML file")
    parser.add_argument("--rounds", type=int, default=2, help="runs behind each launcher")
    arguments = parser.parse_args()
    spec = prepare(load_experiment(arguments.experiment)).cluster_spec()
    kinds = ["local", *RACKS]
    runs: dict[str, list[Run]] = {kind: [] for kind in kinds}
    for number in range(arguments.rounds):
        for kind in kinds if number % 2 == 0 else reversed(kinds):
            directory = arguments.folder.resolve() / f"{kind}-{number}"
            runs[kind].append(measured(directory, arguments.experiment, kind, spec))
    return judged(runs)


def measured(directory: Path, experiment: str, kind: str, spec: ClusterSpec) -> Run:
    """The summary of a run, made if it is not there."""
    if not (directory / "summary.json").exists():
        command = [
            str(Path(sys.executable).with_name("dualpath")),
            "run",
            experiment,
            "--out",
            str(directory),
        ]
        if kind == "local":
            run(command)
        else:
            with (
                tempfile.TemporaryDirectory(prefix="dualpath-rack-") as place,
                RACKS[kind].lab(Path(place), spec) as lab,
            ):
                run([*lab.prefix, *command, "--inventory", str(lab.inventory)])
    summary: Run = json.loads((directory / "summary.json").read_text())
    return summary


def run(command: Sequence[str]) -> None:
    """To its end; what it says is progress here."""
    subprocess.run(command, check=False, stdout=sys.stderr)


def judged(runs: dict[str, list[Run]]) -> int:
    """Print the table and what it comes to; the exit status."""
    means = {kind: statistics.fmean(map(speedup, of)) for kind, of in runs.items()}
    print("| launcher | speedup of each run | mean | against local | problems |\n|---|---|---|---|---|")
    for kind, of in runs.items():
        each = ", ".join(f"{speedup(summary):.3f}x" for summary in of)
        problems = "; ".join(problem for summary in of for problem in summary["problems"]) or "none"
        against = means[kind] / means["local"] - 1
        print(f"| {kind} | {each} | {means[kind]:.3f}x | {against:+.1%} | {problems} |")
    apart = max(means.values()) / min(means.values()) - 1
    print(f"\nat most {apart:.1%} apart, expected within {APART:.0%}")
    return 0 if apart <= APART and not any(s["problems"] for of in runs.values() for s in of) else 1


def speedup(summary: Run) -> float:
    """Of the contender over the baseline."""
    return float(summary["comparison"]["speedup"]["value"])


if __name__ == "__main__":
    sys.exit(main())

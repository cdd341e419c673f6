"""How the gain in agents per second depends on the GPUs' efficiency, which the paper does not give.

    .venv/bin/python tools/sweep_online.py online_27b_1p1d runs/sweep-27b [--efficiency 0.1 0.2 0.4 0.6]

Runs an online experiment once for every efficiency (share of peak that prefill reaches), each searching
between half of what the prefill hosts' storage NICs can feed and all that the cluster can carry, and
prints agents per second within the SLO under both policies, their ratio, and where the paper's ratio
falls. A run that is already there is only read. Exits 1 if a run is not valid.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from harness.experiment import Experiment, load_experiment, to_toml
from harness.preparation import Preparation, prepare
from workloads.models import kv_bytes_per_token, prefill_flops

PAPER_RATIO = {"dualpath-27b": 1.67, "deepseek-v3.2-660b": 2.25}
"""APS over Basic within the SLO (paper 7.4)."""


def bracket(preparation: Preparation) -> tuple[float, float]:
    """Agents per second, real: half of what Basic's storage NICs feed, a fifth over what all hosts can do."""
    experiment, profile = preparation.experiment, preparation.profile
    turns = [turn for session in preparation.sessions for turn in session.turns]
    agents = len(preparation.sessions)
    token_bytes = kv_bytes_per_token(preparation.model)
    storage_s = sum(t.hit_tokens for t in turns) * token_bytes / (profile.storage_nic.value * 1e9 / 8)
    flops = sum(prefill_flops(preparation.model, t.hit_tokens, t.new_tokens) for t in turns)
    engines = experiment.cluster.prefill_hosts * preparation.scale.engines_per_host
    compute_s = flops / preparation.scale.engines["prefill"].gpu_flops / engines
    hosts = experiment.cluster.prefill_hosts + experiment.cluster.decode_hosts
    basic = agents / max(storage_s / experiment.cluster.prefill_hosts, compute_s)
    dual = agents / max(storage_s / hosts, compute_s)
    return round(basic / 2, 2), round(dual * 1.2, 2)


def at(experiment: Experiment, efficiency: float) -> Experiment:
    """The experiment with another ``gpu_efficiency``, and a search around what that can carry."""
    figures = {**experiment.cluster.replace, "gpu_efficiency": efficiency}
    replace = msgspec.structs.replace
    changed = replace(
        experiment,
        name=f"{experiment.name}-{efficiency:g}",
        cluster=replace(experiment.cluster, replace=figures),
    )
    low, high = bracket(prepare(changed))
    assert experiment.online is not None, "an online experiment"
    return replace(changed, online=replace(experiment.online, search_from=low, search_to=high))


def measured(experiment: Experiment, directory: Path) -> dict[str, Any]:
    """The summary of the experiment's run in ``directory``; runs it first if it is not there."""
    run = directory / experiment.name
    if not (run / "summary.json").exists():
        file = directory / f"{experiment.name}.toml"
        file.write_text(to_toml(experiment))
        subprocess.run(
            [sys.executable, "-m", "harness.cli", "run", str(file), "--out", str(run)], check=False
        )
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return summary


def crossing(ratios: list[tuple[float, float]], wanted: float) -> str:
    """Where a curve of (efficiency, ratio) crosses ``wanted``, interpolated between neighbours."""
    for (e0, r0), (e1, r1) in itertools.pairwise(ratios):
        if min(r0, r1) <= wanted <= max(r0, r1) and r0 != r1:
            at_efficiency = e0 + (wanted - r0) / (r1 - r0) * (e1 - e0)
            return f"at {at_efficiency:.0%} of peak, between {e0:.0%} and {e1:.0%}"
    lowest, highest = min(r for _, r in ratios), max(r for _, r in ratios)
    return f"outside the swept range, whose ratios are {lowest:.2f}-{highest:.2f}x"


def row(experiment: Experiment, efficiency: float, directory: Path) -> tuple[str, float | None, bool]:
    """A line of the table, the ratio if both policies met the SLO somewhere, and whether the run is valid."""
    policies = experiment.measurement.baseline, experiment.measurement.contender
    changed = at(experiment, efficiency)
    valid = bool(measured(changed, directory)["valid"])
    found = json.loads((directory / changed.name / "metadata.json").read_text())["online"]
    rates = [found.get(policy, {}).get("max_agents_per_s") for policy in policies]
    ratio = rates[1] / rates[0] if all(rates) else None
    shown = [f"{rate:.1f}" if rate else "none" for rate in rates]
    cells = [f"{efficiency:.0%}", *shown, f"{ratio:.2f}x" if ratio else "-", "yes" if valid else "no"]
    return f"| {' | '.join(cells)} |", ratio, valid


def main() -> int:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", help="an online experiment's name or file")
    parser.add_argument("directory", type=Path, help="where the runs are kept")
    parser.add_argument("--efficiency", type=float, nargs="+", default=[0.1, 0.2, 0.4, 0.6])
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    experiment = load_experiment(arguments.experiment)
    names = experiment.measurement.baseline, experiment.measurement.contender
    print(
        f"| efficiency | {names[0]}, agents/s | {names[1]}, agents/s | ratio | valid |\n|---|---|---|---|---|"
    )
    ratios: list[tuple[float, float]] = []
    all_valid = True
    for efficiency in arguments.efficiency:
        line, ratio, valid = row(experiment, efficiency, arguments.directory)
        print(line, flush=True)
        all_valid &= valid
        if ratio is not None:
            ratios.append((efficiency, ratio))
    if len(ratios) > 1 and (paper := PAPER_RATIO.get(experiment.model)):
        print(f"\nthe paper's {paper}x (7.4) falls {crossing(ratios, paper)}")
    return 0 if all_valid else 1


if __name__ == "__main__":
    sys.exit(main())

"""Run the shipped experiments and hold the README's claims against what they measure.

    .venv/bin/python tools/measure_claims.py runs/claims [--repeat 10] [--trace FILE]

Runs what is not in the folder yet, prints a Markdown table, exits 1 if a claim does not hold. Quiet
machine: about 7 minutes, and 80 s more for each repeat of io_bound_1p1d.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Row = tuple[str, str, str, bool]
Run = dict[str, Any]
IO_BOUND = ("io_bound_1p1d", "io_bound_1p2d", "io_bound_2p1d")
RECORDED = """
name = "recorded"
model = "dualpath-27b"
[workload]
trace = {trace}
[replay]
agents = 1
turns_per_agent = 3
start = "middle"
[cluster]
prefill_hosts = 1
decode_hosts = 1
[scale]
bytes_divisor = 512
time_dilation = 1
[measurement]
repetitions = 1
"""


def main() -> int:
    """Run, compare, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the runs are or go")
    parser.add_argument("--repeat", type=int, default=10, help="runs of io_bound_1p1d for its spread")
    parser.add_argument("--trace", type=Path, help="a recorded conversation to replay")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    runs = {name: run(folder, name) for name in (*IO_BOUND, "compute_bound", "demo")}
    repeats = [run(folder, "io_bound_1p1d", f"repeat-{i}") for i in range(arguments.repeat)]
    recorded = [recorded_run(folder, arguments.trace)] if arguments.trace else []
    rows = [*ratios(runs), *equivalences(runs), *nics(runs), *compute_bound(runs["compute_bound"])]
    rows += [*accounting([*runs.values(), *repeats, *recorded]), *spread(repeats)]
    print("| claim | expected | measured | holds |\n|---|---|---|---|")
    for claim, expected, measured, holds in rows:
        print(f"| {claim} | {expected} | {measured} | {'yes' if holds else '**no**'} |")
    return 0 if all(row[3] for row in rows) else 1


def run(folder: Path, experiment: str, name: str | None = None) -> Run:
    """The summary of a run, made if it is not there."""
    directory = folder / (name or Path(experiment).stem)
    if not (directory / "summary.json").exists():
        dualpath = Path(sys.executable).with_name("dualpath")
        subprocess.run([dualpath, "run", experiment, "--out", directory], check=False, stdout=sys.stderr)
    summary: Run = json.loads((directory / "summary.json").read_text())
    return summary


def recorded_run(folder: Path, trace: Path) -> Run:
    """A real conversation, from its middle."""
    folder.mkdir(parents=True, exist_ok=True)
    experiment = folder / "recorded.toml"
    experiment.write_text(RECORDED.format(trace=json.dumps(str(trace.resolve()))))
    return run(folder, str(experiment))


def speedup(run: Run) -> float:
    """Baseline JCT over contender JCT."""
    value: float = run["comparison"]["speedup"]["value"]
    return value


def jct(run: Run, policy: str) -> float:
    """Geometric mean over repetitions, emulated seconds."""
    return statistics.geometric_mean(run["policies"][policy]["jct_s"])


def ratios(runs: dict[str, Run]) -> Iterator[Row]:
    """What reading through both paths gains where storage NICs are the limit."""
    for name, low, high in (("io_bound_1p1d", 1.85, 2.05), ("io_bound_1p2d", 2.6, 3.05)):
        interval, value = runs[name]["comparison"]["speedup"], speedup(runs[name])
        measured = f"{value:.3f}x ({interval['ci_low']:.3f}-{interval['ci_high']:.3f})"
        yield f"`{name}`: dual_path over prefill_only", f"{low}-{high}x", measured, low <= value <= high
    hit_rate, demo = runs["demo"]["trace"]["hit_rate"], runs["demo"]
    yield "`demo`: hit rate", ">= 98 %", f"{hit_rate:.2%}", hit_rate >= 0.98
    yield "`demo`: valid, speedup", "> 1x", f"{speedup(demo):.3f}x", demo["valid"] and speedup(demo) > 1


def equivalences(runs: dict[str, Run]) -> Iterator[Row]:
    """Paper 7.2: equal usable storage bandwidth, equal JCT."""
    one_one, one_two, two_one = (runs[name] for name in IO_BOUND)
    pairs = (
        ("Basic 1P1D = Basic 1P2D", jct(one_one, "prefill_only"), jct(one_two, "prefill_only")),
        ("dual 1P1D = Basic 2P1D", jct(one_one, "dual_path"), jct(two_one, "prefill_only")),
        ("dual 2P1D = dual 1P2D", jct(two_one, "dual_path"), jct(one_two, "dual_path")),
    )
    for claim, left, right in pairs:
        off = abs(left / right - 1)
        yield claim, "within 7 %", f"{left:.2f} s, {right:.2f} s ({off:.1%})", off <= 0.07


def nics(runs: dict[str, Run]) -> Iterator[Row]:
    """Busy storage NICs run at their ceiling; idle ones carry persisted blocks only."""
    for name in IO_BOUND:
        policies = runs[name]["policies"]
        busy = [
            n["busy_utilization"]
            for p in policies.values()
            for n in p["storage_nic"].values()
            if n["expected_busy"]
        ]
        yield f"`{name}`: lowest busy storage NIC", ">= 92 %", f"{min(busy):.1%}", min(busy) >= 0.92
        decode = [n for n in policies["prefill_only"]["storage_nic"].values() if n["role"] == "decode"]
        read = sum(n["read_bytes"] for n in decode)
        yield f"`{name}`: decode storage NICs under Basic", "no reads", f"{read} B read", read == 0


def compute_bound(run: Run) -> Iterator[Row]:
    """Nothing to gain, nothing lost."""
    comparison = run["comparison"]
    yield (
        "`compute_bound`: verdict",
        "no significant difference",
        comparison["text"],
        not comparison["significant"],
    )
    off = abs(jct(run, "dual_path") / jct(run, "oracle") - 1)
    yield "`compute_bound`: dual_path against oracle", "within 3 %", f"{off:.2%}", off <= 0.03


def accounting(runs: list[Run]) -> Iterator[Row]:
    """Every run is valid: bytes exact, every checked block right, counters within 5 %."""
    problems = [f"{r['experiment']}: {p}" for r in runs for p in r["problems"]]
    policies = [p for r in runs for p in r["policies"].values()]
    exact = all(p["bytes_read"] == p["bytes_expected"] for p in policies)
    yield (
        f"bytes read = theoretical hit bytes, {len(runs)} runs",
        "exactly",
        "equal" if exact else "differ",
        exact,
    )
    nics = [n["counter_over_payload"] for p in policies for n in p["storage_nic"].values()]
    off = max(abs(n - 1) for n in nics if n is not None)
    yield "interface counters over accounted bytes", "within 5 %", f"at most {off:.1%} off", off <= 0.05
    yield "runs valid", "all", "; ".join(problems) or f"all {len(runs)}", not problems


def spread(repeats: list[Run]) -> Iterator[Row]:
    """Whole runs, repeated."""
    if len(repeats) > 1:
        values = [speedup(r) for r in repeats]
        cv = statistics.stdev(values) / statistics.mean(values)
        measured = f"{cv:.2%} ({min(values):.3f}-{max(values):.3f}x)"
        yield f"speedup over {len(repeats)} runs of `io_bound_1p1d`: CV", "<= 3 %", measured, cv <= 0.03


if __name__ == "__main__":
    sys.exit(main())

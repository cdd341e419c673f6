"""What has to hold on a GPU: copies, overlap, prediction, and `timed` against `torch` in whole runs.

    .venv/bin/python tools/measure_gpu.py runs/gpu [--model dualpath-27b] [--device cuda] [--rounds 2]
        [--nic ADDRESS]

On a host with a GPU and torch for it. Steps, each a command of `dualpath` that is printed before it runs:

1. `bench copies` with the model's Layer Blocks: a layer in one strided copy, as runs do it, over the
   bandwidth of a copy without gaps (expected: at least 90 %)
2. `bench layerwise`: a pass over the longer of loading and computing (at most 1.1); with ``--nic`` also with
   copies through the NIC that has that address
3. `calibrate compute`: held-out points (within 10 %); prefill at 32K as a share of the GEMM peak
4. the experiment `gpu_one_machine`, `torch` and `timed` with that profile in turn, A B B A: speedups
   (within 5 %)

Prints a Markdown table, exits 1 if something is not as expected or a run is not valid. About ten minutes.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from msgspec.structs import replace

from harness.experiment import Compute, Experiment, load_experiment, to_toml
from hosts.config import ComputeKind
from workloads.models import find_model

BLOCK_TOKENS = 64


class Line(NamedTuple):
    """A row of the table."""

    what: str
    expected: str
    measured: str
    holds: bool


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the runs are or go")
    parser.add_argument("--model", default="dualpath-27b")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: to try this script")
    parser.add_argument("--nic", metavar="ADDRESS", help="of an RDMA NIC near the GPU")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each compute back-end")
    parser.add_argument("--bytes-divisor", type=float, default=64.0, help="of the runs' emulated links")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    lines = [] if arguments.device == "cpu" else copies(arguments.model)
    lines += overlap(arguments.model, arguments.device)
    if arguments.nic:
        lines += overlap(arguments.model, arguments.device, "--copy", "nic", "--address", arguments.nic)
    profile = folder / f"{arguments.model}.toml"
    lines += prediction(arguments.model, arguments.device, profile)
    lines += agreement(arguments, folder, profile)
    print("\n| what must hold | expected | measured | |\n|---|---|---|---|")
    for line in lines:
        print(f"| {line.what} | {line.expected} | {line.measured} | {'yes' if line.holds else 'no'} |")
    return 0 if all(line.holds for line in lines) else 1


def copies(model: str) -> list[Line]:
    """A layer at the model's true pitch."""
    geometry = find_model(model)
    block = str(BLOCK_TOKENS * geometry.layer_kv_bytes_per_token)
    report = answered("bench", "copies", "--block", block, "--layers", str(geometry.layers), "--json")
    lines = []
    for case in report["cases"]:
        seconds = {way: [times["device_s"] for times in rounds] for way, rounds in case["rounds"].items()}
        pairs = zip(seconds["whole"], seconds["pitched"], strict=True)
        share = statistics.median(whole / pitched for whole, pitched in pairs)
        what = f"{case['direction']} of a layer in {block} byte blocks, over a copy without gaps"
        lines.append(Line(what, "at least 90 %", f"{share:.1%}", share >= 0.9))
    return lines


def overlap(model: str, device: str, *options: str) -> list[Line]:
    """A pass of the paper's mean prompt."""
    shape = ("--model", model, "--device", device, "--engines", "1")
    report = answered("bench", "layerwise", *shape, *options, "--json")
    parts = {part: statistics.median(times) * 1e3 for part, times in report["rounds"].items()}
    found = report["over_longest"]
    shown = ", ".join(f"{part} {milliseconds:.3g} ms" for part, milliseconds in parts.items())
    what = f"layerwise pass over the longer part, copies: {report['copy']}"
    return [Line(what, "at most 1.1", f"{found:.2f} ({shown})", found <= 1.1)]


def prediction(model: str, device: str, profile: Path) -> list[Line]:
    """All experts on the one engine that there is of each role."""
    options = ("--device", device, "--engines", "1", "--out", str(profile), "--json")
    again = ("--profile", str(profile)) if profile.exists() else ()
    [kernels] = answered("calibrate", "compute", model, *options, *again)
    rate, peak = kernels["prefill_tflop_per_s"], kernels["gemm_tflop_per_s"]
    lines = []
    for what, errors in (("device", kernels["held_out"]), ("asking", kernels["held_out_asking"])):
        if errors is not None:  # a CPU is not asked ahead
            shown = f"{errors['largest']:.1%} (median {errors['median']:.1%}) of {errors['points']} points"
            name = f"held-out points predicted, {what}"
            lines.append(Line(name, "within 10 %", shown, errors["largest"] <= 0.1))
    reference = f"{kernels['prefill_new']} tokens over {kernels['prefill_context']}"
    speed = f"{rate:.4g} TFLOP/s, {rate / peak:.1%} of {peak:.4g}"
    return [*lines, Line(f"prefill of {reference}", "reported", speed, True)]


def agreement(arguments: argparse.Namespace, folder: Path, profile: Path) -> list[Line]:
    """Speedups of the same runs, computed and timed."""
    kinds: list[ComputeKind] = ["torch", "timed"]
    speedups: dict[ComputeKind, list[float]] = {kind: [] for kind in kinds}
    valid = True
    for number in range(arguments.rounds):
        for kind in kinds if number % 2 == 0 else reversed(kinds):
            directory = folder / f"{kind}-{number}"
            if not (directory / "summary.json").exists():
                file = folder / f"{kind}.toml"
                file.write_text(to_toml(experiment(arguments, kind, profile)))
                command("run", str(file), "--out", str(directory))
            summary = json.loads((directory / "summary.json").read_bytes())
            valid &= not summary["problems"]
            speedups[kind].append(summary["comparison"]["speedup"]["value"])
    computed, timed = (statistics.median(speedups[kind]) for kind in kinds)
    shown = f"{computed:.3f}x computed, {timed:.3f}x timed" + ("" if valid else ", not all valid")
    return [
        Line("speedup 1P1D", "within 5 %", shown, valid and abs(computed / timed - 1) <= 0.05),
    ]


def experiment(arguments: argparse.Namespace, kind: ComputeKind, profile: Path) -> Experiment:
    """The shipped one for a machine with one GPU, computed or timed by that profile."""
    shipped = load_experiment("gpu_one_machine")
    return replace(
        shipped,
        name=f"gpu-{kind}",
        model=arguments.model,
        cluster=replace(shipped.cluster, profile=str(profile)),
        scale=replace(shipped.scale, bytes_divisor=arguments.bytes_divisor),
        compute=Compute(kind=kind, device=arguments.device if kind == "torch" else None),
    )


def answered(*arguments: str) -> Any:
    """The JSON that a command prints."""
    return json.loads(command(*arguments).stdout)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of ours; 1 is an invalid run, which is judged by its summary."""
    print("$ dualpath", shlex.join(arguments), file=sys.stderr)
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", *arguments], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode not in (0, 1):
        sys.exit(f"measure_gpu: that ended with {done.returncode}")
    return done


if __name__ == "__main__":
    sys.exit(main())

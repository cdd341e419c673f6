"""Experiments and profiles by name or by file."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import msgspec

from harness.experiment.checks import problems
from harness.experiment.errors import ExperimentError, did_you_mean
from harness.experiment.profile import HardwareProfile
from harness.experiment.sections import Experiment
from harness.experiment.toml import decode


def shipped_experiments() -> dict[str, Path]:
    """Name -> file of every experiment in the package."""
    return _shipped("workloads", "experiments")


def shipped_profiles() -> dict[str, Path]:
    """Name -> file of every hardware profile in the package."""
    return _shipped("harness", "profiles")


def load_experiment(name_or_path: str) -> Experiment:
    """An experiment by shipped name or by file; raises ExperimentError."""
    path = Path(name_or_path)
    if path.suffix != ".toml" and not path.exists():
        path = _by_name("experiment", name_or_path, shipped_experiments())
    experiment = decode(path, Experiment)
    for problem in problems(experiment):
        raise ExperimentError(f"{path}: {problem}")
    if experiment.workload.trace is None:
        return experiment
    trace = (path.parent / Path(experiment.workload.trace).expanduser()).resolve()
    return msgspec.structs.replace(
        experiment, workload=msgspec.structs.replace(experiment.workload, trace=str(trace))
    )


def load_profile(name_or_path: str) -> HardwareProfile:
    """A hardware profile by shipped name or by file; raises ExperimentError."""
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = _by_name("hardware profile", name_or_path, shipped_profiles())
    return decode(path, HardwareProfile)


def _shipped(package: str, folder: str) -> dict[str, Path]:
    with resources.as_file(resources.files(package) / folder) as path:
        return {file.stem: file for file in sorted(path.glob("*.toml"))}


def _by_name(kind: str, name: str, known: dict[str, Path]) -> Path:
    if name in known:
        return known[name]
    hint = did_you_mean(name, known)
    raise ExperimentError(f"no {kind} named '{name}', and no such file{hint} (known: {', '.join(known)})")

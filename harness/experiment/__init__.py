"""Experiment files: what to replay, on what cluster, under which policies.

An experiment is TOML. Unknown keys, wrong types and impossible values are refused with the file,
the key path, what was found and what was expected. Those that ship with the package go by name.
"""

from harness.experiment.errors import ExperimentError
from harness.experiment.files import load_experiment, load_profile, shipped_experiments, shipped_profiles
from harness.experiment.profile import Figure, HardwareProfile, KernelProfile, Residuals
from harness.experiment.sections import (
    Cluster,
    Compute,
    Deadlines,
    Experiment,
    Measurement,
    Online,
    PolicyName,
    Replay,
    Scale,
    SchedulerConstants,
    Storage,
    Transport,
    Variant,
    Workload,
)
from harness.experiment.toml import encode as to_toml

__all__ = [
    "Cluster",
    "Compute",
    "Deadlines",
    "Experiment",
    "ExperimentError",
    "Figure",
    "HardwareProfile",
    "KernelProfile",
    "Measurement",
    "Online",
    "PolicyName",
    "Replay",
    "Residuals",
    "Scale",
    "SchedulerConstants",
    "Storage",
    "Transport",
    "Variant",
    "Workload",
    "load_experiment",
    "load_profile",
    "shipped_experiments",
    "shipped_profiles",
    "to_toml",
]

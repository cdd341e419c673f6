"""The scale model: a real cluster's rates, bytes and times, divided so that every ratio holds.

    emulated bytes = real bytes / bytes_divisor        emulated time = real time x time_dilation
    emulated rate  = real rate / (bytes_divisor x time_dilation)

A Layer Block is a whole number of bytes, so the divisor in force is the one that rounding it leaves.
On a rack both factors are 1 and the NICs' rates are the hardware's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.experiment import Experiment, ExperimentError, Figure, HardwareProfile
from hosts.config import Geometry
from workloads.models import Model


@dataclass(frozen=True, slots=True)
class ScaleModel:
    """Everything hosts are told about sizes and speeds, in emulated units unless named real."""

    bytes_divisor: float
    time_dilation: float
    geometry: Geometry
    engines_per_host: int
    storage_nic_bytes_per_s: float
    compute_nic_bytes_per_s: float
    buffer_bytes: int
    gpu_flops: float
    decode_step_s: float

    @property
    def rate_divisor(self) -> float:
        """Real rate over emulated rate."""
        return self.bytes_divisor * self.time_dilation

    def summary(self) -> dict[str, float]:
        """As stored in metadata.json."""
        return {
            "bytes_divisor": self.bytes_divisor,
            "time_dilation": self.time_dilation,
            "rate_divisor": self.rate_divisor,
        }


def scale(experiment: Experiment, profile: HardwareProfile, model: Model, block_tokens: int) -> ScaleModel:
    """Resolve an experiment's figures; raises ExperimentError for a scale that leaves nothing to move.

    ``gpu_flops`` and ``decode_step_s`` stay real: the agents dilate time themselves. A host's compute
    NICs, one an engine, are emulated as one NIC of their total rate.
    """
    real_bytes = model.layer_kv_bytes_per_token * block_tokens
    scaled = round(real_bytes / experiment.scale.bytes_divisor)
    if scaled < 1:
        raise ExperimentError(
            f"scale.bytes_divisor: found {experiment.scale.bytes_divisor:g}, but a Layer Block of "
            f"{model.name} has {real_bytes} bytes; expected at most {real_bytes}"
        )
    divisor, dilation = real_bytes / scaled, experiment.scale.time_dilation
    engines = experiment.cluster.engines_per_host or int(profile.engines_per_host.value)
    buffer_gb = experiment.cluster.host_buffer_gb or profile.host_buffer.value
    return ScaleModel(
        bytes_divisor=divisor,
        time_dilation=dilation,
        geometry=Geometry(model.layers, block_tokens, scaled),
        engines_per_host=engines,
        storage_nic_bytes_per_s=profile.storage_nic.value * 1e9 / 8 / (divisor * dilation),
        compute_nic_bytes_per_s=engines * profile.compute_nic.value * 1e9 / 8 / (divisor * dilation),
        buffer_bytes=int(buffer_gb * 1e9 / divisor),
        gpu_flops=profile.gpu_peak.value * 1e12 * profile.gpu_efficiency.value,
        decode_step_s=profile.decode_step.value / 1e3,
    )


def figures_in_force(experiment: Experiment, profile: HardwareProfile) -> dict[str, dict[str, Any]]:
    """Every hardware figure with its unit and source; what the experiment replaced says so."""
    figures = profile.figures()
    replaced = {
        "engines_per_host": experiment.cluster.engines_per_host,
        "host_buffer": experiment.cluster.host_buffer_gb,
    }
    for name, value in replaced.items():
        if value is not None:
            figures[name] = Figure(value=value, unit=figures[name].unit, source="experiment file")
    return {n: {"value": f.value, "unit": f.unit, "source": f.source} for n, f in figures.items()}

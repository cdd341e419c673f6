"""The scale model: a real cluster's rates, bytes and times, divided so that every ratio holds.

    emulated bytes = real bytes / bytes_divisor        emulated time = real time x time_dilation
    emulated rate  = real rate / (bytes_divisor x time_dilation)

One emulated layer may stand for several of the model's (``layers_divisor``): a Full Block keeps its
bytes and a forward pass its time, in fewer and larger steps. A Layer Block is a whole number of bytes,
so the divisor in force is the one that rounding it leaves. On a rack all three factors are 1 and the
NICs' rates are the hardware's own.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.experiment import Experiment, ExperimentError, HardwareProfile
from hosts.config import EngineConfig, Geometry
from hosts.protocol import Role
from workloads.models import Model, kv_bytes_per_token


@dataclass(frozen=True, slots=True)
class ScaleModel:
    """Everything hosts are told about sizes and speeds, in emulated units unless named real.

    ``engines`` says what an engine of each role can do, in real units: agents dilate time themselves;
    ``expert_engines`` how many of them share the experts. Whether an engine has room for its weights is not
    asked here: what computes nothing holds none (`harness.feasibility.check_weights`).
    """

    bytes_divisor: float
    time_dilation: float
    layers_divisor: float
    geometry: Geometry
    engines_per_host: int
    storage_nic_bytes_per_s: float
    compute_nic_bytes_per_s: float
    buffer_bytes: dict[Role, int]
    engines: dict[Role, EngineConfig]
    expert_engines: dict[Role, int]

    @property
    def rate_divisor(self) -> float:
        """Real rate over emulated rate."""
        return self.bytes_divisor * self.time_dilation

    def summary(self) -> dict[str, float]:
        """As stored in metadata.json."""
        return {
            "bytes_divisor": self.bytes_divisor,
            "time_dilation": self.time_dilation,
            "layers_divisor": self.layers_divisor,
            "rate_divisor": self.rate_divisor,
        }


def scale(experiment: Experiment, profile: HardwareProfile, model: Model, block_tokens: int) -> ScaleModel:
    """Resolve an experiment's figures; raises ExperimentError for a scale that leaves nothing to move.

    A host's compute NICs, one an engine, are emulated as one NIC of their total rate.
    """
    if profile.engines_per_host.value % 1:
        raise ExperimentError(
            f"profile figure engines_per_host: found {profile.engines_per_host.value:g}, expected a whole "
            "number: set cluster.replace.engines_per_host"
        )
    layers = -(-model.layers // experiment.scale.layers_divisor)
    real_bytes = kv_bytes_per_token(model) * block_tokens / layers
    scaled = round(real_bytes / experiment.scale.bytes_divisor)
    if scaled < 1:
        raise ExperimentError(
            f"scale.bytes_divisor: found {experiment.scale.bytes_divisor:g}, but a Layer Block of "
            f"{model.name} has {real_bytes:.0f} bytes; expected at most {real_bytes:.0f}"
        )
    divisor, dilation = real_bytes / scaled, experiment.scale.time_dilation
    engines = int(profile.engines_per_host.value)
    of_role: dict[Role, int] = {
        "prefill": experiment.cluster.prefill_hosts * engines,
        "decode": experiment.cluster.decode_hosts * engines,
    }
    _check_kernels(experiment, profile, model, of_role)
    return ScaleModel(
        bytes_divisor=divisor,
        time_dilation=dilation,
        layers_divisor=model.layers / layers,
        geometry=Geometry(layers, block_tokens, scaled),
        engines_per_host=engines,
        storage_nic_bytes_per_s=profile.storage_nic.value * 1e9 / 8 / (divisor * dilation),
        compute_nic_bytes_per_s=engines * profile.compute_nic.value * 1e9 / 8 / (divisor * dilation),
        buffer_bytes={
            "prefill": int(profile.prefill_buffer.value * 1e9 / divisor),
            "decode": int(profile.decode_buffer.value * 1e9 / divisor),
        },
        engines={role: _engine(experiment, profile, model, count) for role, count in of_role.items()},
        expert_engines=of_role,
    )


def _engine(
    experiment: Experiment, profile: HardwareProfile, model: Model, engines_of_role: int
) -> EngineConfig:
    """What one engine can do and hold. All engines of a role share the weights of a model with experts;
    of any other model each has all of them."""
    weight_bytes = model.weight_bytes / (engines_of_role if model.expert_parallel else 1)
    usable_bytes = profile.gpu_memory.value * profile.gpu_memory_share.value * 1e9
    kernels = profile.kernels_of(model, engines_of_role)
    return EngineConfig(
        model=model.name,
        gpu_flops=profile.gpu_peak.value * 1e12 * profile.gpu_efficiency.value,
        hbm_bytes_per_s=profile.hbm_bandwidth.value * 1e9,
        copy_bytes_per_s=profile.compute_nic.value * 1e9 / 8,
        weight_bytes=weight_bytes,
        kv_hbm_bytes=usable_bytes - weight_bytes,
        decode_overhead_s=profile.decode_overhead.value / 1e3,
        compute_quota_s=experiment.request_scheduler.compute_quota_s,
        time_dilation=experiment.scale.time_dilation,
        kernels=None if kernels is None else kernels.times,
        host_engines=int(profile.engines_per_host.value),
    )


def _check_kernels(
    experiment: Experiment, profile: HardwareProfile, model: Model, of_role: Mapping[Role, int]
) -> None:
    """If any were measured, those of every role have to be: one role by its kernels and the other by FLOPs
    would not be one system."""
    measured = [kernels.expert_engines for kernels in profile.kernels.get(model.name, ())]
    missing = sorted({count for count in of_role.values() if profile.kernels_of(model, count) is None})
    if measured and missing:
        file, wanted = shlex.quote(experiment.cluster.profile), ",".join(map(str, missing))
        raise ExperimentError(
            f"profile kernels of {model.name}: found measured with the experts over {_listed(measured)} "
            f"engines, but this experiment has {of_role['prefill']} prefill and {of_role['decode']} decode "
            f"engines; expected over {_listed(missing)}, too: 'dualpath calibrate compute {model.name} "
            f"--engines {wanted} --profile {file} --out {file}' adds them"
        )


def _listed(numbers: Sequence[int]) -> str:
    return " and ".join(map(str, numbers))


def figures_in_force(profile: HardwareProfile) -> dict[str, dict[str, Any]]:
    """Every hardware figure with its unit and source; what the experiment replaced says so."""
    return {n: {"value": f.value, "unit": f.unit, "source": f.source} for n, f in profile.figures().items()}

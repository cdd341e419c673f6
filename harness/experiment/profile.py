"""Hardware profiles: a host as real hardware has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from harness.experiment.errors import ExperimentError, did_you_mean
from harness.experiment.sections import AboveZero, Section
from hosts.kernel_times import KernelTimes
from workloads.models import Model


class Figure(Section, frozen=True):
    """A number with its unit and where it comes from."""

    value: AboveZero
    unit: str
    source: str


class Residuals(Section, frozen=True):
    """Relative errors |predicted / measured - 1| of a fit over ``points``."""

    points: int
    median: float
    largest: float


class KernelProfile(Section, frozen=True):
    """A model's kernels as they were measured on a device, with one in ``expert_engines`` of its experts (1
    for a model that has none).

    ``gemm_tflop_per_s`` is the device's best rate of a large BF16 matrix product then,
    ``prefill_tflop_per_s`` that of ``prefill_new`` tokens over ``prefill_context`` cached ones. ``fit`` are
    the errors of the device's times at the points that were fitted, ``held_out`` at others, which were
    measured twice: ``held_out_again`` is how far the second time is from the first. ``held_out_asking`` are
    the errors of asking for work, where that takes a time of its own. ``not_captured``:
    points at which the device's time may be that of asking (`hosts.bench.kernels`).
    """

    measured_at: str
    command: str
    device: str
    software: str
    expert_engines: int
    gemm_tflop_per_s: float
    prefill_context: int
    prefill_new: int
    prefill_tflop_per_s: float
    fit: Residuals
    held_out: Residuals
    held_out_again: Residuals
    times: KernelTimes
    held_out_asking: Residuals | None = None
    not_captured: int = 0
    not_captured_reason: str = ""


class HardwareProfile(Section, frozen=True):
    """A host as real hardware has it; every figure names its source. ``kernels``, by model, take the place
    of the GPU's figures where they were measured: for each number of engines that share the experts."""

    name: str
    description: str
    engines_per_host: Figure
    storage_nic: Figure
    compute_nic: Figure
    prefill_buffer: Figure
    decode_buffer: Figure
    host_memory_bandwidth: Figure
    gpu_peak: Figure
    gpu_efficiency: Figure
    gpu_memory: Figure
    gpu_memory_share: Figure
    hbm_bandwidth: Figure
    decode_overhead: Figure
    kernels: dict[str, tuple[KernelProfile, ...]] = msgspec.field(default_factory=dict)

    def figures(self) -> dict[str, Figure]:
        """All figures by name."""
        values = {field: getattr(self, field) for field in self.__struct_fields__}
        return {name: value for name, value in values.items() if isinstance(value, Figure)}

    def kernels_of(self, model: Model, engines: int) -> KernelProfile | None:
        """Of one of ``engines`` engines that share the experts, if the model has any."""
        shared = engines if model.expert_parallel else 1
        of_model = self.kernels.get(model.name, ())
        return next((kernels for kernels in of_model if kernels.expert_engines == shared), None)

    def with_kernels(self, model: Model, measured: Sequence[KernelProfile]) -> HardwareProfile:
        """The profile with these, in the place of those for as many engines."""
        by_engines = {of.expert_engines: of for of in (*self.kernels.get(model.name, ()), *measured)}
        of_model = tuple(by_engines[engines] for engines in sorted(by_engines))
        return msgspec.structs.replace(self, kernels={**self.kernels, model.name: of_model})

    def replaced(self, values: Mapping[str, float]) -> HardwareProfile:
        """The profile with other values for some figures; raises ExperimentError for a name it lacks."""
        figures = self.figures()
        for name in values:
            if name not in figures:
                raise ExperimentError(
                    f"cluster.replace: found '{name}', expected figures of the profile "
                    f"({', '.join(figures)}){did_you_mean(name, figures)}"
                )
        new = {
            name: Figure(value=value, unit=figures[name].unit, source="experiment file")
            for name, value in values.items()
        }
        return msgspec.structs.replace(self, **new)

"""Hardware profiles: a host as real hardware has it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from harness.experiment.errors import ExperimentError, did_you_mean
from harness.experiment.sections import AboveZero, Section


class Figure(Section, frozen=True):
    """A number with its unit and where it comes from."""

    value: AboveZero
    unit: str
    source: str


class HardwareProfile(Section, frozen=True):
    """A host as real hardware has it; every figure names its source."""

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

    def figures(self) -> dict[str, Figure]:
        """All figures by name."""
        return {f: getattr(self, f) for f in self.__struct_fields__ if f not in ("name", "description")}

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

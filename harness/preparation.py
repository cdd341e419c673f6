"""Everything about a run that can be known before anything is started: pure, and refused here if wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harness.cluster import Cluster, ClusterHost, ClusterSpec
from harness.experiment import Experiment, ExperimentError, HardwareProfile, load_profile
from harness.scale_model import ScaleModel, scale
from hosts.config import NicConfig, StorageConfig, TransportConfig
from hosts.protocol import HostConfig, StoredObject
from workloads.expected import expected_read_bytes
from workloads.formats import load_trace
from workloads.layout import BlockRange, SessionPlan, TurnPlan, plan_session
from workloads.models import Model, find_model
from workloads.synthesis import synthesize
from workloads.trace import Trace
from workloads.window import ReplayWindow, select_windows, window_hit_rate

_STORAGE_HOST_BUFFER_BYTES = 1 << 20
_CEILING_OBJECTS = 4


@dataclass(frozen=True, slots=True)
class Preparation:
    """The resolved run. ``read_bytes`` is what one repetition must read, from the trace alone."""

    experiment: Experiment
    profile: HardwareProfile
    model: Model
    trace: Trace
    windows: tuple[ReplayWindow, ...]
    plans: tuple[SessionPlan, ...]
    scale: ScaleModel
    hit_rate: float
    read_bytes: int

    @property
    def turns(self) -> int:
        """Turns of one repetition."""
        return sum(len(plan.turns) for plan in self.plans)

    @property
    def cluster_spec(self) -> ClusterSpec:
        """The cluster to raise."""
        return ClusterSpec(
            prefill_hosts=self.experiment.cluster.prefill_hosts,
            decode_hosts=self.experiment.cluster.decode_hosts,
            storage_nic_bytes_per_s=self.scale.storage_nic_bytes_per_s,
            compute_nic_bytes_per_s=self.scale.compute_nic_bytes_per_s,
        )

    def gap_s(self, turn: TurnPlan) -> float:
        """Emulated seconds between a session's turns."""
        replay = self.experiment.replay
        return min(turn.gap_s * replay.gap_scale, replay.gap_cap_s) * self.scale.time_dilation

    def ceiling_objects(self) -> tuple[StoredObject, ...]:
        """Objects of a typical hit's size, to measure storage paths with reads like the replay's."""
        hits = sorted(len(turn.hit_ids) for plan in self.plans for turn in plan.turns)
        blocks = max(1, hits[len(hits) // 2])
        return tuple(
            StoredObject(f"ceiling/{i}", (BlockRange(i * blocks, blocks),)) for i in range(_CEILING_OBJECTS)
        )

    def host_config(self, cluster: Cluster, host: ClusterHost) -> HostConfig:
        """What the agent on ``host`` is told."""
        scale, measurement = self.scale, self.experiment.measurement
        storage_host = host.role == "storage"
        over_http = bool(cluster.storage_url) and not storage_host
        return HostConfig(
            host=host.name,
            role=host.role,
            engines=0 if storage_host else scale.engines_per_host,
            geometry=scale.geometry,
            buffer_bytes=_STORAGE_HOST_BUFFER_BYTES if storage_host else scale.buffer_bytes,
            storage=StorageConfig(
                kind="http" if over_http else "posix",
                url=cluster.storage_url if over_http else "",
                root="" if over_http else str(cluster.storage_root),
                read_streams=self.experiment.storage.read_streams,
                read_chunk_bytes=self.experiment.storage.read_chunk_bytes,
                pace_bytes_per_s=0.0 if storage_host else cluster.storage_pace_bytes_per_s,
            ),
            transport=TransportConfig(
                kind="tcp",
                bind_address=host.compute_address or host.management_address,
                pace_bytes_per_s=cluster.compute_pace_bytes_per_s,
            ),
            nics=tuple(NicConfig(nic.name, nic.network) for nic in host.nics),
            model=self.model.name,
            gpu_flops=scale.gpu_flops,
            decode_step_s=scale.decode_step_s,
            time_dilation=scale.time_dilation,
            content_seed=int(self.trace.sha256[:15], 16),
            verify_every=measurement.verify_every,
            telemetry_interval_s=measurement.telemetry_interval_s,
            turn_timeout_s=measurement.deadline_s,
        )


def prepare(experiment: Experiment) -> Preparation:
    """Resolve trace, model, hardware and scale; raises ExperimentError, TraceError or ModelError."""
    trace = _trace(experiment)
    model, profile = find_model(experiment.model), load_profile(experiment.cluster.profile)
    replay = experiment.replay
    windows = select_windows(
        trace, replay.agents, replay.turns_per_agent or None, replay.start, experiment.workload.seed
    )
    plans = tuple(plan_session(window) for window in windows)
    scaled = scale(experiment, profile, model, trace.block_tokens)
    _check_buffers(scaled, plans)
    return Preparation(
        experiment=experiment,
        profile=profile,
        model=model,
        trace=trace,
        windows=windows,
        plans=plans,
        scale=scaled,
        hit_rate=window_hit_rate(windows),
        read_bytes=expected_read_bytes(windows, scaled.geometry.full_block_bytes),
    )


def as_builtins(experiment: Experiment) -> dict[str, object]:
    """An experiment with all its defaults, for TOML and JSON."""
    resolved: dict[str, object] = msgspec.to_builtins(experiment)
    return resolved


def _trace(experiment: Experiment) -> Trace:
    workload = experiment.workload
    if workload.trace is not None:
        return load_trace(Path(workload.trace))
    assert workload.synthesize is not None, "checked when the experiment was loaded"
    return synthesize(
        workload.synthesize,
        workload.synthesized_sessions,
        workload.seed,
        append_scale=workload.append_scale,
        generated_scale=workload.generated_scale,
    )


def _check_buffers(scaled: ScaleModel, plans: Sequence[SessionPlan]) -> None:
    """Every prompt has to fit a host's buffer, or its turn would wait for ever."""
    largest = max(-(-turn.input_tokens // scaled.geometry.block_tokens) for p in plans for turn in p.turns)
    needed = largest * scaled.geometry.full_block_bytes
    if needed > scaled.buffer_bytes:
        gigabytes = scaled.bytes_divisor / 1e9
        raise ExperimentError(
            f"cluster.host_buffer_gb: found {scaled.buffer_bytes * gigabytes:.3g} GB a host, but the largest "
            f"prompt has {largest} blocks; expected at least {needed * gigabytes:.3g} GB"
        )

"""Everything about a run that can be known before anything is started: pure, and refused here if wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harness.cluster import ClusterError, ClusterSpec, HighClass, shaped_classes
from harness.experiment import Experiment, ExperimentError, HardwareProfile, Transport, load_profile
from harness.feasibility import bottlenecks, check_buffers, check_hbm, check_unscaled, check_weights
from harness.scale_model import ScaleModel, scale
from harness.scheduling import Limits
from harness.sites.base import Site, SiteHost, SiteRail
from hosts.compute import prediction_of
from hosts.config import (
    ComputeConfig,
    NicConfig,
    RailConfig,
    StorageConfig,
    TransportConfig,
    VerbsConfig,
)
from hosts.protocol import HostConfig, StoredObject
from workloads import arrivals
from workloads.agents import agents_for
from workloads.expected import expected_read_bytes
from workloads.formats import load_trace
from workloads.layout import BlockRange, ReplayPlan, SessionPlan, TurnPlan, plan_replay
from workloads.models import Model, find_model, kv_bytes_per_token
from workloads.scaling import scale_trace
from workloads.synthesis import synthesize
from workloads.trace import Trace
from workloads.window import ReplayWindow, window_hit_rate

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
    plan: ReplayPlan
    scale: ScaleModel
    hit_rate: float
    read_bytes: int
    warnings: tuple[str, ...]

    @property
    def sessions(self) -> tuple[SessionPlan, ...]:
        """A plan for every agent."""
        return self.plan.sessions

    @property
    def turns(self) -> int:
        """Turns of one repetition."""
        return sum(len(plan.turns) for plan in self.sessions)

    def starts_s(self) -> list[float]:
        """When every agent of an offline repetition starts, in emulated seconds."""
        replay, agents = self.experiment.replay, len(self.sessions)
        match replay.arrivals:
            case "at_once":
                starts = arrivals.at_once(agents)
            case "poisson":
                assert replay.agents_per_s is not None, "checked when the experiment was loaded"
                starts = arrivals.poisson(agents, replay.agents_per_s, self.experiment.workload.seed)
            case "recorded":
                starts = arrivals.recorded(
                    [window.session.start_s for window in self.windows],
                    time_scale=replay.arrival_scale,
                    jitter_s=replay.arrival_jitter_s,
                    seed=self.experiment.workload.seed,
                )
        return [float(start) * self.scale.time_dilation for start in starts]

    def limits(self, storage_read_bytes_per_s: Mapping[str, float]) -> Limits:
        """The request scheduler's limits (paper 6.1): alpha from the measured ceiling of every host, beta
        from what is predicted for this replay's prompts."""
        scheduler, geometry = self.experiment.request_scheduler, self.scale.geometry
        token_bytes = geometry.full_block_bytes / geometry.block_tokens
        alpha_s = scheduler.alpha_s * self.scale.time_dilation
        prediction = prediction_of(self.scale.engines["prefill"])
        turns = [turn for session in self.sessions for turn in session.turns]
        prompts = sum(turn.hit_tokens + turn.new_tokens for turn in turns)
        seconds = sum(prediction.prompt_s(turn.hit_tokens, turn.new_tokens) for turn in turns)
        return Limits(
            alpha_tokens={h: alpha_s * rate / token_bytes for h, rate in storage_read_bytes_per_s.items()},
            beta_tokens=scheduler.beta_s * prompts / seconds,
            decode_hbm_tokens=int(self.scale.engines["decode"].kv_hbm_bytes / kv_bytes_per_token(self.model)),
            decode_buffer_tokens=int(self.scale.buffer_bytes["decode"] / token_bytes),
        )

    def gap_s(self, turn: TurnPlan) -> float:
        """Emulated seconds between a session's turns."""
        replay = self.experiment.replay
        return min(turn.gap_s * replay.gap_scale, replay.gap_cap_s) * self.scale.time_dilation

    @property
    def fetch_interval_s(self) -> float:
        """Emulated seconds between two fetches of a group's leader."""
        return self.experiment.request_scheduler.fetch_interval_s * self.scale.time_dilation

    def ceiling_objects(self) -> tuple[StoredObject, ...]:
        """Objects of a typical hit's size, to measure storage paths with reads like the replay's."""
        hits = sorted(len(turn.hit_ids) for plan in self.sessions for turn in plan.turns)
        blocks = max(1, hits[len(hits) // 2])
        return tuple(
            StoredObject(f"ceiling/{i}", (BlockRange(i * blocks, blocks),)) for i in range(_CEILING_OBJECTS)
        )

    def readable_ceiling_objects(self) -> tuple[tuple[str, int], ...]:
        """Their keys and sizes in bytes."""
        block_bytes = self.scale.geometry.full_block_bytes
        return tuple((o.key, block_count(o) * block_bytes) for o in self.ceiling_objects())

    def host_config(self, site: Site, host: SiteHost) -> HostConfig:
        """What the agent on ``host`` is told."""
        scale, measurement = self.scale, self.experiment.measurement
        storage, transport = self.experiment.storage, self.experiment.transport
        storage_host = host.role == "storage"
        return HostConfig(
            host=host.name,
            role=host.role,
            engines=0 if storage_host else scale.engines_per_host,
            geometry=scale.geometry,
            buffer_bytes=scale.buffer_bytes.get(host.role, _STORAGE_HOST_BUFFER_BYTES),
            storage=StorageConfig(
                kind="http" if host.storage.url else "posix",
                url=host.storage.url,
                root=host.storage.root,
                read_streams=storage.read_streams,
                read_chunk_bytes=storage.read_chunk_bytes,
                cache=storage.cache,
                engine=storage.engine,
                pace_bytes_per_s=host.storage.pace_bytes_per_s,
            ),
            rails=tuple(
                RailConfig(transport_config(transport, site, host, rail), rail.nic) for rail in host.rails
            ),
            buffer_pages="base" if storage_host else transport.buffer_pages,
            nics=tuple(NicConfig(nic.name, nic.network, shaped_classes(nic)) for nic in host.nics),
            engine=scale.engines["decode" if host.role == "decode" else "prefill"],
            compute=self._compute(host),
            fetch_interval_s=self.fetch_interval_s,
            content_seed=int(self.trace.sha256[:15], 16),
            verify_every=measurement.verify_every,
            telemetry_interval_s=measurement.telemetry_interval_s,
            turn_timeout_s=measurement.deadline_s,
            claim=site.claim,
        )

    def _compute(self, host: SiteHost) -> ComputeConfig:
        """What computes on ``host``; where nothing does, none of the rest matters."""
        compute = self.experiment.compute
        if host.role == "storage" or compute.device is None:
            return ComputeConfig()
        return ComputeConfig(
            compute.kind,
            compute.device,
            host.gpus,
            self.scale.expert_engines[host.role],
            host.python,
            compute.copy,
        )

    def cluster_spec(self) -> ClusterSpec:
        """The emulated cluster that this takes; raises ExperimentError if there can be none."""
        experiment, scaled = self.experiment, self.scale
        try:
            return ClusterSpec(
                prefill_hosts=experiment.cluster.prefill_hosts,
                decode_hosts=experiment.cluster.decode_hosts,
                storage_nic_bytes_per_s=scaled.storage_nic_bytes_per_s,
                compute_nic_bytes_per_s=scaled.compute_nic_bytes_per_s,
                high_class=HighClass(tos=experiment.transport.classes["high"].traffic_class),
                soft_roce=experiment.transport.kind == "verbs" and not experiment.transport.verbs.device,
            )
        except ClusterError as error:
            raise ExperimentError(f"cluster: {error}") from None


def block_count(stored: StoredObject) -> int:
    """Full Blocks in an object."""
    return sum(blocks.count for blocks in stored.blocks)


def prepare(experiment: Experiment) -> Preparation:
    """Resolve trace, model, hardware and scale; raises ExperimentError, TraceError or ModelError."""
    check_unscaled(experiment)
    trace = _trace(experiment)
    model = find_model(experiment.model)
    profile = load_profile(experiment.cluster.profile).replaced(experiment.cluster.replace)
    replay = experiment.replay
    windows = agents_for(
        trace, replay.agents, replay.turns_per_agent or None, replay.start, experiment.workload.seed
    )
    plan = plan_replay(windows)
    scaled = scale(experiment, profile, model, trace.block_tokens)
    check_weights(profile, scaled, model)
    check_buffers(scaled, plan.sessions)
    check_hbm(experiment, scaled, model, plan.sessions)
    return Preparation(
        experiment=experiment,
        profile=profile,
        model=model,
        trace=trace,
        windows=windows,
        plan=plan,
        scale=scaled,
        hit_rate=window_hit_rate(windows),
        read_bytes=expected_read_bytes(windows, scaled.geometry.full_block_bytes),
        warnings=tuple(bottlenecks(experiment, profile)),
    )


def transport_config(transport: Transport, site: Site, host: SiteHost, rail: SiteRail) -> TransportConfig:
    """An experiment's transport through one of a host's compute NICs. Storage hosts serve no turns: theirs
    needs no RDMA."""
    return TransportConfig(
        kind="tcp" if host.role == "storage" else transport.kind,
        bind_address=rail.address,
        key=site.transport_key,
        timeout_s=transport.timeout_s,
        pace_bytes_per_s=host.compute_pace_bytes_per_s / len(host.rails),
        classes=transport.classes,
        verbs=_verbs(transport.verbs, rail),
    )


def _verbs(verbs: VerbsConfig, rail: SiteRail) -> VerbsConfig:
    """With the NIC's RDMA port, where that is known."""
    if rail.rdma is None:
        return verbs
    device, port, gid_index = rail.rdma
    return msgspec.structs.replace(verbs, device=device, port=port, gid_index=gid_index)


def _trace(experiment: Experiment) -> Trace:
    workload = experiment.workload
    if workload.trace is not None:
        trace = load_trace(Path(workload.trace), tokenizer=workload.tokenizer)
        return scale_trace(trace, workload.append_scale, workload.generated_scale, workload.max_agent_tokens)
    assert workload.synthesize is not None, "checked when the experiment was loaded"
    return synthesize(
        workload.synthesize,
        workload.synthesized_sessions,
        workload.seed,
        append_scale=workload.append_scale,
        generated_scale=workload.generated_scale,
    )

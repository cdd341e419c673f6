"""The sections of an experiment file: what to replay, on what cluster, under which policies."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import force_setattr

from hosts.config import (
    CacheMode,
    ClassMark,
    ComputeKind,
    CopyKind,
    DeviceKind,
    PageKind,
    ReadEngine,
    TrafficClass,
    VerbsConfig,
    default_classes,
)

PolicyName = Literal["prefill_only", "dual_path", "decode_only", "round_robin", "oracle", "split"]
Positive = Annotated[int, Meta(ge=1)]
NonNegative = Annotated[float, Meta(ge=0)]
AboveZero = Annotated[float, Meta(gt=0, le=sys.float_info.max)]  # TOML has an `inf`, too


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of a TOML file; unknown keys are refused."""


class Workload(Section, frozen=True):
    """Either ``synthesize`` (a paper trace by name) or ``trace`` (a file or folder).

    ``append_scale`` and ``generated_scale`` multiply appended and generated tokens; a session ends where
    it would pass ``max_agent_tokens`` (a synthesized one: its trace's MAL). A trace of texts needs a
    ``tokenizer``.
    """

    synthesize: Literal["paper-32k", "paper-48k", "paper-64k"] | None = None
    trace: str | None = None
    seed: Annotated[int, Meta(ge=0)] = 1
    synthesized_sessions: Positive = 500
    append_scale: AboveZero = 1.0
    generated_scale: AboveZero = 1.0
    max_agent_tokens: Positive | None = None
    tokenizer: str | None = None


class Replay(Section, frozen=True):
    """``agents`` sessions, each replaying ``turns_per_agent`` turns in order (0: all) from ``start`` on.

    They start together (``at_once``, the paper's offline setting), as a Poisson process of
    ``agents_per_s``, or as ``recorded`` (x ``arrival_scale``, plus up to ``arrival_jitter_s`` where the
    recording is coarse). The next turn arrives when the previous one is done plus the recorded gap x
    ``gap_scale``, capped at ``gap_cap_s``; ``gap_scale = 0`` is the paper's setting (7.1). Real seconds.
    """

    agents: Positive
    turns_per_agent: Annotated[int, Meta(ge=0)] = 0
    start: Literal["beginning", "middle", "random"] = "beginning"
    arrivals: Literal["at_once", "poisson", "recorded"] = "at_once"
    agents_per_s: AboveZero | None = None
    arrival_scale: AboveZero = 1.0
    arrival_jitter_s: NonNegative = 0.0
    gap_scale: NonNegative = 0.0
    gap_cap_s: NonNegative = 60.0


class Online(Section, frozen=True):
    """Agents arrive as a Poisson process until the point is decided (paper 7.4); real seconds.

    A point violates the SLO when the mean TTFT or TPOT of the last ``window_s`` is above its limit, and
    is steady when that TTFT is within ``tolerance`` of the one ``lookback_s`` before, or so far below the
    limit that it would take ten times as long to get there. Either the points ``agents_per_s``, or, if none
    are given, a bisection for the highest within the SLO, from ``search_from`` to ``search_to``, until the
    bracket is narrower than ``resolution``.
    """

    agents_per_s: tuple[AboveZero, ...] = ()
    search_from: AboveZero | None = None
    search_to: AboveZero | None = None
    resolution: Annotated[float, Meta(gt=0, lt=1)] = 0.05
    slo_ttft_s: AboveZero = 4.0
    slo_tpot_s: AboveZero = 0.05
    window_s: AboveZero = 150.0
    lookback_s: AboveZero = 1800.0
    tolerance: AboveZero = 0.05
    limit_s: AboveZero = 3600.0


class Cluster(Section, frozen=True):
    """xPyD of one hardware profile; ``replace`` puts other values in place of the profile's figures, by
    name and in the profile's units."""

    prefill_hosts: Positive
    decode_hosts: Positive
    profile: str = "hopper-400g"
    replace: dict[str, AboveZero] = {}


class Scale(Section, frozen=True):
    """Emulated bytes = real / ``bytes_divisor``; emulated time = real x ``time_dilation``; one layer is
    moved for ``layers_divisor`` of the model's."""

    bytes_divisor: AboveZero
    time_dilation: AboveZero
    layers_divisor: Positive = 1


class SchedulerConstants(Section, frozen=True):
    """The paper's constants (section 6): alpha is what a host reads in ``alpha_s``, beta what an engine
    processes in ``beta_s``; a forward batch's attention stays below ``compute_quota_s``. How often
    leaders fetch work, the paper does not say. Real seconds."""

    alpha_s: AboveZero = 3.0
    beta_s: AboveZero = 5.0
    compute_quota_s: AboveZero = 0.3
    fetch_interval_s: AboveZero = 0.005


class Variant(Section, frozen=True):
    """A policy with parts of the engine switched off, for ablations: ``layerwise`` prefill (4.1) and
    load-aware ``scheduling`` (6.1)."""

    policy: PolicyName
    layerwise: bool = True
    scheduling: bool = True


class Storage(Section, frozen=True):
    """Streams and chunk of each host's read queue (bytes as moved).

    ``cache``: whether the storage host reads through its page cache or past it; ``engine``: how a host reads
    files, where it does itself.
    """

    read_streams: Positive = 4
    read_chunk_bytes: Annotated[int, Meta(ge=4096)] = 256 * 1024
    cache: CacheMode = "page"
    engine: ReadEngine = "io_uring"


class Transport(Section, frozen=True):
    """What moves Layer Blocks between hosts. A peer that is silent for ``timeout_s`` (wall clock) is lost.

    ``buffer_pages`` are behind the hosts' buffers; ``classes`` are how the traffic classes are marked;
    ``verbs`` is for ``kind = "verbs"``; ``kind = "nixl"`` wants NIXL installed on the hosts.
    """

    kind: Literal["tcp", "verbs", "nixl"] = "tcp"
    timeout_s: AboveZero = 10.0
    buffer_pages: PageKind = "transparent"
    classes: dict[TrafficClass, ClassMark] = msgspec.field(default_factory=default_classes)
    verbs: VerbsConfig = VerbsConfig()


class Compute(Section, frozen=True):
    """What stands for the engines: ``timed`` waits as long as the profile's GPU would take; ``torch`` runs
    kernels of the model's shapes on the hosts' GPUs (``device``, else ``cuda``; for tests ``cpu``), with
    KV in their memory, copied there by ``copy``."""

    kind: ComputeKind = "timed"
    device: DeviceKind | None = None
    copy: CopyKind = "cuda"

    def __post_init__(self) -> None:
        if self.kind == "torch" and self.device is None:
            force_setattr(self, "device", "cuda")


class Measurement(Section, frozen=True):
    """``policies`` are policies or ``[variants.NAME]`` by name and alternate A B B A. Their first one is the
    ``baseline`` and their last one the ``contender`` unless named. ``deadline_s`` bounds the whole run
    (wall clock)."""

    policies: Annotated[tuple[str, ...], Meta(min_length=1)] = ("prefill_only", "dual_path")
    baseline: str = ""
    contender: str = ""
    repetitions: Positive = 3
    ceiling_s: AboveZero = 2.0
    telemetry_interval_s: Annotated[float, Meta(ge=0.01, le=0.1)] = 0.1
    verify_every: Positive = 16
    deadline_s: AboveZero = 600.0

    def __post_init__(self) -> None:
        force_setattr(self, "baseline", self.baseline or self.policies[0])
        force_setattr(self, "contender", self.contender or self.policies[-1])


class Deadlines(Section, frozen=True):
    """Wall clock seconds that a phase may take: until a rack's hosts are ready, storage primed, ceilings
    measured, and for the warm-up and each repetition. ``measurement.deadline_s`` bounds all together."""

    deploy_s: AboveZero = 600.0
    prime_s: AboveZero = 1800.0
    ceilings_s: AboveZero = 120.0
    warm_up_s: AboveZero = 300.0
    repetition_s: AboveZero = 3600.0


class Experiment(Section, frozen=True):
    """One comparison, ready to run; ``online`` makes it one of arrival rates instead of JCTs."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    model: str
    workload: Workload
    replay: Replay
    cluster: Cluster
    scale: Scale
    description: str = ""
    storage: Storage = Storage()
    transport: Transport = Transport()
    compute: Compute = Compute()
    request_scheduler: SchedulerConstants = SchedulerConstants()
    variants: dict[str, Variant] = {}
    measurement: Measurement = Measurement()
    deadlines: Deadlines = Deadlines()
    online: Online | None = None

    def variant(self, name: str) -> Variant:
        """What ``measurement.policies`` means by ``name``."""
        return self.variants[name] if name in self.variants else msgspec.convert({"policy": name}, Variant)

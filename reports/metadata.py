"""``metadata.json``: a run's circumstances and one entry a repetition, as the run directory documents them.

Sizes are emulated bytes and ``*_s`` emulated seconds, unless said to be real.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

FORMAT_VERSION = 2
"""The ``metadata.json`` that is understood. 1: first version. 2: variants, limits and expectations a
repetition, online runs; tables with chunks, split reads and forward passes."""


class ReportError(Exception):
    """A directory that is not a readable run; the text says what, where, found, expected and fix."""


class Trace(msgspec.Struct, frozen=True):
    """The replayed window of the trace; ``hit_rate`` is token-weighted without first turns."""

    sha256: str
    format: str = ""
    sessions: int = 0
    turns: int = 0
    hit_rate: float | None = None
    source: str = ""
    filters: list[str] = []


class Variant(msgspec.Struct, frozen=True):
    """What a name in a run stands for: a policy, and which of the paper's other two parts are on (7.4)."""

    policy: str
    layerwise: bool = True
    scheduling: bool = True


class Slo(msgspec.Struct, frozen=True):
    """What an online run holds its latencies against, real seconds (paper, section 7)."""

    ttft_s: float
    tpot_s: float


class Scale(msgspec.Struct, frozen=True):
    """emulated = real / bytes_divisor (bytes), real x time_dilation (time), real / rate_divisor (rates)."""

    bytes_divisor: float = 1.0
    time_dilation: float = 1.0
    rate_divisor: float = 1.0


class Model(msgspec.Struct, frozen=True):
    """KV geometry: ``layer_block_bytes`` as moved (emulated), ``kv_bytes_per_token`` of the real model."""

    name: str = ""
    layers: int = 0
    block_tokens: int = 0
    layer_block_bytes: int = 0
    kv_bytes_per_token: float = 0.0


class ProfileValue(msgspec.Struct, frozen=True):
    """One figure of the hardware profile and where it comes from."""

    value: Any
    unit: str = ""
    source: str = ""


class Host(msgspec.Struct, frozen=True):
    """One host; the nominal rate is emulated and absent where nothing shapes the NIC."""

    name: str
    role: str
    engines: int = 0
    storage_nic: str | None = None
    storage_nic_nominal_gbit_per_s: float | None = None
    facts: dict[str, Any] = {}


class Emulation(msgspec.Struct, frozen=True):
    """How the cluster was made, and what that leaves unreal (``labels``)."""

    mode: str = ""
    storage: str = ""
    storage_cache: str = ""
    transport: str = ""
    labels: list[str] = []


class Ceiling(msgspec.Struct, frozen=True):
    """Payload bytes/s measured on one host's storage path just before the repetitions."""

    storage_read_bytes_per_s: float
    measured_at: str = ""


class Attempt(msgspec.Struct, frozen=True):
    """One go at a run, which is resumed or retried in others until all repetitions are complete.

    ``repetitions`` are those that it began, and one that failed is in a later attempt again; ``ended`` is
    how, in words, and empty while it goes on. The run's own ``hosts`` and ``ceilings`` are those of its last
    attempt.
    """

    began_at: str
    repetitions: list[int] = []
    ended: str = ""
    ceilings: dict[str, Ceiling] = {}
    hosts: list[Host] = []


class Calibration(msgspec.Struct, frozen=True):
    """The rack's stored calibration as the run found it; ``age_days`` when the run began.

    It is ``stale`` by its age, or where the hardware that it was measured on has changed:
    ``fingerprint_changed`` are those hosts.
    """

    measured_at: str
    age_days: float
    stale: bool = False
    ceilings: dict[str, Ceiling] = {}
    fingerprint_changed: list[str] = []


class Control(msgspec.Struct, frozen=True):
    """What the control node cost during one repetition, in seconds of its clock."""

    decision_s_total: float = 0.0
    message_rtt_s_p50: float | None = None
    message_rtt_s_p99: float | None = None
    loop_lag_s_p99: float | None = None
    cpu_s: float = 0.0


class Limits(msgspec.Struct, frozen=True):
    """What the request scheduler went by (paper 6.1): ``alpha_tokens`` by host, ``beta_tokens`` an engine,
    KV tokens in a decode engine's HBM."""

    alpha_tokens: dict[str, float] = {}
    beta_tokens: float = 0.0
    decode_hbm_tokens: int = 0


class Repetition(msgspec.Struct, frozen=True):
    """One replay of the trace under one variant, whose name ``policy`` is.

    Bytes are counted by the storage and transport back-ends; ``expected_*`` come from the trace alone.
    ``agents_per_s`` (real) is absent offline; ``stopped`` says what ended the repetition.
    """

    repetition: int
    policy: str
    jct_s: float | None = None
    turns: int = 0
    expected_turns: int = 0
    read_bytes: int = 0
    expected_read_bytes: int = 0
    written_bytes: int = 0
    transferred_bytes: int = 0
    verified_blocks: int = 0
    mismatched_blocks: int = 0
    control: Control = Control()
    telemetry_cpu_s: dict[str, float] = {}
    agents_per_s: float | None = None
    stopped: str = ""
    limits: Limits = Limits()
    complete: bool = False


class StoredPoint(msgspec.Struct, frozen=True):
    """One arrival rate tried: ``outcome`` is ``steady``, or what ended it."""

    agents_per_s: float
    repetition: int
    outcome: str


class StoredSearch(msgspec.Struct, frozen=True):
    """The rates tried for one policy; ``max_agents_per_s`` is absent where none met the SLO."""

    max_agents_per_s: float | None = None
    points: list[StoredPoint] = []


class Metadata(msgspec.Struct, frozen=True):
    """``metadata.json``."""

    format_version: int
    run_id: str
    status: str
    trace: Trace
    failure: str | None = None
    started_at: str = ""
    dualpath_version: str = ""
    experiment: dict[str, Any] = {}
    baseline: str | None = None
    contender: str | None = None
    variants: dict[str, Variant] = {}
    scale: Scale = Scale()
    model: Model = Model()
    profile: dict[str, ProfileValue] = {}
    hosts: list[Host] = []
    emulation: Emulation = Emulation()
    ceilings: dict[str, Ceiling] = {}
    repetitions: list[Repetition] = []
    slo: Slo | None = None
    online: dict[str, StoredSearch] | None = None
    warnings: list[str] = []
    attempts: list[Attempt] = []
    calibration: Calibration | None = None


class _Version(msgspec.Struct):
    format_version: int


def read_metadata(directory: Path) -> Metadata:
    """The metadata of the run in ``directory``; raises :class:`ReportError` for what is not one."""
    path = directory / "metadata.json"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ReportError(
            f"{path}: cannot be read ({error.strerror}); expected a run directory as 'dualpath run --out "
            "DIR' leaves it; check the path"
        ) from error
    try:
        version = msgspec.json.decode(content, type=_Version).format_version
        if version != FORMAT_VERSION:
            made_by = "a newer" if version > FORMAT_VERSION else "an older"
            raise ReportError(
                f"{path}: found format_version {version}, expected {FORMAT_VERSION}; the run was made by "
                f"{made_by} dualpath: report it with that version, or repeat the run"
            )
        return msgspec.json.decode(content, type=Metadata)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ReportError(
            f"{path}: not the metadata of a run ({error}); expected the JSON document that 'dualpath run' "
            "writes; repeat the run, or restore the file"
        ) from error

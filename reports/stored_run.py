"""A stored run, read back: the only thing that this package knows about the rest of the testbed.

A run directory may be partial (the run was interrupted, or failed before its first repetition). A table that
was not written reads as an empty one with the right columns; what cannot be a run at all is a
:class:`ReportError`. Sizes are emulated bytes, ``*_s`` are emulated seconds, ``*_at_ns`` are nanoseconds of
one host's clock since that host was told that the repetition began.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

FORMAT_VERSION = 1
"""The newest ``metadata.json`` that is understood. 1: first version."""

ORACLE = "oracle"
"""The policy that by definition loads and transfers nothing (paper, section 7)."""


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


class Expected(msgspec.Struct, frozen=True):
    """What the trace alone says that one repetition reads and replays."""

    read_bytes_per_repetition: int = 0
    turns_per_repetition: int = 0


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
    compute_nic: str | None = None
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


class Control(msgspec.Struct, frozen=True):
    """What the control node cost during one repetition, in seconds of its clock."""

    decision_s_total: float = 0.0
    message_rtt_s_p50: float | None = None
    message_rtt_s_p99: float | None = None
    loop_lag_s_p99: float | None = None
    cpu_s: float = 0.0


class Repetition(msgspec.Struct, frozen=True):
    """One replay of the trace under one policy; bytes are counted by the storage and transport back-ends."""

    repetition: int
    policy: str
    jct_s: float | None = None
    turns: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    transferred_bytes: int = 0
    verified_blocks: int = 0
    mismatched_blocks: int = 0
    control: Control = Control()
    telemetry_cpu_s: dict[str, float] = {}
    complete: bool = False


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
    expected: Expected = Expected()
    scale: Scale = Scale()
    model: Model = Model()
    profile: dict[str, ProfileValue] = {}
    hosts: list[Host] = []
    emulation: Emulation = Emulation()
    ceilings: dict[str, Ceiling] = {}
    repetitions: list[Repetition] = []
    sla: Any = None


class _Version(msgspec.Struct):
    format_version: int


def _columns(**kinds: str) -> dict[str, str]:
    return {name: kind for kind, names in kinds.items() for name in names.split()}


_RUN = _columns(int64="repetition", str="policy")
TURN_COLUMNS = _RUN | _columns(
    str="session_id prefill_host decode_host path",
    int64="turn turn_id prefill_engine decode_engine input_tokens hit_tokens new_tokens output_tokens "
    "arrived_at_ns dispatched_at_ns first_token_at_ns done_at_ns allocate_ns read_ns engine_wait_ns "
    "compute_ns transfer_ns decode_ns persist_ns read_bytes layer_read_bytes layer_write_bytes "
    "persisted_bytes verified_blocks",
)
TRANSFER_COLUMNS = _RUN | _columns(
    str="session_id kind host peer network", int64="turn turn_id bytes operations begin_at_ns end_at_ns"
)
NIC_COLUMNS = _RUN | _columns(str="host role nic network", int64="at_ns rx_bytes tx_bytes")
HOST_COLUMNS = _RUN | _columns(
    str="host role", int64="at_ns memory_used_bytes sample_cost_ns", float64="cpu_busy_fraction agent_cpu_s"
)


@dataclass(frozen=True)
class StoredRun:
    """Typed access to one run directory. A row of ``turns`` is a turn, of ``transfers`` a stage of a turn."""

    directory: Path
    metadata: Metadata
    turns: pd.DataFrame
    transfers: pd.DataFrame
    nic_samples: pd.DataFrame
    host_samples: pd.DataFrame

    @classmethod
    def load(cls, run_dir: str | Path) -> StoredRun:
        """Read a run directory; raises :class:`ReportError` for what is not one."""
        directory = Path(run_dir)
        return cls(
            directory=directory,
            metadata=_read_metadata(directory),
            turns=_read_table(directory / "turns.parquet", TURN_COLUMNS),
            transfers=_read_table(directory / "transfers.parquet", TRANSFER_COLUMNS),
            nic_samples=_read_table(directory / "telemetry" / "nics.parquet", NIC_COLUMNS),
            host_samples=_read_table(directory / "telemetry" / "hosts.parquet", HOST_COLUMNS),
        )

    @cached_property
    def policies(self) -> list[str]:
        """Baseline, contender, then the others as they were first run."""
        named = [self.metadata.baseline, self.metadata.contender]
        seen = [repetition.policy for repetition in self.metadata.repetitions]
        partial = [str(policy) for policy in self.turns["policy"].unique()]
        return list(dict.fromkeys(name for name in [*named, *seen, *partial] if name))

    def complete(self, policy: str) -> list[Repetition]:
        """The repetitions of ``policy`` that ran to their end: the only ones that enter a metric."""
        return [r for r in self.metadata.repetitions if r.policy == policy and r.complete and r.jct_s]

    @cached_property
    def serving_hosts(self) -> list[Host]:
        """Prefill hosts, then decode hosts: those with a storage NIC under test."""
        order = {"prefill": 0, "decode": 1}
        return sorted((h for h in self.metadata.hosts if h.role in order), key=lambda host: order[host.role])


def of_repetition(table: pd.DataFrame, repetition: int, policy: str) -> pd.DataFrame:
    """The rows of one repetition; repetitions may be numbered through the run or within a policy."""
    return table[(table["repetition"] == repetition) & (table["policy"] == policy)]


def of_complete(run: StoredRun, table: pd.DataFrame, policy: str) -> pd.DataFrame:
    """The rows of all complete repetitions of ``policy``."""
    numbers = [repetition.repetition for repetition in run.complete(policy)]
    return table[(table["policy"] == policy) & table["repetition"].isin(numbers)]


def _read_metadata(directory: Path) -> Metadata:
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
        if version > FORMAT_VERSION:
            raise ReportError(
                f"{path}: found format_version {version}, expected at most {FORMAT_VERSION}; the run was "
                "made by a newer dualpath: upgrade, or report it with that version"
            )
        return msgspec.json.decode(content, type=Metadata)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ReportError(
            f"{path}: not the metadata of a run ({error}); expected the JSON document that 'dualpath run' "
            "writes; repeat the run, or restore the file"
        ) from error


def _read_table(path: Path, columns: dict[str, str]) -> pd.DataFrame:
    nothing = pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in columns.items()})
    if not path.exists():
        return nothing
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise ReportError(
            f"{path}: not a readable Parquet file ({error}); expected the table that 'dualpath run' writes; "
            "remove the file to report the run without it"
        ) from error
    if table.empty:
        return nothing
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise ReportError(
            f"{path}: found no column {', '.join(missing)}, expected all of {', '.join(columns)}; report "
            "the run with the dualpath version that made it"
        )
    return table

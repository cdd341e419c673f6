"""A stored run, read back: the only thing that this package knows about the rest of the testbed.

A run directory may be partial (the run was interrupted, or failed before its first repetition). A table that
was not written reads as an empty one with the right columns; what cannot be a run at all is a
:class:`ReportError`. Sizes are emulated bytes, ``*_s`` are emulated seconds, ``*_at_ns`` are nanoseconds of
one host's clock since that host was told that the repetition began.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from reports.metadata import Host, Metadata, Repetition, ReportError, Variant, read_metadata
from reports.variants import ORACLE, differ_in_switches, step


def _columns(**kinds: str) -> dict[str, str]:
    return {name: kind for kind, names in kinds.items() for name in names.split()}


_RUN = _columns(int64="repetition", str="policy")
TURN_COLUMNS = _RUN | _columns(
    str="session_id prefill_host decode_host path",
    int64="turn turn_id prefill_engine decode_engine input_tokens hit_tokens new_tokens output_tokens "
    "arrived_at_ns dispatched_at_ns first_token_at_ns done_at_ns allocate_ns read_ns hbm_wait_ns "
    "engine_wait_ns compute_ns transfer_ns chunks hbm_load_ns second_token_ns decode_ns persist_ns "
    "read_bytes prefill_read_bytes decode_read_bytes layer_read_bytes layer_write_bytes persisted_bytes "
    "verified_blocks",
)
TRANSFER_COLUMNS = _RUN | _columns(
    str="session_id kind host peer network", int64="turn turn_id bytes operations begin_at_ns end_at_ns"
)
FORWARD_COLUMNS = _RUN | _columns(
    str="host",
    int64="forward begin_at_ns end_at_ns engine attention_ns requests new_tokens cached_tokens",
)
_NIC = _RUN | _columns(str="host role nic network")
ADDED_NIC_COLUMNS = {"rdma_port": "", "rdma_kind": "none", "rdma_rx_bytes": 0, "rdma_tx_bytes": 0}
"""What older runs of the same format lack, and stands for it."""
NIC_COLUMNS = _NIC | _columns(
    int64="at_ns rx_bytes tx_bytes rdma_rx_bytes rdma_tx_bytes", str="rdma_port rdma_kind"
)
CLASS_COLUMNS = _NIC | _columns(str="traffic_class", int64="tx_bytes", Int64="rx_bytes")
ERROR_COLUMNS = _NIC | _columns(str="rdma_port counter", int64="count")
GPU_COLUMNS = _RUN | _columns(
    str="host role uuid name error",
    int64="gpu at_ns sample_cost_ns",
    Int64="memory_bytes max_sm_clock_mhz utilization_percent memory_used_bytes pcie_tx_bytes pcie_rx_bytes "
    "sm_clock_mhz memory_clock_mhz clocks_event_reasons temperature_celsius power_mw",
)
HOST_COLUMNS = _RUN | _columns(
    str="host role", int64="at_ns memory_used_bytes sample_cost_ns", float64="cpu_busy_fraction agent_cpu_s"
)


@dataclass(frozen=True)
class StoredRun:
    """Typed access to one run directory.

    A row of ``turns`` is a turn, of ``transfers`` a stage of a turn, of ``forwards`` one engine's part of a
    forward pass, of ``class_bytes`` and ``error_counts`` one class or counter of a NIC in a repetition.
    """

    directory: Path
    metadata: Metadata
    turns: pd.DataFrame
    transfers: pd.DataFrame
    forwards: pd.DataFrame
    nic_samples: pd.DataFrame
    class_bytes: pd.DataFrame
    error_counts: pd.DataFrame
    gpu_samples: pd.DataFrame
    host_samples: pd.DataFrame

    @classmethod
    def load(cls, run_dir: str | Path) -> StoredRun:
        """Read a run directory; raises :class:`ReportError` for what is not one."""
        directory = Path(run_dir)
        return cls(
            directory=directory,
            metadata=read_metadata(directory),
            turns=_read_table(directory / "turns.parquet", TURN_COLUMNS),
            transfers=_read_table(directory / "transfers.parquet", TRANSFER_COLUMNS),
            forwards=_read_table(directory / "forwards.parquet", FORWARD_COLUMNS),
            nic_samples=_read_table(directory / "telemetry" / "nics.parquet", NIC_COLUMNS, ADDED_NIC_COLUMNS),
            class_bytes=_read_table(directory / "telemetry" / "classes.parquet", CLASS_COLUMNS),
            error_counts=_read_table(directory / "telemetry" / "errors.parquet", ERROR_COLUMNS),
            gpu_samples=_read_table(directory / "telemetry" / "gpus.parquet", GPU_COLUMNS),
            host_samples=_read_table(directory / "telemetry" / "hosts.parquet", HOST_COLUMNS),
        )

    @cached_property
    def policies(self) -> list[str]:
        """As the experiment lists them; an ablation's step by step."""
        metadata = self.metadata
        listed = metadata.experiment.get("measurement", {}).get("policies", [])
        named = [metadata.baseline, metadata.contender]
        seen = [repetition.policy for repetition in metadata.repetitions]
        partial = [str(policy) for policy in self.turns["policy"].unique()]
        names = list(dict.fromkeys(name for name in [*listed, *named, *seen, *partial] if name))
        known = [name for name in names if name in metadata.variants]
        if not differ_in_switches(metadata.variants[name] for name in known):
            return names
        known.sort(key=lambda name: step(metadata.variants[name]))
        return list(dict.fromkeys([*known, *names]))

    @cached_property
    def variants(self) -> dict[str, Variant]:
        """What the policies of this run stand for, in their order."""
        known = self.metadata.variants
        return {name: known[name] for name in self.policies if name in known}

    @property
    def is_ablation(self) -> bool:
        """Whether the policies differ in the paper's other parts (7.4), not only in who reads."""
        return differ_in_switches(self.variants.values())

    def is_oracle(self, policy: str) -> bool:
        """Whether a variant reads and transfers nothing, whatever its name is."""
        variant = self.metadata.variants.get(policy)
        return variant is not None and variant.policy == ORACLE

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


def of_repetitions(table: pd.DataFrame, policy: str, repetitions: Iterable[Repetition]) -> pd.DataFrame:
    """The rows of several repetitions of ``policy``."""
    numbers = [repetition.repetition for repetition in repetitions]
    return table[(table["policy"] == policy) & table["repetition"].isin(numbers)]


def _read_table(path: Path, columns: dict[str, str], added: Mapping[str, Any] | None = None) -> pd.DataFrame:
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
    table = table.assign(**{name: value for name, value in (added or {}).items() if name not in table})
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise ReportError(
            f"{path}: found no column {', '.join(missing)}, expected all of {', '.join(columns)}; report "
            "the run with the dualpath version that made it"
        )
    return table

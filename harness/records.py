"""What a run's repetitions left behind, in the shape that it is stored in; saved after each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from harness.recording import Repetition, forwards_table, transfers_table, turns_table
from harness.run_store import RunStore
from harness.telemetry_tables import classes_table, errors_table, gpus_table, hosts_table, nics_table

_Tables = dict[str, Callable[[Repetition, Mapping[str, str]], pd.DataFrame]]
_TABLES: _Tables = {
    "turns.parquet": lambda repetition, roles: turns_table([repetition]),
    "transfers.parquet": lambda repetition, roles: transfers_table([repetition]),
    "forwards.parquet": lambda repetition, roles: forwards_table([repetition]),
    "telemetry/nics.parquet": lambda repetition, roles: nics_table([repetition], roles),
    "telemetry/classes.parquet": lambda repetition, roles: classes_table([repetition], roles),
    "telemetry/errors.parquet": lambda repetition, roles: errors_table([repetition], roles),
    "telemetry/gpus.parquet": lambda repetition, roles: gpus_table([repetition], roles),
    "telemetry/hosts.parquet": lambda repetition, roles: hosts_table([repetition], roles),
}


class Records:
    """``summaries`` of repetitions as in metadata.json, and the rows of each table."""

    def __init__(self) -> None:
        self.summaries: list[dict[str, Any]] = []
        self._rows: dict[str, list[pd.DataFrame]] = {name: [] for name in _TABLES}

    @classmethod
    def load(cls, directory: Path) -> Records:
        """Those of the complete repetitions in a run directory, whose metadata can be read."""
        records = cls()
        stored = msgspec.json.decode((directory / "metadata.json").read_bytes())["repetitions"]
        records.summaries = [summary for summary in stored if summary["complete"]]
        kept = {summary["repetition"] for summary in records.summaries}
        for name, rows in records._rows.items() if kept else ():
            if not (directory / name).exists():
                continue  # the run was begun by a version that had no such table
            table = pd.read_parquet(directory / name)
            rows.append(table[table["repetition"].isin(kept)] if len(table) else table)
        return records

    def add(self, repetition: Repetition, roles: Mapping[str, str]) -> None:
        """Take in a repetition that has ended, complete or not; ``roles`` by host."""
        self.summaries.append(repetition.summary())
        for name, table in _TABLES.items():
            self._rows[name].append(table(repetition, roles))

    def drop_incomplete(self) -> None:
        """Forget repetitions that did not end well, which are about to be repeated."""
        dropped = {summary["repetition"] for summary in self.summaries if not summary["complete"]}
        self.summaries = [summary for summary in self.summaries if summary["complete"]]
        for rows in self._rows.values():
            rows[:] = [frame for frame in rows if frame.empty or frame["repetition"].iloc[0] not in dropped]

    def complete(self) -> Iterable[dict[str, Any]]:
        """Summaries of the repetitions that ended well."""
        return [summary for summary in self.summaries if summary["complete"]]

    def save(self, store: RunStore) -> None:
        """Write all of it, metadata.json last: what it names is there."""
        for name, rows in self._rows.items():
            # An empty frame has no types and would take those of the others away.
            filled = [frame for frame in rows if not frame.empty]
            store.save_table(name, pd.concat(filled, ignore_index=True) if filled else pd.DataFrame())
        store.metadata["repetitions"] = self.summaries
        store.save_metadata()

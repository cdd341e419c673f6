"""Tables of every repetition, every definition, and the experiment as resolved."""

from __future__ import annotations

from reports.definitions import DEFINITIONS
from reports.stored_run import StoredRun
from reports.table import Table, flat
from reports.units import seconds


def detail_tables(run: StoredRun) -> list[Table]:
    """Every repetition, every definition, the experiment as resolved."""
    return [
        _repetitions(run),
        Table(
            "Definitions of all metrics",
            ["metric", "unit", "definition"],
            [list(definition) for definition in DEFINITIONS],
            numeric=False,
        ),
        Table(
            "Experiment as resolved",
            ["key", "value"],
            [[key, str(value)] for key, value in flat(run.metadata.experiment)],
            numeric=False,
        ),
    ]


def _repetitions(run: StoredRun) -> Table:
    rows = [
        [
            str(r.repetition),
            r.policy,
            seconds(r.jct_s),
            f"{r.turns:,} / {r.expected_turns:,}",
            r.stopped.replace("_", " "),
            f"{r.read_bytes:,}",
            f"{r.written_bytes:,}",
            f"{r.verified_blocks:,} / {r.mismatched_blocks:,}",
            seconds(r.control.message_rtt_s_p50),
            seconds(r.control.message_rtt_s_p99),
            seconds(r.control.loop_lag_s_p99),
            seconds(r.control.cpu_s),
            "yes" if r.complete else "no",
        ]
        for r in run.metadata.repetitions
    ]
    columns = [
        "repetition",
        "policy",
        "JCT",
        "turns / expected",
        "ended by",
        "bytes read",
        "bytes persisted",
        "blocks checked / wrong",
        "message RTT p50",
        "message RTT p99",
        "loop lag p99",
        "control CPU",
        "complete",
    ]
    return Table("Repetitions (emulated, in the order run)", columns, rows, labels=2)

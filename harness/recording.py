"""Turns and transfers as they come in, and the tables they are stored as."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from harness.scheduling import Limits, Placement
from hosts.protocol import RepetitionReport, Transfer, TurnDone

_SHOWN_TURNS = 3


@dataclass(slots=True)
class TurnRecord:
    """One turn; ``*_at_ns`` on the control node's clock since the repetition began.

    ``placement`` is None until the request scheduler has placed it.
    """

    session_id: str
    turn: int
    turn_id: int
    input_tokens: int
    hit_tokens: int
    new_tokens: int
    output_tokens: int
    hit_bytes: int
    arrived_at_ns: int
    placement: Placement | None = None
    dispatched_at_ns: int = 0
    first_token_at_ns: int = 0
    done_at_ns: int = 0
    done: TurnDone | None = None

    def __str__(self) -> str:
        placed = self.placement
        where = f"{placed.prefill.host}->{placed.decode.host}" if placed else "waiting for engines"
        return f"session {self.session_id} turn {self.turn} ({where})"


@dataclass(slots=True)
class ControlPlane:
    """What the control node itself cost during a repetition."""

    decision_s_total: float = 0.0
    message_rtt_s: list[float] = field(default_factory=list)
    loop_lag_s: list[float] = field(default_factory=list)
    cpu_s: float = 0.0

    def summary(self) -> dict[str, float]:
        """As stored in metadata.json."""
        return {
            "decision_s_total": self.decision_s_total,
            "message_rtt_s_p50": _quantile(self.message_rtt_s, 0.5),
            "message_rtt_s_p99": _quantile(self.message_rtt_s, 0.99),
            "loop_lag_s_p99": _quantile(self.loop_lag_s, 0.99),
            "cpu_s": self.cpu_s,
        }


@dataclass(slots=True)
class Repetition:
    """Everything recorded about one repetition of one policy (or variant of one).

    ``agents_per_s`` is the arrival rate (real) of a point of an online run, None offline; ``stopped``
    says why it ended. ``expected_read_bytes`` and ``expected_turns`` come from the trace alone.
    """

    index: int
    policy: str
    limits: Limits
    expected_read_bytes: int = 0
    expected_turns: int = 0
    agents_per_s: float | None = None
    stopped: str = "all_done"
    turns: list[TurnRecord] = field(default_factory=list)
    reports: dict[str, RepetitionReport] = field(default_factory=dict)
    control: ControlPlane = field(default_factory=ControlPlane)
    jct_s: float = 0.0
    complete: bool = False

    @property
    def written_prefix(self) -> str:
        """Below which everything lies that it persists; -1 is the warm-up."""
        return f"repetition{self.index}"

    def in_flight(self) -> str:
        """The turns that are not done, in words; '' if there are none, or were withdrawn at the end."""
        turns = [] if self.complete else [str(turn) for turn in self.turns if turn.done is None]
        more = f" and {len(turns) - _SHOWN_TURNS} more" if len(turns) > _SHOWN_TURNS else ""
        return f"{len(turns)} turns in flight: {', '.join(turns[:_SHOWN_TURNS])}{more}" if turns else ""

    def summary(self) -> dict[str, Any]:
        """As stored in metadata.json."""
        done = [t.done for t in self.turns if t.done is not None]
        transferred = (t.bytes for d in done for t in d.transfers if t.kind.startswith("layer_"))
        return {
            "repetition": self.index,
            "policy": self.policy,
            "agents_per_s": self.agents_per_s,
            "stopped": self.stopped,
            "limits": {
                "alpha_tokens": dict(self.limits.alpha_tokens),
                "beta_tokens": self.limits.beta_tokens,
                "decode_hbm_tokens": self.limits.decode_hbm_tokens,
                "decode_buffer_tokens": self.limits.decode_buffer_tokens,
            },
            "expected_read_bytes": self.expected_read_bytes,
            "expected_turns": self.expected_turns,
            "jct_s": self.jct_s,
            "turns": len(done),
            "read_bytes": sum(r.storage_read_bytes for r in self.reports.values()),
            "written_bytes": sum(r.storage_written_bytes for r in self.reports.values()),
            "transferred_bytes": sum(transferred),
            "verified_blocks": sum(d.verified_blocks for d in done),
            "mismatched_blocks": sum(d.mismatched_blocks for d in done),
            "control": self.control.summary(),
            "telemetry_cpu_s": {h: r.telemetry_cpu_s for h, r in self.reports.items()},
            "agent_cpu_s": {h: r.agent_cpu_s for h, r in self.reports.items()},
            "complete": self.complete,
        }


def turns_table(repetitions: Iterable[Repetition]) -> pd.DataFrame:
    """One row a finished turn."""
    return pd.DataFrame(
        [_turn_row(r, t, t.placement, t.done) for r in repetitions for t in r.turns if t.placement and t.done]
    )


def transfers_table(repetitions: Iterable[Repetition]) -> pd.DataFrame:
    """One row a stage that moved bytes."""
    return pd.DataFrame(
        [
            _transfer_row(r, t, transfer)
            for r in repetitions
            for t in r.turns
            if t.done is not None
            for transfer in t.done.transfers
        ]
    )


def forwards_table(repetitions: Iterable[Repetition]) -> pd.DataFrame:
    """One row a forward pass and engine."""
    return pd.DataFrame(
        [
            {
                "repetition": r.index,
                "policy": r.policy,
                "host": host,
                "forward": index,
                "begin_at_ns": forward.begin_at_ns,
                "end_at_ns": forward.end_at_ns,
                "engine": batch.engine,
                "attention_ns": batch.attention_ns,
                "requests": batch.requests,
                "new_tokens": batch.new_tokens,
                "cached_tokens": batch.cached_tokens,
            }
            for r in repetitions
            for host, report in r.reports.items()
            for index, forward in enumerate(report.forwards)
            for batch in forward.batches
        ]
    )


def _turn_row(repetition: Repetition, turn: TurnRecord, placed: Placement, done: TurnDone) -> dict[str, Any]:
    moved = {kind: 0 for kind in ("storage_read", "layer_read", "layer_write")}
    read_by: Counter[str] = Counter()
    for transfer in done.transfers:
        if transfer.kind in moved:
            moved[transfer.kind] += transfer.bytes
        if transfer.kind == "storage_read":
            read_by[transfer.host] += transfer.bytes
    return {
        "repetition": repetition.index,
        "policy": repetition.policy,
        "session_id": turn.session_id,
        "turn": turn.turn,
        "turn_id": turn.turn_id,
        "prefill_host": placed.prefill.host,
        "prefill_engine": placed.prefill.rank,
        "decode_host": placed.decode.host,
        "decode_engine": placed.decode.rank,
        "path": placed.path,
        "input_tokens": turn.input_tokens,
        "hit_tokens": turn.hit_tokens,
        "new_tokens": turn.new_tokens,
        "output_tokens": turn.output_tokens,
        "arrived_at_ns": turn.arrived_at_ns,
        "dispatched_at_ns": turn.dispatched_at_ns,
        "first_token_at_ns": turn.first_token_at_ns,
        "done_at_ns": turn.done_at_ns,
        "allocate_ns": done.allocate_ns,
        "read_ns": done.read_ns,
        "hbm_wait_ns": done.hbm_wait_ns,
        "engine_wait_ns": done.engine_wait_ns,
        "compute_ns": done.compute_ns,
        "transfer_ns": done.transfer_ns,
        "chunks": done.chunks,
        "hbm_load_ns": done.hbm_load_ns,
        "second_token_ns": done.second_token_ns,
        "decode_ns": done.decode_ns,
        "persist_ns": done.persist_ns,
        "read_bytes": moved["storage_read"],
        "prefill_read_bytes": read_by[placed.prefill.host],
        "decode_read_bytes": read_by[placed.decode.host],
        "layer_read_bytes": moved["layer_read"],
        "layer_write_bytes": moved["layer_write"],
        "persisted_bytes": done.persisted_bytes,
        "verified_blocks": done.verified_blocks,
    }


def _transfer_row(repetition: Repetition, turn: TurnRecord, transfer: Transfer) -> dict[str, Any]:
    return {
        "repetition": repetition.index,
        "policy": repetition.policy,
        "session_id": turn.session_id,
        "turn": turn.turn,
        "turn_id": turn.turn_id,
        "kind": transfer.kind,
        "host": transfer.host,
        "peer": transfer.peer,
        "network": "storage" if transfer.kind.startswith("storage") else "compute",
        "bytes": transfer.bytes,
        "operations": transfer.operations,
        "begin_at_ns": transfer.begin_at_ns,
        "end_at_ns": transfer.end_at_ns,
    }


def _quantile(values: list[float], q: float) -> float:
    return float(pd.Series(values).quantile(q)) if values else 0.0

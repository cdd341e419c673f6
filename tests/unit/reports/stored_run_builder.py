"""A small simulator of a closed loop over storage NICs that leaves a stored run as the harness would.

Every storage NIC serves its reads first come, first served at its ceiling; a turn reads, computes on its
host's first engine in a forward pass of its own, decodes and is followed by the session's next turn.
Repetitions differ by a seeded jitter of their NICs' speed. ``order`` names variants, by default policies of
that name; ``points`` (by variant: arrival rate in real agents/s and outcome) make the run an online one,
whose agents arrive at even intervals.
"""

from __future__ import annotations

import heapq
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

TIME_DILATION = 10.0
SECOND_NS = 1_000_000_000
PAYLOAD_SHARE = 1448 / 1514
_TELEMETRY = ("nics", "classes", "errors", "gpus", "hosts")


@dataclass
class StoredRunBuilder:
    """Set what the run should be like, ``metadata`` and tables can be edited before :meth:`write`."""

    prefill_hosts: int = 1
    decode_hosts: int = 1
    sessions: int = 16
    turns: int = 12
    read_bytes: int = 600_000
    written_bytes: int = 12_000
    compute_s: float = 0.01
    decode_s: float = 0.02
    link_gbit_per_s: float = 0.1
    jitter: float = 0.002
    order: tuple[str, ...] = ("prefill_only", "dual_path", "dual_path", "prefill_only")
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    points: dict[str, list[tuple[float, str]]] = field(default_factory=dict)
    engines: int = 1
    mode: str = "network_namespaces"
    seed: int = 1
    metadata: dict[str, Any] = field(init=False)
    tables: dict[str, list[dict[str, Any]]] = field(init=False)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)
        names = ("turns", "transfers", "forwards", *_TELEMETRY)
        self.tables = {name: [] for name in names}
        loads: list[tuple[str, float | None, str]] = [
            (name, rate, outcome) for name, tried in self.points.items() for rate, outcome in tried
        ]
        loads = loads or [(name, None, "all_done") for name in self.order]
        for name, _, _ in loads:
            self.variants.setdefault(name, {"policy": name, "layerwise": True, "scheduling": True})
        self.metadata = self._metadata()
        for number, (name, agents_per_s, stopped) in enumerate(loads):
            repetition = self._replay(number, name, agents_per_s)
            self.metadata["repetitions"].append(
                repetition | {"agents_per_s": agents_per_s, "stopped": stopped}
            )

    @property
    def hosts(self) -> list[str]:
        return [f"p{i}" for i in range(self.prefill_hosts)] + [f"d{i}" for i in range(self.decode_hosts)]

    @property
    def ceiling_bytes_per_s(self) -> float:
        return self.link_gbit_per_s * 1e9 / 8 * PAYLOAD_SHARE

    def write(self, directory: Path) -> Path:
        """Leave the run in ``directory``, which is made."""
        (directory / "telemetry").mkdir(parents=True, exist_ok=True)
        (directory / "metadata.json").write_text(json.dumps(self.metadata))
        for name, rows in self.tables.items():
            folder = directory / "telemetry" if name in _TELEMETRY else directory
            pd.DataFrame(rows).to_parquet(folder / f"{name}.parquet", index=False)
        return directory

    def _readers(self, policy: str) -> list[str]:
        return {
            "prefill_only": self.hosts[: self.prefill_hosts],
            "dual_path": self.hosts,
            "decode_only": self.hosts[self.prefill_hosts :],
            "oracle": [],
        }[self.variants[policy]["policy"]]

    def _replay(self, number: int, policy: str, agents_per_s: float | None) -> dict[str, Any]:
        readers = self._readers(policy)
        speed = self.ceiling_bytes_per_s * 0.985 * (1 + self.jitter * float(self._random.standard_normal()))
        free_s = dict.fromkeys(self.hosts, 0.0)
        engine_free_s = dict.fromkeys(self.hosts, 0.0)
        traffic: dict[str, list[tuple[float, float, int]]] = {host: [] for host in self.hosts}
        interval_s = TIME_DILATION / agents_per_s if agents_per_s else 0.0
        ready = [(session * interval_s, session, 0) for session in range(self.sessions)]
        done_s, turn_id = 0.0, 0
        while ready:
            arrived_s, session, turn = heapq.heappop(ready)
            read_end_s = begin_s = arrived_s + 0.001
            decode_host = self.hosts[self.prefill_hosts + session % self.decode_hosts]
            prefill_host = f"p{session % self.prefill_hosts}"
            reader = min(readers, key=lambda host: free_s[host]) if readers else None
            if reader:
                start_s = max(begin_s, free_s[reader])
                read_end_s = free_s[reader] = start_s + self.read_bytes / speed
                traffic[reader].append((start_s, read_end_s, self.read_bytes))
            compute_begin_s = max(read_end_s, engine_free_s[prefill_host])
            engine_free_s[prefill_host] = compute_begin_s + self.compute_s
            first_s = engine_free_s[prefill_host] + 0.002
            end_s = first_s + self.decode_s
            self._forward_pass(number, policy, prefill_host, turn_id, compute_begin_s)
            self._turn(
                number, policy, session, turn, turn_id, reader, decode_host, [arrived_s, begin_s, read_end_s]
            )
            self.tables["turns"][-1] |= {
                "engine_wait_ns": round((compute_begin_s - read_end_s) * SECOND_NS),
                "compute_ns": round(self.compute_s * SECOND_NS),
                "transfer_ns": round(0.0015 * SECOND_NS),
                "first_token_at_ns": round(first_s * SECOND_NS),
                "done_at_ns": round(end_s * SECOND_NS),
            }
            self._write_transfer(number, policy, session, turn, turn_id, decode_host, end_s)
            done_s, turn_id = max(done_s, end_s), turn_id + 1
            if turn + 1 < self.turns:
                heapq.heappush(ready, (end_s, session, turn + 1))
        self._telemetry(number, policy, traffic, done_s)
        turns = self.sessions * self.turns
        return {
            "repetition": number,
            "policy": policy,
            "jct_s": done_s,
            "turns": turns,
            "expected_turns": turns,
            "expected_read_bytes": turns * self.read_bytes,
            "read_bytes": turns * self.read_bytes if readers else 0,
            "written_bytes": turns * self.written_bytes,
            "transferred_bytes": turns * self.read_bytes,
            "verified_blocks": turns if readers else 0,
            "mismatched_blocks": 0,
            "control": {
                "decision_s_total": 0.004,
                "message_rtt_s_p50": 0.0004,
                "message_rtt_s_p99": 0.0011,
                "loop_lag_s_p99": 0.002,
                "cpu_s": 0.06 * done_s,
            },
            "telemetry_cpu_s": dict.fromkeys(self.hosts, 0.004 * done_s),
            "limits": {
                "alpha_tokens": dict.fromkeys(self.hosts, 90_000.0),
                "beta_tokens": 40_000.0,
                "decode_hbm_tokens": 1_200_000,
            },
            "complete": True,
        }

    def _forward_pass(self, number: int, policy: str, host: str, forward: int, begin_s: float) -> None:
        for engine in range(self.engines):
            works = engine == 0
            self.tables["forwards"].append(
                {
                    "repetition": number,
                    "policy": policy,
                    "host": host,
                    "forward": forward,
                    "begin_at_ns": round(begin_s * SECOND_NS),
                    "end_at_ns": round((begin_s + self.compute_s) * SECOND_NS),
                    "engine": engine,
                    "attention_ns": round(self.compute_s / 2 * SECOND_NS) if works else 0,
                    "requests": int(works),
                    "new_tokens": 400 if works else 0,
                    "cached_tokens": 31_600 if works else 0,
                }
            )

    def _turn(
        self,
        number: int,
        policy: str,
        session: int,
        turn: int,
        turn_id: int,
        reader: str | None,
        decode_host: str,
        at_s: list[float],
    ) -> None:
        arrived_ns, begin_ns, read_end_ns = (round(value * SECOND_NS) for value in at_s)
        identity = {
            "repetition": number,
            "policy": policy,
            "session_id": f"s{session}",
            "turn": turn,
            "turn_id": turn_id,
        }
        read_bytes = self.read_bytes if reader else 0
        self.tables["turns"].append(
            identity
            | {
                "prefill_host": f"p{session % self.prefill_hosts}",
                "prefill_engine": 0,
                "decode_host": decode_host,
                "decode_engine": 0,
                "path": "none" if not reader else "prefill" if reader.startswith("p") else "decode",
                "input_tokens": 32_000,
                "hit_tokens": 31_600,
                "new_tokens": 400,
                "output_tokens": 170,
                "arrived_at_ns": arrived_ns,
                "dispatched_at_ns": arrived_ns + 300_000,
                "allocate_ns": 200_000,
                "read_ns": read_end_ns - begin_ns,
                "hbm_wait_ns": 0,
                "chunks": 1,
                "hbm_load_ns": round(self.decode_s / 20 * SECOND_NS),
                "second_token_ns": round(self.decode_s / 10 * SECOND_NS),
                "decode_ns": round(self.decode_s * SECOND_NS),
                "persist_ns": 1_000_000,
                "read_bytes": read_bytes,
                "prefill_read_bytes": read_bytes if reader and reader.startswith("p") else 0,
                "decode_read_bytes": read_bytes if reader and reader.startswith("d") else 0,
                "layer_read_bytes": read_bytes,
                "layer_write_bytes": read_bytes,
                "persisted_bytes": self.written_bytes,
                "verified_blocks": 1 if reader else 0,
            }
        )
        if reader:
            self.tables["transfers"].append(
                identity
                | {
                    "kind": "storage_read",
                    "host": reader,
                    "peer": "storage",
                    "network": "storage",
                    "bytes": read_bytes,
                    "operations": 3,
                    "begin_at_ns": begin_ns,
                    "end_at_ns": read_end_ns,
                }
            )

    def _write_transfer(
        self, number: int, policy: str, session: int, turn: int, turn_id: int, host: str, end_s: float
    ) -> None:
        self.tables["transfers"].append(
            {
                "repetition": number,
                "policy": policy,
                "session_id": f"s{session}",
                "turn": turn,
                "turn_id": turn_id,
                "kind": "storage_write",
                "host": host,
                "peer": "storage",
                "network": "storage",
                "bytes": self.written_bytes,
                "operations": 1,
                "begin_at_ns": round((end_s - 0.001) * SECOND_NS),
                "end_at_ns": round(end_s * SECOND_NS),
            }
        )

    def _telemetry(
        self, number: int, policy: str, traffic: dict[str, list[tuple[float, float, int]]], done_s: float
    ) -> None:
        at_s = np.arange(0, done_s + 0.2, 0.05)
        for host in self.hosts:
            received = np.zeros(at_s.size)
            for begin_s, end_s, count in traffic[host]:
                received += count / PAYLOAD_SHARE * np.clip((at_s - begin_s) / (end_s - begin_s), 0, 1)
            role = "prefill" if host.startswith("p") else "decode"
            identity = {"repetition": number, "policy": policy, "host": host, "role": role}
            for index, at in enumerate(at_s):
                at_ns = round(float(at) * SECOND_NS)
                self.tables["nics"].append(
                    identity
                    | {
                        "nic": "stor0",
                        "network": "storage",
                        "at_ns": at_ns,
                        "rx_bytes": 5_000 + int(received[index]),
                        "tx_bytes": 5_000 + int(received[index]) // 60,
                    }
                )
                self.tables["hosts"].append(
                    identity
                    | {
                        "at_ns": at_ns,
                        "cpu_busy_fraction": 0.45 + 0.1 * float(self._random.random()),
                        "agent_cpu_s": 0.1 * float(at),
                        "memory_used_bytes": 1 << 30,
                        "sample_cost_ns": 200_000,
                    }
                )

    def _first_repetitions(self) -> list[int]:
        """By the policy of ``points``: the number of its first repetition."""
        counts = [len(tried) for tried in self.points.values()]
        return [sum(counts[:index]) for index in range(len(counts))]

    def _metadata(self) -> dict[str, Any]:
        turns = self.sessions * self.turns
        loopback = self.mode == "loopback"
        return {
            "format_version": 2,
            "run_id": "synthetic-0001",
            "status": "complete",
            "failure": None,
            "started_at": "2026-03-01T12:00:00+00:00",
            "dualpath_version": "0.1.0",
            "experiment": {
                "name": "io_bound_synthetic",
                "description": "A simulated I/O-bound closed loop.",
                "replay": {"gap_scale": 0.0, "gap_cap_s": 60.0},
            },
            "baseline": "prefill_only",
            "contender": "dual_path",
            "trace": {
                "sha256": "ab" * 32,
                "format": "dualpath",
                "sessions": self.sessions,
                "turns": turns,
                "hit_rate": 0.9875,
                "source": "synthesized like paper-32k, seed 1",
                "filters": ["window: last 12 turns of each session"],
            },
            "variants": self.variants,
            "slo": {"ttft_s": 4.0, "tpot_s": 0.05} if self.points else None,
            "online": {
                name: {
                    "max_agents_per_s": max((rate for rate, end in tried if end == "steady"), default=None),
                    "points": [
                        {"agents_per_s": rate, "repetition": first + index, "outcome": outcome}
                        for index, (rate, outcome) in enumerate(tried)
                    ],
                }
                for first, (name, tried) in zip(self._first_repetitions(), self.points.items(), strict=True)
            }
            or None,
            "warnings": [],
            "scale": {
                "bytes_divisor": 400.0,
                "time_dilation": TIME_DILATION,
                "rate_divisor": 400 * TIME_DILATION,
            },
            "model": {
                "name": "deepseek-v3.2-660b",
                "layers": 61,
                "block_tokens": 64,
                "layer_block_bytes": 105,
                "kv_bytes_per_token": 40_016.0,
            },
            "profile": {
                "storage_nic": {"value": 400, "unit": "Gbit/s", "source": "paper, section 7"},
                "gpu": {"value": 990, "unit": "TFLOP/s", "source": "assumed: data sheet, dense BF16"},
            },
            "hosts": [
                {
                    "name": host,
                    "role": "prefill" if host.startswith("p") else "decode",
                    "engines": self.engines,
                    "storage_nic": "stor0",
                    "compute_nics": ["comp0"],
                    "storage_nic_nominal_gbit_per_s": None if loopback else self.link_gbit_per_s,
                    "facts": {"kernel": "6.1.0", "cpu": "2 cores", "python": "3.11.2"},
                }
                for host in self.hosts
            ]
            + [
                {
                    "name": "s0",
                    "role": "storage",
                    "engines": 0,
                    "storage_nic": "stor0",
                    "facts": {"nginx": "1.22"},
                }
            ],
            "emulation": {
                "mode": self.mode,
                "storage": "http",
                "storage_cache": "page cache",
                "transport": "tcp",
                "labels": ["GPU compute is timed, not executed"],
            },
            "ceilings": {
                host: {
                    "storage_read_bytes_per_s": self.ceiling_bytes_per_s,
                    "measured_at": "2026-03-01T12:00:00+00:00",
                }
                for host in self.hosts
            },
            "repetitions": [],
        }

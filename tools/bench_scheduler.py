"""Time the request scheduler on a cluster of the paper's scale: 1,152 engines, 48,000 waiting requests.

    .venv/bin/python tools/bench_scheduler.py [--policy dual_path] [--rounds 500] [--json]

Steady state: in each round every group asks, turns in flight move on, one in `--turnover` ends, and as
many arrive as were placed. A decision is one request from the queue to its placement. Single-threaded;
the figures are of this process on this machine, with what else runs on it.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import time
from collections import deque

from harness.policies import POLICIES
from harness.scheduling import ClusterLoad, Limits, Placement, Request, RequestScheduler

PREFILL_HOSTS, DECODE_HOSTS, ENGINES_PER_HOST = 48, 96, 8
WAITING = 48_000
BLOCK_TOKENS, MEAN_HIT_BLOCKS, MEAN_NEW_TOKENS, MEAN_OUTPUT_TOKENS = 64, 504, 429, 176
# KV of 40 kB a token (DeepSeek-V3.2, FP8): a 50 GB/s storage NIC for 3 s, 20 GB of decode HBM, 80 GB of
# DE buffer.
ALPHA_TOKENS, BETA_TOKENS, DECODE_HBM_TOKENS, DECODE_BUFFER_TOKENS = 3_750_000, 300_000, 500_000, 2_000_000
TARGET_US = 50.0


class Cluster:
    """The scheduler under load, and the time it takes."""

    def __init__(self, policy: str, turnover: int) -> None:
        prefill = {f"p{i}": ENGINES_PER_HOST for i in range(PREFILL_HOSTS)}
        decode = {f"d{i}": ENGINES_PER_HOST for i in range(DECODE_HOSTS)}
        self.hosts = [*prefill, *decode]
        limits = Limits(
            dict.fromkeys(self.hosts, ALPHA_TOKENS), BETA_TOKENS, DECODE_HBM_TOKENS, DECODE_BUFFER_TOKENS
        )
        self.scheduler = RequestScheduler(POLICIES[policy], ClusterLoad(prefill, decode), limits)
        self.random = random.Random(1)
        self.turnover = turnover
        self.submitted = 0
        self.reading: deque[tuple[Request, Placement]] = deque()
        self.decoding: list[int] = []
        self.submit_s = self.report_s = 0.0
        self.round_s: list[float] = []
        self.decisions: list[int] = []

    def refill(self) -> None:
        """Submit until the queue is full."""
        requests = [self.request() for _ in range(WAITING - self.scheduler.waiting)]
        began_at = time.perf_counter()
        for request in requests:
            self.scheduler.submit(request)
        self.submit_s += time.perf_counter() - began_at

    def request(self) -> Request:
        """Context lengths spread exponentially around the paper's mean, as over a session's turns."""
        self.submitted += 1
        hit_blocks = min(int(self.random.expovariate(1 / MEAN_HIT_BLOCKS)), 3 * MEAN_HIT_BLOCKS)
        new = 1 + int(self.random.expovariate(1 / MEAN_NEW_TOKENS))
        output = 1 + int(self.random.expovariate(1 / MEAN_OUTPUT_TOKENS))
        return Request(self.submitted, hit_blocks, hit_blocks * BLOCK_TOKENS, new, output)

    def step(self) -> None:
        """Arrivals, one round, reports."""
        self.refill()
        began_at = time.perf_counter()
        placed = self.scheduler.round(self.hosts)
        self.round_s.append(time.perf_counter() - began_at)
        self.decisions.append(len(placed))
        prefilled, self.reading = self.reading, deque(placed)
        ended = [self.end_one() for _ in range(len(self.decoding) // self.turnover)]
        self.decoding += [request.turn_id for request, _ in prefilled]
        began_at = time.perf_counter()
        for request, placement in prefilled:
            if placement.prefill_read_blocks:
                self.scheduler.read_done(request.turn_id, placement.prefill.host)
            if placement.decode_read_blocks:
                self.scheduler.read_done(request.turn_id, placement.decode.host)
            self.scheduler.prefilled(request.turn_id)
        for turn_id in ended:
            self.scheduler.finished(turn_id)
        self.report_s += time.perf_counter() - began_at

    def end_one(self) -> int:
        """Any turn that decodes."""
        index = self.random.randrange(len(self.decoding))
        self.decoding[index], self.decoding[-1] = self.decoding[-1], self.decoding[index]
        return self.decoding.pop()

    def forget_times(self) -> None:
        """Measure from here on."""
        self.submit_s = self.report_s = 0.0
        self.round_s, self.decisions = [], []


def measure(policy: str, rounds: int, turnover: int) -> dict[str, float | int | str]:
    """Fill the cluster, let every turn in flight change once, then measure ``rounds`` rounds."""
    cluster = Cluster(policy, turnover)
    for _ in range(2 * turnover):
        cluster.step()
    cluster.forget_times()
    gc.collect()
    for _ in range(rounds):
        cluster.step()
    decisions, round_s = sum(cluster.decisions), sorted(cluster.round_s)
    return {
        "policy": policy,
        "engines": (PREFILL_HOSTS + DECODE_HOSTS) * ENGINES_PER_HOST,
        "waiting_requests": WAITING,
        "turns_in_flight": len(cluster.reading) + len(cluster.decoding),
        "rounds": rounds,
        "decisions": decisions,
        "decision_mean_us": sum(round_s) / decisions * 1e6,
        "submit_and_reports_mean_us": (cluster.submit_s + cluster.report_s) / decisions * 1e6,
        "round_mean_ms": sum(round_s) / rounds * 1e3,
        "round_p99_ms": round_s[int(0.99 * rounds)] * 1e3,
    }


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", choices=POLICIES, default="dual_path")
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--turnover", type=int, default=100, help="rounds that a turn decodes, on average")
    parser.add_argument("--json", action="store_true", help="for programs")
    arguments = parser.parse_args()
    figures = measure(arguments.policy, arguments.rounds, arguments.turnover)
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        print(f"{name:28} {f'{value:.2f}' if isinstance(value, float) else value:>12}")
    print(f"{'target_decision_mean_us':28} {TARGET_US:>12.2f}")


if __name__ == "__main__":
    main()

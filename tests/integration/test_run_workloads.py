"""Traces as they come: shared prefixes, recorded arrivals and gaps, fewer sessions than agents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from run_driver import CommandRun, finish_exactly, write_experiment

from harness.cluster import probe

NO_NAMESPACES = probe().unavailable.get("network_namespaces")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(NO_NAMESPACES is not None, reason=f"no network namespaces: {NO_NAMESPACES}"),
]

BLOCK_TOKENS = 512
SESSIONS, SYSTEM_PROMPTS = 6, 2
SYSTEM_BLOCKS, OWN_BLOCKS = 6, 3  # of a first prompt; the second has twice as many of its own
START_MS, GAP_MS = 100, 50
DILATION = 4
LATE_S = 0.5  # at most, on a machine shared with others


def mooncake_rows() -> list[dict[str, object]]:
    """Sessions of two turns, 100 ms apart, with one of two system prompts."""
    rows = []
    for session in range(SESSIONS):
        system = [1000 * (session % SYSTEM_PROMPTS) + i for i in range(SYSTEM_BLOCKS)]
        own = [10_000 * (1 + session) + i for i in range(2 * OWN_BLOCKS)]
        for turn, blocks in enumerate((system + own[:OWN_BLOCKS], system + own)):
            rows.append(
                {
                    "session_id": f"s{session}",
                    "timestamp": START_MS * session,
                    "input_length": BLOCK_TOKENS * len(blocks),
                    "output_length": 4,
                    "hash_ids": blocks,
                    **({"delay": GAP_MS} if turn else {}),
                }
            )
    return rows


@pytest.fixture(scope="module")
def shared_prefixes(tmp_path_factory: pytest.TempPathFactory) -> CommandRun:
    """Whole sessions under two policies, arriving as recorded."""
    workplace = tmp_path_factory.mktemp("shared_prefixes")
    trace = workplace / "trace.jsonl"
    trace.write_text("".join(json.dumps(row) + "\n" for row in mooncake_rows()))
    experiment = write_experiment(
        workplace,
        workload={"trace": str(trace)},
        replay={
            "agents": SESSIONS,
            "turns_per_agent": 0,
            "start": "beginning",
            "arrivals": "recorded",
            "gap_scale": 1,
        },
        scale={"bytes_divisor": 512, "time_dilation": DILATION, "layers_divisor": 5},
        measurement={"verify_every": 1},
    )
    with CommandRun(experiment, workplace) as run:
        run.until_line("measuring storage ceilings")  # priming is over
        stored = sorted(path.name for path in (run.scratch / "storage" / "prime").iterdir())
        assert stored == ["shared"]  # nothing else is read that no turn has written
        finish_exactly(run)
    return run


def test_a_later_session_reads_the_prefix_that_an_earlier_one_brought(shared_prefixes: CommandRun) -> None:
    assert shared_prefixes.metadata["trace"]["format"] == "mooncake"
    hits = (
        shared_prefixes.table("turns.parquet").groupby(["policy", "turn", "session_id"])["hit_tokens"].sum()
    )
    model = shared_prefixes.metadata["model"]
    block_bytes = model["layers"] * model["layer_block_bytes"]
    first = {f"s{i}": SYSTEM_BLOCKS * (i >= SYSTEM_PROMPTS) for i in range(SESSIONS)}
    second = dict.fromkeys(first, SYSTEM_BLOCKS + OWN_BLOCKS)
    for policy, metrics in shared_prefixes.summary["policies"].items():
        for turn, blocks in enumerate((first, second)):
            assert (hits[policy, turn] // BLOCK_TOKENS).to_dict() == blocks
        assert metrics["bytes_read"] == block_bytes * sum((*first.values(), *second.values()))
    written = {repetition["written_bytes"] for repetition in shared_prefixes.metadata["repetitions"]}
    assert written == {block_bytes * SESSIONS * 2 * OWN_BLOCKS}  # system prompts were there before


def test_agents_and_turns_arrive_as_recorded(shared_prefixes: CommandRun) -> None:
    turns = shared_prefixes.table("turns.parquet").set_index(["policy", "session_id", "turn"]).sort_index()
    for policy in shared_prefixes.summary["policies"]:
        for session in range(SESSIONS):
            first, second = turns.loc[policy, f"s{session}"].itertuples()
            start_s = session * START_MS / 1000 * DILATION
            assert start_s <= first.arrived_at_ns / 1e9 < start_s + LATE_S
            gap_s = (second.arrived_at_ns - first.done_at_ns) / 1e9
            assert GAP_MS / 1000 * DILATION <= gap_s + 1e-3 < GAP_MS / 1000 * DILATION + LATE_S


def test_more_agents_than_sessions(tmp_path: Path) -> None:
    """Copies begin with a round of their own, so that none reads what another stored."""
    experiment = write_experiment(
        tmp_path,
        workload={"synthesize": "paper-32k", "synthesized_sessions": 24, "generated_scale": 0.001},
        replay={"agents": 300, "turns_per_agent": 1},
        scale={"bytes_divisor": 4096, "time_dilation": 4, "layers_divisor": 5},
        measurement={"policies": ["dual_path"], "baseline": "dual_path"},
    )
    with CommandRun(experiment, tmp_path) as run:
        finish_exactly(run)
    turns = run.table("turns.parquet")
    assert turns["session_id"].nunique() == len(turns) == 300
    turns["original"] = turns["session_id"].str.partition("+")[0]
    copies = turns[turns["session_id"] != turns["original"]]
    assert len(copies) == 300 - 24
    block_tokens = run.metadata["model"]["block_tokens"]
    assert (copies["hit_tokens"] >= block_tokens).all()
    same = copies.assign(turn=copies["turn"] - 1).merge(turns, on=["original", "turn"], suffixes=("", "_of"))
    grown = same[same["session_id_of"] == same["original"]]
    assert len(grown) > 0
    assert (grown["input_tokens"] == grown["input_tokens_of"] + block_tokens).all()
    assert (grown["hit_tokens"] == grown["hit_tokens_of"] + block_tokens).all()

"""The recorded conversations against the table that comes with them (no copies are kept here)."""

import json
from itertools import pairwise

import pytest

from workloads.expected import expected_read_bytes
from workloads.fetching import PUBLIC_TRACES
from workloads.formats import load_trace
from workloads.inspection import inspect
from workloads.layout import plan_replay
from workloads.prefix import hit_blocks
from workloads.transform import reblock
from workloads.window import ReplayWindow


def table(real_traces):
    for line in (real_traces / "README.md").read_text().splitlines():
        if line.startswith("| trace_"):
            name, _, turns, agents, shrinking, rate, context, sha = [
                cell.strip() for cell in line.strip("|").split("|")
            ]
            row = (int(turns), int(shrinking), float(rate), int(context))
            yield real_traces / "kv-cache-tester" / name, int(agents), row, sha


def test_every_file_has_the_published_figures(real_traces):
    rows = list(table(real_traces))
    assert len(rows) == 32
    for path, agents, (turns, shrinking, rate, context), sha in rows:
        trace = load_trace(path)
        own, *sub_agents = inspect(trace).session_rows
        assert trace.sha256.startswith(sha)
        assert len(sub_agents) == agents
        assert (own.turns, own.shrinking_turns, own.max_context) == (turns, shrinking, context)
        assert own.hit_rate == pytest.approx(rate, abs=0.0005)


def test_hits_are_the_common_prefix_with_the_previous_request(real_traces):
    for session in load_trace(real_traces / "kv-cache-tester").sessions:
        prompts = [turn.block_ids.tolist() for turn in session.turns]
        common = [
            next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            for a, b in pairwise(prompts)
        ]
        assert hit_blocks(session) == [0, *common]


def test_a_folder_is_one_trace_with_ids_of_its_own_per_session(real_traces):
    trace = load_trace(real_traces / "kv-cache-tester")
    assert len(trace.sessions) == 46
    assert trace.provenance == {"files": "32", "sub_agent_sessions": "14"}
    seen = set()
    for session in trace.sessions:
        used = {
            block
            for turn in session.turns
            for block in (*turn.block_ids.tolist(), *turn.generated_block_ids.tolist())
        }
        assert not seen & used
        seen |= used


def test_sub_agents_start_when_their_parent_launched_them(real_traces):
    trace = load_trace(real_traces / "kv-cache-tester" / "trace_0274.json.gz")
    starts_s = {session.session_id: session.start_s for session in trace.sessions}
    # The parent's first request ends at 18.99 s.
    assert starts_s["trace_0274/agent_001"] == pytest.approx(19.472, abs=1e-6)
    assert starts_s["trace_0274/agent_003"] == pytest.approx(19.486, abs=1e-6)


def test_expected_bytes_of_whole_conversations_agree_with_the_plan(real_traces):
    trace = load_trace(real_traces / "kv-cache-tester" / "trace_0707.json.gz")
    for session in trace.sessions:
        window = ReplayWindow(session, 0, len(session.turns), trace.block_tokens)
        blocks = sum(span.blocks for turn in plan_replay([window]).sessions[0].turns for span in turn.reads)
        assert expected_read_bytes([window], 1) == blocks == sum(hit_blocks(session))


@pytest.mark.parametrize(
    ("name", "requests", "recorded", "full_blocks"),
    [("conversation", 12031, "0.3736", 0.3734), ("synthetic", 3993, "0.6512", 0.6504)],
)
def test_mooncake_hits_what_is_published_of_it(real_traces, name, requests, recorded, full_blocks):
    """37.4% and 65.1% count tokens, not blocks, and reuse of partly filled blocks, of which the canonical
    form has none: hence a thousandth less here."""
    trace = load_trace(real_traces / "mooncake" / f"{name}_trace.jsonl.gz")
    summary = inspect(trace)
    assert (summary.format, summary.block_tokens, summary.block_ids) == ("mooncake", 512, "shared")
    assert (summary.sessions, summary.turns, summary.hit_rate) == (requests, requests, 0.0)
    assert trace.provenance["infinite_cache_hit_rate_of_recorded_ids"] == recorded
    assert summary.infinite_cache_hit_rate == pytest.approx(full_blocks, abs=0.00005)
    assert summary.hint is not None


def test_mooncake_in_smaller_blocks_hits_the_same(real_traces):
    trace = load_trace(real_traces / "mooncake" / "synthetic_trace.jsonl.gz")
    small, change = reblock(trace, 64)
    assert small.block_tokens == 64
    assert change.after.infinite_cache_hit_rate == pytest.approx(change.before.infinite_cache_hit_rate)


def test_tracelab_hits_the_recorded_prefixes(real_traces):
    (path,) = (real_traces / "tracelab").glob("*.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    trace = load_trace(path)
    assert [len(session.turns) for session in trace.sessions] == [10, 9]
    assert [turn.input_tokens for s in trace.sessions for turn in s.turns] == [
        row["prefix_tokens"] + row["newly_append_tokens"] for row in rows
    ]
    hits = [hit for session in trace.sessions for hit in hit_blocks(session)]
    for row, hit in zip(rows, hits, strict=True):
        assert hit == (row["prefix_tokens"] // 64 if row["round_index"] else 0)
    later = [row for row in rows if row["round_index"]]
    recorded = sum(r["prefix_tokens"] for r in later) / sum(r["input_tokens_total"] for r in later)
    assert inspect(trace).hit_rate == pytest.approx(recorded, abs=0.003)


def test_tracelab_gaps_hold_the_tools_time(real_traces):
    (path,) = (real_traces / "tracelab").glob("*.jsonl")
    gaps_s = [turn.gap_s for turn in load_trace(path).sessions[0].turns]
    # Round 0's last output is at 31.647 s, the slower of its two tools returns at 50.938 s.
    assert gaps_s[:2] == [0.0, pytest.approx(19.291)]


def test_public_traces_are_pinned_to_the_bytes_described(real_traces):
    pinned = {name: sha256 for trace in PUBLIC_TRACES.values() for name, sha256 in trace.files.items()}
    files = {
        file.name.removesuffix(".gz"): load_trace(file).sha256
        for folder in ("mooncake", "kv-cache-tester")
        for file in (real_traces / folder).glob("*.gz")
    }
    (tracelab,) = (real_traces / "tracelab").glob("*.jsonl")
    assert pinned == {**files, "round_trace.jsonl": load_trace(tracelab).sha256}

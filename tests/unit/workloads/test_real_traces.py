"""The recorded conversations against the table that comes with them (no copies are kept here)."""

from itertools import pairwise

import pytest

from workloads.expected import expected_read_bytes
from workloads.formats import load_trace
from workloads.inspection import inspect
from workloads.layout import plan_session
from workloads.prefix import hit_blocks
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
        blocks = sum(span.blocks for turn in plan_session(window).turns for span in turn.reads)
        assert expected_read_bytes([window], 1) == blocks == sum(hit_blocks(session))


def test_the_other_public_formats_are_named_as_unknown(real_traces):
    with pytest.raises(ValueError, match=r"unknown format beginning with .*expected dualpath-trace"):
        load_trace(real_traces / "mooncake" / "conversation_trace.jsonl.gz")

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.policies import POLICIES
from harness.scheduling import Request, RoundRobinEngines, ScheduledEngines
from harness.scheduling.policy import Sides, alternate

BLOCK_TOKENS = 64
queues = st.integers(0, 200_000)
rates = st.floats(1.0, 100_000.0)
all_sides = st.builds(
    Sides, st.integers(0, 1000), st.integers(1, 12), queues, queues, queues, queues, rates, rates
)
requests = st.builds(
    lambda hit_blocks, new: Request(1, hit_blocks, hit_blocks * BLOCK_TOKENS, new, 10),
    st.integers(0, 300),
    st.integers(1, 500),
)


def test_policies_go_by_their_names() -> None:
    assert list(POLICIES) == ["prefill_only", "dual_path", "decode_only", "round_robin", "split", "oracle"]
    for name, policy in POLICIES.items():
        assert policy.name == name
        blind = name == "round_robin"
        assert policy.engines is (RoundRobinEngines if blind else ScheduledEngines)


@pytest.mark.parametrize("name", POLICIES)
@given(request_=requests, sides=all_sides)
def test_every_hit_block_is_read_once_where_the_path_says(name: str, request_: Request, sides: Sides) -> None:
    hit = request_.hit_blocks
    path, prefill_blocks, decode_blocks = POLICIES[name].path(request_, sides)
    expected = {"prefill": (hit, 0), "decode": (0, hit), "none": (0, 0)}
    if path == "split":
        assert prefill_blocks > 0 < decode_blocks
        assert prefill_blocks + decode_blocks == hit
    else:
        assert (prefill_blocks, decode_blocks) == expected[path]


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("prefill_only", {"prefill"}),
        ("decode_only", {"decode"}),
        ("oracle", {"none"}),
        ("dual_path", {"prefill", "decode"}),
        ("round_robin", {"prefill", "decode"}),
        ("split", {"prefill", "decode", "split"}),
    ],
)
@given(request_=requests, sides=all_sides)
def test_each_policy_keeps_to_its_paths(name: str, paths: set[str], request_: Request, sides: Sides) -> None:
    assert POLICIES[name].path(request_, sides).path in paths


@given(request_=requests, sides=all_sides)
def test_dual_path_reads_on_the_shorter_queue(request_: Request, sides: Sides) -> None:
    prefill, decode = sides.prefill_queue_tokens, sides.decode_queue_tokens
    if prefill != decode:
        expected = "prefill" if prefill < decode else "decode"
        assert POLICIES["dual_path"].path(request_, sides).path == expected


@given(request_=requests, sides=all_sides)
def test_of_equal_queues_dual_path_takes_the_host_that_read_less(request_: Request, sides: Sides) -> None:
    equal = sides._replace(decode_queue_tokens=sides.prefill_queue_tokens)
    expected = "prefill" if sides.prefill_read_tokens <= sides.decode_read_tokens else "decode"
    assert POLICIES["dual_path"].path(request_, equal).path == expected


@given(request_=requests, sides=all_sides)
def test_no_other_split_is_done_earlier(request_: Request, sides: Sides) -> None:
    def done_after(decode_blocks: int) -> float:
        prefill_tokens = sides.prefill_queue_tokens + (request_.hit_blocks - decode_blocks) * BLOCK_TOKENS
        decode_tokens = sides.decode_queue_tokens + decode_blocks * BLOCK_TOKENS
        return max(prefill_tokens / sides.prefill_read_rate, decode_tokens / sides.decode_read_rate)

    chosen = POLICIES["split"].path(request_, sides)
    best = min(map(done_after, range(request_.hit_blocks + 1)))
    assert done_after(chosen.decode_blocks) == pytest.approx(best, rel=1e-9)
    if chosen.path == "split":
        prefill_s = (
            sides.prefill_queue_tokens + chosen.prefill_blocks * BLOCK_TOKENS
        ) / sides.prefill_read_rate
        decode_s = (sides.decode_queue_tokens + chosen.decode_blocks * BLOCK_TOKENS) / sides.decode_read_rate
        one_block_s = BLOCK_TOKENS / min(sides.prefill_read_rate, sides.decode_read_rate)
        assert abs(prefill_s - decode_s) <= one_block_s * (1 + 1e-9)


@given(request_=requests.filter(lambda r: r.hit_blocks > 0))
def test_a_split_leaves_out_a_side_whose_queue_takes_too_long(request_: Request) -> None:
    sides = Sides(0, 1, 0, request_.hit_tokens, 0, 0, 1.0, 1.0)
    assert POLICIES["split"].path(request_, sides).path == "prefill"
    sides = Sides(0, 1, request_.hit_tokens, 0, 0, 0, 1.0, 1.0)
    assert POLICIES["split"].path(request_, sides).path == "decode"


def test_without_scheduling_nothing_looks_at_the_load() -> None:
    for name, policy in POLICIES.items():
        blind = policy.without_scheduling()
        assert blind.engines is RoundRobinEngines
        assert blind.path is (alternate if name in ("dual_path", "split") else policy.path)
        assert blind.without_scheduling() == blind

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.orchestrator import alternating
from harness.policies import POLICIES, ClusterLoad, Placement, Request

hosts = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4))
requests = st.lists(st.tuples(st.integers(0, 100_000), st.integers(1, 5_000)), min_size=1, max_size=40)


def cluster(shape: tuple[int, int, int]) -> ClusterLoad:
    prefill, decode, engines = shape
    return ClusterLoad({f"p{i}": engines for i in range(prefill)}, {f"d{i}": engines for i in range(decode)})


@given(shape=hosts, sizes=requests, name=st.sampled_from(sorted(POLICIES)))
def test_engines_are_least_loaded_and_everything_returns_to_zero(
    shape: tuple[int, int, int], sizes: list[tuple[int, int]], name: str
) -> None:
    load, placed = cluster(shape), []
    for turn_id, (hit, new) in enumerate(sizes):
        request = Request(turn_id, hit, new)
        placement = POLICIES[name](request, load)
        assert load.prefill_tokens[placement.prefill] == min(load.prefill_tokens.values())
        assert load.decode_tokens[placement.decode] == min(load.decode_tokens.values())
        load.assign(request, placement)
        placed.append((request, placement))
    for request, placement in placed:
        load.read_done(request, placement)
        load.prefilled(request, placement)
        load.finished(request, placement)
    assert not any(load.prefill_tokens.values())
    assert not any(load.decode_tokens.values())
    assert not any(load.read_queue_tokens.values())


@given(shape=hosts, sizes=requests)
def test_each_policy_reads_where_it_says(shape: tuple[int, int, int], sizes: list[tuple[int, int]]) -> None:
    sides = {"prefill_only": "prefill", "decode_only": "decode", "oracle": "none"}
    for name, side in sides.items():
        load = cluster(shape)
        for turn_id, (hit, new) in enumerate(sizes):
            placement = POLICIES[name](Request(turn_id, hit, new), load)
            assert placement.path == side
            load.assign(Request(turn_id, hit, new), placement)


@given(shape=hosts, sizes=requests)
def test_dual_path_reads_on_the_shorter_queue(
    shape: tuple[int, int, int], sizes: list[tuple[int, int]]
) -> None:
    load = cluster(shape)
    for turn_id, (hit, new) in enumerate(sizes):
        request = Request(turn_id, hit, new)
        placement = POLICIES["dual_path"](request, load)
        queues = (
            load.read_queue_tokens[placement.prefill.host],
            load.read_queue_tokens[placement.decode.host],
        )
        assert placement.reader is not None
        assert load.read_queue_tokens[placement.reader] == min(queues)
        load.assign(request, placement)


def test_equal_requests_split_evenly_over_both_sides() -> None:
    load, readers = cluster((1, 1, 8)), []
    for turn_id in range(10):
        request = Request(turn_id, 1000, 10)
        placement: Placement = POLICIES["dual_path"](request, load)
        load.assign(request, placement)
        readers.append(placement.reader)
    assert readers.count("p0") == readers.count("d0") == 5


@pytest.mark.parametrize(
    ("repetitions", "expected"), [(1, "AB"), (2, "ABBA"), (3, "ABBAAB"), (4, "ABBAABBA")]
)
def test_policies_alternate(repetitions: int, expected: str) -> None:
    assert "".join(alternating(("A", "B"), repetitions)) == expected

"""Every path is measured, and no NIC has more to do in a round than when it is alone."""

from __future__ import annotations

from collections import Counter
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from harness.calibration.plan import Path, alone, together

HOSTS = st.integers(1, 9)


@given(HOSTS, HOSTS)
def test_all_pairs_once_in_each_direction_and_each_host_in_one_of_them(prefill: int, decode: int) -> None:
    ps, ds = [f"p{i}" for i in range(prefill)], [f"d{i}" for i in range(decode)]
    rounds = together(ps, ds)
    assert len(rounds) == max(prefill, decode)
    expected = [Path(*pair) for p, d in product(ps, ds) for pair in ((p, d), (d, p))]
    assert Counter(path for paths in rounds for path in paths) == Counter(expected)
    for paths in rounds:
        assert max(Counter(path.initiator for path in paths).values()) == 1
        assert max(Counter(path.peer for path in paths).values()) == 1
        assert {(path.peer, path.initiator) for path in paths} == set(paths)


@given(HOSTS, HOSTS)
def test_every_host_reads_alone_once(prefill: int, decode: int) -> None:
    ps, ds = [f"p{i}" for i in range(prefill)], [f"d{i}" for i in range(decode)]
    rounds = alone(ps, ds)
    assert all(len(paths) == 1 for paths in rounds)
    assert [path.initiator for [path] in rounds] == ps + ds
    assert all((path.initiator in ps) == (path.peer in ds) for [path] in rounds)

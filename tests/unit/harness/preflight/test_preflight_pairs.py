"""Who looks for whom: everybody for everybody on a small rack, no more than a few each on a large one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from recorded_rack import facts, judged

from harness.preflight.pairs import PEERS, chosen_peers

counts = st.integers(0, 80)


@given(counts, counts)
def test_every_host_looks_and_is_looked_for_in_few_pairs(prefill: int, decode: int) -> None:
    p, d = [f"p{n}" for n in range(prefill)], [f"d{n}" for n in range(decode)]
    chosen = chosen_peers(p, d)
    assert chosen == chosen_peers(p, d)
    assert list(chosen) == [*p, *d]
    for host, peers in chosen.items():
        assert len(set(peers)) == len(peers)
        assert set(peers) <= set(d if host in p else p)
    if prefill and decode:
        assert all(chosen.values())
        assert {peer for peers in chosen.values() for peer in peers} == {*p, *d}
    assert sum(map(len, chosen.values())) <= (PEERS + 1) * (prefill + decode)


@given(st.integers(1, PEERS), st.integers(1, PEERS))
def test_on_a_small_rack_all_pairs(prefill: int, decode: int) -> None:
    p, d = [f"p{n}" for n in range(prefill)], [f"d{n}" for n in range(decode)]
    chosen = chosen_peers(p, d)
    assert all(set(chosen[host]) == set(d) for host in p)
    assert all(set(chosen[host]) == set(p) for host in d)


def test_pairs_that_were_not_tried_are_counted() -> None:
    assert not [f for f in judged() if (f.host, f.check) == ("", "compute network")]
    known = facts("p0")
    assert known.reach is not None
    (nic,) = known.reach.nics
    fewer = replace(known, reach=replace(known.reach, nics=(replace(nic, peers=nic.peers[:1]),)))
    (counted,) = [f for f in judged(p0=fewer) if (f.host, f.check) == ("", "compute network")]
    assert (counted.severity, counted.evidence) == ("info", "3 of 4 pairs of hosts tried")

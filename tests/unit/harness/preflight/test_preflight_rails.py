"""Hosts with several compute NICs: each is looked at, and looks for those of its rail."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from recorded_rack import NEEDS, NUMBERS, facts, inventory, judged, told

from harness.inventory import ComputeNic, Inventory
from harness.preflight.examine import peers_questions
from harness.preflight.facts import Address, HostFacts, NicReach, Reach
from hosts.config import VerbsConfig
from hosts.rails import share

MOST_RAILS = 3


def with_rails(counts: dict[str, int]) -> tuple[Inventory, dict[str, HostFacts]]:
    """A rack whose hosts have so many compute NICs: eth2, eth3, ... in networks of their own."""
    rack, known = inventory(), {}
    hosts = [
        replace(host, compute_nics=tuple(ComputeNic(f"eth{2 + rail}") for rail in range(counts[host.name])))
        for host in rack.hosts
    ]
    for name, number in NUMBERS.items():
        network = facts(name).network
        (eth2,) = (found for found in network.interfaces if found.name == "eth2")
        more = tuple(
            replace(eth2, name=f"eth{2 + rail}", addresses=(Address(f"10.{2 + rail}.0.{number}", 24),))
            for rail in range(1, MOST_RAILS)
        )
        known[name] = facts(name, network=replace(network, interfaces=(*network.interfaces, *more)))
    return replace(rack, hosts=tuple(hosts)), known


def connections(own: int, its: int, engines: int) -> set[tuple[int, int]]:
    return {(share(engine, engines, own), share(engine, engines, its)) for engine in range(engines)}


@given(st.fixed_dictionaries({name: st.integers(1, MOST_RAILS) for name in NUMBERS}))
def test_each_nic_looks_for_those_that_a_run_connects_it_with(counts: dict[str, int]) -> None:
    rack, known = with_rails(counts)
    roles = {host.name: host.role for host in rack.hosts}
    asked = {
        (name, question["nic"], peer, address)
        for name, questions in peers_questions(rack, known).items()
        for question in questions
        for peer, address in question["peers"].items()
    }
    assert asked == {
        (name, f"eth{2 + own}", peer, f"10.{2 + its}.0.{NUMBERS[peer]}")
        for name in NUMBERS
        for peer in NUMBERS
        if roles[name] != roles[peer]
        for own, its in connections(counts[name], counts[peer], max(counts.values()))
    }


def test_what_is_wrong_with_the_second_rail_is_said_of_it() -> None:
    rack, known = with_rails(dict.fromkeys(NUMBERS, 2))
    first = known["p0"].reach
    assert first is not None
    lost = NicReach(error="no answer within 20 s")
    silent = replace(
        first.nics[0],
        nic="eth3",
        peers=tuple(
            replace(peer, route=replace(peer.route, device="eth3"), small="no answer")
            for peer in first.nics[0].peers
        ),
    )
    said = {**known, "p0": replace(known["p0"], reach=Reach(nics=(first.nics[0], silent, lost)))}
    found = [f for f in told(judged(rack, **said)) if (f.host, f.check) == ("p0", "compute network")]
    assert {(f.severity, f.evidence.partition(":")[0]) for f in found} == {
        ("warning", f"eth3, {silent.source}"),
        ("warning", "could not be found out of a compute NIC"),
    }


def test_every_compute_nic_needs_an_rdma_port_for_verbs() -> None:
    rack, known = with_rails(dict.fromkeys(NUMBERS, 2))
    found = [f for f in told(judged(rack, **known)) if f.check == "rdma"]
    assert {(f.severity, f.host) for f in found} == {("error", name) for name in NUMBERS}
    assert all("no RDMA port has the address of eth3" in f.evidence for f in found)


def test_two_compute_nics_by_one_rdma_port_are_no_two_rails() -> None:
    rack, known = with_rails(dict.fromkeys(NUMBERS, 2))
    needs = dataclasses.replace(NEEDS, verbs=VerbsConfig(device="mlx5_2"))
    found = [f for f in told(judged(rack, needs, **known)) if f.check == "rdma"]
    assert {(f.severity, f.host) for f in found} == {("error", name) for name in NUMBERS}
    assert all("found for compute NICs eth2 and eth3, expected one each" in f.evidence for f in found)

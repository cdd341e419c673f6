"""Hosts with several compute NICs: what belongs to an engine goes through its own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process_hosts import Hosts, content, first_new, hosts, order, the_done

from hosts.ceilings import transfer_ceiling
from hosts.config import RailConfig, TransportConfig
from hosts.protocol import Ceiling, MeasureTransfer, TurnDone
from hosts.rails import connected, share
from hosts.transport import Region


def rails(count: int) -> Mapping[str, tuple[RailConfig, ...]]:
    return {"rails": tuple(RailConfig(TransportConfig("memory"), f"nic{number}") for number in range(count))}


def withdraw(pair: Hosts, host: str, rail: int) -> None:
    """What goes through that rail fails from now on."""
    transport, region = pair[host]._host.rails[rail]
    transport.deregister(region)


@settings(max_examples=8, deadline=None)
@given(prefill_rails=st.integers(1, 3), decode_rails=st.integers(1, 3))
def test_turns_of_all_engines_whatever_the_rails_of_both_ends(prefill_rails: int, decode_rails: int) -> None:
    async def test() -> None:
        of_host = {"p0": rails(prefill_rails), "d0": rails(decode_rails)}
        async with hosts(of_host=of_host) as pair:
            turns = [order(turn_id, decode_hits=3, prefill_engine=turn_id % 2) for turn_id in (1, 2)]
            reported = await pair.serve(*turns)
            done = [body for body in reported if isinstance(body, TurnDone)]
            assert [turn.mismatched_blocks for turn in done] == [0, 0]
            pair.assert_all_given_back()

    asyncio.run(test())


@pytest.mark.parametrize("engine", [0, 1])
@pytest.mark.parametrize("host", ["p0", "d0"])
def test_a_prefill_engine_s_kv_goes_through_its_own_rail_at_both_ends(engine: int, host: str) -> None:
    async def test() -> None:
        async with hosts(of_host={"p0": rails(2), "d0": rails(2)}) as pair:
            withdraw(pair, host, 1 - engine)
            turn = order(decode_hits=3, prefill_engine=engine, generated=1)
            done = the_done(await pair.serve(turn))
            assert done.mismatched_blocks == 0
            moved = pair["d0"]._host.blocks(0, 8)
            assert (moved == content([*range(100, 105), *range(first_new(1), first_new(1) + 3)])).all()
        async with hosts(of_host={"p0": rails(2), "d0": rails(2)}) as pair:
            withdraw(pair, host, engine)
            reported = await pair.serve(order(decode_hits=3, prefill_engine=engine))
            assert not any(isinstance(body, TurnDone) for body in reported)

    asyncio.run(test())


@pytest.mark.parametrize(("here", "there"), [(1, 1), (2, 2), (3, 2), (1, 2)])
def test_a_ceiling_is_of_all_rails_together(here: int, there: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with hosts(of_host={"p0": rails(here), "d0": rails(there)}) as pair:
            host, peer = pair["p0"]._host, pair["d0"]._host
            used: set[Region] = set()
            addresses = host.peers["d0"]
            for own, its in connected(here, there):
                connection = await host.rails[own].transport.connect(addresses[its])
                read = connection.read

                async def noted(local, local_at, remote, remote_at, read=read):  # type: ignore[no-untyped-def]
                    used.add(local)
                    await read(local, local_at, remote, remote_at)
                    await asyncio.sleep(0)

                monkeypatch.setattr(connection, "read", noted)
            regions = tuple(rail.region.remote for rail in peer.rails)
            measured = await transfer_ceiling(host, MeasureTransfer("d0", regions, 0.05))
            assert isinstance(measured, Ceiling)
            assert measured.bytes_per_s > 0
            assert used == {rail.region for rail in host.rails}

    asyncio.run(test())


@given(here=st.integers(1, 9), there=st.integers(1, 9))
def test_every_rail_of_both_ends_is_connected_and_order_is_kept(here: int, there: int) -> None:
    pairs = connected(here, there)
    assert {own for own, _ in pairs} == set(range(here))
    assert {its for _, its in pairs} == set(range(there))
    assert pairs == sorted(pairs)
    assert len(pairs) == len(set(pairs))


@given(engines=st.integers(1, 16), among=st.integers(1, 16))
def test_engines_share_rails_evenly_neighbours_together(engines: int, among: int) -> None:
    shares = [share(engine, engines, among) for engine in range(engines)]
    assert shares == sorted(shares)
    counts = [shares.count(rail) for rail in set(shares)]
    assert max(counts) - min(counts) <= 1
    assert len(counts) == min(engines, among)

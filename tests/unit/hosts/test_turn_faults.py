"""Turns that go wrong: who hears why, and what is given back."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from in_process_hosts import FAST, Hosts, engine, hosts, order, passes_of, the_done

from hosts.config import TransportConfig
from hosts.protocol import Failed, PrefillFailed, TurnOrder, encode
from hosts.transport.memory import MemoryTransport
from workloads.layout import Span
from workloads.models import find_model, kv_bytes_per_token

NOWHERE = (Span("prime/none", 0, 5),)


async def failed(pair: Hosts, turn: TurnOrder, host: str) -> Failed:
    """Serve a turn; the one thing that is reported about it, of the host that failed."""
    await pair["d0"]._serve_turn(turn)
    await pair.prefilled()
    [report] = pair.reported()
    assert isinstance(report, Failed)
    assert (report.host, report.turn_id) == (host, turn.turn_id)
    return report


def test_failure_on_the_prefill_side_reaches_the_decode_side() -> None:
    async def test() -> None:
        async with hosts() as pair:
            report = await failed(pair, order(prefill_reads=NOWHERE), "p0")
            assert report.reason == "StorageError: read of 'prime/none': no such object"
            pair.assert_all_given_back()
            assert the_done(await pair.serve(order(2))).mismatched_blocks == 0

    asyncio.run(test())


def test_failure_on_the_decode_side_frees_its_buffer() -> None:
    async def test() -> None:
        async with hosts() as pair:
            report = await failed(pair, order(decode_reads=NOWHERE, prefill_reads=()), "d0")
            assert report.reason.startswith("StorageError: read of 'prime/none'")
            pair.assert_all_given_back()
            assert the_done(await pair.serve(order(2, decode_hits=5))).mismatched_blocks == 0

    asyncio.run(test())


def test_a_write_that_fails_fails_the_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    async def write(key: str, data: object) -> None:
        raise OSError(f"no space left for {key}")

    async def test() -> None:
        async with hosts() as pair:
            monkeypatch.setattr(pair["d0"]._host.storage, "write", write)
            await pair["d0"]._serve_turn(order(generated=1))
            last = pair.reported()[-1]
            assert last == Failed("d0", "OSError: no space left for r/1/prompt", 1)
            pair.assert_all_given_back()

    asyncio.run(test())


@pytest.mark.parametrize("layerwise", [True, False])
def test_a_read_that_fails_in_mid_prompt_fails_all_that_wait_and_no_later_one(layerwise: bool) -> None:
    async def test() -> None:
        async with hosts(("p0", "d0", "d1"), layerwise=layerwise, engine=passes_of(0.05)) as trio:
            turns = [
                asyncio.create_task(trio["d0"]._serve_turn(order(i, decode_hits=5, prefill_engine=i % 2)))
                for i in (1, 2, 3)
            ]
            await asyncio.sleep(0.02)
            gone = trio["d0"]._host
            gone.rails[0].transport.deregister(gone.rails[0].region)
            await asyncio.gather(*turns)
            await trio.prefilled()
            reports = trio.reported()[-3:]
            for report in reports:
                assert isinstance(report, Failed)
                assert report.host == "p0"
                assert report.reason.startswith("TransferError")
                assert "no such region" in report.reason
            trio.assert_all_given_back()
            later = await trio.serve(order(4, decode_hits=5), decode_host="d1")
            assert the_done(later).mismatched_blocks == 0

    asyncio.run(test())


def test_prefill_failure_goes_to_the_control_node_if_the_decode_host_is_gone() -> None:
    async def test() -> None:
        async with hosts() as pair:
            turn = asyncio.create_task(pair["d0"]._serve_turn(order()))
            while not pair["p0"]._tasks - {pair["p0"]._fetching}:  # noqa: ASYNC110 - nothing signals it
                await asyncio.sleep(0)
            await pair["d0"]._host.rails[0].transport.close()
            await pair.prefilled()
            [report] = pair.reported()
            assert isinstance(report, Failed)
            assert (report.host, report.turn_id) == ("p0", 1)
            assert "no such endpoint" in report.reason or "closed" in report.reason
            turn.cancel()
            await asyncio.gather(turn, return_exceptions=True)
            pair.assert_all_given_back()

    asyncio.run(test())


@pytest.mark.parametrize("decode_hits", [0, 3, 5])
def test_a_turn_that_gets_no_answer_ends_at_its_deadline(decode_hits: int) -> None:
    async def test() -> None:
        async with hosts(turn_timeout_s=0.05) as pair:
            deaf = MemoryTransport(TransportConfig("memory"))
            deaf.on_notification(lambda payload: None)
            pair["d0"]._host.peers["p0"] = (deaf.address,)
            await pair["d0"]._serve_turn(order(decode_hits=decode_hits))
            assert pair.reported()[-1] == Failed("d0", "deadline passed", 1)
            pair.assert_all_given_back()
            pair["d0"]._in_band(encode(PrefillFailed(1, "too late to matter")))
            assert pair.reported() == []
            await deaf.close()

    asyncio.run(test())


def test_a_deadline_while_tokens_are_decoded_gives_everything_back() -> None:
    async def test() -> None:
        slow = {"d0": {"engine": engine(decode_overhead_s=10.0), "turn_timeout_s": 0.05}}
        async with hosts(of_host=slow) as pair:
            await pair["d0"]._serve_turn(order(generated=1))
            assert pair.reported()[-1] == Failed("d0", "deadline passed", 1)
            [group] = set(pair["d0"]._decode._groups.values())
            assert not any(group._streams.values())
            pair.assert_all_given_back()

    asyncio.run(test())


def test_an_overrun_of_decode_hbm_is_reported_and_not_waited_for() -> None:
    room = 1.5 * order().prompt_tokens * kv_bytes_per_token(find_model("dualpath-27b"))

    async def test() -> None:
        of_host = {"d0": {"engine": msgspec.structs.replace(FAST, kv_hbm_bytes=room)}}
        async with hosts(of_host=of_host) as pair:
            reports = await pair.serve(order(1), order(2), order(3, decode_engine=1))
            [report] = [body for body in reports if isinstance(body, Failed)]
            assert report.turn_id == 2
            assert report.reason == (
                "TurnError: HBM of decode engine 0 would be overrun: found 68 tokens free, needed 139; "
                "the scheduler's account of it is wrong"
            )
            pair.assert_all_given_back()

    asyncio.run(test())


def test_a_prompt_beyond_prefill_hbm_fails_without_layerwise_prefill() -> None:
    room = 0.5 * order().prompt_tokens * kv_bytes_per_token(find_model("dualpath-27b"))

    async def test() -> None:
        of_host = {"p0": {"engine": msgspec.structs.replace(FAST, kv_hbm_bytes=room)}}
        async with hosts(of_host=of_host, layerwise=False) as pair:
            reports = await pair.serve(order())
            assert isinstance(reports[-1], Failed)
            assert reports[-1].host == "p0"
            assert reports[-1].reason.startswith("BudgetError")
            pair.assert_all_given_back()
        async with hosts(of_host=of_host) as pair:
            assert the_done(await pair.serve(order())).mismatched_blocks == 0

    asyncio.run(test())


def test_agents_that_end_in_the_middle_of_turns_give_everything_back() -> None:
    async def test(layerwise: bool, delay_s: float) -> None:
        slow = passes_of(0.05, decode_overhead_s=0.01)
        async with hosts(layerwise=layerwise, engine=slow) as pair:
            for turn_id, decode_hits in enumerate((0, 3, 5, 0, 3, 5), start=1):
                turn = order(turn_id, decode_hits=decode_hits, generated=1, prefill_engine=turn_id % 2)
                pair["d0"]._start(pair["d0"]._serve_turn(turn))
            await asyncio.sleep(delay_s)
            tasks = [*pair["d0"]._tasks, *pair["p0"]._tasks]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            pair.assert_all_given_back()

    for delay_s in (0, 0.003, 0.02, 0.07):
        asyncio.run(test(True, delay_s))
        asyncio.run(test(False, delay_s))

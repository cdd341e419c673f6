"""What is recorded about turns becomes the tables of the run directory."""

from __future__ import annotations

from harness.policies.load import Engine
from hypothesis import given
from hypothesis import strategies as st

from harness.policies import Placement
from harness.recording import Repetition, TurnRecord, hosts_table, nics_table, transfers_table, turns_table
from hosts.protocol import HostSamples, NicSamples, RepetitionReport, Transfer, TurnDone
from reports.stored_run import HOST_COLUMNS, NIC_COLUMNS, TRANSFER_COLUMNS, TURN_COLUMNS

PLACEMENT = Placement(Engine("p0", 3), Engine("d1", 2), "decode")
TRANSFERS = (
    Transfer("storage_read", "d1", "storage", 500, 2, 10, 20),
    Transfer("storage_write", "d1", "storage", 70, 1, 60, 70),
    Transfer("layer_read", "p0", "d1", 500, 5, 20, 50),
    Transfer("layer_write", "p0", "d1", 80, 5, 25, 55),
)


def turn(index: int, done: bool = True) -> TurnRecord:
    record = TurnRecord(
        session_id="s",
        turn=index,
        turn_id=index + 1,
        placement=PLACEMENT,
        input_tokens=100,
        hit_tokens=64,
        new_tokens=36,
        output_tokens=9,
        arrived_at_ns=1,
        dispatched_at_ns=2,
    )
    if done:
        record.first_token_at_ns, record.done_at_ns = 30, 90
        record.done = TurnDone(
            turn_id=index + 1,
            allocate_ns=1,
            read_ns=10,
            engine_wait_ns=2,
            compute_ns=15,
            transfer_ns=5,
            decode_ns=40,
            persist_ns=10,
            persisted_bytes=70,
            verified_blocks=4,
            mismatched_blocks=1,
            transfers=TRANSFERS,
        )
    return record


def samples(count: int) -> HostSamples:
    column = list(range(count))
    return HostSamples(
        at_ns=column,
        cpu_busy_fraction=[0.5] * count,
        agent_cpu_s=[0.1] * count,
        memory_used_bytes=column,
        storage_read_bytes=column,
        storage_written_bytes=column,
        disk_read_bytes=column,
        disk_written_bytes=column,
        sample_cost_ns=column,
        nics=[NicSamples("stor0", "storage", column, column), NicSamples("comp0", "compute", column, column)],
    )


def report(count: int = 3) -> RepetitionReport:
    return RepetitionReport(500, 70, 0.2, 0.01, samples(count))


def test_tables_have_the_columns_that_reports_read() -> None:
    repetition = Repetition(0, "dual_path", [turn(0)], {"p0": report()})
    roles = {"p0": "prefill"}
    for table, columns in (
        (turns_table([repetition]), TURN_COLUMNS),
        (transfers_table([repetition]), TRANSFER_COLUMNS),
        (nics_table([repetition], roles), NIC_COLUMNS),
        (hosts_table([repetition], roles), HOST_COLUMNS),
    ):
        assert set(columns) <= set(table.columns)
        assert len(table) > 0


def test_a_turn_is_one_row_with_its_transfers_summed_by_kind() -> None:
    [row] = turns_table([Repetition(4, "dual_path", [turn(7)])]).to_dict("records")
    assert (row["repetition"], row["policy"], row["turn"], row["path"]) == (4, "dual_path", 7, "decode")
    assert (row["prefill_host"], row["prefill_engine"]) == ("p0", 3)
    assert (row["decode_host"], row["decode_engine"]) == ("d1", 2)
    assert (row["read_bytes"], row["layer_read_bytes"], row["layer_write_bytes"]) == (500, 500, 80)
    assert row["persisted_bytes"] == 70


def test_transfers_know_their_network() -> None:
    table = transfers_table([Repetition(0, "dual_path", [turn(0)])])
    assert list(table["kind"]) == [t.kind for t in TRANSFERS]
    assert list(table["network"]) == ["storage", "storage", "compute", "compute"]


@given(done=st.lists(st.booleans(), max_size=8))
def test_unfinished_turns_are_in_flight_and_in_no_table(done: list[bool]) -> None:
    repetition = Repetition(0, "dual_path", [turn(i, finished) for i, finished in enumerate(done)])
    finished, unfinished = sum(done), len(done) - sum(done)
    assert len(turns_table([repetition])) == finished
    assert len(transfers_table([repetition])) == finished * len(TRANSFERS)
    assert repetition.summary()["turns"] == finished
    said = repetition.in_flight()
    assert said.startswith(f"{unfinished} turns in flight: session s turn ") if unfinished else said == ""
    assert ("more" in said) == (unfinished > 3)


def test_a_summary_adds_up_hosts_and_turns() -> None:
    repetition = Repetition(1, "dual_path", [turn(0), turn(1), turn(2, done=False)])
    repetition.reports = {"p0": report(), "d1": report()}
    summary = repetition.summary()
    assert (summary["read_bytes"], summary["written_bytes"]) == (1000, 140)
    assert summary["transferred_bytes"] == 2 * 580
    assert (summary["verified_blocks"], summary["mismatched_blocks"]) == (8, 2)
    assert summary["telemetry_cpu_s"] == {"p0": 0.01, "d1": 0.01}
    assert summary["complete"] is False


def test_telemetry_is_a_row_a_sample_and_nic() -> None:
    repetitions = [Repetition(i, "dual_path", reports={"p0": report(3), "d1": report(2)}) for i in range(2)]
    roles = {"p0": "prefill", "d1": "decode"}
    assert len(hosts_table(repetitions, roles)) == 2 * 5
    nics = nics_table(repetitions, roles)
    assert len(nics) == 2 * 5 * 2
    assert set(zip(nics["host"], nics["role"], strict=True)) == {("p0", "prefill"), ("d1", "decode")}


def test_nothing_measured_is_an_empty_table() -> None:
    repetition = Repetition(0, "dual_path")
    for table in (
        turns_table([]),
        transfers_table([repetition]),
        nics_table([repetition], {}),
        hosts_table([repetition], {}),
    ):
        assert table.empty
    assert repetition.summary()["control"]["message_rtt_s_p50"] == 0.0

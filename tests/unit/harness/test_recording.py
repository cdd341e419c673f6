"""What is recorded about turns becomes the tables of the run directory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from recorded_turns import TRANSFERS, repetition, report, turn

from harness.recording import forwards_table, transfers_table, turns_table
from harness.telemetry_tables import classes_table, errors_table, gpus_table, hosts_table, nics_table
from reports.stored_run import (
    CLASS_COLUMNS,
    ERROR_COLUMNS,
    FORWARD_COLUMNS,
    GPU_COLUMNS,
    HOST_COLUMNS,
    NIC_COLUMNS,
    TRANSFER_COLUMNS,
    TURN_COLUMNS,
)


def test_tables_have_the_columns_that_reports_read() -> None:
    recorded = [repetition(0, [turn(0)], {"p0": report()})]
    roles = {"p0": "prefill"}
    for table, columns in (
        (turns_table(recorded), TURN_COLUMNS),
        (transfers_table(recorded), TRANSFER_COLUMNS),
        (forwards_table(recorded), FORWARD_COLUMNS),
        (nics_table(recorded, roles), NIC_COLUMNS),
        (classes_table(recorded, roles), CLASS_COLUMNS),
        (errors_table(recorded, roles), ERROR_COLUMNS),
        (gpus_table(recorded, roles), GPU_COLUMNS),
        (hosts_table(recorded, roles), HOST_COLUMNS),
    ):
        assert set(columns) <= set(table.columns)
        assert len(table) > 0


def test_a_turn_is_one_row_with_its_transfers_summed_by_kind() -> None:
    [row] = turns_table([repetition(4, [turn(7)])]).to_dict("records")
    assert (row["repetition"], row["policy"], row["turn"], row["path"]) == (4, "dual_path", 7, "split")
    assert (row["prefill_host"], row["prefill_engine"]) == ("p0", 3)
    assert (row["decode_host"], row["decode_engine"]) == ("d1", 2)
    assert (row["read_bytes"], row["layer_read_bytes"], row["layer_write_bytes"]) == (500, 500, 80)
    assert (row["prefill_read_bytes"], row["decode_read_bytes"]) == (300, 200)
    assert (row["hbm_wait_ns"], row["chunks"], row["hbm_load_ns"], row["second_token_ns"]) == (3, 2, 4, 6)
    assert row["persisted_bytes"] == 70


def test_transfers_know_their_network() -> None:
    table = transfers_table([repetition(0, [turn(0)])])
    assert list(table["kind"]) == [t.kind for t in TRANSFERS]
    assert list(table["network"]) == ["storage", "storage", "storage", "compute", "compute"]


def test_a_forward_pass_is_a_row_an_engine_idle_ones_too() -> None:
    table = forwards_table([repetition(2, reports={"p0": report(), "p1": report()})])
    assert len(table) == 2 * 4
    p1 = table[table["host"] == "p1"]
    assert list(p1["forward"]) == [0, 0, 1, 1]
    assert list(p1["engine"]) == [0, 1, 0, 1]
    assert list(p1["begin_at_ns"]) == [5, 5, 9, 9]
    assert list(p1["new_tokens"]) == [40, 0, 30, 7]


@given(done=st.lists(st.booleans(), max_size=8))
def test_unfinished_turns_are_in_flight_and_in_no_table(done: list[bool]) -> None:
    recorded = repetition(turns=[turn(i, finished) for i, finished in enumerate(done)])
    finished, unfinished = sum(done), len(done) - sum(done)
    assert len(turns_table([recorded])) == finished
    assert len(transfers_table([recorded])) == finished * len(TRANSFERS)
    assert recorded.summary()["turns"] == finished
    said = recorded.in_flight()
    assert said.startswith(f"{unfinished} turns in flight: session s turn ") if unfinished else said == ""
    assert ("more" in said) == (unfinished > 3)


def test_a_turn_says_where_it_is_served_once_it_is_placed() -> None:
    record = turn(4)
    assert str(record) == "session s turn 4 (p0->d1)"
    record.placement = None
    assert str(record) == "session s turn 4 (waiting for engines)"


def test_what_an_online_point_withdrew_is_not_in_flight_once_it_is_over() -> None:
    withdrawn = turn(1, done=False)
    withdrawn.placement = None
    point = repetition(turns=[turn(0), withdrawn])
    assert point.in_flight() == "1 turns in flight: session s turn 1 (waiting for engines)"
    point.complete = True
    assert point.in_flight() == ""


def test_a_summary_adds_up_hosts_and_turns() -> None:
    recorded = repetition(1, [turn(0), turn(1), turn(2, done=False)], {"p0": report(), "d1": report()})
    summary = recorded.summary()
    assert (summary["read_bytes"], summary["written_bytes"]) == (1000, 140)
    assert summary["transferred_bytes"] == 2 * 580
    assert (summary["verified_blocks"], summary["mismatched_blocks"]) == (8, 2)
    assert summary["telemetry_cpu_s"] == {"p0": 0.01, "d1": 0.01}
    assert summary["limits"] == {
        "alpha_tokens": {"p0": 3e4, "d1": 2e4},
        "beta_tokens": 5e4,
        "decode_hbm_tokens": 10**6,
        "decode_buffer_tokens": 10**7,
    }
    assert (summary["agents_per_s"], summary["stopped"], summary["complete"]) == (None, "all_done", False)


def test_telemetry_is_a_row_a_sample_and_nic() -> None:
    repetitions = [repetition(i, reports={"p0": report(3), "d1": report(2)}) for i in range(2)]
    roles = {"p0": "prefill", "d1": "decode"}
    assert len(hosts_table(repetitions, roles)) == 2 * 5
    nics = nics_table(repetitions, roles)
    assert len(nics) == 2 * 5 * 2
    assert set(zip(nics["host"], nics["role"], strict=True)) == {("p0", "prefill"), ("d1", "decode")}


def test_rdma_bytes_are_beside_the_interface_s_and_zero_without_a_port() -> None:
    nics = nics_table([repetition(reports={"p0": report(3)})], {"p0": "prefill"})
    assert list(nics["rdma_rx_bytes"]) == [0, 0, 0, 0, 7, 14]
    assert list(nics["rdma_kind"]) == ["none"] * 3 + ["roce"] * 3
    assert set(nics["rdma_port"]) == {"", "mlx5_0 port 1"}


def test_classes_and_errors_are_a_row_a_nic_and_name() -> None:
    recorded, roles = [repetition(4, reports={"p0": report()})], {"p0": "prefill"}
    classes = classes_table(recorded, roles)
    assert list(zip(classes["nic"], classes["traffic_class"], classes["tx_bytes"], strict=True)) == [
        ("comp0", "high", 3),
        ("comp0", "low", 40),
    ]
    assert classes["rx_bytes"].isna().all()
    errors = errors_table(recorded, roles)
    assert list(zip(errors["rdma_port"], errors["counter"], errors["count"], strict=True)) == [
        ("mlx5_0 port 1", "rx_errors", 0),
        ("mlx5_0 port 1", "out_of_sequence", 2),
    ]


def test_a_gpu_s_sample_is_a_row_null_where_it_does_not_tell() -> None:
    table = gpus_table([repetition(4, reports={"p0": report(3)})], {"p0": "prefill"})
    assert list(zip(table["gpu"], table["uuid"], table["at_ns"], strict=True)) == [
        (0, "GPU-0", 0),
        (0, "GPU-0", 1),
        (0, "GPU-0", 2),
    ]
    assert set(table["host"]) == {"p0"}
    assert set(table["memory_bytes"]) == {80 * 2**30}
    assert list(table["pcie_tx_bytes"].fillna(-1)) == [0, 500, -1]
    assert table["power_mw"].isna().all()
    assert list(table["error"]) == ["", "", "GPU is lost"]
    assert {str(table[name].dtype) for name in ("pcie_tx_bytes", "power_mw")} == {"Int64"}


def test_nothing_measured_is_an_empty_table() -> None:
    nothing = repetition()
    for table in (
        turns_table([]),
        transfers_table([nothing]),
        forwards_table([nothing]),
        nics_table([nothing], {}),
        classes_table([nothing], {}),
        errors_table([nothing], {}),
        gpus_table([nothing], {}),
        hosts_table([nothing], {}),
    ):
        assert table.empty
    assert nothing.summary()["control"]["message_rtt_s_p50"] == 0.0

"""What compute NICs counted: Layer Blocks that crossed them, classes of traffic, errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from stored_run_builder import StoredRunBuilder

from reports import Summary, analyse
from reports.compute_check import check_compute
from reports.markdown import document
from reports.nic_tables import class_table
from reports.stored_run import StoredRun

SECOND_NS = 1_000_000_000
PAYLOAD_BYTES = 1_000_000
CLASS_TITLE = "Bytes by traffic class"


def small() -> StoredRunBuilder:
    return StoredRunBuilder(sessions=4, turns=3, order=("prefill_only", "dual_path"))


def move(run: StoredRunBuilder, kind: str, host: str, peer: str, nbytes: int = PAYLOAD_BYTES) -> None:
    """One stage of Layer Blocks in repetition 0."""
    turn = {"repetition": 0, "policy": "prefill_only", "session_id": "s0", "turn": 0, "turn_id": 0}
    moved = {
        "kind": kind,
        "host": host,
        "peer": peer,
        "network": "compute",
        "bytes": nbytes,
        "operations": 61,
    }
    run.tables["transfers"].append(turn | moved | {"begin_at_ns": 0, "end_at_ns": SECOND_NS})


def receive(
    run: StoredRunBuilder, host: str, interface: int, port: int = 0, kind: str = "none", name: str = ""
) -> None:
    """Two samples of a compute NIC in repetition 0."""
    rdma = {"rdma_port": name, "rdma_kind": kind, "rdma_tx_bytes": 0}
    for row in run.tables["nics"]:
        row |= {"rdma_port": "", "rdma_kind": "none", "rdma_rx_bytes": 0, "rdma_tx_bytes": 0} | row
    place = {"repetition": 0, "policy": "prefill_only", "host": host, "role": "", "nic": "comp0"}
    for at_s in (0, 1):
        counters = {"rx_bytes": 50 + at_s * interface, "tx_bytes": 0, "rdma_rx_bytes": 90 + at_s * port}
        sample = {"network": "compute", "at_ns": at_s * SECOND_NS} | counters
        run.tables["nics"].append(place | sample | rdma)


def shortfalls(run: StoredRunBuilder, directory: Path) -> dict[str, float]:
    stored = StoredRun.load(run.write(directory))
    return {check.host: check.shortfall for check in check_compute(stored, stored.metadata.repetitions[0])}


def judged(run: StoredRunBuilder, directory: Path) -> Summary:
    return analyse(StoredRun.load(run.write(directory)))


@pytest.mark.parametrize(
    ("kind", "interface", "port", "shortfall"),
    [
        ("none", 1_040_000, 0, 0.0),
        ("none", 700_000, 0, 0.3),
        ("software", 1_070_000, 0, 0.0),
        ("software", 600_000, 1_000_000, 0.4),  # its packets pass the interface: not counted twice
        ("roce", 5_000, 1_030_000, 0.0),  # control messages beside RDMA
        ("roce", 5_000, 0, 0.995),
        ("infiniband", 900_000, 1_030_000, 0.0),
        ("infiniband", 900_000, 200_000, 0.8),
    ],
)
def test_layer_blocks_have_to_be_in_what_the_nic_carried(
    kind: str, interface: int, port: int, shortfall: float, tmp_path: Path
) -> None:
    run = small()
    move(run, "layer_read", "p0", "d0", 600_000)
    move(run, "layer_write", "d0", "p0", 400_000)
    receive(run, "p0", interface, port, kind, "mlx5_0 port 1")
    assert shortfalls(run, tmp_path) == pytest.approx({"p0": shortfall})


def test_each_host_answers_for_what_it_received(tmp_path: Path) -> None:
    run = small()
    move(run, "layer_write", "p0", "d0")
    receive(run, "p0", 23_000)  # acknowledgements
    receive(run, "d0", 1_050_000)
    assert shortfalls(run, tmp_path) == {"p0": 0.0, "d0": 0.0}


def test_bytes_that_took_another_way_make_the_run_invalid(tmp_path: Path) -> None:
    run = small()
    move(run, "layer_write", "p0", "d0")
    receive(run, "d0", 60_000)
    [line] = judged(run, tmp_path).problems
    assert line.startswith(
        "Layer Blocks did not cross the compute NIC: repetition 0 (prefill_only), d0: found 60,000 B received"
        ", expected at least 1,000,000 B within 5 %"
    )


def test_a_port_that_counts_no_bytes_is_said_not_to_be_checked(tmp_path: Path) -> None:
    run = small()
    move(run, "layer_write", "p0", "d0")
    receive(run, "d0", 60_000, name="other0 port 1")
    summary = judged(run, tmp_path)
    assert summary.valid, summary.problems
    assert "not checked: other0 port 1 counts no bytes: compute NICs are not checked" in summary.warnings


def test_nics_that_also_copied_to_gpus_are_said_not_to_be_checked(tmp_path: Path) -> None:
    run = small()
    run.metadata["experiment"]["compute"] = {"kind": "torch", "copy": "nic"}
    move(run, "layer_write", "p0", "d0")
    receive(run, "d0", 5_000, 600_000, "roce")
    summary = judged(run, tmp_path)
    assert summary.valid, summary.problems
    assert any("count copies between host memory and HBM, too" in warning for warning in summary.warnings)


def carry(
    run: StoredRunBuilder, host: str, traffic_class: str, sent: int, received: int | None = None
) -> None:
    """Bytes of one class in both repetitions."""
    for number, policy in enumerate(run.order):
        place = {"repetition": number, "policy": policy, "host": host, "role": "", "nic": "comp0"}
        carried = {"traffic_class": traffic_class, "tx_bytes": sent, "rx_bytes": received}
        run.tables["classes"].append(place | {"network": "compute"} | carried)


def test_classes_are_a_column_each_high_first(tmp_path: Path) -> None:
    run = small()
    for host in ("p0", "d0"):
        carry(run, host, "low", 3_000_000)
        carry(run, host, "high", 0)
    table = class_table(StoredRun.load(run.write(tmp_path)), ["prefill_only", "dual_path"])
    assert table.columns == ["policy", "host", "compute NIC", "sent, high", "sent, low"]
    assert table.rows[0] == ["prefill_only", "p0", "comp0", "0 B (0.00 %)", "3 MB (100.00 %)"]
    assert [row[:2] for row in table.rows] == [
        [policy, host] for policy in ("prefill_only", "dual_path") for host in ("p0", "d0")
    ]
    assert "classed in the switch" in table.note


def test_priorities_are_shown_if_they_carried_anything(tmp_path: Path) -> None:
    run = small()
    for priority in range(8):
        busy = priority in (0, 5)
        carry(run, "p0", f"priority {priority}", 300 * busy, 100 * busy)
    stored = StoredRun.load(run.write(tmp_path))
    table = class_table(stored, ["prefill_only"])
    assert table.columns[3:] == [
        "sent, priority 0",
        "sent, priority 5",
        "received, priority 0",
        "received, priority 5",
    ]
    assert table.rows == [
        ["prefill_only", "p0", "comp0", "300 B (50.00 %)", "300 B (50.00 %)", "100 B", "100 B"]
    ]
    assert CLASS_TITLE in document(stored, analyse(stored))


def test_a_run_without_classes_has_no_table_of_them(tmp_path: Path) -> None:
    stored = StoredRun.load(small().write(tmp_path))
    assert class_table(stored, ["prefill_only"]).rows == []
    assert CLASS_TITLE not in document(stored, analyse(stored))


def test_errors_that_grew_are_a_warning_and_a_table(tmp_path: Path) -> None:
    run = small()
    for number, policy in enumerate(run.order):
        for counter, count in (("out_of_sequence", 3 * number), ("symbol_error", 0), ("rx_errors", 1)):
            place = {"repetition": number, "policy": policy, "host": "p0", "role": "", "nic": "comp0"}
            port = {"network": "compute", "rdma_port": "mlx5_0 port 1"}
            run.tables["errors"].append(place | port | {"counter": counter, "count": count})
    stored = StoredRun.load(run.write(tmp_path))
    summary = analyse(stored)
    assert summary.valid
    assert "errors on p0 comp0 (mlx5_0 port 1): rx_errors 2, out_of_sequence 3" in summary.warnings
    text = document(stored, summary)
    assert "| 1 | dual\\_path | p0 | comp0 (mlx5\\_0 port 1) | out\\_of\\_sequence | 3 |" in text
    assert "symbol" not in text

"""Counters of a NIC in copies of what the kernel shows of RDMA devices; the NIC is the machine's loopback."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from test_verbs_port import device

from hosts.config import NicConfig, VerbsConfig
from hosts.counters import NicCounters, RdmaPort, find_rdma_port

LOOPBACK = "0000:0000:0000:0000:0000:ffff:7f00:0001"  # 127.0.0.1
LO = NicConfig("lo", "compute")


class Interface(NamedTuple):
    bytes_recv: int = 0
    bytes_sent: int = 0
    errin: int = 0
    errout: int = 0


def count(sysfs: Path, name: str, group: str = "counters", **values: int) -> None:
    folder = sysfs / name / "ports" / "1" / group
    folder.mkdir(exist_ok=True)
    for counter, value in values.items():
        (folder / counter).write_text(f"{value}\n")


def rdma_device(sysfs: Path, name: str = "mlx5_0", link_layer: str = "Ethernet") -> None:
    device(sysfs, name, {1: (LOOPBACK, "RoCE v2")}, link_layer=link_layer)
    count(sysfs, name, port_rcv_data=25, port_xmit_data=50, symbol_error=0)


def soft_roce(sysfs: Path) -> None:
    device(sysfs, "rxe0", {1: (LOOPBACK, "RoCE v2")})
    (sysfs / "rxe0" / "parent").write_text("comp0\n")
    count(sysfs, "rxe0", "hw_counters", sent_pkts=7, rcvd_pkts=9, out_of_seq_request=1)


def found(sysfs: Path, nic: NicConfig = LO, verbs: VerbsConfig | None = None) -> RdmaPort:
    port = find_rdma_port(nic, verbs or VerbsConfig(), sysfs)
    assert port is not None
    return port


def test_a_roce_port_counts_words_of_four_bytes(tmp_path: Path) -> None:
    rdma_device(tmp_path)
    port = found(tmp_path)
    assert (port.name, port.kind, port.data_bytes()) == ("mlx5_0 port 1", "roce", (100, 200))


def test_an_infiniband_port_is_told_by_its_link_layer(tmp_path: Path) -> None:
    rdma_device(tmp_path, link_layer="InfiniBand")
    assert found(tmp_path).kind == "infiniband"


def test_soft_roce_is_told_by_its_parent_whatever_it_counts(tmp_path: Path) -> None:
    soft_roce(tmp_path)
    assert found(tmp_path).kind == "software"
    count(tmp_path, "rxe0", port_rcv_data=1, port_xmit_data=1)
    assert found(tmp_path).kind == "software"


def test_a_device_without_byte_counters_is_named_and_counts_none(tmp_path: Path) -> None:
    device(tmp_path, "other0", {1: (LOOPBACK, "RoCE v2")})
    assert (found(tmp_path).name, found(tmp_path).kind) == ("other0 port 1", "none")


def test_no_port_where_none_has_the_address_or_none_is_active(tmp_path: Path) -> None:
    assert find_rdma_port(LO, VerbsConfig(), tmp_path) is None
    device(tmp_path, "mlx5_0", {1: (LOOPBACK, "RoCE v2")}, state="1: DOWN")
    assert find_rdma_port(LO, VerbsConfig(), tmp_path) is None
    assert find_rdma_port(NicConfig("nosuch0", "compute"), VerbsConfig(), tmp_path) is None


def test_a_named_device_is_the_compute_nic_s_only(tmp_path: Path) -> None:
    rdma_device(tmp_path)
    device(tmp_path, "mlx5_9", {0: ("fe80:0000:0000:0000:5054:00ff:fe12:3456", "RoCE v2")})
    named = VerbsConfig(device="mlx5_9")
    assert found(tmp_path, verbs=named).name == "mlx5_9 port 1"
    assert found(tmp_path, NicConfig("lo", "storage"), named).name == "mlx5_0 port 1"


def test_a_repetition_of_a_roce_nic(tmp_path: Path) -> None:
    rdma_device(tmp_path)
    count(tmp_path, "mlx5_0", "hw_counters", out_of_sequence=5, local_ack_timeout_err=9, rx_read_requests=4)
    nic = NicCounters(LO, found(tmp_path))
    samples = nic.begin(Interface(errin=1))
    nic.sample(Interface(1000, 2000))
    count(tmp_path, "mlx5_0", port_rcv_data=1025, port_xmit_data=50, symbol_error=2)
    count(tmp_path, "mlx5_0", "hw_counters", out_of_sequence=8, local_ack_timeout_err=3, rx_read_requests=77)
    nic.sample(Interface(1100, 2200))
    nic.end(Interface(errin=1, errout=4))
    assert (samples.rdma_port, samples.rdma_kind) == ("mlx5_0 port 1", "roce")
    assert (samples.rx_bytes, samples.tx_bytes) == ([1000, 1100], [2000, 2200])
    assert (samples.rdma_rx_bytes, samples.rdma_tx_bytes) == ([100, 4100], [200, 200])
    # local_ack_timeout_err was reset in between; what counts traffic is no error.
    assert samples.errors == {
        "rx_errors": 0,
        "tx_errors": 4,
        "symbol_error": 2,
        "out_of_sequence": 3,
        "local_ack_timeout_err": 3,
    }


def test_a_repetition_over_soft_roce_has_errors_and_no_rdma_bytes(tmp_path: Path) -> None:
    soft_roce(tmp_path)
    nic = NicCounters(LO, found(tmp_path))
    samples = nic.begin(Interface())
    nic.sample(Interface(10, 20))
    count(tmp_path, "rxe0", "hw_counters", out_of_seq_request=4)
    nic.end(Interface())
    assert (samples.rdma_kind, samples.rdma_rx_bytes) == ("software", [])
    assert samples.errors["out_of_seq_request"] == 3


def test_each_repetition_starts_empty() -> None:
    nic = NicCounters(LO, None)
    for _ in range(2):
        samples = nic.begin(Interface())
        nic.sample(Interface(1, 1))
        nic.end(Interface())
        assert samples.rx_bytes == [1]
        assert (samples.rdma_port, samples.rdma_kind) == ("", "none")


def test_a_device_that_is_gone_is_an_error(tmp_path: Path) -> None:
    rdma_device(tmp_path)
    nic = NicCounters(LO, found(tmp_path))
    nic.begin(Interface())
    (tmp_path / "mlx5_0" / "ports" / "1" / "counters" / "port_rcv_data").unlink()
    with pytest.raises(FileNotFoundError):
        nic.sample(Interface())

"""Bytes by class of traffic: drivers' statistics through ethtool's structures, and leaves of HTB."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

import pytest

from hosts.class_counters import classes_of, grown, priorities, shaped_classes
from hosts.config import NicConfig
from hosts.ethtool import read_statistics, statistics
from hosts.protocol import ClassBytes

SHAPED = NicConfig("comp0", "compute", {"1:10": "high", "1:20": "low"})
MLX5 = {
    "rx_packets": 9,
    "rx_vport_rdma_unicast_bytes": 4,
    "rx_prio0_bytes": 1_000,
    "rx_prio0_packets": 3,
    "tx_prio0_bytes": 2**40,
    "rx_prio5_bytes": 70,
    "tx_prio5_bytes": 50,
    "tx_prio5_pause": 8,
}


def driver(counted: Mapping[str, int]) -> Callable[[bytes], bytes]:
    """Answers as a driver does whose statistics are ``counted``."""

    def answer(command: bytes) -> bytes:
        match struct.unpack_from("=I", command)[0]:
            case 0x37:  # ETHTOOL_GSSET_INFO
                assert command == struct.pack("=IIQI", 0x37, 0, 2, 0)
                return struct.pack("=IIQI", 0x37, 0, 2, len(counted))
            case 0x1B:  # ETHTOOL_GSTRINGS
                assert len(command) == 12 + 32 * len(counted)
                return command[:12] + b"".join(name.encode().ljust(32, b"\0") for name in counted)
            case 0x1D:  # ETHTOOL_GSTATS
                assert len(command) == 8 + 8 * len(counted)
                return command[:8] + struct.pack(f"={len(counted)}Q", *counted.values())
        raise AssertionError(command)

    return answer


def test_statistics_are_numbers_by_name() -> None:
    assert read_statistics(driver(MLX5)) == MLX5
    longest = {"x" * 32: 2**64 - 1}
    assert read_statistics(driver(longest)) == longest


def test_a_driver_that_names_none_has_none() -> None:
    assert read_statistics(driver({})) == {}
    assert read_statistics(lambda command: struct.pack("=IIQI", 0x37, 0, 0, 0)) == {}
    assert statistics("lo") == {}


def test_an_interface_that_is_not_there_is_an_error() -> None:
    with pytest.raises(OSError, match="statistics of nosuch0: No such device"):
        statistics("nosuch0")


@pytest.mark.parametrize("spelling", ["{way}_prio{n}_bytes", "{way}_prio_{n}_bytes", "{way}_bytes_pri{n}"])
def test_priorities_by_each_driver_s_spelling(spelling: str) -> None:
    counted = {
        spelling.format(way=way, n=n): 10 * n + (way == "tx") for n in range(8) for way in ("rx", "tx")
    }
    found = priorities(counted | {"rx_bytes": 5, "tx_prio0_pause": 6})
    assert found["priority 5"] == ClassBytes("priority 5", 51, 50)
    assert list(found) == [f"priority {n}" for n in range(8)]


def test_other_statistics_are_no_classes() -> None:
    assert priorities({"rx_queue_0_bytes": 5, "tx_prio1_bytes_phy": 4}) == {}
    assert list(priorities(MLX5)) == ["priority 0", "priority 5"]


def test_leaves_are_the_classes_they_are_said_to_be() -> None:
    found = shaped_classes(SHAPED, {"1:1": 13, "1:10": 3, "1:20": 10})
    assert found == {"high": ClassBytes("high", 3, None), "low": ClassBytes("low", 10, None)}


def test_a_leaf_that_is_missing_is_named() -> None:
    with pytest.raises(
        LookupError, match=r"comp0: found traffic classes 1:10, expected 1:20, too; look at 'tc"
    ):
        shaped_classes(SHAPED, {"1:10": 3})


def test_growth_is_by_class_and_direction() -> None:
    before = {"low": ClassBytes("low", 10, None), "priority 5": ClassBytes("priority 5", 1, 2)}
    after = {"low": ClassBytes("low", 25, None), "priority 5": ClassBytes("priority 5", 4, 9)}
    assert grown(before, after) == [ClassBytes("low", 15, None), ClassBytes("priority 5", 3, 7)]


def test_a_nic_that_counts_no_classes_has_none() -> None:
    assert classes_of(NicConfig("lo", "storage")) == {}

"""Traffic classes out of what a kernel answered: an HTB root with two leaves, 3794 and 10510 bytes sent."""

from __future__ import annotations

import errno
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosts.rtnetlink import class_bytes, parse_classes

# Linux 6.18, RTM_GETTCLASS of a veth; rates, tokens and the rest of the attributes as they came.
RECORDED = bytes.fromhex(
    "ec0000002800020001000000f53a00000000000003000000100001000100010000000000080001006874620034000200"
    "300001000001000000000000583d24000001000000000000a02526001329000010270000400d03000000000000000000"
    "4800070014000100d20e0000000000000700000000000000180003000000000000000000000000000000000005000000"
    "1800040007000000000000000000000077f2ffff54f5ffff2c000300d20e000000000000070000000000000005000000"
    "00000000000000000000000000000000000000001800040007000000000000000000000077f2ffff54f5ffff"
    "ec0000002800020001000000f53a0000000000000300000001000100ffffffff00000000080001006874620034000200"
    "300001000001000000000000a02526000001000000000000a02526001027000010270000400d03000700000000000000"
    "4800070014000100e0370000000000001200000000000000180003000000000000000000000000000000000008000000"
    "18000400070000000000000000000000eae8ffffeae8ffff2c000300e037000000000000120000000000000008000000"
    "000000000000000000000000000000000000000018000400070000000000000000000000eae8ffffeae8ffff"
    "ec0000002800020001000000f53a00000000000003000000200001000100010000000000080001006874620034000200"
    "30000100000100000000000048e801000001000000000000a0252600400d030010270000d43000000000000007000000"
    "48000700140001000e290000000000000b00000000000000180003000000000000000000000000000000000002000000"
    "18000400040000000700000000000000c233feff0e0d00002c0003000e290000000000000b0000000000000002000000"
    "000000000000000000000000000000000000000018000400040000000700000000000000c233feff0e0d0000"
)
DONE = bytes.fromhex("140000000300020001000000f53a000000000000")


def test_bytes_by_class_id() -> None:
    sent: dict[str, int] = {}
    assert parse_classes(RECORDED, sent)
    assert sent == {"1:10": 3794, "1:1": 14304, "1:20": 10510}
    assert not parse_classes(DONE, sent)


def test_what_the_kernel_refuses_is_an_error() -> None:
    refusal = struct.pack("=IHHIIi", 36, 2, 0, 1, 0, -errno.EPERM) + bytes(16)
    with pytest.raises(PermissionError, match="traffic classes: Operation not permitted"):
        parse_classes(refusal, {})


def test_a_class_without_statistics_is_an_error() -> None:
    bare = struct.pack("=IHHII", 36, 40, 2, 1, 0) + RECORDED[16:36]
    with pytest.raises(OSError, match="without statistics"):
        parse_classes(bare, {})


@given(st.integers(20, len(RECORDED) - 1))
def test_a_torn_answer_ends(size: int) -> None:
    with suppress(OSError, struct.error):
        parse_classes(RECORDED[:size], {})


def test_an_interface_without_classes_has_none() -> None:
    assert class_bytes("lo") == {}


def test_an_interface_that_is_not_there_is_an_error() -> None:
    with pytest.raises(OSError, match="no interface"):
        class_bytes("nosuch0")

"""KV bytes as a function of (seed, block id)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosts.content import fill_blocks, mismatched

IDS = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=8)


def blocks(ids: list[int], block_bytes: int, seed: int = 1) -> np.ndarray:
    out = np.zeros((len(ids), block_bytes), np.uint8)
    fill_blocks(out, seed, np.array(ids, np.int64))
    return out


@given(ids=IDS, block_bytes=st.integers(1, 300), seed=st.integers(0, 2**64 - 1))
def test_every_number_in_a_block_is_finite(ids: list[int], block_bytes: int, seed: int) -> None:
    """FP8 (E4M3) and, by their highest byte, BF16 and FP32 that have not all bits of the exponent set."""
    assert not (blocks(ids, block_bytes, seed) & 0x40).any()


@given(ids=IDS, block_bytes=st.integers(1, 300), seed=st.integers(0, 2**64 - 1), gap=st.integers(0, 9))
def test_a_block_does_not_depend_on_its_place(ids: list[int], block_bytes: int, seed: int, gap: int) -> None:
    around = np.zeros((len(ids), block_bytes + gap), np.uint8)
    fill_blocks(around[:, :block_bytes], seed, np.array(ids, np.int64))
    assert not around[:, block_bytes:].any()
    for row, block_id in enumerate(ids):
        assert np.array_equal(around[row, :block_bytes], blocks([block_id], block_bytes, seed)[0])
    assert not len(mismatched(around[:, :block_bytes], seed, np.array(ids, np.int64)))


@given(id_=st.integers(0, 2**40), other=st.integers(0, 2**40), words=st.integers(1, 200))
def test_blocks_of_different_ids_differ_in_every_word(id_: int, other: int, words: int) -> None:
    a, b = (row.view("<u8") for row in blocks([id_, other], words * 8))
    assert (a == b).all() if id_ == other else (a != b).all()


@given(ids=IDS, block_bytes=st.integers(1, 300), data=st.data())
def test_one_flipped_bit_is_found_where_it_is(ids: list[int], block_bytes: int, data: st.DataObject) -> None:
    found = blocks(ids, block_bytes)
    row = data.draw(st.integers(0, len(ids) - 1))
    found[row, data.draw(st.integers(0, block_bytes - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert mismatched(found, 1, np.array(ids, np.int64)).tolist() == [row]


def test_layers_of_a_block_and_seeds_differ_and_look_random() -> None:
    block = blocks([5], 61 * 4096)[0]
    layers = block.reshape(61, 4096)
    assert len({layer.tobytes() for layer in layers}) == 61
    assert not np.array_equal(block, blocks([5], 61 * 4096, seed=2)[0])
    counts = np.bincount(block, minlength=256).reshape(2, 2, 64)
    assert not counts[:, 1].any()  # bit 6
    assert abs(counts[:, 0] / len(block) - 1 / 128).max() < 0.0008


def test_the_function_is_the_one_it_was() -> None:
    """Stored objects outlive a process, perhaps a release: changing this is changing the format."""
    assert blocks([0, 1, -1], 11, seed=42).tobytes().hex() == PINNED


PINNED = "2f9f3a2f31a40738252d933fae001e80b91831351ca9911600a5369101aa9ba4a9"


@pytest.mark.parametrize(("shape", "ids"), [((3,), 3), ((3, 8), 2)])
def test_shapes_that_do_not_fit_are_refused(shape: tuple[int, ...], ids: int) -> None:
    with pytest.raises(ValueError, match="expected shapes"):
        fill_blocks(np.zeros(shape, np.uint8), 1, np.arange(ids))


def test_many_large_blocks_and_none() -> None:
    ids = np.arange(5, dtype=np.int64)
    large = np.zeros((5, 400_003), np.uint8)
    fill_blocks(large, 3, ids)
    assert mismatched(large, 3, ids[::-1]).tolist() == [0, 1, 3, 4]
    assert mismatched(large[:0], 3, ids[:0]).tolist() == []

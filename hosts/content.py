"""The bytes of a KV block, as a pure function of (seed, block id): any block can be checked anywhere.

Word w of block b is ``mix(w ^ mix(seed ^ salt)) ^ mix(b ^ mix(seed))``, little-endian, where mix is
splitmix64 (Steele, Lea and Flood, OOPSLA 2014) used as a counter-based hash. The first term is one
table for all blocks, so filling costs one exclusive-or a word; blocks of different ids differ in every word
(but for one pair in 2^56), and a word in the wrong place of the right block differs as well. Not for secrets.

Bit 6 of every byte is 0: so no FP8, BF16 or FP32 number in it is infinite or none, and engines that compute
with it have numbers to compute with.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_WORDS_SALT = np.uint64(0xD1B54A32D192ED03)
_WORD = np.dtype("<u8")
FINITE = 0xBF
"""Bits of a byte that may be set."""
_FINITE_WORD = np.uint64(0xBFBF_BFBF_BFBF_BFBF)
_STRIP_WORDS = 16 * 1024
"""Filled in strips of 128 KiB of the table, which stay in a core's cache from block to block."""
_COMPARED_BYTES = 128 * 1024


def fill_blocks(out: NDArray[np.uint8], seed: int, ids: NDArray[np.int64]) -> None:
    """Write the blocks ``ids`` [n] to ``out`` [n, block_bytes]; rows may lie apart, their bytes not."""
    _check_shape(out, ids)
    block_bytes = out.shape[1]
    table, block_salts = pattern(seed, block_bytes), salts(seed, ids)
    whole_bytes = block_bytes // 8 * 8
    if whole_bytes:
        words = out[:, :whole_bytes].view(_WORD)
        for first in range(0, words.shape[1], _STRIP_WORDS):
            strip = words[:, first : first + _STRIP_WORDS]
            np.bitwise_xor(table[first : first + strip.shape[1]], block_salts[:, None], out=strip)
    if whole_bytes < block_bytes:
        tail = (table[-1:] ^ block_salts[:, None]).view(np.uint8)
        out[:, whole_bytes:] = tail[:, : block_bytes - whole_bytes]


def mismatched(blocks: NDArray[np.uint8], seed: int, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row numbers of ``blocks`` [n, block_bytes] that are not the blocks ``ids`` [n], ascending."""
    _check_shape(blocks, ids)
    rows = max(1, _COMPARED_BYTES // max(1, blocks.shape[1]))
    expected = np.empty((min(rows, len(ids)), blocks.shape[1]), np.uint8)
    wrong = []
    for first in range(0, len(ids), rows):
        found = blocks[first : first + rows]
        fill_blocks(expected[: len(found)], seed, ids[first : first + rows])
        wrong.append(first + np.flatnonzero((found != expected[: len(found)]).any(axis=1)))
    return np.concatenate(wrong) if wrong else np.empty(0, np.int64)


def _check_shape(blocks: NDArray[np.uint8], ids: NDArray[np.int64]) -> None:
    if blocks.ndim != 2 or ids.shape != (blocks.shape[0],):
        raise ValueError(f"blocks {blocks.shape} for ids {ids.shape}: expected shapes [n, bytes] and [n]")


def salts(seed: int, ids: NDArray[np.int64]) -> NDArray[np.uint64]:
    """What the blocks ``ids`` [n] differ by: every word of a block is a word of `pattern` ^ its salt."""
    key = _splitmix64(np.array([seed & 0xFFFF_FFFF_FFFF_FFFF], np.uint64))
    return _splitmix64(ids.astype(np.int64).view(np.uint64) ^ key) & _FINITE_WORD


def _splitmix64(counters: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mixed = (counters + np.uint64(1)) * _GAMMA
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


@lru_cache(maxsize=4)
def pattern(seed: int, block_bytes: int) -> NDArray[np.uint64]:
    """The words that all blocks share, the last one perhaps only in part."""
    key = _splitmix64(np.array([seed & 0xFFFF_FFFF_FFFF_FFFF], np.uint64) ^ _WORDS_SALT)
    words = np.arange(-(-block_bytes // 8), dtype=np.uint64)
    table = (_splitmix64(words ^ key) & _FINITE_WORD).astype(_WORD)
    table.flags.writeable = False
    return table

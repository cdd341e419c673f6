"""KV bytes as a pure function of (seed, block id): any block can be made and checked anywhere.

Word ``w`` of a block is splitmix64's finalizer over ``key(seed, id) + w * golden ratio``: counter
based, so any part of any block costs the same and no state is kept.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_WORD_BYTES = 8
_CHUNK_WORDS = 1 << 15  # 256 KiB: each pass over a chunk stays in cache


def fill_blocks(out: NDArray[np.uint8], seed: int, ids: NDArray[np.int64]) -> None:
    """Write the content of blocks ``ids`` ([n]) to ``out`` ([n, block_bytes], rows may be apart)."""
    if len(out) != len(ids):
        raise ValueError(f"{len(out)} rows for {len(ids)} block ids")
    words = -(-out.shape[1] // _WORD_BYTES)
    counters = np.arange(words, dtype=np.uint64) * _GOLDEN
    keys = _mixed(ids.astype(np.uint64) + _mixed(np.array([seed], np.uint64)))
    rows = max(1, _CHUNK_WORDS // words)
    for first in range(0, len(ids), rows):
        block = keys[first : first + rows, None] + counters
        out[first : first + rows] = _mixed(block).view(np.uint8)[:, : out.shape[1]]


def mismatched(blocks: NDArray[np.uint8], seed: int, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row indices of ``blocks`` ([n, block_bytes]) that are not the content of ``ids`` ([n])."""
    expected = np.empty(blocks.shape, np.uint8)
    fill_blocks(expected, seed, ids)
    return np.flatnonzero((blocks != expected).any(axis=1))


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finalizer, in place: a bijection, so different counters give different words."""
    shifted = words >> np.uint64(30)
    words ^= shifted
    words *= _MIX_1
    np.right_shift(words, np.uint64(27), out=shifted)
    words ^= shifted
    words *= _MIX_2
    np.right_shift(words, np.uint64(31), out=shifted)
    words ^= shifted
    return words

"""NIXL's descriptors of an operation: the same bytes in the same order, in chunks of bounded size."""

from __future__ import annotations

import numpy as np
import pytest

from hosts.transport.base import Strided
from hosts.transport.nixl.descriptors import CHUNK_BYTES, CHUNK_ROWS, Chunk, chunks
from hosts.transport.nixl.memory import Memory

LOCAL, REMOTE = Memory("VRAM", 1 << 40, 7), Memory("DRAM", 1 << 41, (1 << 63) - 1)


def described(local: Strided, remote: Strided) -> list[Chunk]:
    return chunks(LOCAL, local, REMOTE, remote)


def runs(base: int, at: Strided) -> list[tuple[int, int]]:
    """Begin and end of each run of bytes, neighbours joined."""
    pieces = [(base + at.offset + i * at.stride, at.length) for i in range(at.count)]
    return joined([(begin, begin + length) for begin, length in pieces])


def joined(pieces: list[tuple[int, int]]) -> list[tuple[int, int]]:
    whole: list[tuple[int, int]] = []
    for begin, end in pieces:
        if whole and whole[-1][1] == begin:
            whole[-1] = whole[-1][0], end
        else:
            whole.append((begin, end))
    return whole


@pytest.mark.parametrize(
    ("local", "remote"),
    [
        (Strided(5, 3 * CHUNK_BYTES + 1), Strided(9, 3 * CHUNK_BYTES + 1)),
        (Strided(0, 512 * 36_864), Strided(36_864, 36_864, 512, 61 * 36_864)),
        (Strided(0, 8, 5000, 16), Strided(64, 4000, 10, 5000)),
        (Strided(0, 9 << 20, 2, 10 << 20), Strided(1, 6 << 20, 3, 7 << 20)),
        (Strided(0, 1), Strided(100, 1)),
    ],
)
def test_chunks_cover_both_sides_in_order_within_their_bounds(local: Strided, remote: Strided) -> None:
    found = described(local, remote)
    for rows, memory, at in (
        (np.concatenate([chunk.local for chunk in found]), LOCAL, local),
        (np.concatenate([chunk.remote for chunk in found]), REMOTE, remote),
    ):
        assert joined([(int(row[0]), int(row[0] + row[1])) for row in rows]) == runs(memory.address, at)
        assert {int(row[2]) for row in rows} == {memory.device}
    for chunk in found:
        assert (chunk.local_kind, chunk.remote_kind) == (LOCAL.kind, REMOTE.kind)
        assert np.array_equal(chunk.local[:, 1], chunk.remote[:, 1])
        assert chunk.nbytes == int(chunk.local[:, 1].sum()) < 2 * CHUNK_BYTES
        assert 1 <= len(chunk.local) <= CHUNK_ROWS

"""NIXL's descriptors of an operation: the same bytes in the same order, in chunks of bounded size."""

from __future__ import annotations

import numpy as np
import pytest

from hosts.transport.base import Strided
from hosts.transport.nixl.descriptors import CHUNK_BYTES, CHUNK_ROWS, Chunk, chunks
from hosts.transport.plan import Side

LOCAL, REMOTE, OURS, THEIRS = 1 << 40, 1 << 41, 7, (1 << 63) - 1


def described(local: Strided, remote: Strided) -> list[Chunk]:
    return chunks(Side(LOCAL, local), OURS, Side(REMOTE, remote), THEIRS)


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
    for rows, base, at, device in (
        (np.concatenate([chunk.local for chunk in found]), LOCAL, local, OURS),
        (np.concatenate([chunk.remote for chunk in found]), REMOTE, remote, THEIRS),
    ):
        assert joined([(int(row[0]), int(row[0] + row[1])) for row in rows]) == runs(base, at)
        assert {int(row[2]) for row in rows} == {device}
    for chunk in found:
        assert np.array_equal(chunk.local[:, 1], chunk.remote[:, 1])
        assert chunk.nbytes == int(chunk.local[:, 1].sum()) < 2 * CHUNK_BYTES
        assert 1 <= len(chunk.local) <= CHUNK_ROWS

"""Operations as runs that are contiguous on both sides: every byte once, in order, in no more requests than
needed."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hosts.transport.base import Strided
from hosts.transport.plan import Plan, Side, plan

LOCAL, REMOTE = 1 << 40, 1 << 41


@st.composite
def two_shapes(draw: st.DrawFn) -> tuple[Strided, Strided]:
    """Two descriptors of equally many bytes, at most some thousands."""
    total = draw(st.integers(1, 48)) * draw(st.sampled_from([1, 2, 6, 12, 24, 60]))

    def shape() -> Strided:
        count = draw(st.sampled_from([n for n in range(1, total + 1) if total % n == 0]))
        length = total // count
        return Strided(draw(st.integers(0, 100)), length, count, length + draw(st.integers(0, 50)))

    return shape(), shape()


def addresses(base: int, at: Strided) -> np.ndarray:
    """Of every byte, in order."""
    starts = base + at.offset + at.stride * np.arange(at.count)
    return (starts[:, None] + np.arange(at.length)).reshape(-1)


def spelled_out(planned: Plan) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Local and remote address of every byte in posting order, and the entries of each request."""
    entries = len(planned.local)
    lengths = np.broadcast_to(planned.shape.lengths, entries)
    first = np.arange(entries + 1) if planned.shape.first is None else planned.shape.first
    local = np.concatenate([a + np.arange(n) for a, n in zip(planned.local, lengths, strict=True)])
    remote = np.concatenate(
        [
            address + np.arange(lengths[begin:end].sum())
            for address, begin, end in zip(planned.remote, first[:-1], first[1:], strict=True)
        ]
    )
    return local, remote, np.diff(first).tolist()


@given(shapes=two_shapes(), max_entries=st.integers(1, 7))
def test_every_byte_goes_once_where_it_belongs(shapes: tuple[Strided, Strided], max_entries: int) -> None:
    local_at, remote_at = shapes
    local, remote, entries = spelled_out(plan(Side(LOCAL, local_at), Side(REMOTE, remote_at), max_entries))
    assert np.array_equal(local, addresses(LOCAL, local_at))
    assert np.array_equal(remote, addresses(REMOTE, remote_at))
    assert max(entries) <= max_entries


@given(shapes=two_shapes(), max_entries=st.integers(1, 7), most_bytes=st.integers(1, 40))
def test_no_message_is_longer_than_a_device_takes(
    shapes: tuple[Strided, Strided], max_entries: int, most_bytes: int
) -> None:
    """Pieces longer than a message, too: as 1 GiB would be, at a size that can be spelled out."""
    local_at, remote_at = shapes
    planned = plan(Side(LOCAL, local_at), Side(REMOTE, remote_at), max_entries, most_bytes)
    local, remote, entries = spelled_out(planned)
    assert np.array_equal(local, addresses(LOCAL, local_at))
    assert np.array_equal(remote, addresses(REMOTE, remote_at))
    assert max(entries) <= max_entries
    before = [planned.bytes_before(request) for request in range(len(entries))]
    assert max(np.diff(before, append=len(remote))) <= most_bytes


@given(shapes=two_shapes(), max_entries=st.integers(1, 7))
def test_no_request_could_be_saved(shapes: tuple[Strided, Strided], max_entries: int) -> None:
    """A new one begins only where the remote bytes do not go on, or where one more entry is too many."""
    local_at, remote_at = shapes
    _, _, entries = spelled_out(plan(Side(LOCAL, local_at), Side(REMOTE, remote_at), max_entries))
    local, remote = addresses(LOCAL, local_at), addresses(REMOTE, remote_at)
    begins_request = np.flatnonzero(np.diff(remote, prepend=-1) != 1)
    begins_entry = np.union1d(begins_request, np.flatnonzero(np.diff(local, prepend=-1) != 1))
    in_run = np.diff(np.searchsorted(begins_entry, begins_request), append=len(begins_entry))
    assert len(entries) == sum(-(-in_run // max_entries))


@given(shapes=two_shapes(), max_entries=st.integers(1, 7))
def test_bytes_before_a_request(shapes: tuple[Strided, Strided], max_entries: int) -> None:
    planned = plan(Side(LOCAL, shapes[0]), Side(REMOTE, shapes[1]), max_entries)
    _, remote, _ = spelled_out(planned)
    for request, address in enumerate(planned.remote.tolist()):
        assert remote[planned.bytes_before(request)] == address


def test_a_layer_into_one_run_is_a_request_a_block() -> None:
    layer = Strided(3 * 208, 208, 40, 61 * 208)
    planned = plan(Side(LOCAL, Strided(0, 40 * 208)), Side(REMOTE, layer), 16)
    assert (planned.requests, planned.shape.first, planned.shape.lengths) == (40, None, 208)


def test_pieces_for_one_remote_run_share_a_request() -> None:
    layer = Strided(3 * 208, 208, 40, 61 * 208)
    planned = plan(Side(LOCAL, layer), Side(REMOTE, Strided(0, 40 * 208)), 16)
    assert planned.shape.first is not None
    assert planned.shape.first.tolist() == [0, 16, 32, 40]


def test_a_long_run_is_cut_into_messages() -> None:
    nbytes = (5 << 30) // 2
    whole = Strided(0, nbytes)
    planned = plan(Side(LOCAL, whole), Side(REMOTE, whole), 16)
    lengths = np.broadcast_to(planned.shape.lengths, len(planned.local))
    assert (planned.remote - REMOTE).tolist() == [0, 1 << 30, 2 << 30]
    assert lengths.sum() == nbytes


def test_pieces_longer_than_a_message_are_cut_one_by_one() -> None:
    piece = (3 << 30) // 2
    spread = Strided(0, piece, 2, 4 << 30)
    planned = plan(Side(LOCAL, spread), Side(REMOTE, spread), 16)
    starts = [0, 1 << 30, 4 << 30, 5 << 30]
    assert (planned.local - LOCAL).tolist() == (planned.remote - REMOTE).tolist() == starts
    assert np.broadcast_to(planned.shape.lengths, 4).tolist() == [1 << 30, 1 << 29] * 2
    assert planned.shape.first is None


def test_entries_of_a_request_stay_within_a_message_together() -> None:
    half = 1 << 29
    planned = plan(Side(LOCAL, Strided(0, half, 6, 1 << 31)), Side(REMOTE, Strided(0, 6 * half)), 16)
    assert planned.shape.first is not None
    assert planned.shape.first.tolist() == [0, 2, 4, 6]

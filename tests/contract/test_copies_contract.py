"""One suite over every way to copy, on the fake driver and on this host's first GPU, where it has one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

import numpy as np
import pytest
from fake_cuda import fake_cuda
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from hosts.bench.device_copies import Layer, LayerCopies
from hosts.buffers import BufferArena
from hosts.cuda.copies import (
    Copy,
    Direction,
    Pitched,
    batch_missing,
    copy_batch,
    copy_each,
    copy_pitched,
    copy_whole,
)
from hosts.cuda.driver import CudaError, Gpu
from hosts.cuda.memory import DeviceBuffer, PinnedMemory
from hosts.cuda.streams import Stream

ROWS, WIDTH, GAP, OFFSET = 12, 300, 300, 64
NBYTES = 8192  # at least OFFSET + ROWS * (WIDTH + GAP)
on_one_gpu = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


class Ends(NamedTuple):
    """Memory at both ends, and a stream between them."""

    host: PinnedMemory
    device: DeviceBuffer
    stream: Stream


class Column(NamedTuple):
    """Rows of ``width`` bytes at an offset and pitch of each end."""

    rows: int
    width: int
    host_offset: int
    host_pitch: int
    device_offset: int
    device_pitch: int


@st.composite
def columns(draw: st.DrawFn) -> Column:
    width = draw(st.integers(1, WIDTH))
    offsets, pitches = st.integers(0, OFFSET), st.integers(width, width + GAP)
    return Column(
        draw(st.integers(0, ROWS)), width, draw(offsets), draw(pitches), draw(offsets), draw(pitches)
    )


directions = st.sampled_from(["h2d", "d2h"])


@pytest.fixture(params=["fake", "gpu"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def gpu(kind: str) -> Iterator[Gpu]:
    if kind == "fake":
        with fake_cuda(), closing(Gpu()) as gpu, gpu.current():
            yield gpu
        return
    try:
        real = Gpu()
    except CudaError as error:
        pytest.skip(f"GPU: {error}")
    with closing(real), real.current():
        yield real


@pytest.fixture
def ends(gpu: Gpu) -> Iterator[Ends]:
    memory = BufferArena(NBYTES, 4096).view
    with (
        closing(DeviceBuffer(gpu, NBYTES)) as device,
        closing(PinnedMemory(gpu, memory)) as host,
        closing(Stream(gpu)) as stream,
    ):
        yield Ends(host, device, stream)


def ways() -> dict[str, Copy]:
    """Those that this driver has."""
    known: dict[str, Copy] = {"each": copy_each, "batch": copy_batch, "pitched": copy_pitched}
    return {name: copy for name, copy in known.items() if name != "batch" or not batch_missing()}


def rows_of(memory: NDArray[np.uint8], offset: int, pitch: int, column: Column) -> NDArray[np.uint8]:
    return as_strided(memory[offset:], (column.rows, column.width), (pitch, 1))


@on_one_gpu
@given(column=columns(), direction=directions, seed=st.integers(0, 2**32 - 1))
def test_every_way_moves_the_rows_that_numpy_moves_and_no_byte_beside_them(
    ends: Ends, column: Column, direction: Direction, seed: int
) -> None:
    before = np.random.default_rng(seed).integers(0, 256, (2, NBYTES), np.uint8)
    expected = before.copy()
    host = rows_of(expected[0], column.host_offset, column.host_pitch, column)
    device = rows_of(expected[1], column.device_offset, column.device_pitch, column)
    into, out_of = (device, host) if direction == "h2d" else (host, device)
    into[...] = out_of
    on_host = Pitched(ends.host.address + column.host_offset, column.host_pitch)
    on_device = Pitched(ends.device.address + column.device_offset, column.device_pitch)
    destination, source = (on_device, on_host) if direction == "h2d" else (on_host, on_device)
    for way, copy in ways().items():
        ends.host.view[:NBYTES] = before[0]
        ends.device.write(before[1])
        copy(destination, source, column.width, column.rows, direction, ends.stream.handle)
        ends.stream.synchronize()
        np.testing.assert_array_equal(ends.host.view[:NBYTES], expected[0], way)
        np.testing.assert_array_equal(ends.device.read(), expected[1], way)


@on_one_gpu
@given(nbytes=st.integers(0, NBYTES - 2 * OFFSET), direction=directions)
def test_a_whole_copy_moves_so_many_bytes(ends: Ends, nbytes: int, direction: Direction) -> None:
    before = np.random.default_rng(nbytes).integers(0, 256, (2, NBYTES), np.uint8)
    ends.host.view[:NBYTES] = before[0]
    ends.device.write(before[1])
    addresses = ends.device.address + OFFSET, ends.host.address + 2 * OFFSET
    to, source = addresses if direction == "h2d" else addresses[::-1]
    copy_whole(to, source, nbytes, direction, ends.stream.handle)
    ends.stream.synchronize()
    host, device = before[0, 2 * OFFSET :][:nbytes], before[1, OFFSET:][:nbytes]
    into, out_of = (device, host) if direction == "h2d" else (host, device)
    into[...] = out_of
    np.testing.assert_array_equal(ends.host.view[:NBYTES], before[0])
    np.testing.assert_array_equal(ends.device.read(), before[1])


def test_rows_that_would_overlap_are_refused_before_the_driver_is_asked(ends: Ends) -> None:
    rows, overlapping = Pitched(ends.host.address, 64), Pitched(ends.device.address, 63)
    for copy in ways().values():
        with pytest.raises(ValueError, match="rows of 64 bytes would overlap"):
            copy(overlapping, rows, 64, 2, "h2d", ends.stream.handle)


@pytest.mark.parametrize("layer", [Layer(4096, 8, 2), Layer(1000, 3, 1), Layer(41_984, 16, 5)])
@pytest.mark.parametrize("direction", ["h2d", "d2h"])
def test_a_layer_arrives_by_every_way_and_takes_time(gpu: Gpu, layer: Layer, direction: Direction) -> None:
    with closing(LayerCopies(gpu, layer, direction)) as copies:
        copies.verify()
        assert list(copies.ways) == [*ways(), "whole"]
        for way in copies.ways:
            times = copies.time(way, 0.0)
            assert times.copies == 1
            assert times.device_s > 0
            assert times.submit_s > 0

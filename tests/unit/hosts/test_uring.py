"""The ring itself: a kernel that refuses, and reads beyond its depth."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import numpy as np
import pytest

from hosts.storage import uring


async def read_all(ring: uring.Ring, fd: int, into: np.ndarray, nbytes: int) -> list[int | BaseException]:
    address = into.ctypes.data
    reads = (ring.read(fd, first, address + first, nbytes) for first in range(0, len(into), nbytes))
    return await asyncio.gather(*reads, return_exceptions=True)


def test_a_refused_submission_fails_its_reads_and_later_ones_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = np.random.default_rng(1).integers(0, 256, 40_000, np.uint8)
    (tmp_path / "file").write_bytes(stored.tobytes())
    system_call, refused = uring._system_call, [True]

    def refusing(number: int, *arguments: object) -> int:
        if number == uring._ENTER and refused:
            raise OSError(errno.EAGAIN, "no memory for it")
        return system_call(number, *arguments)

    async def test() -> None:
        ring, into = uring.Ring(4), np.zeros(len(stored), np.uint8)
        monkeypatch.setattr(uring, "_system_call", refusing)
        fd = os.open(tmp_path / "file", os.O_RDONLY)
        try:
            async with asyncio.timeout(10):
                found = await read_all(ring, fd, into[:8_000], 2_000)
                assert all(isinstance(error, OSError) and error.errno == errno.EAGAIN for error in found)
                refused.clear()
                assert await read_all(ring, fd, into, 2_000) == [2_000] * 20  # five times its depth
            assert np.array_equal(into, stored)
        finally:
            await ring.close()
            os.close(fd)

    asyncio.run(test())


def test_reads_of_a_registered_buffer_arrive_in_all_of_its_parts_and_across_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part_bytes, nbytes = 8_192, 3_000
    monkeypatch.setattr(uring, "_MAX_PART_BYTES", part_bytes)
    stored = np.random.default_rng(1).integers(0, 256, 3 * part_bytes, np.uint8)
    (tmp_path / "file").write_bytes(stored.tobytes())

    async def test() -> None:
        ring, memory = uring.Ring(4), np.zeros(5 * part_bytes, np.uint8)
        registered, into = (
            memory[: 4 * part_bytes],
            memory[2 * part_bytes :],
        )
        try:
            ring.register(registered.ctypes.data, registered.nbytes)
        except OSError as error:
            await ring.close()
            pytest.skip(f"locked memory: {error.strerror}")
        fixed = [ring._registered_part(into.ctypes.data + at, nbytes) for at in range(0, len(stored), nbytes)]
        assert fixed == [2, 2, None, 3, 3, None, None, None, None]
        fd = os.open(tmp_path / "file", os.O_RDONLY)
        try:
            async with asyncio.timeout(10):
                found = await read_all(ring, fd, into, nbytes)
            assert found == [min(nbytes, len(stored) - at) for at in range(0, len(stored), nbytes)]
            assert np.array_equal(into, stored)
        finally:
            await ring.close()
            os.close(fd)

    asyncio.run(test())

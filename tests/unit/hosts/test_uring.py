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

"""Ticks: finer than a millisecond, only while something is outstanding, nothing left after closing."""

from __future__ import annotations

import asyncio
import os

from hosts.ticks import Ticks


def test_ticks_until_nothing_is_outstanding_and_again() -> None:
    async def test() -> None:
        left = 20
        done = asyncio.Event()

        def due() -> bool:
            nonlocal left
            left -= 1
            if not left:
                done.set()
            return left > 0

        ticks = Ticks(0.0002, due)
        loop = asyncio.get_running_loop()
        ticks.start()
        began_at = loop.time()
        await done.wait()
        assert loop.time() - began_at >= 20 * 0.0002 * 0.9
        await asyncio.sleep(0.01)
        assert left == 0
        left = 3
        done.clear()
        ticks.start()
        ticks.start()
        await done.wait()
        ticks.close()
        ticks.close()

    descriptors = len(os.listdir("/proc/self/fd"))
    asyncio.run(test())
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_closing_from_within_a_tick() -> None:
    async def test() -> None:
        closed = asyncio.Event()

        def due() -> bool:
            ticks.close()
            closed.set()
            return True

        ticks = Ticks(0.0002, due)
        ticks.start()
        await closed.wait()
        await asyncio.sleep(0.002)

    asyncio.run(test())

"""What computes on a host is opened in a thread, and given back by whoever is cancelled meanwhile."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest
from in_process_hosts import config

from hosts import host as host_module
from hosts.compute import ComputeError
from hosts.host import Host, opened_compute

HOST = cast(Host, SimpleNamespace(config=config("p0"), rails=(), arena=SimpleNamespace(view=None)))


class Opened:
    def __init__(self) -> None:
        self.closed = False

    async def close(self) -> None:
        self.closed = True


def cancelled_while(monkeypatch: pytest.MonkeyPatch, outcome: Opened | ComputeError) -> None:
    began, may_end = threading.Event(), threading.Event()

    def opening(*_: Any) -> Opened:
        began.set()
        assert may_end.wait(10)
        if isinstance(outcome, ComputeError):
            raise outcome
        return outcome

    async def test() -> None:
        task = asyncio.create_task(opened_compute(HOST))
        await asyncio.to_thread(began.wait, 10)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    monkeypatch.setattr(host_module, "open_compute", opening)
    asyncio.run(asyncio.wait_for(test(), 20))


def test_what_was_opened_meanwhile_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened()
    cancelled_while(monkeypatch, opened)
    assert opened.closed


def test_what_could_not_be_opened_meanwhile_is_nobody_s(monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled_while(monkeypatch, ComputeError("no GPU"))

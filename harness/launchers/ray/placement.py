"""An actor on every host's node, put there when it is first needed, and anew when it was lost."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import ray
import ray.cloudpickle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.launchers.ray import actor
from harness.launchers.ray.nodes import NoNodeError, find, node_of
from harness.launchers.ray.words import LostError, why_lost

_CALLS_AT_A_TIME = 1000


class Placement:
    """The actors of one driver. ``nodes``: what the inventory calls a host's node."""

    def __init__(self, nodes: Mapping[str, str], start_timeout_s: float) -> None:
        ray.cloudpickle.register_pickle_by_value(actor)  # type: ignore[no-untyped-call]
        self._nodes = nodes
        self._timeout_s = start_timeout_s
        self._placed: dict[str, asyncio.Task[Any]] = {}

    async def on(self, host: str) -> Any:
        """The actor on a host; who asks while it is being placed gets the same one. Raises LostError."""
        task = self._placed.get(host)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._placed[host] = asyncio.create_task(self._place(self._nodes[host]))
            # Its error is for those who wait, and all of them may have been cancelled.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    def forget(self, host: str, lost: Any) -> None:
        """An actor is gone; there may be another one by now."""
        task = self._placed[host]
        if task.done() and not task.exception() and task.result() is lost:
            del self._placed[host]

    async def _place(self, wanted: str) -> Any:
        try:
            node = find(wanted, list(map(node_of, await asyncio.to_thread(ray.nodes))))
        except NoNodeError as error:
            raise LostError(str(error)) from error
        placed: Any = (
            ray.remote(actor.HostShell)
            .options(
                num_cpus=0,
                max_concurrency=_CALLS_AT_A_TIME,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
            )
            .remote()
        )
        try:
            async with asyncio.timeout(self._timeout_s):
                await placed.ready.remote()
        except TimeoutError:
            raise LostError(
                f"no actor on its node {node} within {self._timeout_s:g} s; fix: look at the raylet's log "
                "there, or set a longer start_timeout_s"
            ) from None
        except RayError as error:
            raise LostError(why_lost(error)) from error
        return placed

"""Agents on the hosts of a site: started, attached, configured, watched, stopped.

async with deploy(site, configs, store) as deployment:
    await deployment.call_all(...)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import msgspec

from harness.authority import RunAuthority
from harness.control import AgentHandle, ControlServer, uninterrupted
from harness.host_error import HostError
from harness.launchers import Started
from harness.run_store import RunStore
from harness.sites.base import Site, SiteHost
from hosts.leftovers import RUN_ID_VARIABLE
from hosts.protocol import HostConfig, Message, Peers, Ready, Shutdown
from hosts.transport import RemoteRegion

START_TIMEOUT_S = 300.0
"""To attach, and to be configured. An agent that ends is noticed at once: this is for one that hangs, where
all of them load their libraries at the same time, from a slow disk or on an emulated CPU."""
COMMAND_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 3.0
_LOSS_GRACE_S = 0.5
_T = TypeVar("_T")


class Deployment:
    """Attached agents and the buffers they offer, by host. ``on_event`` receives what they report; set it
    before turns are sent."""

    def __init__(self) -> None:
        self.agents: dict[str, AgentHandle] = {}
        self.regions: dict[str, tuple[RemoteRegion, ...]] = {}
        self.on_event: Callable[[str, Message], None] = lambda host, message: None
        self._watched: list[tuple[str, str, Started]] = []

    async def call_all(
        self, commands: Mapping[str, Message], timeout_s: float = COMMAND_TIMEOUT_S
    ) -> dict[str, Message]:
        """Send each host its command at once; answers by host. The first HostError wins."""
        async with _first_error() as group:
            calls = {h: group.create_task(self.agents[h].call(c, timeout_s)) for h, c in commands.items()}
        return {host: call.result() for host, call in calls.items()}

    def watch(self, host: str, name: str, process: Started) -> None:
        """From now on, the end of ``process`` means that ``host`` is lost."""
        self._watched.append((host, name, process))

    async def until_lost(self) -> None:
        """Runs until a host is lost, then raises HostError naming it."""
        async with _first_error() as group:
            for host, name, process in self._watched:
                group.create_task(_lost_process(host, name, process))
            for agent in self.agents.values():
                group.create_task(_lost_stream(agent))

    async def guard(self, work: Awaitable[_T]) -> _T:
        """The result of ``work``, or HostError as soon as a host is lost."""
        watcher = asyncio.create_task(self.until_lost())
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait([task, watcher], return_when=asyncio.FIRST_COMPLETED)
            if task.done() and not task.cancelled() and task.exception():
                # A host that is lost makes others fail, whose complaint may be here first.
                await asyncio.wait([watcher], timeout=_LOSS_GRACE_S)
            if watcher.done():
                await watcher
            return await task
        finally:
            for unfinished in (task, watcher):
                unfinished.cancel()
            await asyncio.gather(task, watcher, return_exceptions=True)


@asynccontextmanager
async def deploy(site: Site, configs: Mapping[str, HostConfig], store: RunStore) -> AsyncIterator[Deployment]:
    """Start an agent on every host, attach, configure and introduce them; stop them at the end."""
    deployment = Deployment()
    authority = RunAuthority(site.run_id)
    server = ControlServer(authority, list(configs), lambda host, event: deployment.on_event(host, event))
    try:
        control_address = await server.start(site.control_address)
        for watched in site.watched:
            deployment.watch(*watched)
        starting = (_start_agent(deployment, site, h, authority, control_address, store) for h in site.hosts)
        await all_of(starting)
        deployment.agents = await deployment.guard(server.agents(START_TIMEOUT_S))
        await deployment.guard(_introduce(deployment, configs))
        yield deployment
    finally:
        await uninterrupted(_stop(deployment, server))


async def _start_agent(
    deployment: Deployment,
    site: Site,
    host: SiteHost,
    authority: RunAuthority,
    control_address: str,
    store: RunStore,
) -> None:
    process = await site.launcher.start(
        host.name,
        host.argv("hosts.agent", "--host", host.name),
        stdin=msgspec.json.encode(authority.credentials(host.name, control_address)),
        log=store.log_file(host.name, "agent"),
        environment={RUN_ID_VARIABLE: site.run_id},
    )
    deployment.watch(host.name, "agent", process)


async def _introduce(deployment: Deployment, configs: Mapping[str, HostConfig]) -> None:
    """Configure every agent, then tell each where its peers listen."""
    ready = await deployment.call_all(configs, START_TIMEOUT_S)
    answers = {host: answer for host, answer in ready.items() if isinstance(answer, Ready)}
    deployment.regions = {host: answer.regions for host, answer in answers.items()}
    addresses = {host: answer.addresses for host, answer in answers.items()}
    await deployment.call_all(dict.fromkeys(configs, Peers(addresses)))


async def _stop(deployment: Deployment, server: ControlServer) -> None:
    """Ask every agent that is left to end; whoever does not is ended with the site."""
    deployment.on_event = lambda host, message: None
    left = {host: agent for host, agent in deployment.agents.items() if not agent.lost.done()}
    calls = [agent.call(Shutdown(), _STOP_TIMEOUT_S) for agent in left.values()]
    await asyncio.gather(*calls, return_exceptions=True)
    exits = [
        asyncio.create_task(process.wait())
        for host, name, process in deployment._watched
        if name == "agent" and host in left
    ]
    if exits:
        _, slow = await asyncio.wait(exits, timeout=_STOP_TIMEOUT_S)
        for task in slow:
            task.cancel()
        await asyncio.gather(*exits, return_exceptions=True)
    await server.stop()


async def _lost_process(host: str, name: str, process: Started) -> None:
    raise HostError(host, f"its {name} process ended ({await process.wait()})")


async def _lost_stream(agent: AgentHandle) -> None:
    # A dead process closes its stream, too: give the process watcher, which knows more, the first word.
    with suppress(HostError):
        await asyncio.shield(agent.lost)
    await asyncio.sleep(0.2)
    await agent.lost


@asynccontextmanager
async def _first_error() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group that raises its first error by itself instead of an exception group."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None


async def all_of(work: Iterable[Coroutine[Any, Any, object]]) -> None:
    """All of it at once; the first error ends the rest and is raised by itself."""
    async with _first_error() as group:
        for part in work:
            group.create_task(part)


def first_error(errors: BaseExceptionGroup[Any]) -> BaseException:
    """The first error of a group of errors."""
    first: BaseException = errors
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first


def everyone(hosts: Iterable[str], command: Message) -> dict[str, Message]:
    """The same command for each host."""
    return dict.fromkeys(hosts, command)

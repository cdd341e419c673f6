"""The traffic processes of an isolation benchmark, from the control node: started, introduced to each other,
told a phase at a time.

    async with traffic(site, configs, logs) as processes:
        observed = await processes.run({"collectives": "high", "kv": "low"}, warm_up_s=1.0, seconds=4.0)

They dial the control node over the management network, with their host's certificate of this benchmark, so
nothing of this is on the links that are measured.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args

import msgspec

from harness.authority import RunAuthority
from harness.control import certified_name
from harness.deployment import START_TIMEOUT_S, Deployment, all_of, first_error
from harness.host_error import HostError
from harness.sites.base import Site, SiteHost
from hosts.bench.phases import (
    LINE_BYTES,
    CollectivesObserved,
    Done,
    Failed,
    FromHost,
    KvObserved,
    Lines,
    Load,
    Offer,
    Peers,
    Phase,
    TrafficConfig,
)
from hosts.config import TrafficClass
from hosts.credentials import Credentials
from hosts.leftovers import RUN_ID_VARIABLE

_LEAD_S = 0.3
"""From telling a phase to its begin: the processes connect meanwhile."""
_ANSWER_TIMEOUT_S = 30.0
_HELLO_TIMEOUT_S, _FAREWELL_S = 10.0, 3.0
"""For TLS to begin, and to end."""
_T = TypeVar("_T")

ConfigsOf = Callable[[SiteHost, Credentials], Sequence[TrafficConfig]]
"""The processes of a host, which all have these credentials."""


class Observation(msgspec.Struct, frozen=True):
    """One phase, by host; ``cpu_busy`` is the share of the busiest host's cores, all of them, that was not
    idle while it counted. The hosts of an emulated cluster share one machine's."""

    collectives: dict[str, CollectivesObserved]
    kv: dict[str, KvObserved]
    cpu_busy: float


class _Attached(NamedTuple):
    """A stream, and the host that its certificate is for."""

    host: str
    lines: Lines[FromHost]


class TrafficProcesses:
    """Processes that are ready; one phase at a time."""

    def __init__(self) -> None:
        self._watch = Deployment()
        self._streams: list[Lines[FromHost]] = []
        self._attached: asyncio.Queue[_Attached] = asyncio.Queue()
        self._lines: dict[tuple[str, Load], Lines[FromHost]] = {}

    async def run(
        self,
        classes: Mapping[Load, TrafficClass],
        warm_up_s: float,
        seconds: float,
        cool_down_s: float,
    ) -> Observation:
        """Loads in their classes, all at the same time; HostError names who failed."""
        phases: dict[Load, Phase] = {
            load: Phase(traffic_class, _LEAD_S, warm_up_s, seconds, cool_down_s)
            for load, traffic_class in classes.items()
        }
        return await self._watch.guard(self._run(phases))

    async def _run(self, phases: Mapping[Load, Phase]) -> Observation:
        at_work = [key for key in self._lines if key[1] in phases]
        for key in at_work:
            await self._lines[key].send(phases[key[1]])
        phase = next(iter(phases.values()))
        timeout_s = _LEAD_S + phase.duration_s + _ANSWER_TIMEOUT_S
        answers = await _all({key: self._answer(key, timeout_s) for key in at_work})
        done = {key: answer for key, answer in answers.items() if isinstance(answer, Done)}
        observed = {key: answer.observed for key, answer in done.items()}
        return Observation(
            {host: o for (host, _), o in observed.items() if isinstance(o, CollectivesObserved)},
            {host: o for (host, _), o in observed.items() if isinstance(o, KvObserved)},
            max(answer.cpu_busy for answer in done.values()),
        )

    async def _answer(self, key: tuple[str, Load], timeout_s: float) -> FromHost:
        host, load = key
        try:
            async with asyncio.timeout(timeout_s):
                message = await _heard(host, self._lines[key])
        except TimeoutError:
            raise HostError(host, f"its {load} traffic gave no answer in {timeout_s:.0f} s") from None
        if message is None:
            raise HostError(host, f"its {load} traffic process has closed its stream")
        return _checked(message)

    async def _introduce(self, processes: int) -> None:
        """Wait until all have dialled in, and tell those of each load of each other."""
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                offers = [await self._offer() for _ in range(processes)]
        except TimeoutError:
            missing = f"{processes - len(self._lines)} of {processes} traffic processes"
            raise HostError("control", f"{missing} did not attach in {START_TIMEOUT_S:g} s") from None
        offers.sort(key=lambda offer: offer.host)
        for (_, load), lines in self._lines.items():
            await lines.send(Peers([offer for offer in offers if offer.load == load]))
        await _all({key: self._answer(key, START_TIMEOUT_S) for key in self._lines})

    async def _offer(self) -> Offer:
        """The next process's. One that ends before it has made any is watched for elsewhere."""
        while True:
            host, lines = await self._attached.get()
            message = await _heard(host, lines)
            if message is not None:
                offer = _checked(message)
                if not isinstance(offer, Offer) or offer.host != host:
                    raise HostError(host, f"found {offer} as its first word, expected its own offer")
                self._lines[offer.host, offer.load] = lines
                return offer

    def _attach(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._streams.append(Lines(reader, writer, FromHost))  # type: ignore[arg-type]
        self._attached.put_nowait(_Attached(certified_name(writer), self._streams[-1]))

    async def _start(self, site: Site, host: SiteHost, config: TrafficConfig, logs: Path) -> None:
        process = await site.launcher.start(
            host.name,
            host.argv("hosts.bench.traffic"),
            stdin=msgspec.json.encode(config),
            log=_log_of(logs, host.name, config.load),
            environment={RUN_ID_VARIABLE: site.run_id},
        )
        self._watch.watch(host.name, f"{config.load} traffic", process)

    async def _close(self) -> None:
        await asyncio.gather(*(lines.close() for lines in self._streams))


@asynccontextmanager
async def traffic(site: Site, configs_of: ConfigsOf, logs: Path) -> AsyncIterator[TrafficProcesses]:
    """The processes on each host of a site, ready; their logs are in ``logs``.

    They end when their stream does, or at the latest with the site.
    """
    processes = TrafficProcesses()
    authority = RunAuthority(site.run_id)
    server = await asyncio.start_server(
        processes._attach,
        site.control_address,
        0,
        limit=LINE_BYTES,
        ssl=authority.server_context(),
        ssl_handshake_timeout=_HELLO_TIMEOUT_S,
        ssl_shutdown_timeout=_FAREWELL_S,
    )
    try:
        control = f"{site.control_address}:{server.sockets[0].getsockname()[1]}"
        configs = {host: configs_of(host, authority.credentials(host.name, control)) for host in site.hosts}
        await all_of(processes._start(site, host, c, logs) for host, all_ in configs.items() for c in all_)
        await processes._watch.guard(processes._introduce(sum(map(len, configs.values()))))
        yield processes
    except HostError as error:
        raise HostError(error.host, error.reason + _last_words(logs, error.host)) from error
    finally:
        server.close()
        await processes._close()
        await server.wait_closed()


def _log_of(logs: Path, host: str, load: Load) -> Path:
    return logs / f"{host}-{load}.log"


def _last_words(logs: Path, host: str) -> str:
    """Of a host's processes, for an error: their logs are gone with the benchmark."""
    written = [_log_of(logs, host, load) for load in get_args(Load)]
    said = [log.read_text(errors="replace").strip() for log in written if log.exists()]
    return "".join(f"; it said last: {text.splitlines()[-1]}" for text in said if text)


async def _heard(host: str, lines: Lines[FromHost]) -> FromHost | None:
    try:
        return await lines.receive()
    except (OSError, ValueError) as error:
        raise HostError(host, f"the stream of its traffic process broke: {error}") from error


def _checked(message: FromHost) -> FromHost:
    if isinstance(message, Failed):
        raise HostError(message.host, f"its {message.load} traffic failed: {message.reason}")
    return message


async def _all(work: Mapping[Any, Coroutine[Any, Any, _T]]) -> dict[Any, _T]:
    """All results; the first error ends the others and is raised by itself."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = {key: group.create_task(coroutine) for key, coroutine in work.items()}
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None
    return {key: task.result() for key, task in tasks.items()}

"""The control node's end of traffic processes, played by clients of this process."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import cast

import msgspec
import pytest

from harness.bench.traffic import traffic
from harness.host_error import HostError
from harness.launchers import Launcher, Started
from harness.sites.base import Site, SiteHost, SiteRail, StorageAccess
from hosts.bench.load import Observed
from hosts.bench.phases import (
    LINE_BYTES,
    Done,
    Failed,
    FromControl,
    FromHost,
    KvObserved,
    KvTransfers,
    Lines,
    Offer,
    Peers,
    Phase,
    Ready,
    TrafficConfig,
)
from hosts.config import Geometry, TransportConfig
from hosts.credentials import CONTROL_NAME, Credentials, client_context

KV = KvTransfers(Geometry(2, 64, 16), blocks=1, depth=1)
DONE = Done(KvObserved(Observed(1.0, 1, 32, 0.1, 0.1, 0.0)), 0.5)
Client = Callable[[Lines[FromControl], str], Awaitable[None]]


class PlayedProcess:
    """See `Started`."""

    def __init__(self, work: Awaitable[str]) -> None:
        self._end = asyncio.ensure_future(work)

    async def wait(self) -> str:
        return await asyncio.shield(self._end)


class PlayedLauncher:
    """Plays ``client`` for each process that is to be started."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def start(
        self,
        host: str,
        argv: Sequence[str],
        *,
        stdin: bytes,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> Started:
        assert argv == ["hosts.bench.traffic"]
        _write(log)
        return PlayedProcess(self._play(msgspec.json.decode(stdin, type=TrafficConfig)))

    async def _play(self, config: TrafficConfig) -> str:
        address, _, port = config.credentials.control.rpartition(":")
        reader, writer = await asyncio.open_connection(
            address,
            int(port),
            ssl=client_context(config.credentials),
            server_hostname=CONTROL_NAME,
            limit=LINE_BYTES,
        )
        lines: Lines[FromControl] = Lines(reader, writer, FromControl)  # type: ignore[arg-type]
        try:
            await self._client(lines, config.credentials.host)
        finally:
            await lines.close()
        return "exit status 0"


def _write(log: Path) -> None:
    log.write_text("warning: as always\nout of luck\n")


def site(client: Client) -> Site:
    hosts = tuple(
        SiteHost(name, "decode", lambda module, *_: [module], (SiteRail("127.0.0.1"),), (), StorageAccess())
        for name in ("d0", "d1")
    )
    return Site("0123abcd", hosts, "127.0.0.1", cast(Launcher, PlayedLauncher(client)))


def configs(host: SiteHost, credentials: Credentials) -> list[TrafficConfig]:
    return [TrafficConfig(credentials, 2, TransportConfig("memory"), KV)]


async def honest(lines: Lines[FromControl], host: str) -> None:
    await lines.send(Offer(host, "kv", f"at {host}"))
    if (peers := await lines.receive()) is None:
        return  # the other one has failed
    assert peers == Peers([Offer("d0", "kv", "at d0"), Offer("d1", "kv", "at d1")])
    await lines.send(Ready())
    while isinstance(await lines.receive(), Phase):
        await lines.send(DONE if host == "d0" else msgspec.structs.replace(DONE, cpu_busy=0.75))


def test_processes_are_introduced_and_the_busiest_hosts_cpus_count(tmp_path: Path) -> None:
    async def run() -> None:
        async with traffic(site(honest), configs, tmp_path) as processes:
            for _ in range(2):
                observation = await processes.run({"kv": "low"}, 0, 0.1, 0)
                assert observation.kv == {"d0": DONE.observed, "d1": DONE.observed}
                assert observation.collectives == {}
                assert observation.cpu_busy == 0.75

    asyncio.run(run())


@pytest.mark.parametrize(
    ("first_word", "reason"),
    [
        (Offer("d0", "kv", "here"), "host d1: found Offer.* as its first word, expected its own offer"),
        (Ready(), "host d1: found Ready.* as its first word"),
        (
            Failed("d1", "kv", "no room"),
            "host d1: its kv traffic failed: no room; it said last: out of luck",
        ),
    ],
)
def test_who_is_not_ready_is_named_with_what_it_said_last(
    tmp_path: Path, first_word: FromHost, reason: str
) -> None:
    async def client(lines: Lines[FromControl], host: str) -> None:
        if host == "d0":
            return await honest(lines, host)
        await lines.send(first_word)
        await lines.receive()

    async def run() -> None:
        async with traffic(site(client), configs, tmp_path):
            raise AssertionError

    with pytest.raises(HostError, match=reason):
        asyncio.run(run())


def test_a_process_that_ends_is_named(tmp_path: Path) -> None:
    async def client(lines: Lines[FromControl], host: str) -> None:
        if host == "d0":
            await honest(lines, host)

    async def run() -> None:
        async with traffic(site(client), configs, tmp_path):
            raise AssertionError

    with pytest.raises(
        HostError, match=r"host d1: its kv traffic process ended \(exit status 0\); it said last"
    ):
        asyncio.run(run())


def test_strangers_are_not_let_in(tmp_path: Path) -> None:
    async def client(lines: Lines[FromControl], host: str) -> None:
        address, port = lines._writer.get_extra_info("peername")
        stranger = ssl.create_default_context()
        stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE
        reader, writer = await asyncio.open_connection(address, port, ssl=stranger)
        writer.write(msgspec.json.encode(Offer(host, "kv", "elsewhere")) + b"\n")
        with suppress(OSError):  # TLS 1.3 refuses a client once it thinks that all is well
            assert await reader.read() == b""
        writer.transport.abort()
        await honest(lines, host)

    async def run() -> None:
        async with traffic(site(client), configs, tmp_path) as processes:
            await processes.run({"kv": "low"}, 0, 0.1, 0)

    asyncio.run(run())

"""What goes wrong with RDMA says on which device, and what to do: between two ports (tests/rdma/in_guest)."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from hosts.config import TransportConfig, VerbsConfig
from hosts.transport import Connection, RemoteRegion, Strided, TransferError, Transport, open_transport

ADDRESSES = os.environ.get("DUALPATH_VERBS_ADDRESSES", "").split(",")
pytestmark = pytest.mark.skipif(len(ADDRESSES) != 2, reason="no two RDMA ports; tox -e rdma has them")
INTERFACES, DEVICES = ("rocea", "roceb"), ("rxea", "rxeb")
NBYTES = 1 << 20
WHOLE = Strided(0, NBYTES)


def config(end: int, timeout_s: float = 10.0, **verbs: Any) -> TransportConfig:
    return TransportConfig("verbs", ADDRESSES[end], timeout_s, verbs=VerbsConfig(**verbs))


@asynccontextmanager
async def opened(*configs: TransportConfig) -> AsyncIterator[list[Transport]]:
    transports: list[Transport] = []
    try:
        for one in configs:
            transports.append(await open_transport(one))
        yield transports
    finally:
        for transport in transports:
            await transport.close()


def refused(*configs: TransportConfig) -> str:
    """Why the first of one or two transports cannot be opened, or cannot connect to the second."""

    async def run() -> None:
        async with opened(*configs) as transports:
            await transports[0].connect(transports[1].address)

    with pytest.raises(TransferError) as caught:
        asyncio.run(run())
    return str(caught.value)


@contextmanager
def link_down(interface: str) -> Iterator[None]:
    subprocess.run(["ip", "link", "set", "dev", interface, "down"], check=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "link", "set", "dev", interface, "up"], check=True)


def test_no_device_at_the_address() -> None:
    said = refused(TransportConfig("verbs", "127.0.0.1"))
    assert "no RDMA device has the address 127.0.0.1" in said
    assert f"found {DEVICES[0]} port 1" in said
    assert "name the NIC's device, or give its interface that address" in said


def test_a_device_that_is_not_there() -> None:
    assert "mlx5_7 port 1: not there; found rxea port 1" in refused(config(0, device="mlx5_7"))


def test_a_port_that_is_down() -> None:
    with link_down(INTERFACES[0]):
        said = refused(config(0, device=DEVICES[0], gid_index=0))
    assert f"{DEVICES[0]} port 1: found state 1: DOWN, expected ACTIVE; check cable and switch" in said


def test_a_gid_that_is_empty_or_of_another_network() -> None:
    assert "rxea port 1: GID index 7 is empty; found GID 0: fe80" in refused(
        config(0, device=DEVICES[0], gid_index=7)
    )
    link_local = config(1, device=DEVICES[1], gid_index=0)
    said = refused(config(0), link_local)
    assert "no way to the peer's GID" in said
    assert "set gid_index, or the interfaces' addresses" in said


def test_mtus_that_do_not_match() -> None:
    said = refused(config(0, mtu_bytes=1024), config(1, mtu_bytes=2048))
    assert "MTU mismatch: mtu_bytes 1024 there, 2048 on rxeb port 1 here; configure both ends alike" in said
    assert "rxea port 1: MTU of 8192 bytes asked for, its active MTU is 4096" in refused(
        config(0, mtu_bytes=8192)
    )


def test_too_little_memory_may_be_locked(tmp_path: Path) -> None:
    script = tmp_path / "register.py"
    script.write_text(
        "import asyncio, sys, msgspec, numpy as np\n"
        "from hosts.config import TransportConfig\n"
        "from hosts.transport import open_transport\n"
        "async def main():\n"
        "    transport = await open_transport(msgspec.json.decode(sys.argv[1], type=TransportConfig))\n"
        "    try:\n"
        "        transport.register(np.zeros(1 << 26, np.uint8))\n"
        "    except MemoryError as error:\n"
        "        print(error)\n"
        "    finally:\n"
        "        await transport.close()\n"
        "asyncio.run(main())\n"
    )
    limited = ["prlimit", "--memlock=1048576", "setpriv", "--bounding-set", "-ipc_lock", "--"]
    done = subprocess.run(
        [*limited, sys.executable, str(script), msgspec.json.encode(config(0)).decode()],
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert "rxea port 1: cannot register 67108864 bytes" in done.stdout, done.stderr
    assert "limit of locked memory is 1048576 bytes: raise memlock (ulimit -l" in done.stdout


async def failed_read(connection: Connection, initiator: Transport, remote: RemoteRegion) -> str:
    local = initiator.register(np.zeros(NBYTES, np.uint8))
    with pytest.raises(TransferError) as caught:
        await connection.read(local, WHOLE, remote, WHOLE)
    return str(caught.value)


def test_a_wrong_key_and_what_follows_it_without_reconnecting() -> None:
    async def run() -> None:
        async with opened(config(0, reconnect=False), config(1)) as (initiator, target):
            offered = target.register(np.zeros(NBYTES, np.uint8)).remote
            connection = await initiator.connect(target.address)
            wrong = msgspec.structs.replace(offered, key=offered.key ^ 0x100)
            said = await failed_read(connection, initiator, wrong)
            assert f"read with {target.address}, region {wrong.key:#x} at byte 0: remote access error" in said
            assert "[status 10, rxea port 1]" in said
            said = await failed_read(connection, initiator, offered)
            assert "the connection was lost: remote access error" in said

    asyncio.run(run())


def test_a_peer_whose_link_is_gone() -> None:
    async def run() -> None:
        async with opened(config(0, timeout_s=4), config(1)) as (initiator, target):
            offered = target.register(np.zeros(NBYTES, np.uint8)).remote
            connection = await initiator.connect(target.address)
            with link_down(INTERFACES[1]):
                said = await failed_read(connection, initiator, offered)
            assert "rxea port 1" in said
            assert "no completion for 4 s" in said or "no answer from the peer's device" in said

    asyncio.run(run())

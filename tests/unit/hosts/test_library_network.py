"""A collective library on one NIC and in one traffic class: what it is told, and what is marked."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from hosts.bench import library_network
from hosts.bench.library_network import (
    LibraryNetworkError,
    mark_sockets,
    network_variables,
    uses_sockets,
)
from hosts.config import ClassMark, TransportConfig, VerbsConfig
from hosts.transport.verbs.port import Port

TCP = TransportConfig("tcp")
VERBS = TransportConfig("verbs", classes={"low": ClassMark(0, 0), "high": ClassMark(3, 0xA0)})
EXPEDITED = ClassMark(1, 0xB8)


def test_gloo_keeps_to_the_interface_of_the_address() -> None:
    assert network_variables("gloo", TCP) == {"GLOO_SOCKET_IFNAME": "lo"}
    assert network_variables("gloo", VERBS) == {"GLOO_SOCKET_IFNAME": "lo"}
    assert uses_sockets("gloo", VERBS)


def test_nccl_uses_sockets_where_kv_does() -> None:
    found = network_variables("nccl", TCP)
    assert found["NCCL_SOCKET_IFNAME"] == "=lo"
    assert found["NCCL_NET"] == "Socket"
    assert found["NCCL_P2P_DISABLE"] == found["NCCL_SHM_DISABLE"] == "1"
    assert not any(name.startswith("NCCL_IB") for name in found)
    assert uses_sockets("nccl", TCP)


@pytest.mark.parametrize(("link_layer", "gid_index"), [("Ethernet", "3"), ("InfiniBand", None)])
@pytest.mark.parametrize("kind", ["verbs", "nixl"])
def test_nccl_is_told_the_port_and_the_class_of_model_communication(
    monkeypatch: pytest.MonkeyPatch, kind: str, link_layer: str, gid_index: str | None
) -> None:
    def find_port(address: str, config: VerbsConfig) -> Port:
        assert (address, config) == ("127.0.0.1", VERBS.verbs)
        return Port("mlx5_2", 1, 3, "::1", 0, link_layer)

    monkeypatch.setattr(library_network, "find_port", find_port)
    config = TransportConfig(kind, classes=VERBS.classes)  # type: ignore[arg-type]
    found = network_variables("nccl", config)
    assert found["NCCL_NET"] == "IB"
    assert found["NCCL_IB_HCA"] == "=mlx5_2:1"
    assert (found["NCCL_IB_SL"], found["NCCL_IB_TC"]) == ("3", "160")
    assert found.get("NCCL_IB_GID_INDEX") == gid_index
    assert not uses_sockets("nccl", config)


def test_an_address_of_no_interface_is_named() -> None:
    with pytest.raises(LibraryNetworkError, match=r"address 192\.0\.2\.1, expected this host's compute NIC"):
        network_variables("gloo", TransportConfig("tcp", bind_address="192.0.2.1"))


@pytest.fixture(params=["127.0.0.2", "::1"])
def connection(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection of this process with itself, both ends with that address; and it listens."""
    address = str(request.param)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as listener, socket.socket(family) as near:
        near.bind((address, 0))
        near.connect(listener.getsockname())
        far, _ = listener.accept()
        with far:
            yield near, far


def mark_of(sock: socket.socket) -> int:
    if sock.family == socket.AF_INET6:
        return sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
    return sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS)


def test_all_connections_from_the_address_are_marked_and_no_others(
    connection: tuple[socket.socket, socket.socket],
) -> None:
    near, far = connection
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as other,
    ):
        descriptors = set(os.listdir("/proc/self/fd"))
        assert mark_sockets(near.getsockname()[0], EXPEDITED) == 2
        assert set(os.listdir("/proc/self/fd")) == descriptors
        assert mark_of(other) == 0
    assert mark_of(near) == mark_of(far) == EXPEDITED.traffic_class
    near.sendall(b"still open")
    assert far.recv(100) == b"still open"


def test_no_connection_to_mark_is_an_error() -> None:
    with pytest.raises(LibraryNetworkError, match=r"found no connection of this process from 127\.0\.0\.3"):
        mark_sockets("127.0.0.3", EXPEDITED)

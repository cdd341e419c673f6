"""The emulated links carry what they are set to: one rate each way, two classes on the compute network."""

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from harness.cluster import ClusterSpec, probe, shaped_classes
from harness.cluster.emulated import EmulatedCluster
from hosts.class_counters import classes_of, grown
from hosts.config import EXPEDITED_FORWARDING, NicConfig

OBSTACLE = probe().unavailable.get("network_namespaces")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(OBSTACLE is not None, reason=f"no network namespaces: {OBSTACLE}"),
]

MEASURED_S = 1.2
STORAGE_BYTES_PER_S = 12.5e6
COMPUTE_BYTES_PER_S = 12.5e6
# TCP payload of a full frame, with timestamps, over its bytes on the link (RFC 9293, RFC 7323, MTU 1500).
PAYLOAD_SHARE = 1448 / 1514
PORT = 9000


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedCluster]:
    directory = tmp_path_factory.mktemp("links")
    spec = ClusterSpec(1, 2, STORAGE_BYTES_PER_S, COMPUTE_BYTES_PER_S)
    with EmulatedCluster(spec, scratch_parent=directory, state_dir=directory / "state") as cluster:
        (cluster.storage_root / "block").write_bytes(bytes(1 << 20))
        yield cluster


class Flow:
    """Payload that one sender keeps sending and one receiver counts, until ``stop``."""

    def __init__(self, cluster: EmulatedCluster, source: str, target: str, tos: int = 0) -> None:
        address = cluster.host(target).compute_address
        self.received_bytes = 0
        self._stopping = False
        sender = cluster._namespaces[source].run(socket.socket)
        with cluster._namespaces[target].run(lambda: socket.create_server((address, 0))) as server:
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
            sender.connect(server.getsockname())
            receiver = server.accept()[0]
        self._threads = [
            threading.Thread(target=self._send, args=(sender,)),
            threading.Thread(target=self._receive, args=(receiver,)),
        ]
        for thread in self._threads:
            thread.start()

    def _send(self, connection: socket.socket) -> None:
        piece = bytes(64 * 1024)
        with connection:
            while not self._stopping:
                connection.sendall(piece)

    def _receive(self, connection: socket.socket) -> None:
        buffer = bytearray(256 * 1024)
        with connection:
            while count := connection.recv_into(buffer):
                self.received_bytes += count

    def stop(self) -> None:
        self._stopping = True
        for thread in self._threads:
            thread.join()


def rates(*counters: Callable[[], int]) -> list[float]:
    """Bytes a second of each counter over the next ``MEASURED_S``."""
    begin, began_at = [count() for count in counters], time.monotonic()
    threading.Event().wait(MEASURED_S)
    elapsed_s = time.monotonic() - began_at
    return [(count() - first) / elapsed_s for count, first in zip(counters, begin, strict=True)]


def test_storage_read_runs_at_the_snic_rate(cluster: EmulatedCluster) -> None:
    address = cluster.storage_url.removeprefix("http://")
    received_bytes = [0, 0]
    stopping = threading.Event()

    def read(index: int) -> None:
        def connect() -> http.client.HTTPConnection:
            connection = http.client.HTTPConnection(address, timeout=5)
            connection.connect()
            return connection

        buffer = memoryview(bytearray(64 * 1024))
        with closing(cluster._namespaces["d0"].run(connect)) as connection:
            while not stopping.is_set():
                connection.request("GET", "/block")
                response = connection.getresponse()
                while count := response.readinto(buffer):
                    received_bytes[index] += count

    readers = [threading.Thread(target=read, args=(index,)) for index in range(2)]
    for reader in readers:
        reader.start()
    (rate,) = rates(lambda: sum(received_bytes))
    stopping.set()
    for reader in readers:
        reader.join()
    assert rate / STORAGE_BYTES_PER_S == pytest.approx(PAYLOAD_SHARE, abs=0.03)


def test_compute_link_is_full_duplex_at_its_rate(cluster: EmulatedCluster) -> None:
    there, back = Flow(cluster, "p0", "d0"), Flow(cluster, "d0", "p0")
    measured = rates(lambda: there.received_bytes, lambda: back.received_bytes)
    there.stop()
    back.stop()
    for rate in measured:
        assert rate / COMPUTE_BYTES_PER_S == pytest.approx(PAYLOAD_SHARE, abs=0.05)


def test_receiving_nic_is_the_limit_when_two_send(cluster: EmulatedCluster) -> None:
    flows = [Flow(cluster, "d0", "p0"), Flow(cluster, "d1", "p0")]
    measured = rates(*(lambda flow=flow: flow.received_bytes for flow in flows))
    for flow in flows:
        flow.stop()
    assert sum(measured) / COMPUTE_BYTES_PER_S == pytest.approx(PAYLOAD_SHARE, abs=0.04)


def test_high_class_takes_the_link_and_the_low_one_gets_it_back(cluster: EmulatedCluster) -> None:
    low = Flow(cluster, "p0", "d0")
    high = Flow(cluster, "p0", "d0", tos=EXPEDITED_FORWARDING)
    high_rate, low_rate = rates(lambda: high.received_bytes, lambda: low.received_bytes)
    high.stop()
    (low_alone,) = rates(lambda: low.received_bytes)
    low.stop()
    assert high_rate / COMPUTE_BYTES_PER_S > 0.85
    assert low_rate / COMPUTE_BYTES_PER_S < 0.1
    assert low_alone / COMPUTE_BYTES_PER_S > 0.85


@pytest.mark.parametrize(("tos", "used"), [(0, "low"), (EXPEDITED_FORWARDING, "high")])
def test_bytes_are_counted_in_the_class_that_sent_them(cluster: EmulatedCluster, tos: int, used: str) -> None:
    (nic,) = (nic for nic in cluster.host("p0").nics if nic.network == "compute")
    counted = NicConfig(nic.name, nic.network, shaped_classes(nic))
    namespace = cluster._namespaces["p0"]
    before = namespace.run(lambda: classes_of(counted))
    flow = Flow(cluster, "p0", "d0", tos=tos)
    rates()
    flow.stop()
    carried = grown(before, namespace.run(lambda: classes_of(counted)))
    sent_bytes = {of_class.traffic_class: of_class.tx_bytes for of_class in carried}
    assert sent_bytes.pop(used) == pytest.approx(flow.received_bytes / PAYLOAD_SHARE, rel=0.03)
    # Address resolution and what the receiver did not mark: a handful of frames.
    assert all(nbytes < 0.01 * flow.received_bytes for nbytes in sent_bytes.values())


def test_a_full_queue_adds_a_bounded_delay(cluster: EmulatedCluster) -> None:
    flows = [Flow(cluster, "d0", "p0"), Flow(cluster, "d1", "p0")]
    rates()
    address = cluster.host("p0").compute_address

    def round_trip_s() -> float:
        # A connection to a closed port: a SYN behind the full queue, a RST back.
        began_at = time.monotonic()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, PORT), timeout=5)
        return time.monotonic() - began_at

    delays_s = [cluster._namespaces["d1"].run(round_trip_s) for _ in range(20)]
    for flow in flows:
        flow.stop()
    # 20 ms of queue on the switch port and as much at the sender; the median, since a SYN may be dropped.
    assert sorted(delays_s)[10] < 0.06


def test_nothing_but_the_hosts_own_frames_on_an_idle_link(cluster: EmulatedCluster, tmp_path: Path) -> None:
    def counters() -> list[str]:
        log = tmp_path / "counters.log"
        log.unlink(missing_ok=True)
        assert cluster.spawn("d1", ["grep", "stor0", "/proc/net/dev"], log).wait(5) == 0
        return log.read_text().split()

    before = counters()
    threading.Event().wait(0.5)
    assert counters() == before

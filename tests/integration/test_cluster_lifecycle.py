"""Up and down on a real kernel: what a cluster makes is gone afterwards, whoever ended it and however."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from harness.cluster import ClusterError, ClusterSpec, cleanup, open_cluster, probe
from harness.cluster.emulated import EmulatedCluster
from harness.cluster.namespaces import NetworkNamespace
from harness.cluster.processes import RunProcesses
from harness.cluster.storage_server import start_storage_server

OBSTACLE = probe().unavailable.get("network_namespaces")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(OBSTACLE is not None, reason=f"no network namespaces: {OBSTACLE}"),
]
SPEC = ClusterSpec(2, 1, storage_nic_bytes_per_s=12.5e6, compute_nic_bytes_per_s=25e6)


def make(tmp_path: Path) -> EmulatedCluster:
    return EmulatedCluster(SPEC, scratch_parent=tmp_path, state_dir=tmp_path / "state")


def machine_state(tmp_path: Path) -> dict[str, object]:
    """Everything of the machine that a cluster could leave behind."""
    return {
        "interfaces": sorted(name for _, name in socket.if_nameindex()),
        "named namespaces": subprocess.run(["ip", "netns"], capture_output=True, check=True).stdout,
        "mounts": Path("/proc/self/mountinfo").read_text(),
        "own namespace": os.readlink("/proc/thread-self/ns/net"),
        "children": [p.pid for p in psutil.Process().children(recursive=True)],
        "open files": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "files": sorted(tmp_path.iterdir()),
    }


def members(namespace: str) -> list[int]:
    """Processes inside a namespace, given by the path of a file that is open on it."""
    wanted = os.stat(namespace).st_ino
    found = []
    for process in psutil.process_iter():
        try:
            found += [process.pid] if os.stat(f"/proc/{process.pid}/ns/net").st_ino == wanted else []
        except (FileNotFoundError, PermissionError):
            continue
    return found


def test_up_and_down_leaves_nothing(tmp_path: Path) -> None:
    before = machine_state(tmp_path)
    with make(tmp_path) as cluster:
        assert cluster.mode == "network_namespaces"
        assert [host.name for host in cluster.hosts] == ["storage", "p0", "p1", "d0"]
        agent = cluster.spawn("p0", ["sleep", "60"], cluster.scratch / "p0.log")
        namespace = cluster.host("p0").namespace
        assert namespace is not None
        where = cluster.spawn("p0", ["readlink", "/proc/self/ns/net"], cluster.scratch / "where.log")
        assert where.wait(5) == 0
        inode = os.stat(namespace).st_ino
        assert (cluster.scratch / "where.log").read_text() == f"net:[{inode}]\n"
        assert [p.poll() for p in cluster.storage_processes] == [None]
        inside = machine_state(tmp_path)
        assert inside["interfaces"] == before["interfaces"]
        assert inside["mounts"] == before["mounts"]
    assert agent.returncode == -signal.SIGKILL
    assert machine_state(tmp_path) == before


def test_hosts_reach_each_other_where_they_share_a_network_only(tmp_path: Path) -> None:
    def connect(address: str) -> str:
        try:
            socket.create_connection((address, 9), timeout=1).close()
        except ConnectionRefusedError:
            return "reached"
        except OSError as error:
            return os.strerror(error.errno or 0)
        return "open"

    with make(tmp_path) as cluster:
        p0, d0, storage = (cluster.host(name) for name in ("p0", "d0", "storage"))
        namespaces = cluster._namespaces
        for address in (d0.management_address, d0.storage_address, d0.compute_address):
            assert namespaces["p0"].run(lambda address=address: connect(address)) == "reached"
        assert namespaces["control"].run(lambda: connect(p0.management_address)) == "reached"
        for address in (p0.storage_address, p0.compute_address, "192.0.2.1"):
            unreachable = namespaces["control"].run(lambda address=address: connect(address))
            assert unreachable == "Network is unreachable"
        assert namespaces["storage"].run(lambda: connect(p0.compute_address)) == "Network is unreachable"
        assert storage.compute_address == ""


def test_harness_listens_on_the_management_network_and_comes_back(tmp_path: Path) -> None:
    home = os.readlink("/proc/thread-self/ns/net")
    with make(tmp_path) as cluster:
        cluster.enter_control_namespace()
        assert os.readlink("/proc/thread-self/ns/net") != home
        with socket.create_server((cluster.control_address, 0)) as server:
            script = f"import socket; socket.create_connection({server.getsockname()!r}, 5).sendall(b'hello')"
            server.settimeout(10)
            cluster.spawn("d0", [sys.executable, "-c", script], cluster.scratch / "log")
            with server.accept()[0] as connection:
                assert connection.recv(16) == b"hello"
                assert connection.getpeername()[0] == cluster.host("d0").management_address
    assert os.readlink("/proc/thread-self/ns/net") == home


def test_storage_serves_ranges_and_takes_writes_and_deletes(tmp_path: Path) -> None:
    with make(tmp_path) as cluster:
        (cluster.storage_root / "trace").mkdir()
        (cluster.storage_root / "trace" / "0").write_bytes(bytes(range(256)) * 64)
        address = cluster.storage_url.removeprefix("http://")

        def exchange() -> list[tuple[int, bytes]]:
            connection = http.client.HTTPConnection(address, timeout=5)
            answers = []
            for method, path, body, headers in (
                ("GET", "/trace/0", None, {"Range": "bytes=1000-1003"}),
                ("PUT", "/new/key/1", b"block", {}),
                ("GET", "/new/key/1", None, {}),
                ("DELETE", "/trace/0", None, {}),
                ("GET", "/trace/0", None, {}),
            ):
                connection.request(method, path, body, headers)
                response = connection.getresponse()
                answers.append((response.status, response.read()))
            connection.close()
            return answers

        answers = cluster._namespaces["p0"].run(exchange)
        assert answers[0] == (206, bytes([232, 233, 234, 235]))
        assert answers[1][0] == 201
        assert answers[2] == (200, b"block")
        assert answers[3][0] == 204
        assert answers[4][0] == 404


def test_direct_reads_bypass_the_page_cache_and_are_right(tmp_path: Path) -> None:
    content = os.urandom(1 << 20)
    with EmulatedCluster(
        SPEC, cache="direct", scratch_parent=tmp_path, state_dir=tmp_path / "state"
    ) as cluster:
        (cluster.storage_root / "block").write_bytes(content)
        address = cluster.storage_url.removeprefix("http://")

        def read() -> bytes:
            connection = http.client.HTTPConnection(address, timeout=5)
            connection.request("GET", "/block", headers={"Range": "bytes=4097-700000"})
            answer = connection.getresponse().read()
            connection.close()
            return answer

        assert cluster._namespaces["p0"].run(read) == content[4097:700001]


def test_two_clusters_side_by_side(tmp_path: Path) -> None:
    with make(tmp_path) as first:
        with make(tmp_path) as second:
            assert first.run_id != second.run_id
            assert first.host("p0").storage_address == second.host("p0").storage_address
            (first.storage_root / "whose").write_text("first")
            (second.storage_root / "whose").write_text("second")
            survivor = first.spawn("p0", ["sleep", "60"], first.scratch / "log")
            assert cleanup(tmp_path / "state") == []
            assert read_whose(first) == b"first"
            assert read_whose(second) == b"second"
        assert survivor.poll() is None
        assert read_whose(first) == b"first"


def read_whose(cluster: EmulatedCluster) -> bytes:
    def read() -> bytes:
        connection = http.client.HTTPConnection(cluster.storage_url.removeprefix("http://"), timeout=5)
        connection.request("GET", "/whose")
        body = connection.getresponse().read()
        connection.close()
        return body

    return cluster._namespaces["p0"].run(read)


OWNER = """
import signal, sys
from pathlib import Path
from harness.cluster import ClusterSpec, open_cluster
tmp = Path(sys.argv[1])
spec = ClusterSpec(1, 1, 12.5e6, 25e6)
with open_cluster(spec, "network_namespaces", scratch_parent=tmp, state_dir=tmp / "state") as cluster:
    # The agent's own child leaves its process group: only its environment says whose it is.
    ready = cluster.scratch / "ready"
    agent = cluster.spawn("d0", ["sh", "-c", f"setsid sh -c 'echo $$ > {ready}.new; mv {ready}.new {ready};"
                                 " exec sleep 60' & wait"], cluster.scratch / "d0.log")
    while not ready.exists():
        agent.poll()
    print(agent.pid, int(ready.read_text()), cluster.storage_processes[0].pid, flush=True)
    signal.pause()
"""


def test_kill_dash_nine_of_the_owner_then_cleanup(tmp_path: Path) -> None:
    before = machine_state(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        agent, grandchild, nginx = (psutil.Process(int(pid)) for pid in owner.stdout.readline().split())
        assert cleanup(tmp_path / "state") == []
        owner.kill()
    psutil.wait_procs([agent, nginx], timeout=5)
    assert not agent.is_running()
    assert not nginx.is_running()
    assert grandchild.is_running()
    removed = cleanup(tmp_path / "state")
    assert f"process {grandchild.pid}" in removed
    assert [line.split()[0] for line in removed] == ["process", "directory", "record"]
    assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE
    assert machine_state(tmp_path) == before


@pytest.mark.parametrize("broken", ["connect_all", "start_storage_server"])
def test_failure_half_way_frees_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    before = machine_state(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise ClusterError("half-way")

    monkeypatch.setattr(f"harness.cluster.emulated.{broken}", fail)
    with pytest.raises(ClusterError, match="half-way"), make(tmp_path):
        pytest.fail("came up all the same")
    assert machine_state(tmp_path) == before


def test_a_command_the_kernel_refuses_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = machine_state(tmp_path)
    monkeypatch.setattr("harness.cluster.namespaces.host_commands", lambda _: ["link set dev nosuch0 up"])
    with pytest.raises(ClusterError, match=r'^ip failed: Cannot find device "nosuch0"'), make(tmp_path):
        pytest.fail("came up all the same")
    assert machine_state(tmp_path) == before


def test_nginx_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.cluster.storage_server._PROGRAM", "no-such-nginx")
    with pytest.raises(ClusterError, match="not installed; fix: apt-get install nginx-light"), make(tmp_path):
        pytest.fail("came up all the same")


@pytest.mark.parametrize("foreign", ["silent", "http"])
def test_storage_port_in_use(tmp_path: Path, foreign: str) -> None:
    processes = RunProcesses("feed0010")
    namespace = NetworkNamespace()
    try:
        subprocess.run(["nsenter", f"--net={namespace.path}", "ip", "link", "set", "lo", "up"], check=True)
        with namespace.run(lambda: socket.create_server(("127.0.0.1", 8080))) as listener:
            if foreign == "http":
                threading.Thread(target=answer_once, args=(listener,)).start()
            with pytest.raises(ClusterError, match=r"storage server at 127\.0\.0\.1:8080.* in use") as caught:
                start_storage_server(processes, tmp_path, tmp_path, tmp_path / "log", namespace)
            assert "\n" not in str(caught.value)
    finally:
        processes.kill_all()
        namespace.close()


def answer_once(listener: socket.socket) -> None:
    with listener.accept()[0] as connection:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")


def test_cluster_ends_after_an_agent_was_killed(tmp_path: Path) -> None:
    with make(tmp_path) as cluster:
        agent = cluster.spawn("d0", ["sleep", "60"], cluster.scratch / "log")
        agent.kill()
        assert agent.wait(5) == -signal.SIGKILL
        assert members(cluster.host("d0").namespace or "") == []
        cluster.storage_processes[0].kill()
        assert cluster.storage_processes[0].wait(5) == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


def test_open_cluster_outside_of_the_needed_user_namespace() -> None:
    with pytest.raises(ClusterError, match="not inside one yet"):
        open_cluster(SPEC, "user_namespaces")

"""What the probe finds out on real kernels, servers and file systems, and on Pythons of any age."""

from __future__ import annotations

import ast
import os
import shutil
import signal
import sys
import threading
import urllib.error
import urllib.request
from contextlib import suppress
from importlib import resources
from pathlib import Path

import pytest
from nginx_server import NGINX, nginx
from probes import in_shell, obstacle, probe, sections, unshared

from harness.preflight.facts import HostFacts, decode_facts
from hosts.probe import answer

NO_NETWORK_NAMESPACES = obstacle("--net")
NO_MOUNT_NAMESPACES = obstacle("--mount")
needs_network_namespaces = pytest.mark.skipif(
    NO_NETWORK_NAMESPACES is not None, reason=f"no network namespaces here: {NO_NETWORK_NAMESPACES}"
)
needs_mount_namespaces = pytest.mark.skipif(
    NO_MOUNT_NAMESPACES is not None, reason=f"no mount namespaces here: {NO_MOUNT_NAMESPACES}"
)
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed: apt-get install nginx-light")


def python(version: str) -> str | None:
    """An interpreter of that version on this machine."""
    managed = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    return str(managed[0]) if managed else shutil.which(f"python{version}")


def test_every_module_is_in_the_grammar_of_python_3_6() -> None:
    sources = [file for file in resources.files("hosts.probe").iterdir() if file.name.endswith(".py")]
    assert len(sources) > 5
    for source in sources:
        ast.parse(source.read_text(encoding="utf-8"), source.name, feature_version=(3, 6))


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.7", "3.8", "3.13"])
def test_a_python_of_any_age_says_its_version(version: str, tmp_path: Path) -> None:
    executable = python(version)
    if executable is None:
        pytest.skip(f"Python {version} is not installed")
    facts = decode_facts(probe([{"mount": str(tmp_path)}], argv=(executable, "-")))
    assert facts.python.version.startswith(f"{version}.")
    assert facts.python.release == tuple(map(int, version.split(".")))
    assert facts.complete == (version != "2.7")
    if facts.complete:
        assert sections(facts) == {}
        assert facts.stores[0].write_error == ""
        assert facts.python.venv_error == ""


def test_this_machine(tmp_path: Path) -> None:
    facts = decode_facts(probe(directory=str(tmp_path / "a" / "b"), cwd=tmp_path))
    assert sections(facts) == {}
    assert facts.machine.hostname == os.uname().nodename
    assert facts.machine.uid == os.getuid()
    assert facts.machine.network_namespace == os.stat("/proc/self/ns/net").st_ino
    assert facts.python.platform.startswith("linux-")
    assert (facts.directory.existing, facts.directory.writable) == (
        str(tmp_path),
        os.access(tmp_path, os.W_OK),
    )
    assert facts.memory.total_bytes >= facts.memory.available_bytes > 0
    assert facts.load.usable_cpus == len(os.sched_getaffinity(0))
    assert 0 <= facts.load.busy <= 1
    assert facts.began_at_s < facts.ended_at_s
    loopback = facts.network.interface("lo")
    assert loopback is not None
    assert ("127.0.0.1", 8) in [(own.address, own.prefix) for own in loopback.addresses]


def test_what_lies_around_where_it_runs_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('not the standard library')")
    assert decode_facts(probe(cwd=tmp_path)).complete


NICS = """
ip link add name eth1 mtu 9000 type veth peer name far1 mtu 9000
ip address add 10.1.0.5/24 dev eth1
ip link set eth1 up
ip link set far1 up
ip link add name eth2 type veth peer name far2
ip address add 10.2.0.5/24 dev eth2
ip address add fd00:2::5/64 dev eth2 nodad
ip link set eth2 up
ip link add name br0 type bridge
ip route add 10.9.0.0/16 via 10.1.0.1 dev eth1
"""


@needs_network_namespaces
def test_nics_of_a_network_namespace_which_sysfs_does_not_show() -> None:
    url = "http://10.9.0.1:1/kv"
    facts = decode_facts(probe([{"url": url}], argv=in_shell(NICS, "--net")))
    nics = {nic.name: nic for nic in facts.network.interfaces}
    assert set(nics) >= {"lo", "eth1", "far1", "eth2", "far2", "br0"}
    assert (nics["eth1"].state, nics["eth1"].up, nics["eth1"].mtu) == ("UP", True, 9000)
    assert (nics["eth2"].state, nics["eth2"].up) == ("LOWERLAYERDOWN", False)  # its peer is not up
    assert (nics["far2"].state, nics["far2"].up) == ("DOWN", False)
    assert [own.address for own in nics["eth2"].usable] == ["10.2.0.5", "fd00:2::5"]
    assert str(nics["eth2"].usable[1].network) == "fd00:2::/64"
    assert (nics["eth1"].driver, nics["eth1"].gbit_per_s, nics["eth1"].virtual) == ("veth", 0.0, True)
    assert nics["br0"].driver == "bridge"
    (store,) = facts.stores
    assert store.route is not None
    assert (store.route.device, store.route.source, store.route.gateway) == ("eth1", "10.1.0.5", "10.1.0.1")
    assert store.error  # nobody is there
    assert facts.machine.network_namespace != os.stat("/proc/self/ns/net").st_ino


@needs_network_namespaces
def test_who_holds_the_host() -> None:
    holder = (
        "import asyncio, subprocess, sys\n"
        "from hosts.claim import Claim, claimed\n"
        "async def hold():\n"
        "    async with claimed(Claim('deadbeef', 'bob', '2026-01-01T00:00:00Z', 'login1')):\n"
        "        probe = await asyncio.create_subprocess_exec(sys.executable, '-')\n"
        "        return await probe.wait()\n"
        "sys.exit(asyncio.run(hold()))\n"
    )
    facts = decode_facts(probe(argv=(*unshared("--net"), sys.executable, "-c", holder)))
    assert facts.lock.held
    assert facts.lock.holder == {
        "run_id": "deadbeef",
        "user": "bob",
        "since": "2026-01-01T00:00:00Z",
        "control": "login1",
    }
    assert not decode_facts(probe(argv=(*unshared("--net"), sys.executable, "-"))).lock.held


@needs_mount_namespaces
def test_a_file_system_that_is_full(tmp_path: Path) -> None:
    facts = decode_facts(
        probe(
            [{"mount": str(tmp_path)}],
            str(tmp_path / "dualpath"),
            in_shell(f"mount -t tmpfs -o size=16k full '{tmp_path}'", "--mount"),
        )
    )
    (store,) = facts.stores
    assert (store.mounted_at, store.file_system, store.source) == (str(tmp_path), "tmpfs", "full")
    assert store.free_bytes == 16384
    assert store.write_error == "No space left on device"
    assert (store.direct_error, store.error) == (None, "")
    assert facts.directory.free_bytes <= 16384  # the store is tried meanwhile


@needs_mount_namespaces
def test_a_file_system_that_is_read_only_and_nothing_runs_from(tmp_path: Path) -> None:
    setup = f"mount -t tmpfs -o ro,noexec none '{tmp_path}'"
    facts = decode_facts(probe([{"mount": str(tmp_path)}], str(tmp_path / "x"), in_shell(setup, "--mount")))
    assert facts.stores[0].write_error == "Read-only file system"
    assert facts.directory.noexec


def test_directories_as_stores(tmp_path: Path) -> None:
    (tmp_path / "kv").mkdir()
    (tmp_path / "link").symlink_to("kv")
    (tmp_path / "file").touch()
    places = [str(tmp_path / name) for name in ("kv", "link", "file", "missing")]
    facts = decode_facts(probe([{"mount": place} for place in places]))
    assert [store.mount for store in facts.stores] == places
    assert [store.directory for store in facts.stores] == [True, True, False, False]
    assert facts.stores[0].write_error == facts.stores[1].write_error == ""
    assert facts.stores[0].free_bytes
    assert facts.stores[0].direct_error is not None
    assert list((tmp_path / "kv").iterdir()) == []


@needs_nginx
def test_a_server_as_the_store(tmp_path: Path) -> None:
    with nginx(tmp_path) as (_, url):
        (tmp_path / "root" / "file").touch()
        facts = decode_facts(probe([{"url": url}, {"url": f"{url}/kv/"}, {"url": f"{url}/file"}]))
        left = [path.name for path in (tmp_path / "root").rglob("*") if path.is_file()]
    root, below, under_a_file = facts.stores
    for store in (root, below):
        assert (store.put_status, store.get_status, store.delete_status) == (201, 206, 204)
        assert store.get_intact
        assert store.error == ""
        assert store.route is not None
        assert (store.route.device, store.local_address) == ("lo", "127.0.0.1")
    assert under_a_file.put_status is not None
    assert under_a_file.put_status >= 400
    assert left == ["file"]


@needs_nginx
def test_a_server_that_hangs_hides_nothing_else(tmp_path: Path) -> None:
    with nginx(tmp_path) as (process, url):
        process.send_signal(signal.SIGSTOP)
        facts = decode_facts(probe([{"url": url}, {"mount": str(tmp_path)}]))
        process.send_signal(signal.SIGCONT)
        with suppress(urllib.error.HTTPError):  # 404, after all that was asked before
            urllib.request.urlopen(f"{url}/nothing", timeout=10)
        left = list((tmp_path / "root").iterdir())
    hanging, directory = facts.stores
    assert "timed out" in hanging.error
    assert hanging.local_address == "127.0.0.1"
    assert directory.write_error == ""
    assert left == []


def test_a_part_that_hangs_or_breaks_is_a_fact(monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()

    def hang(store: dict[str, object]) -> dict[str, object]:
        store["server"] = "10.1.0.9"
        never.wait()
        return store

    monkeypatch.setattr(answer, "_DEADLINE_S", 2.0)
    monkeypatch.setattr(answer, "_INTERVAL_S", 0.01)
    monkeypatch.setattr(answer.storage, "try_store", hang)
    monkeypatch.setattr(answer.system, "memory", lambda: {}["MemTotal"])
    found = answer.answer({"directory": "/", "stores": [{"mount": "/mnt/kv"}]})
    never.set()
    assert found["stores"] == [{"mount": "/mnt/kv", "server": "10.1.0.9", "error": "no answer within 2 s"}]
    assert found["memory"] == {"error": "KeyError: 'MemTotal'"}
    assert found["machine"]["hostname"]


def test_what_a_login_shell_prints_before_is_not_the_answer() -> None:
    said = probe()
    assert decode_facts(b"Welcome!\n{}\n" + said) == decode_facts(said)
    assert isinstance(decode_facts(said), HostFacts)

"""Real sshds that cannot be reached, are somebody else's, or go away: what is said, and what is left."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncssh
import psutil
import pytest
from racks.base import OwnInventory, works
from racks.sshd_lab import OBSTACLE, SshdLab, sshd_lab, write_key

from harness.cluster import probe
from harness.host_error import HostError
from harness.launchers import Completed, Launcher, Started
from harness.launchers.remote import LEASE_S
from harness.launchers.ssh.attempt import LOST_AFTER_S

NO_NAMESPACES = probe().unavailable.get("network_namespaces")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(NO_NAMESPACES is not None, reason=f"no network namespaces: {NO_NAMESPACES}"),
    pytest.mark.skipif(OBSTACLE is not None, reason=f"no sshd: {OBSTACLE}"),
]
SOON_S = 10.0


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshdLab]:
    with sshd_lab(tmp_path_factory.mktemp("rack")) as raised:
        yield raised


@pytest.fixture
def rack(lab: SshdLab, tmp_path: Path) -> OwnInventory:
    return OwnInventory(lab, tmp_path)


# --- whose host it is --------------------------------------------------------------------------------------


def test_an_unknown_host_key_is_shown_and_what_is_said_makes_it_known(
    rack: OwnInventory, tmp_path: Path
) -> None:
    known = tmp_path / "known hosts"
    known.touch()
    for host in rack.lab.hosts:
        said = rack.refusal(host, known_hosts=str(known))
        key = asyncssh.read_private_key(rack.lab.directory / f"{host}.host_key")
        assert f"its host key is not known: ssh-ed25519 {key.get_fingerprint()}" in said
        assert "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub" in said
        command = re.search("echo .*", said)
        assert command is not None
        subprocess.run(["sh", "-c", command[0]], check=True)
    rack.over(works, known_hosts=str(known))


def test_hashed_known_hosts(rack: OwnInventory, tmp_path: Path) -> None:
    known = tmp_path / "known"
    known.write_bytes(rack.lab.known_hosts.read_bytes())
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", known], check=True, capture_output=True)
    assert b"|1|" in known.read_bytes()
    rack.over(works, known_hosts=str(known))


@pytest.mark.parametrize("whose", ["nobody's", "another host's"])
def test_another_host_key_than_known(rack: OwnInventory, tmp_path: Path, whose: str) -> None:
    address = rack.lab.hosts["d0"].management_address
    other = rack.lab.directory / "p0.host_key" if whose == "another host's" else tmp_path / "other"
    if whose == "nobody's":
        write_key(other)
    expected = asyncssh.read_private_key(other)
    known = tmp_path / "known"
    known.write_text(f"{address} {expected.export_public_key().decode()}")
    said = rack.refusal(known_hosts=str(known))
    found = asyncssh.read_private_key(rack.lab.directory / "d0.host_key")
    assert f"found ssh-ed25519 {found.get_fingerprint()}" in said
    assert f"expected ssh-ed25519 {expected.get_fingerprint()}" in said
    assert "somebody may be in between" in said
    command = re.search("ssh-keygen -R [^;]*", said)
    assert command is not None
    subprocess.run(["sh", "-c", command[0]], check=True, capture_output=True)
    assert "not known" in rack.refusal(known_hosts=str(known))


def test_of_several_host_keys_the_known_one_is_asked_for(rack: OwnInventory, tmp_path: Path) -> None:
    for kind in ("rsa", "ecdsa"):
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", tmp_path / kind], check=True)
    with restarted(rack.lab, "d0", *(f"HostKey {tmp_path / kind}" for kind in ("rsa", "ecdsa"))):
        address = rack.lab.hosts["d0"].management_address
        others = [line for line in rack.lab.known_hosts.read_text().splitlines() if address not in line]
        for kind in ("rsa", "ecdsa"):
            known = tmp_path / f"known {kind}"
            public = (tmp_path / f"{kind}.pub").read_text()
            known.write_text("".join(f"{line}\n" for line in [*others, f"{address} {public}"]))
            rack.over(works, known_hosts=str(known))
    said = rack.refusal(known_hosts=str(known))
    expected = asyncssh.read_public_key(tmp_path / "ecdsa.pub")
    assert f"expected ecdsa-sha2-nistp256 {expected.get_fingerprint()}" in said
    assert "found ssh-ed25519" in said


def test_a_host_that_an_authority_vouches_for(rack: OwnInventory, tmp_path: Path) -> None:
    authority, certified = tmp_path / "authority", tmp_path / "host"
    address = rack.lab.hosts["d0"].management_address
    public = write_key(authority)
    (tmp_path / "host.pub").write_text(write_key(certified))
    sign = ["ssh-keygen", "-q", "-s", authority, "-I", "d0", "-h", "-n", address, tmp_path / "host.pub"]
    subprocess.run(sign, check=True)
    known = tmp_path / "known"
    known.write_text(f"@cert-authority 10.77.0.* {public}")
    with restarted(rack.lab, "d0", f"HostKey {certified}", f"HostCertificate {tmp_path}/host-cert.pub"):

        async def test(launcher: Launcher) -> None:
            await works_on(launcher, "d0")

        rack.over(test, known_hosts=str(known))
    assert "not known" in rack.refusal("p0", known_hosts=str(known))


@contextmanager
def restarted(lab: SshdLab, host: str, *config: str) -> Iterator[None]:
    """With other lines in a host's sshd_config, for a while."""
    lab.kill_sshd(host)
    lab.start(host, *config)
    try:
        yield
    finally:
        lab.kill_sshd(host)
        lab.start(host)


def test_a_revoked_host_key(rack: OwnInventory, tmp_path: Path) -> None:
    known = tmp_path / "known"
    lines = rack.lab.known_hosts.read_text().splitlines()
    known.write_text("".join(f"{line}\n@revoked {line}\n" for line in lines))
    assert "revoked" in rack.refusal(known_hosts=str(known))


def test_known_hosts_that_cannot_be_read(rack: OwnInventory, tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"launcher\.known_hosts: .*/missing: cannot be read: No such"):
        rack.over(works, known_hosts=str(tmp_path / "missing"))
    (tmp_path / "known").write_text("nonsense\n")
    with pytest.raises(HostError, match=r"cannot read the known hosts: .*nonsense"):
        rack.over(works, known_hosts=str(tmp_path / "known"))


# --- who comes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["nobody", "no-such-user"])
def test_a_user_who_is_not_let_in(rack: OwnInventory, user: str) -> None:
    said = rack.refusal(hosts={"d0": {"user": user}})
    address, key = rack.lab.hosts["d0"].management_address, rack.lab.key
    assert f"permission denied for user {user} at {address}:22 (tried {key})" in said
    assert f"ssh-copy-id -i {key} -p 22 {user}@{address}" in said


def test_a_key_that_is_not_let_in(rack: OwnInventory, tmp_path: Path) -> None:
    write_key(tmp_path / "stranger")
    said = rack.refusal(hosts={"d0": {"key": str(tmp_path / "stranger")}})
    assert "permission denied for user root" in said
    assert f"{tmp_path}/stranger" in said


@pytest.mark.parametrize(
    ("content", "expected"), [(None, "No such file"), (b"not a key\n", "cannot read key .*key: ")]
)
def test_a_key_that_cannot_be_read(
    rack: OwnInventory, tmp_path: Path, content: bytes | None, expected: str
) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    assert re.search(expected, rack.refusal(key=str(tmp_path / "key")))


@contextmanager
def agent(monkeypatch: pytest.MonkeyPatch, directory: Path) -> Iterator[None]:
    socket_file = directory / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", socket_file], stdout=subprocess.DEVNULL)
    try:
        end_at = time.monotonic() + SOON_S
        while not socket_file.exists():
            assert time.monotonic() < end_at
            time.sleep(0.01)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket_file))
        yield
    finally:
        process.kill()
        process.wait()


def test_keys_of_the_agent_and_of_the_user(
    rack: OwnInventory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    said = rack.refusal(key="")
    assert "no key without a passphrase in ~/.ssh/id_ed25519" in said
    assert "ssh-add" in said
    with agent(monkeypatch, tmp_path):
        assert "none in an agent" in rack.refusal(key="")
        subprocess.run(["ssh-add", "-q", rack.lab.key], check=True)
        rack.over(works, key="")
        refused = rack.refusal(key="", hosts={"d0": {"user": "nobody"}})
        assert "(in the agent)" in refused
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id_ed25519").write_bytes(rack.lab.key.read_bytes())
    (tmp_path / ".ssh" / "known_hosts").write_bytes(rack.lab.known_hosts.read_bytes())
    rack.over(works, key="", known_hosts="")


def test_a_key_with_a_passphrase_is_the_agents_to_use(
    rack: OwnInventory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    guarded = tmp_path / "guarded"
    key = asyncssh.read_private_key(rack.lab.key)
    guarded.touch(mode=0o600)
    guarded.write_bytes(rack.lab.key.read_bytes())
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "a secret", "-f", guarded], check=True)
    assert f"cannot read {guarded}.pub, to know in the agent" in rack.refusal(key=str(guarded))
    (tmp_path / "guarded.pub").write_bytes(key.export_public_key())
    assert f"is not in the agent; fix: ssh-add {guarded}" in rack.refusal(key=str(guarded))
    with agent(monkeypatch, tmp_path):
        assert "is not in the agent" in rack.refusal(key=str(guarded))
        subprocess.run(["ssh-add", "-q", rack.lab.key], check=True)
        rack.over(works, key=str(guarded))


# --- the way there -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"port": 2223}, r"nothing listens at 10\.77\.0\.100:2223; fix: start sshd there"),
        ({"address": "192.0.2.1"}, r"no route to 192\.0\.2\.1:22; fix"),
        ({"address": "10.77.0.99"}, r"no (route to|answer from) 10\.77\.0\.99:22"),
        ({"address": "no-such-host.invalid"}, r"'no-such-host\.invalid' does not resolve"),
    ],
)
def test_a_host_that_is_not_there(rack: OwnInventory, change: dict[str, Any], expected: str) -> None:
    assert re.search(expected, rack.refusal(hosts={"d0": change}, connect_timeout_s=5.0))


@contextmanager
def listener(lab: SshdLab, answer: bytes | None) -> Iterator[int]:
    """Something else than sshd on d0; it answers and closes, or does neither. Its port."""
    address = lab.hosts["d0"].management_address
    server = lab.cluster._namespaces["d0"].run(lambda: socket.create_server((address, 0)))

    def serve() -> None:
        try:
            while True:
                with server.accept()[0] as connection:
                    connection.sendall(answer or b"")
        except OSError:
            return

    thread = threading.Thread(target=serve) if answer is not None else None
    if thread is not None:
        thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        if thread is not None:
            thread.join()


def test_an_sshd_that_hangs_after_accept(rack: OwnInventory) -> None:
    with listener(rack.lab, None) as port:
        began_at = time.monotonic()
        said = rack.refusal(hosts={"d0": {"port": port}}, connect_timeout_s=1.0)
        assert time.monotonic() - began_at < SOON_S
    assert f":{port} took the connection, but nothing came of it within 1 s" in said


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-1.5-old\r\n"])
def test_what_is_no_sshd(rack: OwnInventory, answer: bytes) -> None:
    with listener(rack.lab, answer) as port:
        assert f":{port} " in rack.refusal(hosts={"d0": {"port": port}}, connect_timeout_s=5.0)


def test_another_port(rack: OwnInventory, tmp_path: Path) -> None:
    known = tmp_path / "known"
    known.write_text(rack.lab.known_hosts.read_text().replace("10.77.0.100 ", "[10.77.0.100]:2222 "))
    with restarted(rack.lab, "d0", "Port 22", "Port 2222"):
        rack.over(works, hosts={"d0": {"port": 2222}}, known_hosts=str(known))


def test_one_connection_at_a_time(rack: OwnInventory) -> None:
    async def test(launcher: Launcher) -> None:
        await asyncio.gather(*(launcher.run(host, ["true"]) for host in launcher.hosts for _ in range(3)))

    rack.over(test, concurrency=1)


def test_a_caller_that_is_cancelled_while_connecting(rack: OwnInventory) -> None:
    async def test(launcher: Launcher) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(launcher.run("d0", ["true"]), 0.3)
        await works_on(launcher, "p0")

    with listener(rack.lab, None) as port:
        rack.over(test, hosts={"d0": {"port": port}})


async def works_on(launcher: Launcher, host: str) -> None:
    assert (await launcher.run(host, ["echo", "hello"])).stdout == b"hello\n"


def test_no_more_sessions_than_sshd_allows(rack: OwnInventory, tmp_path: Path) -> None:
    async def test(launcher: Launcher) -> None:
        first, _ = await run_for_long(launcher, "p0", tmp_path)
        with pytest.raises(HostError, match=r"sshd allows no further session: .* MaxSessions") as caught:
            await launcher.run("p0", ["true"])
        assert caught.value.host == "p0"
        first.cancel()
        await asyncio.wait([first])
        await asyncio.gather(*(works_on(launcher, "p0") for _ in range(4)))

    with restarted(rack.lab, "p0", "MaxSessions 1"):
        rack.over(test)


# --- through jump hosts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("jumps", [["p0"], ["p0", "storage"]])
def test_through_jump_hosts(rack: OwnInventory, jumps: list[str]) -> None:
    addresses = [rack.lab.hosts[jump].management_address for jump in jumps]
    log = rack.lab.log("d0")
    before = len(log.read_text())

    async def test(launcher: Launcher) -> None:
        await asyncio.gather(works(launcher), works(launcher))

    rack.over(test, jump=",".join([f"root@{addresses[0]}:22", *addresses[1:]]))
    accepted = re.findall(r"Accepted publickey for root from (\S+)", log.read_text()[before:])
    assert accepted == [addresses[-1]]


@pytest.mark.parametrize(
    ("jump", "expected"),
    [
        ("root@10.77.0.10:2223", r"jump host 10\.77\.0\.10: nothing listens at 10\.77\.0\.10:2223"),
        ("nobody@10.77.0.10", r"jump host 10\.77\.0\.10: permission denied for user nobody"),
    ],
)
def test_a_jump_host_that_is_in_the_way(rack: OwnInventory, jump: str, expected: str) -> None:
    assert re.search(expected, rack.refusal(jump=jump))


def test_a_host_that_its_jump_host_cannot_reach(rack: OwnInventory) -> None:
    said = rack.refusal(jump="10.77.0.10", hosts={"d0": {"port": 2223}})
    assert "the jump host cannot connect to 10.77.0.100:2223" in said


@pytest.mark.parametrize("jump", ["a b@", "host:port", "10.0.0.1,", "@host", "::1"])
def test_a_jump_host_that_is_none(rack: OwnInventory, jump: str) -> None:
    with pytest.raises(HostError, match=r"launcher\.jump: found .*, expected \[user@\]host\[:port\]"):
        rack.over(works, jump=jump)


# --- hosts that go away ------------------------------------------------------------------------------------


async def start_for_long(launcher: Launcher, host: str, directory: Path) -> tuple[Started, psutil.Process]:
    log = directory / f"{host}.log"
    started = await launcher.start(host, ["sh", "-c", "echo $$; exec sleep 300"], stdin=b"", log=log)
    return started, await process_in(log)


async def run_for_long(
    launcher: Launcher, host: str, directory: Path
) -> tuple[asyncio.Task[Completed], psutil.Process]:
    file = directory / "pid"
    argv = ["sh", "-c", 'echo $$ >"$0"; exec sleep 300', str(file)]
    return asyncio.create_task(launcher.run(host, argv, timeout_s=300)), await process_in(file)


async def process_in(file: Path) -> psutil.Process:
    """Of which a command writes the id to a file."""

    def written() -> str:
        return file.read_text() if file.exists() else ""

    end_at = time.monotonic() + SOON_S
    while not written().endswith("\n"):
        assert time.monotonic() < end_at, f"nothing in {file}"
        await asyncio.sleep(0.02)
    return psutil.Process(int(written()))


async def gone(process: psutil.Process, within_s: float) -> None:
    end_at = time.monotonic() + within_s
    with suppress(psutil.NoSuchProcess):
        while process.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < end_at, f"{process} still runs"
            await asyncio.sleep(0.05)


def test_an_sshd_that_is_killed_ends_what_runs_and_is_connected_to_again(
    rack: OwnInventory, tmp_path: Path
) -> None:
    async def test(launcher: Launcher) -> None:
        started, process = await start_for_long(launcher, "d0", tmp_path)
        running, command_process = await run_for_long(launcher, "d0", tmp_path)
        rack.lab.kill_sshd("d0")
        async with asyncio.timeout(SOON_S):
            assert (await started.wait()).startswith("lost: ")
            with pytest.raises(HostError, match=r"host d0: lost while sh -c .* ran: ."):
                await running
        await gone(process, SOON_S)
        await gone(command_process, SOON_S)
        with pytest.raises(HostError, match="nothing listens"):
            await launcher.run("d0", ["true"])
        rack.lab.start("d0")
        await works_on(launcher, "d0")
        await works_on(launcher, "p0")

    rack.over(test)


def test_a_host_that_falls_silent(rack: OwnInventory, tmp_path: Path) -> None:
    def link(state: str) -> None:
        # The switch's end of it: nobody is told, as when a cable is pulled behind a switch.
        rack.lab.set_link("d0", state)

    async def test(launcher: Launcher) -> None:
        started, process = await start_for_long(launcher, "d0", tmp_path)
        other, other_process = await start_for_long(launcher, "p0", tmp_path)
        link("down")
        began_at = time.monotonic()
        said = await started.wait()
        assert LOST_AFTER_S - 1 < time.monotonic() - began_at <= 15
        assert said == f"lost: it has not answered for {LOST_AFTER_S:g} s"
        assert process.is_running()
        await gone(process, LEASE_S + SOON_S)
        assert other_process.is_running()  # whose control node is there
        link("up")
        await works_on(launcher, "d0")
        other_process.terminate()
        assert await other.wait() == "killed by signal 15"

    try:
        rack.over(test)
    finally:
        link("up")


def test_nothing_is_left_on_the_hosts(lab: SshdLab) -> None:
    for name in lab.hosts:
        left = [p.name() for p in lab.processes(name) if p.name() not in ("sshd", "nginx")]
        assert left == [], name

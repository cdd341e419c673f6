"""What every launcher promises, run over each of them on hosts that are namespaces of this machine."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from launchers import KINDS, Lab
from on_hosts import SOON_S, pids_in, runs, text_in, until, until_gone

from harness.host_error import HostError
from harness.launchers import Launcher, Started

LEASE_S = 30.0
"""After its control node has died without a word, a host ends what that has started."""


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    if (obstacle := KINDS[found].obstacle) is not None:
        pytest.skip(f"launcher '{found}': {obstacle}")
    return found


@pytest.fixture(scope="module")
def lab(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with KINDS[kind].lab(tmp_path_factory.mktemp("lab")) as raised:
        yield raised


# --- commands that end -------------------------------------------------------------------------------------


def test_its_hosts_and_its_kind(lab: Lab, kind: str) -> None:
    async def test(launcher: Launcher) -> None:
        assert tuple(launcher.hosts) == lab.hosts
        assert launcher.kind == kind

    lab.over(test)


def test_status_and_both_outputs_apart(lab: Lab) -> None:
    async def test(launcher: Launcher) -> None:
        for host in lab.hosts:
            done = await launcher.run(host, ["sh", "-c", "echo out; echo err >&2; exit 3"])
            assert (done.status, done.stdout, done.stderr) == (3, b"out\n", b"err\n")

    lab.over(test)


@pytest.mark.parametrize("status", [0, 1, 126, 255])
def test_exit_status(lab: Lab, status: int) -> None:
    async def test(launcher: Launcher) -> None:
        assert (await launcher.run(lab.hosts[0], ["sh", "-c", f"exit {status}"])).status == status

    lab.over(test)


def test_a_command_on_its_own_network(lab: Lab) -> None:
    async def test(launcher: Launcher) -> None:
        told = [await launcher.run(host, ["readlink", "/proc/self/ns/net"]) for host in lab.hosts]
        assert len({done.stdout for done in told}) == len(lab.hosts)
        assert os.readlink("/proc/self/ns/net").encode() + b"\n" not in {done.stdout for done in told}

    lab.over(test)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
def test_a_signal_is_a_negative_status(lab: Lab, number: int) -> None:
    async def test(launcher: Launcher) -> None:
        done = await launcher.run(lab.hosts[0], ["sh", "-c", f"ulimit -c 0; kill -{number:d} $$"])
        assert done.status == -number

    lab.over(test)


def test_no_such_command(lab: Lab) -> None:
    async def test(launcher: Launcher) -> None:
        done = await launcher.run(lab.hosts[0], ["no-such-command"])
        assert done.status == 127
        assert b"no-such-command" in done.stderr

    lab.over(test)


@pytest.mark.parametrize(
    "stdin", [b"", b"\0", bytes(range(256)), b"\n" * 1000, secrets.token_bytes(1_000_003)], ids=len
)
def test_stdin_arrives_whole_and_ends(lab: Lab, stdin: bytes) -> None:
    async def test(launcher: Launcher) -> None:
        done = await launcher.run(lab.hosts[0], ["cat"], stdin=stdin)
        assert done.status == 0
        assert done.stdout == stdin

    lab.over(test)


@pytest.mark.parametrize("content", [b"", b"\0"])
def test_stdin_that_is_not_read(lab: Lab, content: bytes) -> None:
    async def test(launcher: Launcher) -> None:
        stdin = content * 1_000_000
        assert (await launcher.run(lab.hosts[0], ["true"], stdin=stdin)).status == 0
        closed = await launcher.run(lab.hosts[0], ["sh", "-c", "exec <&-; sleep 0.5; echo on"], stdin=stdin)
        assert closed.stdout == b"on\n"

    lab.over(test)


ODD_ARGUMENTS = [
    "",
    " ",
    "a b",
    "'",
    '"',
    "''",
    "$HOME",
    "${x}",
    "$(id)",
    "`id`",
    "\\",
    "\\n",
    "two\nlines\n",
]
ODD_ARGUMENTS += ["*", "~", "-n", "--", "é ☃ 🙂", "!x", "#", "a;b&c|d>e<f", "\t", "%s", "{a,b}", "[a]", "x=1"]


def test_arguments_reach_the_command_as_they_are(lab: Lab) -> None:
    async def test(launcher: Launcher) -> None:
        script = "import json, sys; print(json.dumps(sys.argv[1:]))"
        done = await launcher.run(lab.hosts[0], [sys.executable, "-c", script, *ODD_ARGUMENTS])
        assert json.loads(done.stdout) == ODD_ARGUMENTS

    lab.over(test)


@given(
    arguments=st.lists(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20), max_size=5
    )
)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_arguments(lab: Lab, arguments: list[str]) -> None:
    async def test(launcher: Launcher) -> None:
        done = await launcher.run(lab.hosts[0], ["printf", "%s\\0", "begin", *arguments])
        assert done.stdout.decode().split("\0")[1:-1] == arguments

    lab.over(test)


def test_big_output(lab: Lab) -> None:
    async def test(launcher: Launcher) -> None:
        script = "head -c 8000000 /dev/zero & head -c 1000000 /dev/zero >&2; wait"
        done = await launcher.run(lab.hosts[0], ["sh", "-c", script])
        assert (len(done.stdout), len(done.stderr)) == (8_000_000, 1_000_000)

    lab.over(test)


def test_many_commands_at_once(lab: Lab) -> None:
    async def test(launcher: Launcher) -> None:
        asked = [(host, str(number)) for number in range(12) for host in lab.hosts]
        done = await asyncio.gather(*(launcher.run(host, ["echo", word]) for host, word in asked))
        assert [d.stdout.decode() for d in done] == [f"{word}\n" for _, word in asked]

    lab.over(test)


def test_what_a_command_leaves_in_its_process_group_ends_with_it(lab: Lab) -> None:
    async def test(launcher: Launcher) -> None:
        done = await launcher.run(lab.hosts[0], ["sh", "-c", "sleep 300 & echo $!"], timeout_s=SOON_S)
        assert done.status == 0
        await until_gone(int(done.stdout))

    lab.over(test)


def test_a_command_that_takes_too_long_is_ended_on_its_host(lab: Lab, tmp_path: Path) -> None:
    async def test(launcher: Launcher) -> None:
        script = 'echo $$ >"$0"; sleep 300 & echo $! >>"$0"; wait'
        file = tmp_path / "pids"
        with pytest.raises(HostError, match=r"sh.* 2 s") as caught:
            await launcher.run(lab.hosts[1], ["sh", "-c", script, str(file)], timeout_s=2)
        assert caught.value.host == lab.hosts[1]
        await until_gone(*await pids_in(file, 2))
        assert (await launcher.run(lab.hosts[1], ["echo", "still there"])).status == 0

    lab.over(test)


def test_a_command_whose_caller_is_cancelled_is_ended_on_its_host(lab: Lab, tmp_path: Path) -> None:
    async def test(launcher: Launcher) -> None:
        file = tmp_path / "pid"
        argv = ["sh", "-c", 'echo $$ >"$0"; exec sleep 300', str(file)]
        call = asyncio.create_task(launcher.run(lab.hosts[0], argv, timeout_s=300))
        pids = await pids_in(file)
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()
        await until_gone(*pids)

    lab.over(test)


def test_a_host_that_is_not_known(lab: Lab, tmp_path: Path) -> None:
    async def test(launcher: Launcher) -> None:
        for call in (
            launcher.run("nosuch", ["true"]),
            launcher.put("nosuch", Path(__file__), "/tmp/x"),
            launcher.start("nosuch", ["true"], stdin=b"", log=tmp_path / "log"),
        ):
            with pytest.raises(HostError, match="nosuch") as caught:
                await call
            assert caught.value.host == "nosuch"
            assert lab.hosts[0] in caught.value.reason

    lab.over(test)


# --- files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 3_000_001])
@pytest.mark.parametrize("name", ["plain", "with space, 'quotes' \"both\" $HOME é"])
def test_put(lab: Lab, tmp_path: Path, size: int, name: str) -> None:
    async def test(launcher: Launcher) -> None:
        source, folder = tmp_path / "source", tmp_path / "there"
        folder.mkdir()
        source.write_bytes(secrets.token_bytes(size))
        for _ in range(2):  # anew, then over itself
            await launcher.put(lab.hosts[0], source, str(folder / name))
            assert (folder / name).read_bytes() == source.read_bytes()
            assert [path.name for path in folder.iterdir()] == [name]

    lab.over(test)


@pytest.mark.parametrize("destination", ["missing/file", "folder", "a file/in a file"])
def test_put_where_it_cannot_be(lab: Lab, tmp_path: Path, destination: str) -> None:
    async def test(launcher: Launcher) -> None:
        (tmp_path / "folder").mkdir()
        (tmp_path / "a file").touch()
        with pytest.raises(HostError, match=destination) as caught:
            await launcher.put(lab.hosts[0], Path(__file__), str(tmp_path / destination))
        assert caught.value.host == lab.hosts[0]
        assert sorted(os.listdir(tmp_path)) == ["a file", "folder"]
        assert os.listdir(tmp_path / "folder") == []

    lab.over(test)


def test_puts_of_the_same_file_at_the_same_time(lab: Lab, tmp_path: Path) -> None:
    async def test(launcher: Launcher) -> None:
        source, folder = tmp_path / "source", tmp_path / "there"
        folder.mkdir()
        source.write_bytes(secrets.token_bytes(1_000_000))
        puts = [launcher.put(host, source, str(folder / "file")) for host in lab.hosts for _ in range(4)]
        await asyncio.gather(*puts)
        assert (folder / "file").read_bytes() == source.read_bytes()
        assert [path.name for path in folder.iterdir()] == ["file"]

    lab.over(test)


def test_nobody_sees_half_a_file(lab: Lab, tmp_path: Path) -> None:
    contents = [bytes([letter]) * 5_000_000 for letter in b"ab"]
    sources = [tmp_path / "a", tmp_path / "b"]
    for source, content in zip(sources, contents, strict=True):
        source.write_bytes(content)
    folder = tmp_path / "there"
    folder.mkdir()
    file = folder / "file"
    file.write_bytes(contents[0])
    done, seen = threading.Event(), []

    def look() -> None:
        while not done.wait(0.001):
            seen.append(contents.index(file.read_bytes()) if file.exists() else "nothing")

    async def test(launcher: Launcher) -> None:
        for source in (*reversed(sources), *reversed(sources)):
            await launcher.put(lab.hosts[0], source, str(file))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        lab.over(test)
    finally:
        done.set()
        looking.join()
    assert {0, 1} >= set(seen)
    assert seen


def test_a_put_that_takes_too_long_leaves_nothing(lab: Lab, tmp_path: Path) -> None:
    async def test(launcher: Launcher) -> None:
        source, folder = tmp_path / "source", tmp_path / "there"
        folder.mkdir()
        with source.open("wb") as file:
            file.truncate(2_000_000_000)
        with pytest.raises(HostError, match=r"0\.3 s"):
            await launcher.put(lab.hosts[0], source, str(folder / "file"), timeout_s=0.3)
        await until(lambda: not list(folder.iterdir()), f"{folder} is empty")

    lab.over(test)


# --- commands that go on running ---------------------------------------------------------------------------


def test_start_from_stdin_to_its_exit_status(lab: Lab, tmp_path: Path) -> None:
    async def test(launcher: Launcher) -> None:
        log, go = tmp_path / "logs" / "log", tmp_path / "go"
        script = (
            'echo ready; echo warned >&2; while [ ! -e "$0" ]; do sleep 0.05; done; cat; echo "$X"; exit 3'
        )
        started = await launcher.start(
            lab.hosts[0],
            ["sh", "-c", script, str(go)],
            stdin=b"all of it\n",
            log=log,
            environment={"X": "a 'b' $c"},
        )
        await text_in(log, "ready\nwarned\n")  # as it comes: the command still waits for us
        waits = [asyncio.create_task(started.wait()) for _ in range(3)]
        await asyncio.wait(waits, timeout=0.1)
        assert not any(wait.done() for wait in waits)
        waits.pop().cancel()
        go.touch()
        assert await asyncio.gather(*waits) == ["exit status 3"] * 2
        assert await started.wait() == "exit status 3"
        assert log.read_text() == "ready\nwarned\nall of it\na 'b' $c\n"

    lab.over(test)


def test_the_log_is_appended_to(lab: Lab, tmp_path: Path) -> None:
    async def test(launcher: Launcher) -> None:
        log = tmp_path / "log"
        log.write_text("before\n")
        started = await launcher.start(lab.hosts[0], ["echo", "after"], stdin=b"", log=log)
        assert await started.wait() == "exit status 0"
        assert log.read_text() == "before\nafter\n"

    lab.over(test)


def test_start_of_no_such_command(lab: Lab, tmp_path: Path) -> None:
    async def test(launcher: Launcher) -> None:
        log = tmp_path / "log"
        started = await launcher.start(lab.hosts[0], ["no-such-command"], stdin=b"", log=log)
        assert await started.wait() == "exit status 127"
        assert "no-such-command" in log.read_text()

    lab.over(test)


def test_a_started_process_that_is_killed(lab: Lab, tmp_path: Path) -> None:
    async def test(launcher: Launcher) -> None:
        started, pids = await start_a_pair(launcher, lab.hosts[0], tmp_path)
        os.kill(pids[0], signal.SIGKILL)
        assert await started.wait() == "killed by signal 9"
        await until_gone(*pids)

    lab.over(test)


def test_cancelling_a_waiter_leaves_the_process_running(lab: Lab, tmp_path: Path) -> None:
    async def test(launcher: Launcher) -> None:
        started, pids = await start_a_pair(launcher, lab.hosts[0], tmp_path)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(started.wait(), 0.2)
        assert all(map(runs, pids))
        os.kill(pids[0], signal.SIGTERM)
        assert await started.wait() == "killed by signal 15"

    lab.over(test)


def test_close_ends_what_was_started(lab: Lab, tmp_path: Path) -> None:
    started: list[tuple[Started, list[int]]] = []
    ends: list[str] = []

    async def test(launcher: Launcher) -> None:
        for host in lab.hosts:
            started.append(await start_a_pair(launcher, host, tmp_path / host))
        waits = [asyncio.create_task(process.wait()) for process, _ in started]
        await asyncio.sleep(0)
        await launcher.close()
        ends.extend(await asyncio.gather(*waits))
        await until_gone(*(pid for _, pids in started for pid in pids))
        await launcher.close()

    lab.over(test)
    assert len(ends) == len(lab.hosts)


def test_secrets_are_nowhere_to_be_read(lab: Lab, tmp_path: Path) -> None:
    async def test(launcher: Launcher) -> None:
        secret = secrets.token_hex(16)
        log = tmp_path / "log"
        script = "read -r secret; echo got ${#secret}; exec sleep 300"
        await launcher.start(lab.hosts[0], ["sh", "-c", script], stdin=f"{secret}\n".encode(), log=log)
        await text_in(log, "got 32")
        assert not [process for process in psutil.process_iter() if tells(process, secret)]

    lab.over(test)


def tells(process: psutil.Process, secret: str) -> bool:
    """Whether others on its host could read the secret from it."""
    try:
        return any(
            secret.encode() in Path(f"/proc/{process.pid}/{f}").read_bytes() for f in ("cmdline", "environ")
        )
    except OSError:
        return False


OWNER = """
import asyncio, sys
from pathlib import Path
from harness.inventory import load_inventory
from harness.launchers import open_launcher

async def main():
    inventory, host, file = sys.argv[1:]
    async with open_launcher(load_inventory(Path(inventory))) as launcher:
        argv = ["sh", "-c", 'sleep 300 & echo $! >"$0"; echo $$ >>"$0"; wait', file]
        await launcher.start(host, argv, stdin=b"", log=Path(file + ".log"))
        await launcher.run(host, [*argv[:-1], file + ".too"], timeout_s=300)

asyncio.run(main())
"""


def test_what_runs_ends_when_the_control_node_is_killed(lab: Lab, tmp_path: Path) -> None:
    if lab.inventory is None:
        pytest.skip("its hosts' processes are this process's own: test_cluster_lifecycle.py kills that")
    file = tmp_path / "pids"
    owner = subprocess.Popen(
        [*lab.prefix, sys.executable, "-c", OWNER, str(lab.inventory), lab.hosts[1], str(file)],
    )
    try:
        pids = asyncio.run(pids_in(file, 2)) + asyncio.run(pids_in(Path(f"{file}.too"), 2))
    finally:
        owner.kill()
        owner.wait()
    asyncio.run(until_gone(*pids, within_s=LEASE_S + SOON_S))


async def start_a_pair(launcher: Launcher, host: str, directory: Path) -> tuple[Started, list[int]]:
    """A process and its child, both for long; their ids."""
    os.makedirs(directory, exist_ok=True)
    file = directory / "pids"
    argv = ["sh", "-c", 'echo $$ >"$0"; sleep 300 & echo $! >>"$0"; wait', str(file)]
    started = await launcher.start(host, argv, stdin=b"", log=directory / "log")
    return started, await pids_in(file, 2)

"""What runs beside a command on its host, under the shells that are called sh there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from harness.launchers import remote

ENDS_WITHIN_S = 10.0
PAIR = "echo $$; sleep 300 & echo $!; wait"


@pytest.fixture(params=["dash", "bash", "busybox"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A PATH whose sh is another one."""
    shell = shutil.which(request.param)
    if shell is None:
        pytest.skip(f"{request.param} is not installed")
    (tmp_path / "sh").symlink_to(shell)
    return f"{tmp_path}:{os.environ['PATH']}"


@contextmanager
def session(line: str, path: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command line as sshd runs it: by the login shell, in a session of its own."""
    process = subprocess.Popen(
        ["bash", "-c", line],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": path},
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def output_of(line: str, path: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    """How a command ends, and what it says, when its stdin stays open."""
    with session(line, path) as process:
        assert process.stdin is not None
        process.stdin.write(stdin)
        process.stdin.flush()
        status = process.wait(ENDS_WITHIN_S)
        process.stdin.close()
        assert process.stdout is not None
        assert process.stderr is not None
        return status, process.stdout.read(), process.stderr.read()


def pair(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    assert process.stdout is not None
    return [psutil.Process(int(process.stdout.readline())) for _ in range(2)]


def assert_gone(processes: list[psutil.Process]) -> None:
    """Ended, if perhaps not reaped yet: they are not our children."""
    end_at = time.monotonic() + ENDS_WITHIN_S
    while any(map(_runs, processes)):
        assert time.monotonic() < end_at, processes
        time.sleep(0.01)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_outputs_apart_and_status(path: str) -> None:
    line = remote.run_line(["sh", "-c", "echo out; echo err >&2; exit 3"], 0, 60)
    assert output_of(line, path) == (3, b"out\n", b"err\n")


def test_outputs_together(path: str) -> None:
    line = remote.start_line(["sh", "-c", 'echo out; echo "$X" >&2'], 0, {"X": "a 'b'"})
    assert output_of(line, path) == (0, b"out\na 'b'\n", b"")


def test_stdin_ends_though_the_session_does_not(path: str) -> None:
    content = bytes(range(256)) * 200  # no more than a pipe holds
    assert output_of(remote.run_line(["cat"], len(content), 60), path, content) == (0, content, b"")


def test_a_signal_and_a_missing_command(path: str) -> None:
    killed = remote.run_line(["sh", "-c", "kill -9 $$"], 0, 60)
    assert output_of(killed, path) == (128 + signal.SIGKILL, b"", b"")
    status, _, said = output_of(remote.run_line(["no-such-command"], 0, 60), path)
    assert status == 127
    assert b"no-such-command" in said


def test_what_is_left_in_the_group_ends_with_the_command(path: str) -> None:
    status, said, _ = output_of(remote.run_line(["sh", "-c", "sleep 300 & echo $!"], 0, 60), path)
    assert status == 0
    if psutil.pid_exists(int(said)):
        assert_gone([psutil.Process(int(said))])


@pytest.mark.parametrize("how", ["stdin ends", "signal", "signal at once"])
def test_a_session_that_ends_ends_its_command(path: str, how: str) -> None:
    with session(remote.start_line(["sh", "-c", PAIR], 0, {}), path) as process:
        if how == "signal at once":
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(ENDS_WITHIN_S)
            return
        members = pair(process)
        if how == "signal":
            os.killpg(process.pid, signal.SIGTERM)
        else:
            assert process.stdin is not None
            process.stdin.close()
        assert process.wait(ENDS_WITHIN_S) in (128 + signal.SIGTERM, 128 + signal.SIGKILL)
        assert_gone(members)


def test_a_control_node_that_falls_silent(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "LEASE_S", 1.0)
    with session(remote.start_line(["sh", "-c", PAIR], 0, {}), path) as process:
        assert process.stdin is not None
        members = pair(process)
        end_at = time.monotonic() + 2
        while time.monotonic() < end_at:  # two leases, and alive
            process.stdin.write(remote.BEAT)
            process.stdin.flush()
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.3)
        process.wait(ENDS_WITHIN_S)
        assert_gone(members)


def test_a_command_that_never_reads_its_stdin_is_held_to_its_lease(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_RUN_GRACE_S", 0.0)
    with session(remote.run_line(["sh", "-c", PAIR], 1_000_000, 1), path) as process:
        assert process.stdin is not None
        members = pair(process)
        os.set_blocking(process.stdin.fileno(), False)
        while process.stdin.raw.write(bytes(65536)):  # type: ignore[attr-defined]
            pass
        process.wait(ENDS_WITHIN_S)
        assert_gone(members)


def test_nothing_of_its_group_outlives_it(path: str) -> None:
    """Slurm, for one, waits for that, in steps of a second."""
    if os.readlink(Path(path.split(":")[0], "sh")).endswith("busybox"):
        pytest.skip("BusyBox's timeout has a process beside the command, which ends by itself")
    for _ in range(20):
        with session(remote.run_line(["true"], 0, 60), path) as process:
            assert process.wait(ENDS_WITHIN_S) == 0
            with pytest.raises(ProcessLookupError):
                os.killpg(process.pid, 0)
    with session(remote.start_line(["sleep", "300"], 0, {}), path) as process:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(ENDS_WITHIN_S)
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)


def test_a_word_and_the_status_come_last(path: str) -> None:
    line = remote.run_line(["sh", "-c", "echo err >&2; exit 3"], 0, 60, "word")
    assert output_of(line, path) == (0, b"", b"err\nword 3\n")
    line = remote.start_line(["sh", "-c", "echo err >&2; kill -9 $$"], 0, {}, "word")
    assert output_of(line, path) == (0, b"err\n", b"word 137\n")


def test_no_word_of_what_somebody_else_has_ended(path: str) -> None:
    with session(remote.start_line(["sh", "-c", PAIR], 0, {}, "word"), path) as process:
        members = pair(process)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert_gone(members)


@pytest.mark.parametrize(("sent", "there"), [(b"whole", True), (b"hal", False), (b"", False)])
def test_put_is_whole_or_not_at_all(path: str, tmp_path: Path, sent: bytes, there: bool) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    line = remote.put_line(5, f"{folder}/x", 60)
    with session(line, path) as process:
        process.communicate(sent, timeout=ENDS_WITHIN_S)
        assert (process.returncode == 0) is there
    assert [file.read_bytes() for file in folder.iterdir()] == ([b"whole"] if there else [])
    with session(remote.put_line(5, f"{folder}/y", 60, "word"), path) as process:
        _, said = process.communicate(sent, timeout=ENDS_WITHIN_S)
        assert (process.returncode, said) == (0, b"word 0\n" if there else b"word 1\n")

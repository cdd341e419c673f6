import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cluster.errors import ClusterError
from harness.cluster.processes import RunProcesses, command_line, wait_exit
from hosts.leftovers import kill_run


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def read_pid(process: subprocess.Popen[bytes], fifo: Path) -> int:
    assert process.poll() is None
    return int(fifo.read_text())


def test_command_line_in_a_namespace() -> None:
    command = command_line(["agent", "x"], "/ns", 7)
    inside = command[command.index("nsenter") :]
    assert inside[:3] == ["nsenter", "--net=/ns", "--"]
    assert inside[3:5] == ["unshare", "--mount"]  # for a /sys of its own
    assert inside[-2:] == ["agent", "x"]
    assert "nsenter" not in command_line(["agent"], None, 7)


def test_a_process_whose_parent_is_gone_never_starts() -> None:
    done = subprocess.run(command_line(["echo", "started"], None, parent_pid=1), capture_output=True)
    assert (done.returncode, done.stdout) == (125, b"")


def test_output_status_environment_and_process_group(tmp_path: Path) -> None:
    processes = RunProcesses("feed0001")
    log = tmp_path / "logs" / "p0.log"
    script = "import os; print(os.environ['DUALPATH_RUN_ID'], os.environ['A'], os.getpgid(0) == os.getpid())"
    process = processes.spawn([sys.executable, "-c", script + "; raise SystemExit(3)"], None, log, {"A": "b"})
    assert asyncio.run(asyncio.wait_for(wait_exit(process), 10)) == 3
    assert log.read_text() == "feed0001 b True\n"
    processes.kill_all()


def test_kill_all_reaches_children_that_left_the_group(tmp_path: Path) -> None:
    processes, other = RunProcesses("feed0002"), RunProcesses("feed0003")
    fifo = tmp_path / "pid"
    os.mkfifo(fifo)
    bystander = other.spawn(["sleep", "60"], None, tmp_path / "other.log")
    try:
        script = f"setsid sh -c 'echo $$ > {fifo}; exec sleep 60' & wait"
        parent = processes.spawn(["sh", "-c", script], None, tmp_path / "log")
        grandchild = read_pid(parent, fifo)
        processes.kill_all()
        assert parent.returncode == -9
        assert not alive(grandchild)
        assert alive(bystander.pid)
    finally:
        processes.kill_all()
        other.kill_all()


def test_kill_all_reaches_a_process_that_dropped_its_environment(tmp_path: Path) -> None:
    processes = RunProcesses("feed0004")
    process = processes.spawn(["env", "-i", "/bin/sleep", "60"], None, tmp_path / "log")
    processes.kill_all()
    assert process.returncode == -9


def test_kill_run_of_an_unknown_run_kills_nothing() -> None:
    assert kill_run("00000000") == []


def test_a_missing_program_and_an_unwritable_log_are_one_clear_line(tmp_path: Path) -> None:
    processes = RunProcesses("feed0005")
    with pytest.raises(ClusterError, match="no-such-program: no such command"):
        processes.spawn(["no-such-program"], None, tmp_path / "log")
    (tmp_path / "file").write_text("")
    with pytest.raises(ClusterError, match="cannot start true with log"):
        processes.spawn(["true"], None, tmp_path / "file" / "log")


def test_cancelling_wait_exit_leaves_the_process_running(tmp_path: Path) -> None:
    processes = RunProcesses("feed0006")
    process = processes.spawn(["sleep", "60"], None, tmp_path / "log")

    async def impatient() -> None:
        await asyncio.wait_for(wait_exit(process), 0.01)

    with pytest.raises(TimeoutError):
        asyncio.run(impatient())
    assert process.poll() is None
    processes.kill_all()

"""What a run left on a host is removed, and nothing else."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from hosts.leftovers import RUN_ID_VARIABLE


def leftovers(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hosts.leftovers", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


@pytest.fixture
def run_id() -> str:
    return secrets.token_hex(4)


def test_processes_and_stored_objects_of_a_run(tmp_path: Path, run_id: str) -> None:
    assert leftovers("make", run_id, "--mount", str(tmp_path)).returncode == 0
    (tmp_path / f"dualpath-{run_id}" / "prime").mkdir()
    (tmp_path / f"dualpath-{run_id}" / "prime" / "block").write_bytes(b"x")
    (tmp_path / "dualpath-00000000").mkdir()
    with subprocess.Popen(["sleep", "60"], env={**os.environ, RUN_ID_VARIABLE: run_id}) as orphan:
        done = leftovers("remove", run_id, "--mount", str(tmp_path))
        assert orphan.wait(5) == -9
    assert done.stdout.splitlines() == [
        f"process {orphan.pid}",
        f"stored objects below {tmp_path}/dualpath-{run_id}",
    ]
    assert (done.returncode, done.stderr) == (0, "")
    assert os.listdir(tmp_path) == ["dualpath-00000000"]


@pytest.mark.parametrize("hostile", ["../..", "a/../../b", "/etc", "", ".", "a b", "a\n"])
@pytest.mark.parametrize("action", ["make", "remove"])
def test_what_is_no_run_id_touches_nothing(tmp_path: Path, action: str, hostile: str) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "b").mkdir()
    done = leftovers(action, hostile, "--mount", str(tmp_path / "root"))
    assert done.returncode == 2
    assert "expected letters and digits" in done.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["b", "root"]


def test_there_is_nothing(tmp_path: Path, run_id: str) -> None:
    done = leftovers("remove", run_id, "--mount", str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = leftovers("remove", run_id)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_mount_that_is_missing_or_a_server_that_is_down_is_one_line(tmp_path: Path, run_id: str) -> None:
    done = leftovers("make", run_id, "--mount", str(tmp_path / "no"))
    assert done.returncode == 1
    assert "No such file or directory" in done.stderr
    done = leftovers("remove", run_id, "--url", "http://127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr.startswith(f"delete of 'dualpath-{run_id}/': http://127.0.0.1:1: Connection refused")
    assert done.stderr.count("\n") == 1

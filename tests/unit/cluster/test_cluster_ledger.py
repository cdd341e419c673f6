import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cluster import ledger
from harness.cluster.errors import ClusterError
from harness.cluster.ledger import RunClaim, cleanup

DIES_IN_A_RUN = """
import os, signal, sys
from pathlib import Path
from harness.cluster.ledger import RunClaim
with RunClaim(Path(sys.argv[1]), Path(sys.argv[2])) as claim:
    (claim.scratch / "block").write_bytes(b"x")
    print(claim.run_id, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def die_in_a_run(state_dir: Path, scratch_parent: Path) -> str:
    argv = [sys.executable, "-c", DIES_IN_A_RUN, str(state_dir), str(scratch_parent)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30).stdout.strip()


def test_a_run_leaves_nothing(tmp_path: Path) -> None:
    with RunClaim(tmp_path / "state", tmp_path) as claim:
        record = json.loads((tmp_path / "state" / f"{claim.run_id}.json").read_text())
        assert record["owner_pid"] == os.getpid()
        assert Path(record["scratch"]) == claim.scratch
        assert claim.scratch.stat().st_mode & 0o777 == 0o700
        assert cleanup(tmp_path / "state") == []
        assert claim.scratch.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_cleanup_takes_a_dead_run_and_spares_a_live_one(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with RunClaim(state, tmp_path) as live:
        dead = die_in_a_run(state, tmp_path)
        scratch = tmp_path / f"dualpath-{dead}"
        assert (scratch / "block").exists()
        assert cleanup(state) == [f"directory {scratch}", f"record {state / dead}.json"]
        assert not scratch.exists()
        assert live.scratch.is_dir()
        assert cleanup(state) == []
    assert list(tmp_path.iterdir()) == []


def test_cleanup_kills_what_the_dead_run_started(tmp_path: Path) -> None:
    dead = die_in_a_run(tmp_path / "state", tmp_path)
    environment = {**os.environ, "DUALPATH_RUN_ID": dead}
    with subprocess.Popen(["sleep", "60"], env=environment) as orphan:
        assert f"process {orphan.pid}" in cleanup(tmp_path / "state")
        assert orphan.wait(5) == -9


def test_a_record_that_names_something_else_is_not_followed(tmp_path: Path) -> None:
    state = tmp_path / "state"
    dead = die_in_a_run(state, tmp_path)
    precious = tmp_path / "precious"
    precious.mkdir()
    path = state / f"{dead}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "scratch": str(precious)}))
    with pytest.raises(ClusterError, match=f"names {precious}"):
        cleanup(state)
    assert precious.is_dir()


def test_a_damaged_record_is_named_and_the_others_are_still_cleaned(tmp_path: Path) -> None:
    state = tmp_path / "state"
    dead = die_in_a_run(state, tmp_path)
    (state / "00000000.json").write_text("{")
    with pytest.raises(ClusterError, match=r"00000000\.json: not a run's record"):
        cleanup(state)
    assert not (tmp_path / f"dualpath-{dead}").exists()
    assert [p.name for p in state.iterdir()] == ["00000000.json"]


def test_a_draft_of_a_run_that_died_at_once_is_removed(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "00000000.json.new").write_text("")
    assert cleanup(state) == [f"record {state}/00000000.json.new"]
    assert not state.exists()


def test_a_scratch_parent_that_cannot_be_written_leaves_no_record(tmp_path: Path) -> None:
    with (
        pytest.raises(ClusterError, match=r"cannot make .*/no/dualpath-"),
        RunClaim(tmp_path / "state", tmp_path / "no"),
    ):
        pass
    assert not (tmp_path / "state").exists()


def test_a_state_directory_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "state").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ClusterError, match="expected our own"), RunClaim(tmp_path / "state", tmp_path):
        pass


def test_state_directory_falls_back_to_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger.os, "access", lambda path, mode: str(path) != "/run")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert ledger.default_state_dir() == tmp_path / "dualpath"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert ledger.default_state_dir() == Path(f"/tmp/dualpath-{os.getuid()}")


def test_what_cannot_be_removed_keeps_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "state"
    dead = die_in_a_run(state, tmp_path)

    def fail(path: Path) -> None:
        raise OSError(f"{path} is busy")

    with monkeypatch.context() as patch:
        patch.setattr("harness.cluster.ledger.shutil.rmtree", fail)
        with pytest.raises(ClusterError, match=f"cannot clean up this run: .*{dead} is busy"):
            cleanup(state)
    assert cleanup(state)[-1] == f"record {state / dead}.json"
    assert list(tmp_path.iterdir()) == []

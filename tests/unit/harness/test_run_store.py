"""A run's directory is whole at every moment, and says what it cannot do."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pandas as pd
import pytest

from harness.run_store import RunDirectoryError, RunStore, RunStoreError, default_directory


def files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def test_create_saves_the_metadata_at_once(tmp_path: Path) -> None:
    store = RunStore.create(tmp_path / "deep" / "run", {"status": "running"})
    assert files(store.directory) == ["metadata.json"]
    assert json.loads((store.directory / "metadata.json").read_bytes()) == {"status": "running"}


def test_an_empty_directory_may_be_used_and_a_full_one_not(tmp_path: Path) -> None:
    RunStore.create(tmp_path, {})
    before = files(tmp_path)
    with pytest.raises(
        RunDirectoryError, match=r"^--out: .*: not empty, expected a new or an empty directory$"
    ):
        RunStore.create(tmp_path, {"status": "other"})
    assert files(tmp_path) == before
    assert (tmp_path / "metadata.json").read_bytes() == b"{}"


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for directory in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunDirectoryError, match=f"--out: {directory}: cannot be made: "):
            RunStore.create(directory, {})


@pytest.mark.parametrize("last", ["whole", "none"])
def test_files_are_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    store = RunStore.create(tmp_path / "run", {})
    store.save("experiment.toml", b"old")
    if last == "none":

        def full(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(RunStoreError, match=r"experiment\.toml: the disk is full; free some space"):
            store.save("experiment.toml", b"new")
    else:
        store.save("experiment.toml", b"new")
    expected = b"old" if last == "none" else b"new"
    assert (store.directory / "experiment.toml").read_bytes() == expected
    assert files(store.directory) == ["experiment.toml", "metadata.json"]
    assert (store.directory / "experiment.toml").stat().st_mode & 0o777 == 0o644


def test_a_table_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RunStore.create(tmp_path / "run", {})

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(pd.DataFrame, "to_parquet", denied)
    with pytest.raises(RunStoreError, match=r"nics\.parquet: cannot be written: Permission denied"):
        store.save_table("telemetry/nics.parquet", pd.DataFrame({"a": [1]}))
    assert files(store.directory) == ["metadata.json"]


def test_tables_come_back(tmp_path: Path) -> None:
    store = RunStore.create(tmp_path / "run", {})
    for table in (pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}), pd.DataFrame()):
        store.save_table("turns.parquet", table)
        pd.testing.assert_frame_equal(
            pd.read_parquet(store.directory / "turns.parquet"), table, check_column_type=False
        )


def test_complete_marks_the_run(tmp_path: Path) -> None:
    store = RunStore.create(tmp_path / "run", {"status": "measured"})
    store.complete()
    assert json.loads((store.directory / "metadata.json").read_bytes())["status"] == "complete"


def test_logs_have_a_folder_a_host(tmp_path: Path) -> None:
    store = RunStore.create(tmp_path / "run", {})
    assert store.log_file("p0", "agent") == store.directory / "logs" / "p0" / "agent.log"
    assert store.log_file("p0", "agent").parent.is_dir()
    (store.directory / "logs" / "d0").write_text("in the way")
    with pytest.raises(RunStoreError, match="cannot be written: File exists"):
        store.log_file("d0", "agent")


def test_default_directory_is_named_after_the_experiment() -> None:
    assert default_directory("demo").parent == Path("runs")
    assert default_directory("demo").name.startswith("demo-20")


CIRCUMSTANCES = {
    "format_version": 2,
    "status": "running",
    "failure": None,
    "dualpath_version": "1.0",
    "experiment": {"name": "tiny", "replay": {"agents": 4}},
    "trace": {"sha256": "ab"},
    "scale": {"time_dilation": 8.0},
    "model": {"name": "m"},
    "profile": {},
    "emulation": {"mode": "loopback"},
}


def ended(directory: Path, **change: object) -> None:
    """A process has written a run's records there, and is gone."""
    os.close(RunStore.create(directory, {**CIRCUMSTANCES, **change})._locked)


def test_a_run_is_gone_on_with_where_it_ended(tmp_path: Path) -> None:
    ended(tmp_path / "run", status="failed", failure="host d0: lost", attempts=[{"ended": "host d0: lost"}])
    store = RunStore.reopen(tmp_path / "run", CIRCUMSTANCES)
    assert not store.finished
    store.begin()
    stored = json.loads((tmp_path / "run" / "metadata.json").read_bytes())
    assert (stored["status"], stored["failure"]) == ("running", None)
    assert stored["attempts"] == [{"ended": "host d0: lost"}]


def test_a_finished_run_is_known_as_such(tmp_path: Path) -> None:
    ended(tmp_path / "run", status="complete")
    assert RunStore.reopen(tmp_path / "run", CIRCUMSTANCES).finished


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"dualpath_version": "2.0"}, "dualpath_version: it was '1.0', is '2.0'"),
        ({"trace": {"sha256": "cd"}}, "trace: sha256 was 'ab', is 'cd'"),
        ({"emulation": {"mode": "network_namespaces"}}, "mode was 'loopback', is 'network_namespaces'"),
        (
            {"experiment": {"name": "tiny", "replay": {"agents": 5}}},
            r"experiment: replay\.agents was 4, is 5",
        ),
    ],
)
def test_other_circumstances_are_refused(tmp_path: Path, change: dict[str, object], difference: str) -> None:
    ended(tmp_path / "run")
    with pytest.raises(RunDirectoryError, match=difference):
        RunStore.reopen(tmp_path / "run", {**CIRCUMSTANCES, **change})


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"cannot be read \(No such file or directory\); expected"):
        RunStore.reopen(tmp_path, CIRCUMSTANCES)
    (tmp_path / "metadata.json").write_text("{")
    with pytest.raises(RunDirectoryError, match=r"--resume: .*: not a run's"):
        RunStore.reopen(tmp_path, CIRCUMSTANCES)


def test_a_run_under_way_is_nobody_elses(tmp_path: Path) -> None:
    RunStore.create(tmp_path / "run", CIRCUMSTANCES)
    with pytest.raises(RunDirectoryError, match=r"run: a run is writing here; wait for its end$"):
        RunStore.reopen(tmp_path / "run", CIRCUMSTANCES)


def test_an_agents_log_is_quoted_or_named(tmp_path: Path) -> None:
    store = RunStore.create(tmp_path / "run", {})
    log = store.log_file("p0", "agent")
    assert store.log_of("p0", last_lines=True) == ""  # it has not begun
    log.write_text("one\ntwo\nthree\nfour\n")
    assert store.log_of("p0", last_lines=True) == f"; the last lines of {log}: two | three | four"
    assert store.log_of("p0", last_lines=False) == f"; its log: {log}"

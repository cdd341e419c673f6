"""The record of a run on a rack names its hosts, so that they can be cleaned up, too."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.cluster.errors import ClusterError
from harness.cluster.ledger import RunClaim, RunRecord, cleanup

INVENTORY = '[[hosts]]\nname = "p0"\n'


def test_a_run_that_could_not_remove_everything_leaves_its_record(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with RunClaim(state, tmp_path, INVENTORY) as claim:
        claim.left = "something"
    asked: list[RunRecord] = []

    def on_hosts(record: RunRecord) -> list[str]:
        asked.append(record)
        return ["host p0: process 7"]

    assert cleanup(state) == []
    assert cleanup(state, on_hosts) == ["host p0: process 7", f"record {state / claim.run_id}.json"]
    assert [(record.run_id, record.inventory) for record in asked] == [(claim.run_id, INVENTORY)]
    assert os.listdir(tmp_path) == []


def test_hosts_that_cannot_be_reached_keep_the_record(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with RunClaim(state, tmp_path, INVENTORY) as claim:
        claim.left = "something"

    def unreachable(_: RunRecord) -> list[str]:
        raise ClusterError("host p0: connection refused")

    with pytest.raises(ClusterError, match="host p0: connection refused"):
        cleanup(state, unreachable)
    assert [path.name for path in state.iterdir()] == [f"{claim.run_id}.json"]


def test_a_run_that_removed_everything_leaves_nothing(tmp_path: Path) -> None:
    with RunClaim(tmp_path / "state", tmp_path, INVENTORY):
        pass
    assert os.listdir(tmp_path) == []

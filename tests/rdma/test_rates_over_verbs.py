"""Reads over verbs beside perftest's, on the same two ports, in turn."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

ADDRESSES = os.environ.get("DUALPATH_VERBS_ADDRESSES", "").split(",")
SHARE = 0.9


@pytest.mark.timeout(600)
@pytest.mark.skipif(len(ADDRESSES) != 2, reason="no two RDMA ports; tox -e rdma has them")
@pytest.mark.skipif(shutil.which("ib_read_bw") is None, reason="no perftest: apt-get install perftest")
def test_reads_of_a_mebibyte_are_as_fast_as_perftests() -> None:
    ports = ["--address", ADDRESSES[0], "--peer-address", ADDRESSES[1]]
    how = ["--kind", "verbs", "--block", "1M", "--depth", "4", "--seconds", "4", "--rounds", "2", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", "bench", "transport", *ports, *how],
        capture_output=True,
        text=True,
        timeout=540,
    )
    assert done.returncode == 0, done.stderr
    (case,) = json.loads(done.stdout)
    ours, theirs = (case["contest"]["rounds"][tool] for tool in ("verbs", "ib_read_bw"))
    shares = [mine["bytes_per_s"] / its["bytes_per_s"] for mine, its in zip(ours, theirs, strict=True)]
    assert sorted(shares)[len(shares) // 2] >= SHARE, done.stdout

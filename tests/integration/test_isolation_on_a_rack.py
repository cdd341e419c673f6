"""``dualpath bench isolation`` between the hosts of an inventory, over its launcher."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from racks.base import SPEC, RackLab
from racks.labs import RACKS

OBSTACLE = RACKS["ssh"].obstacle
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(OBSTACLE is not None, reason=f"no sshd: {OBSTACLE}"),
]
HOSTS = {"p0", "d0"}
KINDS = ["reduce_scatter", "all_gather", "dispatch", "combine"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RackLab]:
    """Links of 200 Mbit/s, made for a scale; hosts that have this Python."""
    with RACKS["ssh"].lab(tmp_path_factory.mktemp("rack"), SPEC) as raised:
        raised.python = sys.executable
        raised.write_inventory(raised.inventory)
        yield raised


@pytest.fixture(autouse=True)
def nothing_is_left(lab: RackLab) -> Iterator[None]:
    yield
    running = [process.cmdline() for host in lab.hosts for process in lab.processes(host)]
    assert [words for words in running if "hosts.bench.traffic" in words] == []


def command(lab: RackLab, *options: str) -> subprocess.CompletedProcess[str]:
    argv = [
        *(*lab.prefix, sys.executable, "-m", "harness.cli", "bench", "isolation"),
        *("--inventory", str(lab.inventory), "--model", "dualpath-27b", "--seconds", "1", "--rounds", "1"),
        *("--bytes-divisor", "1600", "--time-dilation", "10", "--json", *options),
    ]
    return subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False)


def report(lab: RackLab, *options: str) -> dict[str, Any]:
    done = command(lab, *options)
    assert done.returncode == 0, done.stderr
    assert "checking 2 hosts" in done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_all_scenarios_are_measured_on_its_serving_hosts(lab: RackLab) -> None:
    found = report(lab)
    assert found["mode"] == "rack"
    assert found["place"].startswith("rack rack, launched by ssh")
    alone, kv, same, low = found["results"]
    for result in (alone, same, low):
        everything, *of_each = result["bursts"]
        assert everything["bursts"] > 0
        assert [times["collective"] for times in of_each] == KINDS
    for result in (kv, same, low):
        assert result["kv_bytes_per_s"] > 0
    assert all(0 < result["cpu_busy"] <= 1 for result in found["results"])
    (observed,) = found["rounds"]["low_class"]
    assert set(observed["collectives"]) == set(observed["kv"]) == HOSTS


def test_torch_collectives_are_measured_with_the_hosts_torch(lab: RackLab) -> None:
    pytest.importorskip("torch", reason="torch is not installed here (tox -e torch installs it)")
    found = report(lab, "--collectives", "gloo", "--scenarios", "collectives,low_class")
    assert found["plan"]["collectives"] == "gloo"
    for result in found["results"]:
        everything, *of_each = result["bursts"]
        assert everything["bursts"] > 0
        assert [times["collective"] for times in of_each] == KINDS


def test_torch_collectives_by_nccl_want_gpus_and_say_so_before_anything_runs(lab: RackLab) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed here (tox -e torch installs it)")
    if torch.cuda.is_available():
        pytest.skip("hosts have a GPU here")
    done = command(lab, "--collectives", "nccl")
    assert (done.returncode, done.stdout) == (3, "")
    assert "torch: 2." in done.stderr
    assert "there is no GPU" in done.stderr

"""One experiment, unchanged, on the emulated cluster and on a rack behind each launcher: the same result.

Speedups are compared by `tools/measure_launchers.py`, for which the machine has to be quiet; here everything
that does not depend on that.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from racks.labs import NO_NAMESPACES, RACKS
from run_driver import CommandRun, finish_exactly, write_experiment

from harness.experiment import load_experiment
from harness.preparation import prepare

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(NO_NAMESPACES is not None, reason=f"no network namespaces: {NO_NAMESPACES}"),
]
WHAT_THE_TRACE_SAYS = ["repetition", "policy", "turns", "read_bytes", "written_bytes"]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_experiment(tmp_path_factory.mktemp("experiment"), cluster={"decode_hosts": 2})


def by_repetition(run: CommandRun) -> list[list[object]]:
    return [[found[key] for key in WHAT_THE_TRACE_SAYS] for found in run.metadata["repetitions"]]


@pytest.fixture(scope="module")
def on_this_machine(experiment: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[object]]:
    with CommandRun(experiment, tmp_path_factory.mktemp("local")) as run:
        finish_exactly(run)
        return by_repetition(run)


@pytest.mark.parametrize("kind", RACKS)
def test_the_same_experiment(
    kind: str, experiment: Path, on_this_machine: list[list[object]], tmp_path: Path
) -> None:
    rack = RACKS[kind]
    if rack.obstacle is not None:
        pytest.skip(f"launcher '{kind}': {rack.obstacle}")
    spec = prepare(load_experiment(str(experiment))).cluster_spec()
    with (
        rack.lab(tmp_path, spec) as lab,
        CommandRun(
            experiment, tmp_path / "place", "--inventory", str(lab.inventory), prefix=lab.prefix
        ) as run,
    ):
        finish_exactly(run)
        assert run.metadata["emulation"]["mode"] == "rack"
        roles = sorted(host["role"] for host in run.metadata["hosts"])
        assert roles == ["decode", "decode", "prefill", "storage"]
        assert by_repetition(run) == on_this_machine

"""Ray's own errors, in words for one line."""

from __future__ import annotations

import asyncio

import pytest

from harness.host_error import HostError
from harness.inventory import Inventory, InventoryHost, RayLauncher
from harness.launchers import open_launcher
from harness.launchers.ray.words import why_lost, why_not_connected

DIED = """The actor died unexpectedly before finishing this task.
\tclass_name: HostShell
\tactor_id: aaf8ab538d7868dfae92a05001000000
\tpid: 18727
\tnamespace: 555d1558-745a-4b5f-b566-2c93abb2bbee
\tip: 10.77.0.100
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: \
Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the \
process was killed by the OOM killer due to high memory usage"""


def test_why_an_actor_died() -> None:
    assert why_lost(Exception(DIED)) == (
        "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit "
        "detail: Worker unexpectedly exits with a connection error code 2. End of file."
    )


def test_an_error_without_words() -> None:
    assert why_lost(Exception("The actor died unexpectedly before finishing this task.")) == (
        "Ray does not say why its actor is gone"
    )


def test_versions_that_differ() -> None:
    ray_utils = pytest.importorskip("ray._private.utils", reason="ray is not installed")
    with pytest.raises(RuntimeError) as caught:
        ray_utils.check_version_info({"ray_version": "2.0.0", "python_version": "3.8.1"}, "10.0.0.1")
    said = why_not_connected(caught.value)
    assert said.startswith(
        "Version mismatch: The cluster was started with: Ray: 2.0.0 Python: 3.8.1 This process"
    )
    assert "fix: a virtual environment with the cluster's Python" in said


def test_a_control_node_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.launchers.ray.find_spec", lambda name: None)
    inventory = Inventory(hosts=(InventoryHost("p0", "prefill"),), launcher=RayLauncher())

    async def opened() -> None:
        async with open_launcher(inventory):
            pass

    with pytest.raises(HostError, match=r"ray is not installed; fix: pip install 'dualpath-testbed\[ray\]'"):
        asyncio.run(opened())

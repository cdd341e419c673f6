"""What is pruned of bundles: what nobody has used for long, whatever runs from the rest."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from bundle_hosts import LocalHosts
from deployments import contents, deploy, prune, run_agent
from small_bundle import SmallBundle

from harness.bundle import Installed
from harness.host_error import HostError

DAY_S = 86400


def last_used(path: str | Path, days_ago: float) -> None:
    then = time.time() - days_ago * DAY_S
    os.utime(path, (then, then))


def test_a_bundle_that_nobody_uses_goes_with_what_only_it_needs(
    tmp_path: Path, small_bundle: SmallBundle
) -> None:
    hosts = LocalHosts(tmp_path, ["decode0"])
    old = deploy(hosts)["decode0"]
    small_bundle.write_agent(2)
    new = deploy(hosts)["decode0"]
    last_used(f"{old.environment}/lock", days_ago=20)
    last_used(f"{new.environment}/lock", days_ago=13)
    lines = prune(hosts)
    assert lines[0] == f"host decode0: {old.environment} (unused for 20 days)"
    assert len(lines) == 2
    assert lines[1].endswith(" (of no bundle)")
    assert run_agent(new)["version"] == 2
    assert len(contents(hosts, "decode0")) == 1 + 3
    small_bundle.write_agent(1)
    assert run_agent(deploy(hosts)["decode0"])["version"] == 1


def test_a_deployment_is_a_use(tmp_path: Path, small_bundle: SmallBundle) -> None:
    hosts = LocalHosts(tmp_path, ["decode0"])
    last_used(f"{deploy(hosts)['decode0'].environment}/lock", days_ago=20)
    deploy(hosts)
    assert prune(hosts) == []


def test_a_bundle_stays_while_an_agent_runs_from_it(tmp_path: Path, small_bundle: SmallBundle) -> None:
    hosts = LocalHosts(tmp_path, ["decode0"])
    installed = deploy(hosts)["decode0"]
    last_used(f"{installed.environment}/lock", days_ago=20)
    argv = installed.argv("hosts.agent", "stay")
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as agent:
        try:
            assert agent.stdout is not None
            assert agent.stdout.readline()
            assert prune(hosts) == []
        finally:
            agent.kill()
    assert len(prune(hosts)) == 1 + 3
    assert contents(hosts, "decode0") == []


def test_what_deployments_left_that_broke_off_goes(tmp_path: Path, small_bundle: SmallBundle) -> None:
    hosts = LocalHosts(tmp_path, ["decode0"])
    hosts.broken = {2}
    with pytest.raises(HostError):
        deploy(hosts)
    root = hosts.homes["decode0"] / ".cache/dualpath/bundles"
    (root / "environments/.new-0123").mkdir()
    (root / "wheels/.new-0123").mkdir()
    assert prune(hosts) == [
        f"host decode0: {root}/environments/.new-0123 (not finished)",
        f"host decode0: {root}/wheels/.new-0123 (of no bundle)",
    ]
    for upload in root.glob("incoming/*"):
        last_used(upload, days_ago=1.1)
    assert len(prune(hosts)) == 2
    assert contents(hosts, "decode0") == []


def test_wheels_on_the_control_node_go_too(
    tmp_path: Path, small_bundle: SmallBundle, wheelhouse: Path
) -> None:
    hosts = LocalHosts(tmp_path, ["decode0"])
    deploy(hosts)
    (folder,) = wheelhouse.iterdir()
    last_used(folder, days_ago=30)
    assert prune(hosts) == [f"{folder} (unused for 30 days)"]


def test_nothing_is_pruned_where_nothing_is(tmp_path: Path, wheelhouse: Path) -> None:
    hosts = LocalHosts(tmp_path, ["decode0"])
    assert prune(hosts) == []
    assert list(hosts.homes["decode0"].iterdir()) == []


def test_a_host_that_cannot_be_pruned_is_named_when_the_others_are(
    tmp_path: Path, small_bundle: SmallBundle
) -> None:
    hosts = LocalHosts(tmp_path, ["decode0", "decode1"])
    installed: dict[str, Installed] = deploy(hosts)
    for there in installed.values():
        last_used(f"{there.environment}/lock", days_ago=20)
    (hosts.homes["decode0"] / ".cache/dualpath/bundles/lock").unlink()
    (hosts.homes["decode0"] / ".cache/dualpath/bundles/lock").mkdir()
    with pytest.raises(HostError, match=r"host decode0: bundles: cannot prune: .* Is a directory"):
        prune(hosts)
    assert contents(hosts, "decode1") == []

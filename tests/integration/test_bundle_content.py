"""What an agent needs, fetched from a package index, on hosts that have nothing but their Python."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bundle_hosts import LocalHosts, pythons, rack
from racks.sshd_lab import OBSTACLE, sshd_lab

from harness.bundle import Installed, deploy_bundle, prune_bundles
from harness.bundle.lock import lock_text
from harness.cluster import probe
from harness.inventory import load_inventory
from harness.launchers import open_launcher

PYTHONS = pythons(range(11, 15))
BARE = {"PATH": "/usr/bin:/bin"}
SECOND_DEPLOYMENT_S = 2.0
DISTRIBUTIONS_PYVERBS = Path("/usr/lib/python3/dist-packages/pyverbs")
SEEN = """
import json, sys
import msgspec, numpy, psutil, hosts.agent, workloads
from hosts.facts import host_facts
files = [module.__file__ for module in (msgspec, numpy, psutil, hosts.agent, workloads)]
print(json.dumps({"files": files, "facts": host_facts(), "path": sys.path}))
"""


def pip(*arguments: str) -> str:
    """What it prints; it names the reason if the test cannot be."""
    argv = [sys.executable, "-m", "pip", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        pytest.skip(f"packages cannot be fetched here: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.strip()


@pytest.fixture
def wheelhouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty one, where the smallest package can be fetched."""
    lock = lock_text()
    smallest = tmp_path / "psutil.lock"
    smallest.write_text(lock[lock.index("\npsutil==") :], encoding="utf-8")
    binary = ("--quiet", "--retries", "1", "--no-deps", "--only-binary", ":all:")
    pip("download", *binary, "--dest", str(tmp_path), "--requirement", str(smallest))
    monkeypatch.setenv("PIP_CACHE_DIR", pip("cache", "dir"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def hosts(tmp_path: Path, wheelhouse: None) -> LocalHosts:
    """One for each Python that this machine has."""
    hosts = LocalHosts(tmp_path, [f"decode{n}" for n in range(len(PYTHONS))])
    for host, python in zip(hosts.hosts, PYTHONS, strict=True):
        hosts.give_python(host, python)
    return hosts


def deploy(hosts: LocalHosts, python: str = "python3") -> dict[str, Installed]:
    inventory = rack(hosts.hosts, python=python)
    return asyncio.run(deploy_bundle(hosts, inventory, progress=lambda line: None))


def bare(argv: list[str]) -> str:
    """What a command prints that has no more of an environment than a host gives it."""
    done = subprocess.run(argv, env=BARE, cwd="/", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_agents_start_on_hosts_that_have_python_alone(hosts: LocalHosts) -> None:
    installed = deploy(hosts)
    for there in installed.values():
        assert bare(there.argv("hosts.agent", "--help")).startswith("usage: dualpath-agent")
        seen = json.loads(bare([f"{there.environment}/bin/python", "-I", "-c", SEEN]))
        assert all(file.startswith(f"{there.directory}/bundles/wheels/") for file in seen["files"])
        outside = [entry for entry in seen["path"] if not entry.startswith(there.directory)]
        assert not [entry for entry in outside if entry.endswith("-packages")], "not isolated"
        assert seen["facts"].keys() >= {"dualpath", "numpy"}
    began_at = time.monotonic()
    assert deploy(hosts) == installed
    assert time.monotonic() - began_at < SECOND_DEPLOYMENT_S * len(installed)


@pytest.mark.skipif(not DISTRIBUTIONS_PYVERBS.is_dir(), reason="python3-pyverbs is not installed")
def test_an_environment_is_shown_the_pyverbs_of_the_distribution(hosts: LocalHosts) -> None:
    there = deploy(hosts, python="/usr/bin/python3")["decode0"]
    source = (
        "from hosts.transport.verbs.library import require_pyverbs as r; r(); import pyverbs; print(pyverbs)"
    )
    assert str(DISTRIBUTIONS_PYVERBS) in bare([f"{there.environment}/bin/python", "-I", "-c", source])


def test_agents_start_behind_sshd(tmp_path: Path, wheelhouse: None) -> None:
    if obstacle := probe().unavailable.get("network_namespaces") or OBSTACLE:
        pytest.skip(obstacle)

    async def deploy_twice() -> None:
        inventory = load_inventory(lab.inventory)
        async with open_launcher(inventory) as launcher:
            installed = await deploy_bundle(launcher, inventory, progress=lambda line: None)
            for host, there in installed.items():
                done = await launcher.run(host, there.argv("hosts.agent", "--help"))
                assert done.stdout.startswith(b"usage: dualpath-agent"), done.stderr
            began_at = time.monotonic()
            assert await deploy_bundle(launcher, inventory, progress=lambda line: None) == installed
            assert time.monotonic() - began_at < SECOND_DEPLOYMENT_S * len(installed)
            assert await prune_bundles(launcher, inventory) == []

    with sshd_lab(tmp_path) as lab:
        lab.inside(lambda: asyncio.run(deploy_twice()))

"""What the tests of bundles do with hosts that are homes on this machine."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import Any

import pytest
from bundle_hosts import LocalHosts, rack

from harness.bundle import Installed, deploy_bundle, prune_bundles
from harness.host_error import HostError

DIRECTORY = "~/.cache/dualpath"


def deploy(
    hosts: LocalHosts, directory: str = DIRECTORY, python: str = sys.executable
) -> dict[str, Installed]:
    inventory = rack(hosts.hosts, directory, python)
    return asyncio.run(deploy_bundle(hosts, inventory, progress=lambda line: None))


def refused(hosts: LocalHosts, directory: str = DIRECTORY, python: str = sys.executable) -> str:
    """How a deployment fails, before anything was uploaded."""
    with pytest.raises(HostError) as error:
        deploy(hosts, directory, python)
    assert hosts.puts == []
    return str(error.value)


def prune(hosts: LocalHosts, directory: str = DIRECTORY, python: str = sys.executable) -> list[str]:
    return asyncio.run(prune_bundles(hosts, rack(hosts.hosts, directory, python)))


def run_agent(installed: Installed, *arguments: str) -> dict[str, Any]:
    """What an agent of the small bundle says."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": "/elsewhere", "PYTHONHOME": "/elsewhere"}
    argv = installed.argv("hosts.agent", *arguments)
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=30, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def contents(hosts: LocalHosts, host: str) -> list[str]:
    """Files and folders of the host's bundles that are neither folders of them nor their lock and name."""
    root = hosts.homes[host] / ".cache/dualpath/bundles"
    return sorted(str(path.relative_to(root)) for path in root.glob("*/*"))

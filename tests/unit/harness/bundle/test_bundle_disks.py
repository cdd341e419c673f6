"""Bundles on disks that have no room or let nothing run: small file systems in memory, mounted for a test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bundle_hosts import LocalHosts
from deployments import deploy, refused, run_agent
from small_bundle import SmallBundle

from harness.host_error import HostError

Mount = Callable[[str], str]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a tmpfs with the given options, or changes them; its path."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mounted(options: str) -> str:
        again = "remount," if disk.is_mount() else ""
        argv = ["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", str(disk)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=10)
        if done.returncode != 0:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        return str(disk)

    yield mounted
    if disk.is_mount():
        subprocess.run(["umount", str(disk)], timeout=10, check=True)


def test_a_disk_without_room_is_refused(tmp_path: Path, small_bundle: SmallBundle, mount: Mount) -> None:
    small_bundle.require("third", os.urandom(3 << 20))
    message = refused(LocalHosts(tmp_path, ["decode0"]), directory=mount("size=4m"))
    assert message.startswith(
        f"host decode0: found 4 MiB free in {tmp_path}/disk, expected 6 for the bundle; fix: "
    )


def test_a_disk_that_fills_up_is_said_and_the_next_deployment_goes_on(
    tmp_path: Path, small_bundle: SmallBundle, mount: Mount
) -> None:
    hosts = LocalHosts(tmp_path, ["decode0"])
    directory = mount("size=4m,nr_inodes=14")
    with pytest.raises(
        HostError, match=r"decode0: bundles: cannot install: .*No space left on device.*; fix: free some"
    ):
        deploy(hosts, directory)
    uploaded = len(hosts.puts)
    mount("nr_inodes=1000")
    assert run_agent(deploy(hosts, directory)["decode0"])["version"] == 1
    assert len(hosts.puts) == uploaded


def test_a_disk_that_nothing_runs_from_is_refused(
    tmp_path: Path, small_bundle: SmallBundle, mount: Mount
) -> None:
    message = refused(LocalHosts(tmp_path, ["decode0"]), directory=mount("noexec"))
    assert f"{tmp_path}/disk/bundles is on a file system mounted noexec" in message

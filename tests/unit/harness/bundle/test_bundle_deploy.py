"""Deployments to hosts that are homes on this machine, with actual Pythons and an actual pip."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
from pathlib import Path

import pytest
from bundle_hosts import LocalHosts, rack
from deployments import contents, deploy, refused, run_agent
from small_bundle import SmallBundle

from harness.bundle import deploy_bundle
from harness.host_error import HostError


def assert_only_installed(hosts: LocalHosts, host: str) -> None:
    """No upload and no half-made folder is left."""
    assert not [name for name in contents(hosts, host) if name.startswith("incoming/") or "/." in name]


def test_the_second_deployment_of_the_same_is_one_call_a_host(
    tmp_path: Path, small_bundle: SmallBundle
) -> None:
    hosts = LocalHosts(tmp_path, ["prefill0", "decode0"])
    first = deploy(hosts)
    assert len(hosts.puts) == 2 * 3
    hosts.puts.clear()
    hosts.runs.clear()
    assert deploy(hosts) == first
    assert hosts.puts == []
    assert hosts.runs == {"prefill0": 1, "decode0": 1}
    assert_only_installed(hosts, "prefill0")


def test_an_agent_runs_in_the_bundle_and_sees_nothing_else(tmp_path: Path, small_bundle: SmallBundle) -> None:
    hosts = LocalHosts(tmp_path, ["decode0"])
    installed = deploy(hosts)["decode0"]
    assert installed.directory == str(hosts.homes["decode0"] / ".cache/dualpath")
    answer = run_agent(installed, "--host", "a b", "'")
    assert answer["arguments"] == ["--host", "a b", "'"]
    assert answer["version"] == 1
    standard = {"python311.zip", "python3.11", "lib-dynload"}
    path = [p for p in answer["path"] if Path(p).name not in standard]
    assert all(p.startswith(installed.directory) for p in path)
    assert len(path) == 1 + 3


def test_other_code_is_all_that_is_uploaded_when_the_code_changes(
    tmp_path: Path, small_bundle: SmallBundle
) -> None:
    hosts = LocalHosts(tmp_path, ["decode0"])
    before = deploy(hosts)["decode0"]
    hosts.puts.clear()
    small_bundle.write_agent(2)
    after = deploy(hosts)["decode0"]
    assert len(hosts.puts) == 1
    assert run_agent(before)["version"] == 1
    assert run_agent(after)["version"] == 2


def test_an_upload_that_breaks_off_is_done_again_and_the_others_are_not(
    tmp_path: Path, small_bundle: SmallBundle
) -> None:
    hosts = LocalHosts(tmp_path, ["decode0"])
    hosts.broken = {2}
    with pytest.raises(HostError, match="host decode0: connection lost"):
        deploy(hosts)
    deploy(hosts)
    assert len(hosts.puts) == 2 + 2
    assert hosts.puts[1] == hosts.puts[2]


def test_a_wheel_that_arrives_damaged_is_uploaded_again(tmp_path: Path, small_bundle: SmallBundle) -> None:
    hosts = LocalHosts(tmp_path, ["decode0"])
    hosts.damaged = {2}
    assert run_agent(deploy(hosts)["decode0"])["version"] == 1
    assert len(hosts.puts) == 3 + 1
    assert hosts.puts[1] == hosts.puts[3]


def test_a_wheel_that_is_always_damaged_is_an_error(tmp_path: Path, small_bundle: SmallBundle) -> None:
    hosts = LocalHosts(tmp_path, ["decode0"])
    hosts.damaged = set(range(100))
    with pytest.raises(HostError, match=r"host decode0: .*second-1\.0.* 2 times not what had been sent"):
        deploy(hosts)
    assert len(hosts.puts) == 2 * 3


@pytest.mark.parametrize("damage", ["shortened", "removed", "environment"])
def test_what_was_damaged_since_is_installed_again(
    tmp_path: Path, small_bundle: SmallBundle, damage: str
) -> None:
    hosts = LocalHosts(tmp_path, ["decode0"])
    installed = deploy(hosts)["decode0"]
    (module,) = Path(installed.directory).glob("bundles/wheels/*/second.py")
    if damage == "shortened":
        os.truncate(module, 5)
    elif damage == "removed":
        module.unlink()
    else:
        shutil.rmtree(Path(installed.environment, "lib"))
    hosts.puts.clear()
    assert run_agent(deploy(hosts)["decode0"])["version"] == 1
    assert len(hosts.puts) == (0 if damage == "environment" else 1)
    assert_only_installed(hosts, "decode0")


def test_two_control_nodes_deploy_at_once(tmp_path: Path, small_bundle: SmallBundle) -> None:
    nodes = [LocalHosts(tmp_path, ["prefill0", "decode0"]) for _ in range(3)]

    async def both() -> None:
        calls = (deploy_bundle(node, rack(node.hosts), progress=lambda line: None) for node in nodes)
        await asyncio.gather(*calls)

    asyncio.run(both())
    assert run_agent(deploy(nodes[0])["decode0"])["version"] == 1
    assert_only_installed(nodes[0], "decode0")


def test_a_deployment_waits_for_an_installation_that_is_under_way(
    tmp_path: Path, small_bundle: SmallBundle
) -> None:
    hosts = LocalHosts(tmp_path, ["decode0"])
    installed = deploy(hosts)
    root = hosts.homes["decode0"] / ".cache/dualpath/bundles"
    hosts.runs.clear()

    async def while_another_installs() -> None:
        installing = asyncio.Event()

        def progress(line: str) -> None:
            if "installing" in line:
                installing.set()

        with (root / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            deployment = asyncio.create_task(deploy_bundle(hosts, rack(hosts.hosts), progress=progress))
            await installing.wait()
            done, _ = await asyncio.wait([deployment], timeout=0.3)
            assert not done
        assert await deployment == installed

    asyncio.run(while_another_installs())
    assert len(hosts.puts) == 3


def test_hosts_that_share_a_directory_share_what_is_uploaded(
    tmp_path: Path, small_bundle: SmallBundle
) -> None:
    hosts = LocalHosts(tmp_path, [f"decode{n}" for n in range(4)])
    installed = deploy(hosts, directory=str(tmp_path / "shared"))
    assert len(hosts.puts) == 3
    assert len(set(installed.values())) == 1


def test_what_a_shell_prints_first_is_not_the_answer(tmp_path: Path, small_bundle: SmallBundle) -> None:
    hosts = LocalHosts(tmp_path, ["decode0"])
    hosts.greeting = b"Welcome to {decode0}\n"
    assert run_agent(deploy(hosts)["decode0"])["version"] == 1


def test_hosts_without_python_are_all_named(tmp_path: Path, small_bundle: SmallBundle) -> None:
    hosts = LocalHosts(tmp_path, ["prefill0", "decode0", "decode1"])
    message = refused(hosts, python="python3.99")
    assert message.startswith("host prefill0: cannot start 'python3.99' (")
    assert "fix: install Python 3.11 or newer there, or name it as 'python'" in message
    assert message.endswith("(the same on decode0, decode1)")


def test_another_program_for_python_is_said(tmp_path: Path, small_bundle: SmallBundle) -> None:
    message = refused(LocalHosts(tmp_path, ["decode0"]), python="echo")
    assert "host decode0: found the answer '-I -S - look" in message


def test_a_directory_that_cannot_be_written_is_said(tmp_path: Path, small_bundle: SmallBundle) -> None:
    hosts = LocalHosts(tmp_path, ["decode0"])
    message = refused(hosts, directory="/proc/dualpath")
    assert message.startswith("host decode0: cannot write in /proc/dualpath/bundles: ")
    assert "fix: make it writable" in message
    assert "expected an absolute path" in refused(hosts, directory="dualpath")


def test_bundles_that_others_can_change_are_refused(tmp_path: Path, small_bundle: SmallBundle) -> None:
    (tmp_path / "bundles").mkdir(mode=0o700)
    (tmp_path / "bundles").chmod(0o777)
    assert "with mode 777, expected one that only user" in refused(
        LocalHosts(tmp_path, ["decode0"]), directory=str(tmp_path)
    )


def test_a_host_without_flock_is_said(tmp_path: Path, small_bundle: SmallBundle) -> None:
    hosts = LocalHosts(tmp_path, ["decode0"])
    hosts.variables["decode0"]["PATH"] = str(tmp_path)
    assert "found no flock(1)" in refused(hosts)


def test_packages_that_cannot_be_fetched_are_named_with_the_hosts(
    tmp_path: Path, small_bundle: SmallBundle
) -> None:
    small_bundle.require("third", tag="cp39-cp39-manylinux2014_x86_64")
    message = refused(LocalHosts(tmp_path, ["prefill0", "decode0"]))
    assert "host prefill0: cannot fetch first==1.0, second==1.0, third==1.0 for Python 3." in message
    assert "No matching distribution found for third==1.0" in message
    assert "fix: let this machine reach a package index" in message
    assert "(the same on decode0)" in message


def test_what_does_not_import_is_not_installed(tmp_path: Path, small_bundle: SmallBundle) -> None:
    hosts = LocalHosts(tmp_path, ["decode0"])
    small_bundle.write_agent(1, "import fourth")
    for _ in range(2):
        with pytest.raises(
            HostError, match=r"cannot import hosts\.agent .*: ModuleNotFoundError: .*'fourth'"
        ):
            deploy(hosts)
    assert_only_installed(hosts, "decode0")
    assert not [name for name in contents(hosts, "decode0") if name.startswith("environments")]

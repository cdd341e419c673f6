"""Bundles for the Pythons of this machine, too old or of different versions."""

from __future__ import annotations

import ast
import sys
from importlib import resources
from pathlib import Path

import pytest
from bundle_hosts import LocalHosts, pythons
from deployments import deploy, refused, run_agent
from small_bundle import SmallBundle

OLD = pythons(range(6, 11))
RECENT = pythons(range(11, 20))


def test_the_program_for_hosts_is_grammar_that_old_pythons_read() -> None:
    source = resources.files("harness.bundle").joinpath("on_host.py").read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 6))


@pytest.mark.skipif(not OLD, reason="this machine has no Python of 3.6 to 3.10")
def test_hosts_whose_python_is_too_old_are_all_named(tmp_path: Path, small_bundle: SmallBundle) -> None:
    hosts = LocalHosts(tmp_path, ["prefill0", *(f"decode{n}" for n in range(len(OLD)))])
    hosts.give_python("prefill0", sys.executable)
    for n, python in enumerate(OLD):
        hosts.give_python(f"decode{n}", python)
    message = refused(hosts, python="python3")
    for n, python in enumerate(OLD):
        version = Path(python).name.removeprefix("python")
        assert f"host decode{n}: found Python {version}." in message
    assert "expected 3.11 or newer; fix: install one, or name it as 'python' in the inventory" in message
    assert "prefill0" not in message
    assert not (hosts.homes["decode0"] / ".cache").exists()


@pytest.mark.skipif(len(RECENT) < 2, reason="this machine has one Python from 3.11 on")
def test_hosts_of_several_pythons_each_get_what_fits(tmp_path: Path, small_bundle: SmallBundle) -> None:
    hosts = LocalHosts(tmp_path, [f"decode{n}" for n in range(len(RECENT))])
    for host, python in zip(hosts.hosts, RECENT, strict=True):
        hosts.give_python(host, python)
    installed = deploy(hosts, directory=str(tmp_path / "shared"), python="python3")
    versions = [Path(run_agent(there)["path"][0]).name for there in installed.values()]
    assert versions == [f"{Path(python).name.replace('.', '')}.zip" for python in RECENT]
    assert len(hosts.puts) == 3

"""Wheels that the control node keeps for kinds of hosts."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from small_bundle import SmallBundle

from harness.bundle.wheelhouse import HostKind, WheelhouseError, wheels_for

KIND = HostKind("3.12", "cp312", "aarch64", "2.34")


def test_wheels_are_fetched_for_the_hosts_not_for_this_machine(
    wheelhouse: Path, small_bundle: SmallBundle
) -> None:
    small_bundle.require("third", tag="cp312-cp312-manylinux_2_34_aarch64")
    small_bundle.require("fourth", tag="cp39-abi3-manylinux2014_aarch64")
    wheels = asyncio.run(wheels_for(KIND, small_bundle.lock))
    assert len(wheels) == 4
    assert all(wheelhouse in path.parents for path in wheels.values())


def test_wheels_for_a_newer_c_library_do_not_fit(wheelhouse: Path, small_bundle: SmallBundle) -> None:
    small_bundle.require("third", tag="cp312-cp312-manylinux_2_35_aarch64")
    with pytest.raises(
        WheelhouseError, match=r"third==1\.0 for Python 3\.12 \(cp312\) on aarch64 with glibc 2\.34"
    ):
        asyncio.run(wheels_for(KIND, small_bundle.lock))


def test_wheels_that_are_there_need_no_index(
    wheelhouse: Path, small_bundle: SmallBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = asyncio.run(wheels_for(KIND, small_bundle.lock))
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    assert asyncio.run(wheels_for(KIND, small_bundle.lock)) == wheels
    next(iter(wheels.values())).write_bytes(b"damaged")
    with pytest.raises(WheelhouseError, match=r"cannot fetch first==1\.0 .*or put such wheels into /"):
        asyncio.run(wheels_for(KIND, small_bundle.lock))


def test_an_index_that_cannot_be_reached_is_said(
    wheelhouse: Path, small_bundle: SmallBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(WheelhouseError, match=r"cannot fetch .*\[Errno 111\] Connection refused; ERROR: "):
        asyncio.run(wheels_for(KIND, small_bundle.lock))


def test_a_wheel_that_was_damaged_is_fetched_again(wheelhouse: Path, small_bundle: SmallBundle) -> None:
    wheels = asyncio.run(wheels_for(KIND, small_bundle.lock))
    next(iter(wheels.values())).write_bytes(b"damaged")
    assert asyncio.run(wheels_for(KIND, small_bundle.lock)) == wheels


def test_a_python_without_pip_is_said(
    wheelhouse: Path, small_bundle: SmallBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(WheelhouseError, match=f"no pip in {sys.executable}, which"):
        asyncio.run(wheels_for(KIND, small_bundle.lock))


def test_a_cache_that_cannot_be_written_is_said(
    small_bundle: SmallBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    with pytest.raises(
        WheelhouseError, match=r"cannot keep wheels on this machine in /proc/none/dualpath/wheelhouse"
    ):
        asyncio.run(wheels_for(KIND, small_bundle.lock))


def test_a_fetch_that_is_cancelled_leaves_nothing(wheelhouse: Path, small_bundle: SmallBundle) -> None:
    async def cancelled() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await wheels_for(KIND, small_bundle.lock)

    asyncio.run(cancelled())
    (folder,) = wheelhouse.iterdir()
    assert list(folder.iterdir()) == []

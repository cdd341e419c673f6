"""Fixtures of the tests of bundles."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from small_bundle import SmallBundle


@pytest.fixture(scope="session")
def kept_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This machine's cache for most tests: the small bundle's packages are fetched once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def small_bundle(tmp_path: Path, kept_cache: Path, monkeypatch: pytest.MonkeyPatch) -> SmallBundle:
    index = tmp_path / "index"
    index.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in (("CONFIG_FILE", os.devnull), ("NO_INDEX", "1"), ("FIND_LINKS", str(index))):
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept_cache))
    bundle = SmallBundle(index, monkeypatch)
    bundle.require("first")
    bundle.require("second", b"# a package\n" * 1000)
    bundle.write_agent(1)
    return bundle


@pytest.fixture
def wheelhouse(tmp_path: Path, small_bundle: SmallBundle, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheelhouse of this test's own, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/dualpath/wheelhouse"

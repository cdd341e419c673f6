"""The directory as a store: what stays inside, what stays out."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hosts.config import CacheMode, StorageConfig
from hosts.storage import Storage, StorageError, open_storage


def over(root: Path, test: Callable[[Storage], Coroutine[Any, Any, None]], cache: CacheMode = "page") -> None:
    async def run() -> None:
        storage = await open_storage(StorageConfig(kind="posix", root=str(root), cache=cache))
        try:
            await test(storage)
        finally:
            await storage.close()

    asyncio.run(run())


def test_links_are_not_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "directory").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")

    async def test(storage: Storage) -> None:
        for key in ("directory/secret", "file"):
            with pytest.raises(StorageError, match="symbolic link"):
                await storage.read_into(key, 0, memoryview(bytearray(6)))
        with pytest.raises(StorageError, match="symbolic link"):
            await storage.write("directory/new", b"x")
        with pytest.raises(StorageError, match="symbolic link"):
            await storage.delete("directory/secret")
        await storage.write("file", b"mine")
        await storage.delete("directory")

    over(root, test)
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_bytes() == b"secret"
    assert (root / "file").read_bytes() == b"mine"
    assert [path.name for path in root.iterdir()] == ["file"]


PARTS = ["..", ".", "", "up", "out", "secret", "file", "a", "b", "/etc", "%2e%2e", "a\\..", "\0", "~", "é"]
"""``up``, ``out`` and ``file`` are links, to the root's parent, a directory and a file beside the root."""


@settings(max_examples=150, deadline=None)
@given(
    calls=st.lists(
        st.tuples(st.sampled_from(["read", "write", "delete"]), st.lists(st.sampled_from(PARTS), max_size=5)),
        min_size=1,
        max_size=8,
    ),
    direct=st.booleans(),
)
def test_whatever_the_names_nothing_outside_the_root_is_read_or_changed(
    calls: list[tuple[str, list[str]]], direct: bool
) -> None:
    with TemporaryDirectory() as name:
        parent = Path(name)
        root, outside = parent / "root", parent / "outside"
        for directory in (root, outside, root / "a"):
            directory.mkdir()
        (outside / "secret").write_bytes(b"secret")
        (root / "a" / "b").write_bytes(b"inside")
        (root / "up").symlink_to("..")
        (root / "a" / "out").symlink_to(outside)
        (root / "file").symlink_to("../outside/secret")

        async def test(storage: Storage) -> None:
            for operation, parts in calls:
                key, into = "/".join(parts), bytearray(6)
                with suppress(StorageError):
                    if operation == "read":
                        await storage.read_into(key, 0, memoryview(into))
                    elif operation == "write":
                        await storage.write(key, b"inside")
                    else:
                        await storage.delete(key)
                assert into in (bytes(6), b"inside")

        over(root, test, cache="direct" if direct else "page")
        assert sorted(os.listdir(parent)) == ["outside", "root"]
        assert os.listdir(outside) == ["secret"]
        assert (outside / "secret").read_bytes() == b"secret"


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken" / "below").mkdir(parents=True)

    async def test(storage: Storage) -> None:
        with pytest.raises(StorageError, match="Is a directory"):
            await storage.write("taken", b"x")
        await storage.write("a", b"x")
        with pytest.raises(StorageError, match="file is in the way"):
            await storage.write("a/b", b"x")

    over(tmp_path, test)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "taken"]


def test_a_root_that_is_none_and_a_closed_store_are_errors(tmp_path: Path) -> None:
    for root in (tmp_path / "missing", Path(__file__)):
        with pytest.raises(StorageError, match="expected a directory"):
            over(root, lambda storage: storage.close())

    async def test(storage: Storage) -> None:
        await storage.close()
        with pytest.raises(StorageError, match="closed"):
            await storage.read_into("a", 0, memoryview(bytearray(1)))

    over(tmp_path, test)

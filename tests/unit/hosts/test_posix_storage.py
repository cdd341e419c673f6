"""The directory as a store: what stays inside, what stays out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from hosts.config import StorageConfig
from hosts.storage import Storage, StorageError, open_storage


def over(root: Path, test: Callable[[Storage], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        storage = await open_storage(StorageConfig(kind="posix", root=str(root)))
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

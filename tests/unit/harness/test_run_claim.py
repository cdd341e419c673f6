"""A run's record and its directory: both, or neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.cluster.ledger import RunClaim


def test_an_interrupt_while_the_directory_is_made_leaves_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, mkdir = RunClaim(tmp_path / "state", tmp_path), Path.mkdir

    def interrupted(path: Path, *arguments: Any, **options: Any) -> None:
        mkdir(path, *arguments, **options)
        if path == claim.scratch:
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "mkdir", interrupted)
    with pytest.raises(KeyboardInterrupt):
        claim.__enter__()
    assert list(tmp_path.iterdir()) == []

"""The program for hosts, where no deployment comes to it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.bundle import on_host


def test_what_another_host_of_a_shared_home_made_first_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "wheel"
    remove = shutil.rmtree
    # As when this host's view of the folder is from before.
    monkeypatch.setattr(shutil, "rmtree", lambda path, **how: None if path == wheel else remove(path, **how))
    with on_host._draft(wheel) as draft:
        (draft / "module.py").write_text("ours")
        wheel.mkdir()
        (wheel / "module.py").write_text("theirs")
    assert (wheel / "module.py").read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [wheel]

"""What is said where pyverbs is missing, or is not the one that belongs to this machine's libibverbs."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from hosts.transport.verbs import library


def fails_with(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if pyverbs was there and failed to load."""

    def load(name: str) -> Any:
        raise ImportError(message)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(importlib, "import_module", load)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            "libibverbs.so.1: version `IBVERBS_PRIVATE_59' not found",
            r"pyverbs and libibverbs are of different versions \(.*IBVERBS_PRIVATE_59.*\); install both from",
        ),
        ("No module named 'pyverbs.device'", r"pyverbs here is not built for Python 3\.\d+ \("),
        ("libibverbs.so.1: cannot open shared object file", r"pyverbs does not load \(libibverbs\.so\.1: "),
    ],
)
def test_a_pyverbs_that_does_not_load(message: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fails_with(message, monkeypatch)
    with pytest.raises(library.PyverbsError, match=said + r".*apt-get install python3-pyverbs"):
        library.require_pyverbs()


def test_no_pyverbs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(library, "_DISTRIBUTION_PACKAGES", (str(tmp_path),))
    with pytest.raises(library.PyverbsError, match=rf"not installed: .* not in {tmp_path}; apt-get install"):
        library.require_pyverbs()

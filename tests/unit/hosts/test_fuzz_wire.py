"""Every decoder of what comes over networks, against inputs that are almost right; more of them by
tools/fuzz_wire.py."""

from __future__ import annotations

import random
from importlib.util import module_from_spec, spec_from_file_location
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hosts.peer_input import ProtocolError

TOOL = Path(__file__).parents[3] / "tools" / "fuzz_wire.py"


@pytest.fixture(scope="module")
def fuzz_wire() -> ModuleType:
    spec = spec_from_file_location("fuzz_wire", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("decoder", "executions"), [("control", 3000), ("in-band", 10_000), ("tcp", 500)])
def test_every_decoder_takes_or_refuses(fuzz_wire: ModuleType, decoder: str, executions: int) -> None:
    inputs = fuzz_wire.DECODERS[decoder](random.Random(1))
    for _ in islice(inputs, executions):
        pass
    inputs.close()


def _undocumented(payload: bytes, decoder: Any) -> object:
    return decoder.decode(payload)


def _nesting_forgotten(payload: bytes, decoder: Any) -> object:
    try:
        return decoder.decode(payload)
    except ValueError as error:
        raise ProtocolError(str(error)) from error


def _no_bounds(*_: object) -> None:
    return None


@pytest.mark.parametrize(
    ("decoder", "place", "fault", "finding"),
    [
        ("control", "hosts.line.decoded", _nesting_forgotten, "RecursionError"),
        ("in-band", "hosts.protocol.decoded", _undocumented, "DecodeError|ValidationError"),
        ("tcp", "hosts.transport.base.Strided.fault", _no_bounds, "strides is incompatible|buffer"),
    ],
)
def test_it_finds_what_is_wrong_with_a_decoder(
    fuzz_wire: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    decoder: str,
    place: str,
    fault: object,
    finding: str,
) -> None:
    monkeypatch.setattr(place, fault)
    with pytest.raises(fuzz_wire.FindingError, match=finding):
        for _ in islice(fuzz_wire.DECODERS[decoder](random.Random(1)), 5000):
            pass

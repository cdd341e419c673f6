"""Where there is no NVML, and what stands in for nvidia-ml-py here beside the real one."""

from __future__ import annotations

import sys
from contextlib import suppress
from types import ModuleType

import pytest
from fake_nvml import (
    FakeGpu,
    FakeNvml,
    NVMLError,
    NVMLError_LibraryNotFound,
    NVMLError_NoPermission,
)

from hosts.nvml import NvmlError, open_nvml


def why_not(monkeypatch: pytest.MonkeyPatch, library: object) -> str:
    monkeypatch.setitem(sys.modules, "pynvml", library)
    with pytest.raises(NvmlError) as caught, open_nvml():
        pass
    return str(caught.value)


def test_each_reason_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_not(monkeypatch, None) == "no nvidia-ml-py (pip install nvidia-ml-py)"
    older = ModuleType("pynvml")
    assert why_not(monkeypatch, older).startswith("nvidia-ml-py is older than 12.555")
    no_driver = FakeNvml(init_error=NVMLError_LibraryNotFound())
    assert why_not(monkeypatch, no_driver) == "no NVIDIA driver (libnvidia-ml.so.1)"
    mismatch = FakeNvml(init_error=NVMLError("RM has detected an NVML/RM version mismatch."))
    assert why_not(monkeypatch, mismatch) == (
        "the NVIDIA driver does not answer (RM has detected an NVML/RM version mismatch.)"
    )


def test_it_may_be_opened_twice_and_is_closed_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml([FakeGpu()])
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    with suppress(ZeroDivisionError), open_nvml(), open_nvml():
        assert fake.opened == 2
        raise ZeroDivisionError
    assert fake.opened == 0


def test_gpus_of_other_jobs_are_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    others = FakeGpu(handle_error=NVMLError_NoPermission("Insufficient Permissions"))
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml([others, FakeGpu(name="Ours")]))
    with open_nvml() as nvml:
        assert [(gpu.index, gpu.name) for gpu in nvml.gpus] == [(1, "Ours")]
    assert caplog.messages == ["GPU 0 is left out: Insufficient Permissions"]


def test_the_stand_in_has_the_names_and_numbers_of_the_real_one() -> None:
    pynvml = pytest.importorskip("pynvml", reason="GPU: no nvidia-ml-py")
    for name in vars(FakeNvml):
        if name.startswith("NVML_"):
            assert getattr(pynvml, name) == getattr(FakeNvml, name)
        elif name.startswith("NVMLError"):
            assert issubclass(getattr(pynvml, name), pynvml.NVMLError)
        elif name.startswith("nvml"):
            assert callable(getattr(pynvml, name))

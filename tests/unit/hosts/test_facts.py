"""Facts of a host's GPUs, and which of them a calibration depends on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from fake_nvml import FakeGpu, FakeNvml, NVMLError_LibraryNotFound, NVMLError_NotSupported

from hosts.facts import fingerprint, gpu_facts, host_facts


def pci_device(folder: Path, slot: str, vendor: str, device_class: str) -> None:
    (folder / slot).mkdir()
    (folder / slot / "vendor").write_text(f"{vendor}\n")
    (folder / slot / "class").write_text(f"{device_class}\n")


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(init_error=NVMLError_LibraryNotFound()))


def test_equal_gpus_are_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    unified = FakeGpu(name="Fake GB10", memory_total=NVMLError_NotSupported())
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml([FakeGpu(), FakeGpu(), unified]))
    assert gpu_facts() == {"gpus": "2 x Fake H100, 80.0 GiB; 1 x Fake GB10, memory unknown; driver 555.42.06"}


@pytest.mark.usefixtures("no_driver")
def test_gpus_that_only_pci_knows_are_named_with_the_reason(tmp_path: Path) -> None:
    pci_device(tmp_path, "0000:3b:00.0", "0x10de", "0x030200")
    pci_device(tmp_path, "0000:3b:00.1", "0x10de", "0x040300")  # its audio function
    pci_device(tmp_path, "0000:01:00.0", "0x1a03", "0x030000")  # the board's own display
    assert gpu_facts(tmp_path) == {"gpus_not_sampled": "1 by NVIDIA: no NVIDIA driver (libnvidia-ml.so.1)"}


@pytest.mark.usefixtures("no_driver")
def test_where_there_is_no_gpu_nothing_is_said(tmp_path: Path) -> None:
    pci_device(tmp_path, "0000:01:00.0", "0x8086", "0x020000")
    assert gpu_facts(tmp_path) == {}
    assert gpu_facts(tmp_path / "no sysfs") == {}


def test_a_calibration_depends_on_gpus_where_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml([FakeGpu()]))
    with_gpu = host_facts()
    assert fingerprint(with_gpu)["gpus"] == "1 x Fake H100, 80.0 GiB; driver 555.42.06"
    without = {key: value for key, value in with_gpu.items() if key != "gpus"}
    assert set(fingerprint(without)) == {"kernel", "cpu", "cpu_cores", "memory_gib", "nics"}
    assert set(fingerprint(without | {"gpus_not_sampled": "1 by NVIDIA: no driver"})) == set(
        fingerprint(without)
    )

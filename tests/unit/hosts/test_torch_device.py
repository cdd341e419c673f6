"""What is said where torch, CUDA, a driver or a GPU is missing, and when memory runs out."""

from __future__ import annotations

import asyncio
import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from in_process_hosts import GEOMETRY

from hosts.compute import ComputeError

pytest.importorskip("torch", reason="torch is not installed here (tox -e torch installs it)")

import torch

from hosts.compute.torch import backend
from hosts.compute.torch import device as device_module
from hosts.compute.torch.copying import CopyEngines
from hosts.compute.torch.device import find_devices, open_lane
from hosts.compute.torch.engine import Engine
from hosts.compute.torch.importing import require_torch
from hosts.compute.torch.kv import KvMemory
from hosts.compute.torch.layers import Layers
from workloads.models import find_model

TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver"
NO_DRIVER = "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU"


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an environment that has none."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch"]:
        monkeypatch.delitem(sys.modules, name)
    own = [folder for folder in sys.path if not (Path(folder) / "torch").is_dir()]
    monkeypatch.setattr(sys, "path", own)
    importlib.invalidate_caches()


@pytest.mark.usefixtures("without_torch")
@pytest.mark.parametrize("python", ["", "/usr/bin/false", "/no/such/python"])
def test_without_torch_it_says_for_which_python(python: str) -> None:
    with pytest.raises(ComputeError) as error:
        require_torch(python)
    assert f"torch is not installed for {python or sys.executable} (No module named 'torch')" in str(
        error.value
    )
    assert str(error.value).endswith("pip install 'dualpath-testbed[gpu]' or torch there")


@pytest.mark.usefixtures("without_torch")
def test_the_torch_of_the_host_s_python_comes_behind_all_of_our_own(tmp_path: Path) -> None:
    packages, python = tmp_path / "packages", tmp_path / "python"
    (packages / "torch").mkdir(parents=True)
    (packages / "torch" / "__init__.py").write_text("whose = 'the host s'")
    python.write_text(f"#!/bin/sh\necho {packages}\n")
    python.chmod(0o755)
    require_torch(str(python))
    assert sys.modules["torch"].whose == "the host s"
    assert sys.path[-1] == str(packages)


def test_a_build_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ComputeError) as error:
        find_devices("cuda", (), 1)
    assert str(error.value).endswith(
        "is built without CUDA; expected a CUDA build: install one that fits the driver, or use the CPU"
    )


@pytest.mark.parametrize("reason", [TOO_OLD, NO_DRIVER])
def test_a_driver_that_does_not_fit_or_is_not_there(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def init() -> None:
        raise RuntimeError(f"{reason}\nand more")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", init)
    with pytest.raises(ComputeError) as error:
        find_devices("cuda", (), 1)
    assert str(error.value).endswith(
        f"cannot use a GPU: {reason}: update the driver, install a torch build for it, or use the CPU"
    )


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def properties(index: int) -> SimpleNamespace:
        return SimpleNamespace(uuid=f"0000-{index}", pci_domain_id=0, pci_bus_id=16 + index, pci_device_id=0)

    monkeypatch.setattr(device_module, "_usable_gpus", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)


@pytest.mark.usefixtures("two_gpus")
def test_gpus_by_any_of_their_names_or_in_turn() -> None:
    def indexes(*gpus: str, engines: int) -> list[int]:
        return [device.index for device in find_devices("cuda", gpus, engines)]

    assert indexes(engines=3) == [0, 1, 0]
    assert indexes("1", "0", engines=2) == [1, 0]
    assert indexes("GPU-0000-1", "0000:10:00.0", engines=2) == [1, 0]
    assert indexes("1", "0", engines=1) == [1]


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_is_not_there_and_too_few() -> None:
    with pytest.raises(
        ComputeError, match=r"torch sees no GPU 7, found .*0000:11:00\.0.*: name one by index"
    ):
        find_devices("cuda", ("0", "7"), 2)
    with pytest.raises(ComputeError, match=r"found 2 GPUs for 3 engines \(0, 1\), expected one each"):
        find_devices("cuda", ("0", "1"), 3)


def test_out_of_memory_says_what_to_do() -> None:
    cpu = torch.device("cpu")
    model = find_model("toy-grouped")
    memory = KvMemory(model, GEOMETRY, 1, cpu, np.empty(1 << 16, np.uint8))
    one = Engine(0, Layers(model, 1, cpu), memory, CopyEngines([cpu], []).lanes(0, cpu))

    def too_much() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 90.00 GiB.\nmore")

    async def test() -> None:
        with pytest.raises(ComputeError) as error:
            await asyncio.wrap_future(one.ask(too_much))
        assert "cpu: out of memory: CUDA out of memory. Tried to allocate 90.00 GiB.: " in str(error.value)

    try:
        asyncio.run(test())
    finally:
        one.close()


@pytest.mark.parametrize(
    ("free_gb", "reserved_gb", "share"), [(60.0, 1.0, (1 + 37.5 + 20) / 80), (79, 70, 1.0)]
)
def test_a_process_keeps_to_its_part_of_a_gpu(
    free_gb: float, reserved_gb: float, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu, set_to, taken = torch.device("cuda", 0), [], []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free_gb * 1e9), int(80e9)))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: int(reserved_gb * 1e9))
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda part, device: set_to.append(part)
    )
    monkeypatch.setattr(backend, "_reserve", lambda device, nbytes: taken.append(nbytes))
    backend._take_budget(gpu, 2, 15e9)
    assert set_to == [pytest.approx(share)]
    assert taken == [37.5e9]


def test_a_budget_that_is_not_free_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(20e9), int(80e9)))
    with pytest.raises(
        ComputeError, match=r"cuda:0: 20\.0 of 80\.0 GB free .*47\.5 for 1 engines: .*gpu_memory"
    ):
        backend._take_budget(torch.device("cuda", 0), 1, 30e9)


def test_what_the_cpu_was_asked_for_is_done() -> None:
    lane = open_lane(torch.device("cpu"))
    before = lane.mark()
    with lane.entered():
        torch.ones(1000).sum()
    after = lane.mark()
    lane.after(after)
    after.wait()
    assert after.ns_since(before) > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="GPU: torch finds none here")
def test_lanes_of_a_gpu_go_on_beside_each_other_and_wait_where_they_must() -> None:
    gpu = torch.device("cuda", 0)
    first, second = open_lane(gpu), open_lane(gpu)
    with first.entered():
        product = torch.randn(4096, 4096, device=gpu)
        for _ in range(50):
            product = product @ product
            product /= product.norm()
        done = first.mark()
    second.after(done)
    with second.entered():
        copied = product.to("cpu", non_blocking=True)
        later = second.mark()
    later.wait()
    assert later.ns_since(done) >= 0
    assert torch.equal(copied, product.cpu())

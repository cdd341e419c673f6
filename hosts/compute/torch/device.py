"""The device that torch computes on: a GPU with its streams, or the CPU, which does everything at once."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch

from hosts.compute.base import ComputeError
from hosts.config import DeviceKind


class Mark(Protocol):
    """A point in a lane's work."""

    def wait(self) -> None:
        """Until the lane has come there; blocks the thread."""


class TimedMark(Mark, Protocol):
    """A point of which it is known when it was reached."""

    def ns_since(self, earlier: TimedMark) -> int:
        """Nanoseconds between two points of a lane that were reached."""


class Lane(Protocol):
    """Work that is done in order, beside that of other lanes."""

    def mark(self) -> Mark:
        """After all that the lane was given so far."""

    def after(self, mark: Mark) -> None:
        """What the lane is given from now on waits for ``mark``, another lane's."""


class DeviceLane(Lane, Protocol):
    """A lane of what torch is asked for: a CUDA stream."""

    def entered(self) -> AbstractContextManager[object]:
        """What torch is asked for inside goes to this lane."""

    def mark(self) -> TimedMark:
        """See `Lane`."""


class CudaLane:
    """See `DeviceLane`. It begins after what the calling thread has asked of the device outside any lane,
    such as making weights."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._stream.wait_stream(torch.cuda.current_stream(device))
        self.handle = int(self._stream.cuda_stream)

    def entered(self) -> AbstractContextManager[object]:
        """See `DeviceLane`."""
        entered: AbstractContextManager[object] = torch.cuda.stream(self._stream)
        return entered

    def mark(self) -> CudaMark:
        """See `Lane`."""
        return CudaMark(self._stream)

    def after(self, mark: Mark) -> None:
        """See `Lane`. A GPU can be told to wait only for what a GPU does; the rest this thread waits for."""
        if isinstance(mark, CudaMark):
            self._stream.wait_event(mark.event)
        else:
            mark.wait()


class CudaMark:
    """See `TimedMark`. Waiting for it blocks in the driver, and does not spin."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self.event = torch.cuda.Event(enable_timing=True, blocking=True)
        self.event.record(stream)

    def wait(self) -> None:
        """See `Mark`."""
        self.event.synchronize()

    def ns_since(self, earlier: TimedMark) -> int:
        """See `TimedMark`."""
        assert isinstance(earlier, CudaMark)
        return int(earlier.event.elapsed_time(self.event) * 1e6)


class CpuLane:
    """See `DeviceLane`: done when asked for, so all of them are one."""

    def entered(self) -> AbstractContextManager[object]:
        """See `DeviceLane`."""
        return nullcontext()

    def mark(self) -> CpuMark:
        """See `Lane`."""
        return CpuMark()

    def after(self, mark: Mark) -> None:
        """See `Lane`: what it is given next is done at once, so it has to be there by now."""
        mark.wait()


class CpuMark:
    """See `TimedMark`."""

    def __init__(self) -> None:
        self._at_ns = time.perf_counter_ns()

    def wait(self) -> None:
        """It was reached when it was made."""

    def ns_since(self, earlier: TimedMark) -> int:
        """See `TimedMark`."""
        assert isinstance(earlier, CpuMark)
        return self._at_ns - earlier._at_ns


def bind(device: torch.device) -> None:
    """Make it this thread's, also for the driver's own functions: a call that waits for the device makes its
    context current, which choosing it alone need not."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.cuda.synchronize(device)


def open_lane(device: torch.device) -> DeviceLane:
    """A new lane of ``device``."""
    return CudaLane(device) if device.type == "cuda" else CpuLane()


def find_devices(kind: DeviceKind, gpus: tuple[str, ...], engines: int) -> list[torch.device]:
    """A device for every engine: ``gpus`` by index or UUID or, if none are named, the host's in turn.

    Raises `ComputeError`.
    """
    if kind == "cpu":
        torch.set_num_threads(1)  # the hosts of a test share the machine's cores
        return [torch.device("cpu")] * engines
    found = _usable_gpus()
    if not gpus:
        return [torch.device("cuda", engine % found) for engine in range(engines)]
    if len(gpus) < engines:
        raise ComputeError(
            f"compute: found {len(gpus)} GPUs for {engines} engines ({', '.join(gpus)}), expected one each: "
            "list more gpus in the inventory, or set fewer engines"
        )
    by_name = {name: index for index in range(found) for name in _names(index)}
    missing = [gpu for gpu in gpus if gpu.lower() not in by_name]
    if missing:
        raise ComputeError(
            f"compute: torch sees no GPU {', '.join(missing)}, found {', '.join(sorted(by_name))}: name one "
            "by index, UUID or PCI address (--gpu, gpus in the inventory), or correct CUDA_VISIBLE_DEVICES"
        )
    return [torch.device("cuda", by_name[gpu.lower()]) for gpu in gpus[:engines]]


def _usable_gpus() -> int:
    """How many GPUs torch can use; says why if it is none."""
    if torch.version.cuda is None:
        raise ComputeError(
            f"compute: torch {torch.__version__} on this host is built without CUDA; expected a CUDA build: "
            "install one that fits the driver, or use the CPU"
        )
    try:
        torch.cuda.init()
    except RuntimeError as error:  # no driver, one too old for this build, or no device
        raise ComputeError(
            f"compute: torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use a GPU: "
            f"{str(error).splitlines()[0]}: update the driver, install a torch build for it, or use the CPU"
        ) from error
    return int(torch.cuda.device_count())


def _names(index: int) -> tuple[str, ...]:
    """What a GPU is called: its index, UUID (also as nvidia-smi writes it) and PCI address."""
    found = torch.cuda.get_device_properties(index)
    pci = f"{found.pci_domain_id:04x}:{found.pci_bus_id:02x}:{found.pci_device_id:02x}.0"
    return str(index), str(found.uuid), f"gpu-{found.uuid}", pci, f"0000{pci}"  # nvidia-smi's: eight digits

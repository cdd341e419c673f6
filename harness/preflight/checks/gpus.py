"""GPUs: those that are listed are there, near a compute NIC and in its reach; torch, where they compute."""

from __future__ import annotations

from collections.abc import Iterator

from harness.preflight.case import AS_ROOT, Case
from harness.preflight.findings import Finding


def gpu_direct(case: Case) -> Iterator[Finding]:
    """A way for NICs into GPU memory, by a dma-buf or the peer memory module. A run does without."""
    found = case.facts.gpus
    if not case.host.gpus or found.error:
        return
    missing = [name for name in case.host.gpus if found.named(name) is None]
    if missing:
        there = ", ".join(f"{gpu.index} ({gpu.pci}, {gpu.name})" for gpu in found.gpus)
        yield case.warning(
            "gpus",
            f"no GPU {', '.join(missing)}, found {there or 'none'} by {found.source}",
            "correct gpus in the inventory (index, UUID or PCI address), or install the driver",
        )
    if found.dma_buf or found.peer_module:
        ways = [way for way in ("dma-buf" if found.dma_buf else "", found.peer_module) if way]
        yield case.ok("gpu direct", f"{' and '.join(ways)}: {found.how}")
    else:
        yield case.warning(
            "gpu direct",
            f"NICs cannot reach GPU memory: {found.how}",
            f"modprobe nvidia_peermem ({AS_ROOT}), or the driver's open kernel modules on Linux 5.12 or "
            "newer; runs keep KV in host memory and do without",
        )


def placement(case: Case) -> Iterator[Finding]:
    """Every listed GPU has a listed compute NIC on its own NUMA node."""
    network, gpus = case.facts.network, case.facts.gpus
    nics = [there for nic in case.host.compute_nics if (there := network.interface(nic.name))]
    ports = [port for nic in nics if (port := case.facts.rdma.of(nic.name))]
    nodes = {nic.numa for nic in nics} | {port.numa for port in ports}
    nodes.discard(-1)
    found = [gpu for name in case.host.gpus if (gpu := gpus.named(name)) and gpu.numa >= 0]
    far = [gpu for gpu in found if gpu.numa not in nodes]
    if not nodes or not found:
        return
    if far:
        yield case.warning(
            "numa",
            f"compute NICs {', '.join(nic.name for nic in nics)} are on node {_numbers(nodes)}, but "
            + ", ".join(f"GPU {gpu.index} is on node {gpu.numa}" for gpu in far),
            "list a compute NIC of the same node (lspci -tv, nvidia-smi topo -m), or leave these GPUs out",
        )
    else:
        yield case.ok("numa", f"compute NICs and GPUs share node {_numbers(nodes)}")


def torch(case: Case) -> Iterator[Finding]:
    """torch and a GPU, where engines compute; whether the two fit, torch says when the agent starts."""
    needs, found = case.needs, case.facts.gpus
    if needs is None or needs.compute != "torch" or case.host.role == "storage" or found.error:
        return
    if not found.torch:
        yield case.error(
            "torch",
            "not installed for the Python that the inventory names; compute.kind = 'torch' needs it",
            "pip install torch there, in a build for its driver (it is several GB: no run brings it), or set "
            "compute.kind = 'timed'",
        )
    elif needs.device == "cuda" and not found.gpus:
        yield case.error(
            "torch",
            f"{found.torch}, but there is no GPU by {found.source}",
            "install the GPU's driver, or set compute.device = 'cpu' (times are no GPU's then)",
        )
    else:
        yield case.ok("torch", found.torch)


def _numbers(nodes: set[int]) -> str:
    return " and ".join(map(str, sorted(nodes)))

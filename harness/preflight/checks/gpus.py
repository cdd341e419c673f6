"""GPUs: there as listed, each near its engine's rail and in reach of NICs; torch, where they compute."""

from __future__ import annotations

from collections.abc import Iterator

from harness.preflight.case import AS_ROOT, Case
from harness.preflight.findings import Finding, Severity
from harness.preflight.needs import Needs
from hosts.rails import share


def listed(case: Case) -> Iterator[Finding]:
    """GPUs that the inventory names are there, each once, and as many as engines that compute on them."""
    found, names, needs = case.facts.gpus, case.host.gpus, _on_gpus(case)
    if not names or found.error:
        return
    severity: Severity = "error" if needs else "warning"
    missing = [name for name in names if found.named(name) is None]
    if missing:
        there = ", ".join(f"{gpu.index} ({gpu.pci}, {gpu.name})" for gpu in found.gpus)
        yield case.finding(
            severity,
            "gpus",
            f"no GPU {', '.join(missing)}, found {there or 'none'} by {found.source}",
            "correct gpus in the inventory (index, UUID or PCI address), or install the driver",
        )
    for gpu in found.gpus:
        if len(called := [name for name in names if found.named(name) is gpu]) > 1:
            yield case.finding(
                severity,
                "gpus",
                f"{' and '.join(called)} are the same GPU ({gpu.pci}), expected each once",
                "correct gpus in the inventory",
            )
    if needs and len(names) < needs.engines:
        yield case.error(
            "gpus",
            f"found {len(names)} for {needs.engines} engines, expected one each",
            "list more gpus in the inventory, or set fewer engines",
        )


def gpu_direct(case: Case) -> Iterator[Finding]:
    """A way for NICs into GPU memory. Where they copy there, verbs take a dma-buf and nothing else, NIXL's
    UCX the peer memory module, too; other runs do without."""
    found, needs = case.facts.gpus, _on_gpus(case)
    copying = needs is not None and needs.gpu_direct
    if found.error or not (copying or case.host.gpus):
        return
    by_verbs = needs is not None and needs.gpu_direct and needs.transport == "verbs"
    ways = ["dma-buf"] if found.dma_buf else []
    if found.peer_module and not by_verbs:
        ways.append(found.peer_module)
    if ways:
        yield case.ok("gpu direct", f"{' and '.join(ways)}: {found.how}")
        return
    peer_module = "" if by_verbs else f"modprobe nvidia_peermem ({AS_ROOT}), or "
    without = "or set compute.copy = 'cuda'" if copying else "runs keep KV in host memory and do without"
    yield case.finding(
        "error" if copying else "warning",
        "gpu direct",
        f"NICs cannot reach GPU memory{' by a dma-buf, as verbs do' if by_verbs else ''}: {found.how}",
        f"{peer_module}the driver's open kernel modules on Linux 5.12 or newer; {without}",
    )


def placement(case: Case) -> Iterator[Finding]:
    """Every engine has its GPU on the NUMA node of its rail."""
    names, nics = case.host.gpus, case.host.compute_nics
    engines = case.needs.engines if case.needs else case.host.engines or len(names)
    nodes, far = set(), dict[tuple[str, int, int], list[int]]()
    for engine, name in enumerate(names[:engines] if nics else ()):
        nic = nics[share(engine, engines, len(nics))].name
        gpu, node = case.facts.gpus.named(name), _node(case, nic)
        if gpu is None or gpu.numa < 0 or node < 0:
            continue
        nodes.add(node)
        if gpu.numa != node:
            far.setdefault((nic, node, gpu.numa), []).append(engine)
    if far:
        yield case.warning(
            "numa",
            "; ".join(_apart(*where, engines_there) for where, engines_there in far.items()),
            "list compute_nics and gpus in the same order, an engine's of one node (lspci -tv, nvidia-smi "
            "topo -m), or leave these GPUs out",
        )
    elif nodes:
        numbers = " and ".join(map(str, sorted(nodes)))
        yield case.ok("numa", f"every engine's GPU is on the node of its rail: {numbers}")


def torch(case: Case) -> Iterator[Finding]:
    """torch and a GPU, where engines compute; whether the two fit, torch says when the agent starts."""
    needs, found = case.needs, case.facts.gpus
    if needs is None or needs.compute != "torch" or case.host.role == "storage" or found.error:
        return
    if not found.torch:
        yield case.error(
            "torch",
            "not installed for the Python that the inventory names",
            "pip install torch there, in a build for its driver (it is several GB: no run brings it), or set "
            f"{needs.without_torch}",
        )
    elif needs.device == "cuda" and not found.gpus:
        yield case.error(
            "torch",
            f"{found.torch}, but there is no GPU by {found.source}",
            f"install the GPU's driver, or set {needs.without_gpu}",
        )
    else:
        yield case.ok("torch", found.torch)


def _on_gpus(case: Case) -> Needs | None:
    """What is needed, if this host's engines compute on its GPUs."""
    return case.needs if case.needs and case.needs.gpus and case.host.role != "storage" else None


def _node(case: Case, nic: str) -> int:
    """The NUMA node of an interface, or of the RDMA port behind it; -1 if neither tells."""
    interface, port = case.facts.network.interface(nic), case.facts.rdma.of(nic)
    return max(interface.numa if interface else -1, port.numa if port else -1)


def _apart(nic: str, node: int, gpu_node: int, engines: list[int]) -> str:
    """Neighbours have the same rail, so engines in order are a range, mostly."""
    if len(engines) == 1:
        return f"engine {engines[0]} has rail {nic} on node {node}, but its GPU is on node {gpu_node}"
    together = engines[-1] - engines[0] == len(engines) - 1
    numbers = f"{engines[0]}-{engines[-1]}" if together else ", ".join(map(str, engines))
    return f"engines {numbers} have rail {nic} on node {node}, but their GPUs are on node {gpu_node}"

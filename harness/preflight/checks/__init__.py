"""Preflight's checks: pure, each of one subject, each says everything that it finds.

A host's checks see that host's facts; those of the rack compare hosts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from harness.preflight.case import Case, Rack
from harness.preflight.checks import gpus, host, memory, network, nics, rack, rdma, storage
from harness.preflight.findings import Finding

HOST_CHECKS: tuple[Callable[[Case], Iterator[Finding]], ...] = (
    host.lock,
    host.python,
    host.directory,
    host.clock,
    host.load,
    host.unknown,
    memory.buffers,
    memory.locked,
    memory.huge_pages,
    nics.storage_nic,
    nics.compute_nics,
    nics.traffic,
    network.peers,
    rdma.ports,
    rdma.verbs_library,
    gpus.listed,
    gpus.gpu_direct,
    gpus.placement,
    gpus.torch,
    storage.store,
    storage.path,
    storage.room,
    storage.cache,
)
RACK_CHECKS: tuple[Callable[[Rack], Iterator[Finding]], ...] = (
    rack.one_role_a_host,
    rack.python_versions,
    rack.shared_store,
    network.pairs,
    network.rates,
    network.mtus,
)

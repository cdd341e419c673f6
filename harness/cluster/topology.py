"""The shape of an emulated cluster: hosts, their NICs and addresses. Pure data, nothing is created here.

Every host has a management NIC; prefill and decode hosts and the storage host have a storage NIC
(SNIC); prefill and decode hosts have a compute NIC (CNIC). Each network is one /24. The subnets
exist only inside a run's own namespaces, so two runs use the same ones without meeting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from harness.cluster.errors import ClusterError
from hosts.config import EXPEDITED_FORWARDING, Network

Role = Literal["prefill", "decode", "storage"]

SUBNETS: dict[Network, str] = {
    "management": "10.77.0",
    "storage": "10.78.0",
    "compute": "10.79.0",
}
PREFIX_BITS = 24
NIC_NAMES: dict[Network, str] = {"management": "mgmt0", "storage": "stor0", "compute": "comp0"}

_CONTROL_NUMBER = 1
_STORAGE_NUMBER = 2
_FIRST_NUMBER = {"prefill": 10, "decode": 100}
MAX_HOSTS_PER_ROLE = 64


class HighClass(NamedTuple):
    """The high traffic class of compute NICs: the ``share`` kept for it (paper section 5: about 99 %), and
    the IP TOS byte that tells its packets."""

    share: float = 0.99
    tos: int = EXPEDITED_FORWARDING


DEFAULT_HIGH_CLASS = HighClass()

QUEUE_S = 0.02
"""What a link's queue holds, of the link's own time; a slow link's holds more."""

LEAST_BYTES_PER_S, MOST_BYTES_PER_S = 10_000, (2**32 - 1) / QUEUE_S
"""Rates that links can be shaped to. Slower, and the 16 KiB that HTB lets through at once would be seconds of
the link; faster, and the bytes of its queue would be more than tc takes (tc-bfifo(8): 32 bits)."""

MTU_BYTES = 1500
RDMA_MTU_BYTES = 4200
"""What RoCE networks are set to: its largest path MTU, 4096 bytes, and its headers."""


@dataclass(frozen=True)
class ClusterSpec:
    """What to emulate. Rates are link rates, one direction, frame headers included, in bytes a second.
    ``soft_roce``: with an RDMA device on every compute NIC.

    Raises ClusterError for values that no cluster can have.
    """

    prefill_hosts: int
    decode_hosts: int
    storage_nic_bytes_per_s: float
    compute_nic_bytes_per_s: float
    high_class: HighClass = DEFAULT_HIGH_CLASS
    soft_roce: bool = False

    def __post_init__(self) -> None:
        for name in ("prefill_hosts", "decode_hosts"):
            count = getattr(self, name)
            if not 1 <= count <= MAX_HOSTS_PER_ROLE:
                raise ClusterError(f"{name}: found {count}, expected 1 to {MAX_HOSTS_PER_ROLE}")
        for link in ("storage_nic", "compute_nic"):
            rate = getattr(self, f"{link}_bytes_per_s")
            if not LEAST_BYTES_PER_S <= rate <= MOST_BYTES_PER_S:
                change = "raise" if rate > MOST_BYTES_PER_S else "lower"
                raise ClusterError(
                    f"{link}: found {rate / 1e9:.3g} GB/s, which tc does not shape links to, expected "
                    f"{LEAST_BYTES_PER_S // 1e3:g} kB/s to {MOST_BYTES_PER_S // 1e9:g} GB/s: {change} "
                    "scale.bytes_divisor or scale.time_dilation"
                )
        if not 0 < self.high_class.share < 1:
            raise ClusterError(f"high_class.share: found {self.high_class.share:g}, expected between 0 and 1")


@dataclass(frozen=True)
class Nic:
    """One interface of a host. ``bytes_per_s`` is its link rate in both directions, None where unshaped;
    ``rdma``: it carries RDMA, too."""

    name: str
    network: Network
    address: str
    bytes_per_s: float | None = None
    rdma: bool = False

    @property
    def mtu_bytes(self) -> int:
        """Of its link."""
        return RDMA_MTU_BYTES if self.rdma else MTU_BYTES


@dataclass(frozen=True)
class Endpoint:
    """A machine of the cluster as planned."""

    name: str
    nics: tuple[Nic, ...]

    def address(self, network: Network) -> str:
        """The IPv4 address on a network, or '' where the machine has no NIC there."""
        return next((nic.address for nic in self.nics if nic.network == network), "")


@dataclass(frozen=True)
class PlannedHost(Endpoint):
    """An endpoint that is a host; the control node is none."""

    role: Role


@dataclass(frozen=True)
class Topology:
    """All machines: the control node, the storage host, then prefill and decode hosts in order."""

    control: Endpoint
    hosts: tuple[PlannedHost, ...]

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The control node and the hosts."""
        return (self.control, *self.hosts)


def lay_out(spec: ClusterSpec) -> Topology:
    """Name and number the machines: ``storage``, ``p0``.., ``d0``.., and the control node."""
    control = Endpoint("control", (_nic("management", _CONTROL_NUMBER),))
    # The storage host's own link is unshaped: the SNICs of the readers are what the paper measures.
    storage_nics = (_nic("management", _STORAGE_NUMBER), _nic("storage", _STORAGE_NUMBER))
    storage = PlannedHost("storage", storage_nics, "storage")
    prefill = [_host(spec, "prefill", index) for index in range(spec.prefill_hosts)]
    decode = [_host(spec, "decode", index) for index in range(spec.decode_hosts)]
    return Topology(control, (storage, *prefill, *decode))


def _host(spec: ClusterSpec, role: Literal["prefill", "decode"], index: int) -> PlannedHost:
    number = _FIRST_NUMBER[role] + index
    nics = (
        _nic("management", number),
        _nic("storage", number, spec.storage_nic_bytes_per_s),
        _nic("compute", number, spec.compute_nic_bytes_per_s, spec.soft_roce),
    )
    return PlannedHost(f"{role[0]}{index}", nics, role)


def _nic(network: Network, number: int, bytes_per_s: float | None = None, rdma: bool = False) -> Nic:
    return Nic(NIC_NAMES[network], network, f"{SUBNETS[network]}.{number}", bytes_per_s, rdma)

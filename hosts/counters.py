"""What a NIC's counters say it carried, and what went wrong on it.

Three sources:

- the interface, /proc/net/dev (proc(5)) of the network namespace that the agent runs in;
- its RDMA port, found by the NIC's address, in /sys/class/infiniband/DEVICE/ports/N: ``port_rcv_data`` and
  ``port_xmit_data`` are octets divided by 4 (Documentation/ABI/stable/sysfs-class-infiniband);
- classes of traffic (`hosts.class_counters`).

RDMA bytes of a real NIC bypass the kernel, so the interface does not count them. How the two add up is told
by `RdmaKind`. A RoCE port counts RDMA only (mlx5: its vport's ib_unicast octets), beside the interface. An
InfiniBand port counts every packet, IPoIB's too, hence instead of the interface. Soft-RoCE's packets pass the
interface, where they are counted once; it is known by the ``parent`` attribute that only rdma_rxe gives its
devices, and it counts packets and errors (hw_counters) but no bytes.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil

from hosts.class_counters import classes_of, grown
from hosts.config import NicConfig, VerbsConfig
from hosts.protocol import ClassBytes, NicSamples, RdmaKind
from hosts.transport.verbs.port import SYSFS, PortError, find_port

DATA_WORD_BYTES = 4
_BYTE_COUNTERS = ("port_rcv_data", "port_xmit_data")
_IP = (socket.AF_INET, socket.AF_INET6)

ERROR_COUNTERS = (
    # counters: the link (symbol_error and its like stop at their 16 bits, until somebody resets them)
    "symbol_error",
    "link_error_recovery",
    "link_downed",
    "port_rcv_errors",
    "port_rcv_remote_physical_errors",
    "port_xmit_discards",
    "port_xmit_constraint_errors",
    "port_rcv_constraint_errors",
    "local_link_integrity_errors",
    "excessive_buffer_overrun_errors",
    # hw_counters, mlx5: loss, and what reliable connections did about it
    "local_ack_timeout_err",
    "out_of_sequence",
    "packet_seq_err",
    "implied_nak_seq_err",
    "duplicate_request",
    "rnr_nak_retry_err",
    "out_of_buffer",
    "rx_icrc_encapsulated",
    "roce_slow_restart",
    "roce_adp_retrans",
    "roce_adp_retrans_to",
    # hw_counters, Soft-RoCE: the same in its own words
    "out_of_seq_request",
    "rcvd_seq_err",
    "rcvd_rnr_err",
    "send_rnr_err",
    "completer_retry_err",
    "retry_exceeded_err",
    "retry_rnr_exceeded_err",
    "send_err",
)
"""Counters that stay put on a sound link; a NIC has some of them."""


class InterfaceCounters(Protocol):
    """Of one interface, as psutil.net_io_counters() has them."""

    @property
    def bytes_recv(self) -> int:
        """Received so far."""

    @property
    def bytes_sent(self) -> int:
        """Sent so far."""

    @property
    def errin(self) -> int:
        """Frames received with an error so far."""

    @property
    def errout(self) -> int:
        """Frames that could not be sent so far."""


@dataclass(frozen=True, slots=True)
class RdmaPort:
    """The RDMA port behind a NIC; ``kind`` is ``none`` if it counts no bytes."""

    name: str
    kind: RdmaKind
    folder: Path

    def data_bytes(self) -> tuple[int, int]:
        """Received and sent so far. Raises OSError if the device is gone."""
        received, sent = (int((self.folder / "counters" / name).read_text()) for name in _BYTE_COUNTERS)
        return received * DATA_WORD_BYTES, sent * DATA_WORD_BYTES

    def errors(self) -> dict[str, int]:
        """Those of `ERROR_COUNTERS` that the port has."""
        groups = (self.folder / "counters", self.folder / "hw_counters")
        files = (group / name for group in groups for name in ERROR_COUNTERS)
        return {file.name: int(file.read_text()) for file in files if file.exists()}


def find_rdma_port(nic: NicConfig, verbs: VerbsConfig, sysfs: Path = SYSFS) -> RdmaPort | None:
    """The active port with an address of ``nic``, or None. ``verbs`` may name that of a compute NIC."""
    wanted = verbs if nic.network == "compute" else VerbsConfig()
    for address in _addresses(nic.name):
        try:
            port = find_port(address, wanted, sysfs)
        except PortError:
            continue
        folder = sysfs / port.device / "ports" / str(port.number)
        return RdmaPort(str(port), _kind(sysfs / port.device, folder, port.link_layer), folder)
    return None


def _kind(device: Path, folder: Path, link_layer: str) -> RdmaKind:
    if (device / "parent").exists():
        return "software"
    if not all((folder / "counters" / name).exists() for name in _BYTE_COUNTERS):
        return "none"
    return "infiniband" if link_layer == "InfiniBand" else "roce"


def _addresses(interface: str) -> list[str]:
    """IP addresses of an interface; IPv6 link-local ones without their scope."""
    known = psutil.net_if_addrs().get(interface, [])
    return [entry.address.partition("%")[0] for entry in known if entry.family in _IP]


@dataclass(slots=True)
class NicCounters:
    """One NIC through a repetition: `begin`, `sample` as often as wanted, `end`.

    A sample reads two small files where there is an RDMA port; classes and errors wait for begin and end.
    """

    nic: NicConfig
    port: RdmaPort | None
    _samples: NicSamples = field(init=False)
    _classes: dict[str, ClassBytes] = field(init=False)
    _errors: dict[str, int] = field(init=False)

    def begin(self, interface: InterfaceCounters) -> NicSamples:
        """Empty samples; ``interface`` are its counters now."""
        port = self.port
        self._samples = NicSamples(
            self.nic.name, self.nic.network, port.name if port else "", port.kind if port else "none"
        )
        self._classes, self._errors = classes_of(self.nic), self._error_counts(interface)
        return self._samples

    def sample(self, interface: InterfaceCounters) -> None:
        """Add one entry to every series."""
        samples = self._samples
        samples.rx_bytes.append(interface.bytes_recv)
        samples.tx_bytes.append(interface.bytes_sent)
        if self.port is not None and self.port.kind in ("roce", "infiniband"):
            received, sent = self.port.data_bytes()
            samples.rdma_rx_bytes.append(received)
            samples.rdma_tx_bytes.append(sent)

    def end(self, interface: InterfaceCounters) -> None:
        """Add what grew since `begin`."""
        self._samples.classes.extend(grown(self._classes, classes_of(self.nic)))
        after = self._error_counts(interface)
        for name, count in after.items():
            before = self._errors.get(name, 0)
            # One that was reset meanwhile has counted from zero.
            self._samples.errors[name] = count - before if count >= before else count

    def _error_counts(self, interface: InterfaceCounters) -> dict[str, int]:
        own = {"rx_errors": interface.errin, "tx_errors": interface.errout}
        return own | (self.port.errors() if self.port else {})


def open_counters(nics: Iterable[NicConfig], verbs: Mapping[str, VerbsConfig]) -> list[NicCounters]:
    """Counters of each of a host's NICs; ``verbs`` of compute NICs, by their names."""
    return [NicCounters(nic, find_rdma_port(nic, verbs.get(nic.name, VerbsConfig()))) for nic in nics]

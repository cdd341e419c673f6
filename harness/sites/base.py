"""Where a run takes place: hosts that are up, and what starts agents on them.

However they came to be, emulated or a rack's, everything from here on is the same code.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from harness.calibration.result import Calibration
from harness.cluster import Nic
from harness.launchers import Launcher, Started
from hosts.claim import Claim
from hosts.protocol import Role


@dataclass(frozen=True, slots=True)
class StorageAccess:
    """How a host reaches the run's part of the KV store: below a directory or a URL, at its own rate or paced
    by the agent."""

    root: str = ""
    url: str = ""
    pace_bytes_per_s: float = 0.0


class SiteRail(NamedTuple):
    """A compute NIC, ``nic`` if its interface is known, that a transport listens at. ``rdma`` names the RDMA
    port to use: (device, port, GID index), None to find it by the address."""

    address: str
    nic: str = ""
    rdma: tuple[str, int, int] | None = None


@dataclass(frozen=True, slots=True)
class SiteHost:
    """A host that is up.

    ``argv`` makes the command that runs one of our modules there, with its arguments. ``rails`` are its
    compute NICs, at least one. ``gpus`` are its engines', where they are known; ``python`` is what its
    environment was made from, if there is one.
    """

    name: str
    role: Role
    argv: Callable[..., Sequence[str]]
    rails: tuple[SiteRail, ...]
    nics: tuple[Nic, ...]
    storage: StorageAccess
    compute_pace_bytes_per_s: float = 0.0
    gpus: tuple[str, ...] = ()
    python: str = ""


class Watched(NamedTuple):
    """A process besides the agents whose end is the end of ``host``."""

    host: str
    name: str
    process: Started


@dataclass(frozen=True, slots=True)
class Site:
    """``control_address`` is where the control node listens. With a ``claim`` agents hold their hosts for the
    run, so that nobody else measures there meanwhile. ``calibration`` is what was measured there before."""

    run_id: str
    hosts: tuple[SiteHost, ...]
    control_address: str
    launcher: Launcher
    watched: tuple[Watched, ...] = ()
    claim: Claim | None = None
    calibration: Calibration | None = None
    transport_key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def storage_clients(self) -> Sequence[SiteHost]:
        """Those that write what will be read: hosts of that role or, without any, all."""
        return [host for host in self.hosts if host.role == "storage"] or self.hosts

"""The sections of an inventory: which hosts there are, what they have, and how they are reached."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from harness.experiment.sections import AboveZero, Positive, Section

HostName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
Role = Literal["prefill", "decode", "storage"]
ANY_NODE = "*"
"""The ``node`` of a host that takes whichever Slurm gives."""


class StoragePlace(Section, frozen=True):
    """Where hosts find the KV store: a directory (``mount``) or a server (``url``), exactly one of them.

    A run keeps to a directory of its own in there and removes it at its end.
    """

    mount: str = ""
    url: str = ""


class ComputeNic(Section, frozen=True):
    """A compute NIC: the interface, and what is known of it. Without ``device`` and ``gid_index`` they are
    those that have the interface's address; without ``address`` it is the interface's first one."""

    name: str
    address: str = ""
    device: str = ""
    port: int = 1
    gid_index: int = -1
    numa: int = -1
    gbit_per_s: AboveZero | None = None


class StorageNic(Section, frozen=True):
    """The NIC that storage is read through."""

    name: str
    address: str = ""
    numa: int = -1
    gbit_per_s: AboveZero | None = None


class InventoryHost(Section, frozen=True):
    """One host. ``storage`` hosts are storage clients: they write what is read, and serve no turns.

    ``address`` is on the management network (default: the name, as DNS has it). ``node`` is what Slurm or
    Ray call it (default: the name); with Slurm, hosts with ``*`` take the allocation's other nodes in order.
    ``engines`` replaces the profile's engines a host. ``storage`` replaces the inventory's. ``user``,
    ``port`` and ``key`` (a private key's file) replace the launcher's.
    """

    name: HostName
    role: Role
    address: str = ""
    node: str = ""
    user: str = ""
    port: int = 0
    key: str = ""
    engines: Positive | None = None
    storage_nic: StorageNic | None = None
    compute_nics: tuple[ComputeNic, ...] = ()
    gpus: tuple[str, ...] = ()
    storage: StoragePlace | None = None


class SshLauncher(Section, frozen=True, tag_field="kind", tag="ssh"):
    """sshd on every host. Host keys are checked against ``known_hosts`` (default: the user's file);
    ``jump`` is ``[user@]host[:port]``, several joined by commas. ``concurrency`` connections are made at a
    time."""

    user: str = ""
    port: int = 22
    key: str = ""
    known_hosts: str = ""
    jump: str = ""
    concurrency: Positive = 32
    connect_timeout_s: AboveZero = 15.0


class SlurmLauncher(Section, frozen=True, tag_field="kind", tag="slurm"):
    """Slurm: inside the allocation ``job_id`` (or $SLURM_JOB_ID), or in one that is made for the run with
    ``partition``, ``account``, ``time_limit`` (minutes) and ``options``, more words for salloc(1). Such a one
    has a whole node for each host; it is given up when it has not begun within ``queue_timeout_s``."""

    job_id: str = ""
    partition: str = ""
    account: str = ""
    time_limit: Positive = 60
    options: tuple[str, ...] = ()
    queue_timeout_s: AboveZero = 600.0


class RayLauncher(Section, frozen=True, tag_field="kind", tag="ray"):
    """A Ray cluster that runs already, by ``address``. A host's ``node`` is a node id, an address, or a
    host name, custom resource or label (``key=value``) that only that node has."""

    address: str = "auto"
    start_timeout_s: AboveZero = 60.0


LauncherSection = SshLauncher | SlurmLauncher | RayLauncher


class Inventory(Section, frozen=True):
    """A rack. ``scale`` says what its links are: the hardware's own (``real``: an experiment's divisors do
    not apply), or made for an experiment's scale (``experiment``).

    ``control_address`` is where hosts reach the control node (default: where it reaches the first one from).
    ``directory`` is dualpath's own on every host, ``~`` being the user's home there; ``python`` is that of
    the hosts.
    """

    hosts: Annotated[tuple[InventoryHost, ...], Meta(min_length=1)]
    launcher: LauncherSection
    name: str = ""
    description: str = ""
    scale: Literal["real", "experiment"] = "real"
    control_address: str = ""
    directory: str = "~/.cache/dualpath"
    python: str = "python3"
    storage: StoragePlace | None = None

    def of_role(self, role: Role) -> list[InventoryHost]:
        """Hosts of that role, in order."""
        return [host for host in self.hosts if host.role == role]

    def storage_of(self, host: InventoryHost) -> StoragePlace:
        """Where that host finds the KV store."""
        place = host.storage or self.storage
        assert place is not None, "checked when the inventory was loaded"
        return place


def default_names(inventory: Inventory, stem: str) -> Inventory:
    """With every name and address that the file leaves out; of a host on any node it is not known yet: ''."""
    hosts = tuple(
        msgspec.structs.replace(
            host,
            address=host.address or ("" if host.node == ANY_NODE else host.name),
            node=host.node or host.name,
        )
        for host in inventory.hosts
    )
    return msgspec.structs.replace(inventory, hosts=hosts, name=inventory.name or stem)

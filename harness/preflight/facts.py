"""What `hosts.probe` says of a host, typed. ``error`` stands in the place of what could not be found out."""

from __future__ import annotations

import ipaddress
import re

import msgspec

UNLIMITED = -1
"""As a limit of locked memory (RLIM_INFINITY)."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the facts; its values are defaults where there is an ``error``."""

    error: str = ""


class Machine(Part, frozen=True):
    """What the host is."""

    hostname: str = ""
    kernel: str = ""
    os: str = ""
    machine: str = ""
    user: str = ""
    uid: int = -1
    home: str = ""
    machine_id: str = ""
    boot_id: str = ""
    network_namespace: int = 0


class Python(Part, frozen=True):
    """The interpreter that the inventory names."""

    version: str = ""
    executable: str = ""
    platform: str = ""
    abi: str = ""
    libc: str = ""
    venv_error: str = ""
    ensurepip_error: str = ""

    @property
    def release(self) -> tuple[int, int]:
        """Such as (3, 11)."""
        major, minor = re.findall(r"\d+", self.version)[:2] or (0, 0)
        return int(major), int(minor)


class Directory(Part, frozen=True):
    """dualpath's own directory; ``existing`` is what is there of its path."""

    path: str = ""
    existing: str = ""
    writable: bool = False
    noexec: bool = False
    free_bytes: int = 0


class Memory(Part, frozen=True):
    """Limits are `UNLIMITED` or bytes."""

    total_bytes: int = 0
    available_bytes: int = 0
    memlock_soft_bytes: int = 0
    memlock_hard_bytes: int = 0
    huge_page_bytes: int = 0
    huge_pages: int = 0
    huge_pages_free: int = 0
    transparent_huge_pages: str = ""


class Process(msgspec.Struct, frozen=True):
    """What kept ``cpus`` CPUs busy."""

    name: str
    cpus: float


class Load(Part, frozen=True):
    """``busy``: share of all CPUs, over half a second before anything else was asked."""

    cpus: int = 0
    usable_cpus: int = 0
    load_1_min: float = 0.0
    busy: float = 0.0
    processes: tuple[Process, ...] = ()


class Tools(Part, frozen=True):
    """Of the host's distribution; versions are empty for what is not installed."""

    pyverbs_error: str = ""
    pyverbs_package: str = ""
    libibverbs_package: str = ""
    fio: str = ""


class Lock(Part, frozen=True):
    """The host's lock, and who holds it: ``run_id``, ``user``, ``since``, ``control``."""

    held: bool = False
    holder: dict[str, str] = {}


class Address(msgspec.Struct, frozen=True):
    """An interface's address with its prefix length."""

    address: str
    prefix: int

    @property
    def network(self) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        """The subnet it is in."""
        return ipaddress.ip_network(f"{self.address}/{self.prefix}", strict=False)


class Interface(msgspec.Struct, frozen=True):
    """``gbit_per_s`` is 0 where the driver does not know it, ``numa`` -1 where there is no node."""

    name: str
    state: str
    up: bool
    mtu: int
    gbit_per_s: float
    driver: str
    virtual: bool
    numa: int
    addresses: tuple[Address, ...]
    rx_bytes_per_s: float
    tx_bytes_per_s: float

    @property
    def usable(self) -> tuple[Address, ...]:
        """Addresses by which another host can name it: no link-local ones."""
        return tuple(a for a in self.addresses if not ipaddress.ip_address(a.address).is_link_local)


class Management(Part, frozen=True):
    """Where the host was reached, or else the interface of its default route."""

    address: str = ""
    device: str = ""


class Network(Part, frozen=True):
    """Interfaces of the network namespace that agents will run in."""

    interfaces: tuple[Interface, ...] = ()
    management: Management = Management()

    def interface(self, name: str) -> Interface | None:
        """The one of that name."""
        return next((interface for interface in self.interfaces if interface.name == name), None)


class Gid(msgspec.Struct, frozen=True):
    """An entry of a port's GID table; ``type`` such as ``RoCE v2``."""

    index: int
    gid: str
    type: str


class RdmaPort(msgspec.Struct, frozen=True):
    """A port of an RDMA device; ``interface`` is its network interface, if it has one."""

    device: str
    port: int
    state: str
    gbit_per_s: float
    link_layer: str
    interface: str
    numa: int
    gids: tuple[Gid, ...]
    rx_bytes_per_s: float
    tx_bytes_per_s: float

    def __str__(self) -> str:
        return f"{self.device} port {self.port}"


class Rdma(Part, frozen=True):
    """Every port of every RDMA device."""

    ports: tuple[RdmaPort, ...] = ()

    def of(self, interface: str) -> RdmaPort | None:
        """The first port behind an interface."""
        return next((port for port in self.ports if interface and port.interface == interface), None)


class Gpu(msgspec.Struct, frozen=True):
    """A GPU; ``pci`` as the kernel writes it."""

    index: int
    uuid: str
    pci: str
    name: str
    driver: str
    numa: int

    @property
    def names(self) -> tuple[str, ...]:
        """What an inventory may call it."""
        return (self.pci, self.uuid, str(self.index))


class Gpus(Part, frozen=True):
    """GPUs by ``source``; the two ways by which NICs may reach their memory, and ``how`` that is known;
    ``torch``'s version for the host's Python, if it is installed."""

    gpus: tuple[Gpu, ...] = ()
    source: str = ""
    peer_module: str = ""
    dma_buf: bool = False
    how: str = ""
    torch: str = ""

    def named(self, name: str) -> Gpu | None:
        """The one that an inventory means."""
        return next((gpu for gpu in self.gpus if name.lower() in map(str.lower, gpu.names)), None)


class Route(Part, frozen=True):
    """The kernel's choice for packets to ``address``; ``source`` is the address that they carry."""

    device: str = ""
    source: str = ""
    gateway: str = ""
    address: str = ""


class Store(Part, frozen=True):
    """A KV store as the host finds it; None for what was not found out (a server has no free bytes)."""

    mount: str = ""
    url: str = ""
    directory: bool | None = None
    mounted_at: str = ""
    file_system: str = ""
    source: str = ""
    server: str = ""
    route: Route | None = None
    local_address: str = ""
    free_bytes: int | None = None
    block_bytes: int = 0
    write_error: str | None = None
    direct_error: str | None = None
    put_status: int | None = None
    get_status: int | None = None
    get_intact: bool = False
    delete_status: int | None = None

    @property
    def place(self) -> str:
        """As the inventory has it."""
        return self.mount or self.url


class Mount(msgspec.Struct, frozen=True):
    """A mount of a network file system."""

    mount: str
    file_system: str
    source: str


class Mounts(Part, frozen=True):
    """Those that may hold a KV store."""

    mounts: tuple[Mount, ...] = ()


class Peer(msgspec.Struct, frozen=True):
    """Another host's NIC: the route to it, and why a small and a full-sized packet were not answered (empty
    if they were)."""

    peer: str
    address: str
    route: Route
    small: str
    full: str


class NicReach(Part, frozen=True):
    """What came back from the peers of one NIC, whose packets are ``full_bytes`` long at most."""

    nic: str = ""
    source: str = ""
    full_bytes: int = 0
    peers: tuple[Peer, ...] = ()


class Reach(Part, frozen=True):
    """Of every compute NIC that has peers to look for."""

    nics: tuple[NicReach, ...] = ()


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One host. Points in time are the host's own clock's; ``clock_offset_s`` are the least and the most that
    it may be ahead of the control node's."""

    python: Python
    machine: Machine = Machine()
    directory: Directory = Directory()
    memory: Memory = Memory()
    load: Load = Load()
    tools: Tools = Tools()
    lock: Lock = Lock()
    network: Network = Network()
    rdma: Rdma = Rdma()
    gpus: Gpus = Gpus()
    mounts: Mounts = Mounts()
    stores: tuple[Store, ...] = ()
    reach: Reach | None = None
    began_at_s: float = 0.0
    ended_at_s: float = 0.0
    clock_offset_s: tuple[float, float] = (0.0, 0.0)

    @property
    def complete(self) -> bool:
        """Whether its Python was new enough to look at more than itself."""
        return self.ended_at_s > 0

    def parts(self) -> dict[str, Part]:
        """Those that may have an error, by name."""
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: value for name, value in values.items() if isinstance(value, Part)}


class _ReachAnswer(msgspec.Struct, frozen=True):
    reach: tuple[NicReach, ...]


def decode_facts(output: bytes) -> HostFacts:
    """The last line of what the script printed: a shell may have had its say before. Raises
    msgspec.MsgspecError."""
    return msgspec.json.decode(_last_line(output), type=HostFacts)


def decode_reach(output: bytes) -> Reach:
    """The same, of the second question."""
    return Reach(nics=msgspec.json.decode(_last_line(output), type=_ReachAnswer).reach)


def _last_line(output: bytes) -> bytes:
    return output.strip().rpartition(b"\n")[2]

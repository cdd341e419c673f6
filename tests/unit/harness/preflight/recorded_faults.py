"""Faults of the recorded rack, one at a time, and the finding that each is."""

from __future__ import annotations

from dataclasses import replace as with_needs
from typing import Any, NamedTuple

from msgspec.structs import replace
from recorded_rack import NEEDS, NUMBERS, facts, inventory, mounted, peer, port

from harness.inventory import Inventory, SlurmLauncher, StoragePlace
from harness.preflight import HostFacts, Needs
from harness.preflight.facts import Address, Lock, Process, Python, Rdma, Route

RACK = inventory()
COMPUTING = with_needs(NEEDS, compute="torch", device="cuda")
THROUGH_NICS = with_needs(COMPUTING, copy="nic")
ON_NFS = inventory(storage=StoragePlace(mount="/mnt/kv"))


def changed(name: str, part: str, **changes: Any) -> HostFacts:
    """A sound host but for some keys of a part."""
    return facts(name, **{part: replace(getattr(facts(name), part), **changes)})


def nic(name: str, nic_name: str, **changes: Any) -> HostFacts:
    network = facts(name).network
    nics = tuple(replace(i, **changes) if i.name == nic_name else i for i in network.interfaces)
    return facts(name, network=replace(network, interfaces=nics))


def server(name: str, **changes: Any) -> HostFacts:
    return facts(name, stores=(replace(facts(name).stores[0], **changes),))


def on_nfs(only: str = "", **changes: Any) -> dict[str, HostFacts]:
    """All hosts, with changes of the store on all of them or on one."""
    return {
        name: facts(name, stores=(mounted(name, **(changes if only in ("", name) else {})),))
        for name in NUMBERS
    }


def reached(name: str, *peers: Any) -> HostFacts:
    known = facts(name).reach
    assert known is not None
    return changed(name, "reach", nics=(replace(known.nics[0], peers=peers),))


def rdma(name: str, **changes: Any) -> HostFacts:
    return facts(name, rdma=Rdma(ports=(port(NUMBERS[name], **changes),)))


class Fault(NamedTuple):
    """What is wrong with a rack that is sound otherwise, and the one finding that says so (on the host that
    was changed): severity, check, and patterns of its evidence and fix."""

    answers: dict[str, HostFacts]
    severity: str
    check: str
    evidence: str
    fix: str
    rack: Inventory = RACK
    needs: Needs = NEEDS


FAULTS = {
    "Python too old": Fault(
        {"d0": facts("d0", python=Python(version="3.9.18", executable="/usr/bin/python3"))},
        "error",
        "python",
        r"found 3\.9\.18 \(/usr/bin/python3\), expected 3\.11 or newer",
        'python = "python3.11"',
    ),
    "no venv": Fault(
        {"d0": changed("d0", "python", venv_error="No module named venv")},
        "warning",
        "python",
        "makes no environments.*No module named venv",
        r"apt-get install python3\.12-venv",
    ),
    "another Python": Fault(
        {"d1": changed("d1", "python", version="3.11.7")},
        "error",
        "python versions",
        "3.11 on linux-x86_64, most others have 3.12",
        "install Python 3.12 there",
    ),
    "directory not writable: sudo needed": Fault(
        {"d0": changed("d0", "directory", existing="/home", writable=False)},
        "error",
        "directory",
        "/home cannot be written by alice",
        r"chown alice /home/alice/.cache/dualpath \(as root, once; dualpath itself never uses sudo\)",
    ),
    "no space for the bundle": Fault(
        {"d0": changed("d0", "directory", free_bytes=10**8)},
        "error",
        "directory",
        "found 100 MB free, expected 250 MB",
        "free space",
    ),
    "directory noexec": Fault(
        {"d0": changed("d0", "directory", noexec=True)},
        "error",
        "directory",
        "noexec",
        "remount,exec",
    ),
    "clock an hour ahead": Fault(
        {"d0": facts("d0", clock_offset_s=(3598.0, 3601.0))},
        "error",
        "clock",
        r"at least 3598\.0 s ahead",
        "timedatectl set-ntp true",
    ),
    "clock seconds behind": Fault(
        {"d0": facts("d0", clock_offset_s=(-5.0, -3.5))},
        "warning",
        "clock",
        r"at least 3\.5 s behind",
        "chronyc makestep",
    ),
    "in use": Fault(
        {
            "d0": facts(
                "d0",
                lock=Lock(
                    held=True,
                    holder={
                        "run_id": "deadbeef",
                        "user": "bob",
                        "since": "2026-01-01T10:00:00Z",
                        "control": "login1",
                    },
                ),
            )
        },
        "error",
        "lock",
        "run deadbeef of bob measures here since 2026-01-01T10:00:00Z, controlled from login1",
        "wait",
    ),
    "in use by somebody silent": Fault(
        {"d0": facts("d0", lock=Lock(held=True, error="timed out"))},
        "error",
        "lock",
        "timed out",
        "wait",
    ),
    "busy": Fault(
        {"d0": changed("d0", "load", busy=0.4, processes=(Process("fluent", 50.2),))},
        "warning",
        "load",
        r"40% of 128 CPUs busy with fluent \(50\.2 CPUs\)",
        "stop",
    ),
    "bound to few CPUs": Fault(
        {"d0": changed("d0", "load", usable_cpus=2)},
        "warning",
        "load",
        "2 of 128 CPUs",
        "--exclusive",
    ),
    "compute NIC down": Fault(
        {"d0": nic("d0", "eth2", up=False, state="DOWN")},
        "error",
        "compute nic",
        "eth2: is DOWN, expected UP",
        "ip link set eth2 up",
    ),
    "compute NIC without an address": Fault(
        {"d0": nic("d0", "eth2", addresses=(Address("fe80::1", 64),))},
        "error",
        "compute nic",
        "no address that other hosts can name, found fe80::1",
        "ip address add",
    ),
    "MTU of one host": Fault(
        {"d0": nic("d0", "eth2", mtu=1500)},
        "warning",
        "mtu",
        "compute NIC eth2 has MTU 1500, most others have 9000",
        "mtu 9000",
    ),
    "MTU of a switch": Fault(
        {"d0": reached("d0", peer("p0", full="no answer"))},
        "error",
        "mtu",
        r"packets of 9000 bytes do not get to p0 \(10\.2\.0\.1\)",
        "ip link set eth2 mtu",
    ),
    "NIC on a wrong network": Fault(
        {"d0": reached("d0", peer("p0", route=Route(device="eth0")))},
        "error",
        "compute network",
        "the way there is through eth0, not through it: p0",
        r"eth2 is in 10\.2\.0\.0/24",
    ),
    "no route": Fault(
        {"d0": reached("d0", peer("p0", route=Route(error="Network is unreachable")))},
        "error",
        "compute network",
        "Network is unreachable",
        "have routes to each other",
    ),
    "wrong VLAN": Fault(
        {"d0": reached("d0", peer("p0", small="No route to host", full="No route to host"))},
        "error",
        "compute network",
        r"nobody there \(No route to host\): p0",
        "right interface",
    ),
    "silence": Fault(
        {"d0": reached("d0", peer("p0", small="no answer", full="no answer"))},
        "warning",
        "compute network",
        "no answer from p0",
        "firewall",
    ),
    "other traffic": Fault(
        {"d0": nic("d0", "eth1", rx_bytes_per_s=5e9)},
        "warning",
        "nic load",
        r"carries 40\.00 Gbit/s in",
        "stop",
    ),
    "other traffic by RDMA": Fault(
        {"d0": rdma("d0", tx_bytes_per_s=5e9)},
        "warning",
        "nic load",
        r"and 40\.00 out",
        "stop",
    ),
    "RDMA port down": Fault(
        {"d0": rdma("d0", state="DOWN")},
        "error",
        "rdma",
        "mlx5_2 port 1: found DOWN",
        "subnet manager",
    ),
    "no RDMA device": Fault(
        {"d0": facts("d0", rdma=Rdma())},
        "error",
        "rdma",
        "found no RDMA device",
        'transport.kind = "tcp"',
    ),
    "no GID": Fault({"d0": rdma("d0", gids=())}, "error", "rdma", "GID table is empty", "gid_index"),
    "no pyverbs": Fault(
        {"d0": changed("d0", "tools", pyverbs_error="No module named 'pyverbs'", pyverbs_package="")},
        "error",
        "pyverbs",
        "No module named 'pyverbs'.*not installed",
        "python3-pyverbs",
    ),
    "memlock": Fault(
        {"d0": changed("d0", "memory", memlock_soft_bytes=8 << 20)},
        "error",
        "memlock",
        "alice may lock 8388608 bytes, expected 120000000000",
        "'alice - memlock unlimited' > /etc/security.*dualpath itself never uses sudo",
    ),
    "memlock under Slurm": Fault(
        {"d0": changed("d0", "memory", memlock_soft_bytes=8 << 20)},
        "error",
        "memlock",
        "alice may lock",
        "LimitMEMLOCK=infinity for slurmd",
        rack=replace(RACK, launcher=SlurmLauncher()),
    ),
    "too little memory": Fault(
        {"d0": changed("d0", "memory", available_bytes=10**11)},
        "error",
        "memory",
        "100 GB of 1000 GB available, expected 120 GB for the decode",
        "decode_buffer",
    ),
    "no transparent huge pages": Fault(
        {"d0": changed("d0", "memory", transparent_huge_pages="never")},
        "warning",
        "huge pages",
        "'never'",
        "echo madvise",
    ),
    "no GPUDirect": Fault(
        {"d0": changed("d0", "gpus", peer_module="", how="kernel 5.4, ...")},
        "warning",
        "gpu direct",
        "cannot reach GPU memory: kernel 5.4",
        "modprobe nvidia_peermem",
    ),
    "GPU on another node": Fault(
        {"d0": changed("d0", "gpus", gpus=(replace(facts("d0").gpus.gpus[0], numa=1),))},
        "warning",
        "numa",
        "engine 0 has rail eth2 on node 0, but its GPU is on node 1",
        "list compute_nics and gpus in the same order.*lspci",
    ),
    "GPU that is not there": Fault(
        {"d0": changed("d0", "gpus", gpus=())},
        "warning",
        "gpus",
        "no GPU 0000:17:00.0, found none",
        "correct gpus",
    ),
    "GPU that is not there, and computes": Fault(
        {"d0": changed("d0", "gpus", gpus=(replace(facts("d0").gpus.gpus[0], pci="0000:18:00.0"),))},
        "error",
        "gpus",
        "no GPU 0000:17:00.0, found 0 .0000:18:00.0",
        "correct gpus",
        needs=COMPUTING,
    ),
    "no torch": Fault(
        {"d0": changed("d0", "gpus", torch="")},
        "error",
        "torch",
        "not installed for the Python that the inventory names",
        "pip install torch there",
        needs=COMPUTING,
    ),
    "server gone": Fault(
        {"d0": server("d0", error="Connection refused")},
        "error",
        "storage",
        "10.1.0.9 does not answer: Connection refused",
        "start the server",
    ),
    "server refuses to write": Fault(
        {"d0": server("d0", put_status=405)},
        "error",
        "storage",
        "PUT answered 405",
        "dav_methods PUT DELETE",
    ),
    "server without ranges": Fault(
        {"d0": server("d0", get_status=200, get_intact=False)},
        "error",
        "storage",
        "GET of a range answered 200",
        "RFC 9110",
    ),
    "server that keeps everything": Fault(
        {"d0": server("d0", delete_status=403)},
        "error",
        "storage",
        "DELETE answered 403",
        "dav_methods",
    ),
    "storage through the management NIC": Fault(
        {"d0": server("d0", route=Route(device="eth0", source="10.0.0.2", address="10.1.0.9"))},
        "error",
        "storage path",
        r"10\.1\.0\.9 is reached through eth0 \(10\.0\.0\.2\), not through .* eth1",
        "ip route add 10.1.0.9 dev eth1",
    ),
    "mount missing": Fault(
        on_nfs(
            "d0",
            directory=False,
            mounted_at="/",
            file_system="ext4",
            free_bytes=None,
            write_error=None,
            direct_error=None,
        ),
        "error",
        "storage",
        r"/mnt/kv: no such directory, on / \(ext4\): not mounted\?",
        "mount it there",
        rack=ON_NFS,
    ),
    "mount hangs": Fault(
        on_nfs(
            "d0",
            error="no answer within 20 s",
            directory=None,
            route=None,
            free_bytes=None,
            write_error=None,
            direct_error=None,
        ),
        "error",
        "storage",
        "no answer within 20 s",
        "umount -l",
        rack=ON_NFS,
    ),
    "mount full": Fault(
        on_nfs("d0", write_error="No space left on device", direct_error=None),
        "error",
        "storage",
        "No space left on device",
        "free space",
        rack=ON_NFS,
    ),
    "mount of somebody else": Fault(
        on_nfs("d0", write_error="Permission denied", direct_error=None),
        "error",
        "storage",
        "cannot be written by alice: Permission denied",
        "chown alice",
        rack=ON_NFS,
    ),
    "no room for the experiment": Fault(
        on_nfs("d0", free_bytes=10**12),
        "error",
        "storage room",
        "1000 GB free, expected 2000 GB",
        "fewer agents",
        rack=ON_NFS,
    ),
    "no O_DIRECT": Fault(
        on_nfs("d0", direct_error="Invalid argument"),
        "error",
        "storage cache",
        "nfs4 refuses O_DIRECT",
        'storage.cache = "page"',
        rack=ON_NFS,
    ),
    "part unknown": Fault(
        {"d0": changed("d0", "mounts", error="KeyError: x")},
        "warning",
        "mounts",
        "KeyError: x",
        "look into",
    ),
}

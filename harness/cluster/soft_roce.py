"""Soft-RoCE (rdma_rxe) on compute NICs: RDMA on an emulated cluster, where there is no RDMA hardware.

The kernel's Soft-RoCE sends from and listens in the machine's first network namespace (Linux 6.1,
drivers/infiniband/sw/rxe/rxe_net.c), wherever its interface is. So each host has a second, short link, from
itself to the harness's namespace, where an RDMA device is put on the link's end; in the host whatever arrives
from there goes out by the compute NIC, and the other way round (tc-mirred(8)). RDMA packets are IPv6, which
nothing else in the cluster is. Thus they pass the host's own NIC, with its rate, its classes, its counters.

All these ends are in one namespace and still meet on the wire: link-local addresses (RFC 4291 2.5.6) are each
interface's own. A RoCE port's first GID is the link-local address made from its MAC.

The kernel removes a device with its interface, and that with its other end's namespace: a killed run leaves
nothing behind.
"""

from __future__ import annotations

import platform
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path

from harness.cluster.errors import ClusterError
from harness.cluster.namespaces import NetworkNamespace, run_batch
from harness.cluster.topology import RDMA_MTU_BYTES

GID_INDEX = 0
"""Of the link-local GID."""

_LINK_NAME = "rdma0"
_COMMAND_TIMEOUT_S = 20.0
_MODULES = ("crc32_generic", "rdma_rxe")
"""Soft-RoCE, and what it computes its packets' checksums with."""
_MODULE = Path("/sys/module/rdma_rxe")
# No duplicate address detection: the address is there at once. No autoconfiguration: no chatter.
_IPV6_SETTINGS = {"disable_ipv6": "0", "addr_gen_mode": "0", "accept_dad": "0", "accept_ra": "0"}


def require_soft_roce() -> None:
    """Load what is needed into the kernel; raises ClusterError, with what to do, where that cannot be had."""
    with suppress(OSError, subprocess.SubprocessError):
        # Whether that helped is seen below; where the module is built in there need not be a modprobe.
        subprocess.run(["modprobe", "--all", "--quiet", *_MODULES], timeout=_COMMAND_TIMEOUT_S, check=False)
    if not _MODULE.is_dir():
        raise ClusterError(
            f"transport 'verbs': kernel {platform.release()} of {platform.node()} has no module rdma_rxe, "
            "expected for RDMA on an emulated cluster; fix: run it in the project's guest (python "
            "tools/softroce -- dualpath run ...), on a kernel that has the module (Debian's), or with "
            "[transport] kind = 'tcp'"
        )
    system = _run("rdma", "system", "show")
    if "netns shared" not in system:
        raise ClusterError(
            f"transport 'verbs': RDMA devices of {platform.node()} are each in one network namespace ('rdma "
            f"system' says {system.strip()}), expected 'netns shared'; fix: rdma system set netns shared"
        )


class SoftRoceDevice:
    """An RDMA device for the host that ``namespace`` is, attached to its interface ``nic``.

    ``name`` is the device's and that of its interface in the caller's namespace, at most 15 characters.
    """

    def __init__(self, name: str, namespace: NetworkNamespace, nic: str) -> None:
        self.name = name
        with ExitStack() as resources:
            mtu = ["mtu", str(RDMA_MTU_BYTES)]
            far = ["peer", "name", _LINK_NAME, *mtu, "netns", namespace.path]
            _run("ip", "link", "add", "name", name, *mtu, "type", "veth", *far)
            resources.callback(_run, "ip", "link", "delete", "dev", name)
            for setting, value in _IPV6_SETTINGS.items():
                Path("/proc/sys/net/ipv6/conf", name, setting).write_text(value)
            run_batch(namespace, "ip", [f"link set dev {_LINK_NAME} addrgenmode none up"])
            run_batch(namespace, "tc", [*_hand_over(_LINK_NAME, nic), *_hand_over(nic, _LINK_NAME)])
            _run("ip", "link", "set", "dev", name, "up")
            _run("rdma", "link", "add", name, "type", "rxe", "netdev", name)
            resources.callback(_run, "rdma", "link", "delete", name)
            self._resources = resources.pop_all()

    def close(self) -> None:
        """Take it away again. It stays as long as a process has it open: those have to end before."""
        self._resources.close()


def _hand_over(source: str, target: str) -> list[str]:
    """``tc`` batch lines: IPv6 that arrives on ``source`` goes out by ``target``, through its queues."""
    redirect = f"matchall action mirred egress redirect dev {target}"
    return [
        f"qdisc add dev {source} handle ffff: ingress",
        f"filter add dev {source} parent ffff: protocol ipv6 {redirect}",
    ]


def _run(*command: str) -> str:
    """What it prints; ClusterError with what it says if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=True)
    except FileNotFoundError as error:
        raise ClusterError(f"{command[0]}: not found; fix: apt-get install iproute2") from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{' '.join(command)}: not done in {_COMMAND_TIMEOUT_S:g} s") from error
    except subprocess.CalledProcessError as error:
        raise ClusterError(f"{' '.join(command)}: {error.stderr.strip() or error.stdout.strip()}") from error
    return done.stdout

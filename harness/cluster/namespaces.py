"""Network namespaces, and the links between them.

A namespace is held by an open file and nothing else: there is no name in /run/netns, no mount. So it
lives as long as its owner's file or a process in it, and the kernel takes it away, with its bridges,
links and queues, when the last of these ends, however that happened (namespaces(7)).
To look inside: ``nsenter --net=PATH`` with the path of a running cluster's namespace.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from harness.cluster.errors import ClusterError
from harness.cluster.shaping import GSO_MAX_BYTES, shaping_commands
from harness.cluster.topology import NIC_NAMES, PREFIX_BITS, Endpoint, HighClass, Topology
from hosts.config import Network

_CLONE_NEWNET = 0x40000000
_THREAD_NAMESPACE = "/proc/thread-self/ns/net"
_COMMAND_TIMEOUT_S = 20.0

# Every namespace starts from the same TCP, whatever the machine's own settings are.
_TCP_SETTINGS = {
    # The one algorithm every kernel has and allows in a namespace of our own; over links this short it
    # keeps the queue, and so the link, busy as well as any.
    "tcp_congestion_control": "reno",
    # A path's past must not decide the next repetition's start, nor a pause between turns its rate.
    "tcp_no_metrics_save": "1",
    "tcp_slow_start_after_idle": "0",
}

# No IPv6 address, hence no chatter on the counters.
_QUIET = f"addrgenmode none gso_max_size {GSO_MAX_BYTES}"

_Result = TypeVar("_Result")


class NetworkNamespace:
    """One network namespace, alive until ``close`` and until the last process in it has ended."""

    def __init__(self) -> None:
        self._fd = _in_thread(_unshare_network)
        self.path = f"/proc/{os.getpid()}/fd/{self._fd}"

    def run(self, action: Callable[[], _Result]) -> _Result:
        """Call ``action`` in a short-lived thread inside the namespace; sockets it opens stay inside."""

        def enter_and_act() -> _Result:
            self.enter()
            return action()

        return _in_thread(enter_and_act)

    def enter(self) -> None:
        """Move the calling thread, and threads and processes it starts from now on, into the namespace."""
        _system_call("setns", self._fd, _CLONE_NEWNET)

    def close(self) -> None:
        """Let go of the namespace; the kernel removes it once no process is left in it."""
        os.close(self._fd)


def open_current_namespace() -> int:
    """An open file of the calling thread's network namespace; the caller closes it."""
    return os.open(_THREAD_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)


def restore_network_namespace(fd: int) -> None:
    """Move the calling thread back to what ``open_current_namespace`` opened, and close it."""
    try:
        _system_call("setns", fd, _CLONE_NEWNET)
    finally:
        os.close(fd)


def connect_all(
    topology: Topology,
    switch: NetworkNamespace,
    namespaces: dict[str, NetworkNamespace],
    high_class: HighClass,
) -> None:
    """Bridges in ``switch``, a shaped link to each NIC, addresses; ``namespaces`` by endpoint name."""
    run_batch(switch, "ip", switch_commands(topology, {n: ns.path for n, ns in namespaces.items()}))
    ports = [(port(nic.network, e.name), nic) for e in topology.endpoints for nic in e.nics]
    run_batch(switch, "tc", [line for p, nic in ports for line in shaping_commands(p, nic, high_class)])
    for endpoint in topology.endpoints:
        namespace = namespaces[endpoint.name]
        namespace.run(_apply_tcp_settings)
        run_batch(namespace, "ip", host_commands(endpoint))
        shaping = [line for nic in endpoint.nics for line in shaping_commands(nic.name, nic, high_class)]
        run_batch(namespace, "tc", shaping)


def port(network: Network, endpoint: str) -> str:
    """The switch-side interface of an endpoint's link; at most 15 characters, the kernel's limit."""
    return f"{network[:4]}-{endpoint}"


def bridge(network: Network) -> str:
    """The switch's bridge of a network."""
    return f"br-{network[:4]}"


def switch_commands(topology: Topology, namespace_paths: dict[str, str]) -> list[str]:
    """``ip`` batch lines for the switch: a bridge a network, a veth pair a NIC, its far end in the host."""
    lines = []
    for network in NIC_NAMES:
        # No spanning tree, no multicast snooping: nothing but the hosts' own frames on the counters.
        lines.append(f"link add name {bridge(network)} type bridge stp_state 0 mcast_snooping 0")
        lines.append(f"link set dev {bridge(network)} addrgenmode none up")
    for endpoint in topology.endpoints:
        for nic in endpoint.nics:
            near = port(nic.network, endpoint.name)
            far = f"name {nic.name} mtu {nic.mtu_bytes} netns {namespace_paths[endpoint.name]}"
            lines.append(f"link add name {near} mtu {nic.mtu_bytes} type veth peer {far}")
            lines.append(f"link set dev {near} {_QUIET} master {bridge(nic.network)} up")
    return lines


def host_commands(endpoint: Endpoint) -> list[str]:
    """``ip`` batch lines for one endpoint: its links up, its addresses."""
    lines = ["link set dev lo up"]
    for nic in endpoint.nics:
        lines.append(f"link set dev {nic.name} {_QUIET} up")
        lines.append(f"address add {nic.address}/{PREFIX_BITS} dev {nic.name}")
    return lines


def run_batch(namespace: NetworkNamespace, tool: str, lines: Sequence[str]) -> None:
    """Feed ``lines`` to ``ip -batch`` or ``tc -batch`` in a namespace; the first that fails is the error."""
    if not lines:
        return
    command = ["nsenter", f"--net={namespace.path}", "--", tool, "-batch", "-"]
    try:
        done = subprocess.run(
            command, input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S
        )
    except FileNotFoundError as error:
        raise ClusterError(
            f"{error.filename}: not found; fix: apt-get install iproute2 util-linux"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(
            f"{tool} did not finish in {_COMMAND_TIMEOUT_S:g} s inside {namespace.path}"
        ) from error
    if done.returncode != 0:
        raise ClusterError(f"{tool} failed: {' | '.join(done.stderr.split(chr(10))).strip(' |')}")


def _apply_tcp_settings() -> None:
    # /proc/sys/net shows the namespace of the thread that opens it.
    for name, value in _TCP_SETTINGS.items():
        Path("/proc/sys/net/ipv4", name).write_text(value)


def _unshare_network() -> int:
    _system_call("unshare", _CLONE_NEWNET)
    return open_current_namespace()


def _system_call(name: str, *arguments: int) -> None:
    # os.setns and os.unshare arrive with Python 3.12.
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise ClusterError(f"{name} of a network namespace: {reason}; fix: run as root")


def _in_thread(action: Callable[[], _Result]) -> _Result:
    """A thread's namespace is its own, so a thread made for one action leaves the caller's untouched."""
    results: list[_Result] = []
    errors: list[BaseException] = []

    def act() -> None:
        try:
            results.append(action())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=act, name="namespace")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]

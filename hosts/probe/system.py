"""The machine, its Python, its memory, what it is busy with, and who measures on it."""

import json
import os
import platform
import pwd
import resource
import shutil
import socket
import sys
import sysconfig
import tempfile
from typing import Dict, List, Tuple

from hosts.probe.reading import Facts, complaint, number, output, reason, text

_CGROUP = "/sys/fs/cgroup"
_LOCK = "\0dualpath-host"
_LOCK_TIMEOUT_S = 1.0
_SHOWN_PROCESSES = 5
_BUSY_PROCESS = 0.05
"""Share of one CPU below which a process is not worth a word."""
_PACKAGES = (("libibverbs1", "libibverbs"), ("python3-pyverbs", "python3-pyverbs"))
"""As dpkg and rpm call them."""

Ticks = Tuple[int, int, Dict[int, Tuple[str, int]]]
"""Busy and all ticks of the machine's CPUs, and of each process by id: its name and ticks."""


def machine() -> Facts:
    """What the host is, and what tells it from another."""
    release = dict(line.partition("=")[::2] for line in text("/etc/os-release").splitlines())
    return {
        "hostname": socket.gethostname(),
        "kernel": platform.release(),
        "os": release.get("PRETTY_NAME", "").strip('"'),
        "machine": platform.machine(),
        "user": _user(),
        "uid": os.getuid(),
        "home": os.path.expanduser("~"),
        "machine_id": text("/etc/machine-id"),
        "boot_id": text("/proc/sys/kernel/random/boot_id"),
        "network_namespace": os.stat("/proc/self/ns/net").st_ino,
    }


def python() -> Facts:
    """This interpreter, and whether it makes environments: one is made, and removed."""
    directory = tempfile.mkdtemp(prefix="dualpath-probe-")
    try:
        venv = complaint([sys.executable, "-I", "-m", "venv", "--without-pip", directory])
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return {
        "version": platform.python_version(),
        "executable": sys.executable,
        "platform": sysconfig.get_platform(),
        "abi": sysconfig.get_config_var("SOABI") or "",
        "libc": _libc(),
        "venv_error": venv,
        "ensurepip_error": complaint([sys.executable, "-I", "-m", "ensurepip", "--version"]),
    }


def directory(path: str) -> Facts:
    """Where dualpath's own things go: what is there of the path, and what can be done with it."""
    path = os.path.abspath(os.path.expanduser(path))
    existing = path
    while not os.path.exists(existing):
        existing = os.path.dirname(existing)
    file_system = os.statvfs(existing)
    return {
        "path": path,
        "existing": existing,
        "writable": os.path.isdir(existing) and os.access(existing, os.W_OK | os.X_OK),
        "noexec": bool(file_system.f_flag & os.ST_NOEXEC),
        "free_bytes": file_system.f_bavail * file_system.f_frsize,
    }


def memory() -> Facts:
    """Bytes there are and that this user may use and lock, and huge pages."""
    sizes = {}
    for line in text("/proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        sizes[name] = int(value.split()[0]) * (1024 if value.endswith("kB") else 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    transparent = text("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "total_bytes": sizes["MemTotal"],
        "available_bytes": min([sizes["MemAvailable"], *_cgroup_room()]),
        "memlock_soft_bytes": soft,
        "memlock_hard_bytes": hard,
        "huge_page_bytes": sizes.get("Hugepagesize", 0),
        "huge_pages": sizes.get("HugePages_Total", 0),
        "huge_pages_free": sizes.get("HugePages_Free", 0),
        "transparent_huge_pages": transparent.partition("[")[2].partition("]")[0],
    }


def ticks() -> Ticks:
    """Counted until now."""
    spent = [int(word) for word in text("/proc/stat").splitlines()[0].split()[1:9]]
    idle = spent[3] + spent[4]
    processes = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            name, _, rest = text(f"/proc/{entry}/stat").partition("(")[2].rpartition(")")
            if rest:
                user, kernel = rest.split()[11:13]
                processes[int(entry)] = (name, int(user) + int(kernel))
    return sum(spent) - idle, sum(spent), processes


def load(before: Ticks, after: Ticks) -> Facts:
    """How busy the host was between two counts, and with what: names of processes only."""
    all_ticks = max(1, after[1] - before[1])
    cpus = os.cpu_count() or 1
    shares: List[Facts] = []
    for pid, (name, spent) in after[2].items():
        share = (spent - before[2].get(pid, ("", spent))[1]) * cpus / all_ticks
        if share >= _BUSY_PROCESS:
            shares.append({"name": name, "cpus": share})
    shares.sort(key=lambda process: -process["cpus"])
    return {
        "cpus": cpus,
        "usable_cpus": len(os.sched_getaffinity(0)),
        "load_1_min": os.getloadavg()[0],
        "busy": (after[0] - before[0]) / all_ticks,
        "processes": shares[:_SHOWN_PROCESSES],
    }


def tools() -> Facts:
    """What else a run may want of the host's distribution."""
    imported = complaint([sys.executable, "-I", "-c", "import pyverbs.device"])
    versions = {}
    for debian, other in _PACKAGES:
        versions[other] = output(["dpkg-query", "-W", "-f", "${Version}", debian]) or output(
            ["rpm", "-q", "--qf", "%{VERSION}", other]
        )
    return {
        "pyverbs_error": imported,
        "pyverbs_package": versions["python3-pyverbs"],
        "libibverbs_package": versions["libibverbs"],
        "fio": output(["fio", "--version"]),
    }


def lock() -> Facts:
    """Whose agent measures here now: it holds this name in the network namespace, and says who it is."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(_LOCK_TIMEOUT_S)
        try:
            client.connect(_LOCK)
        except ConnectionRefusedError:
            return {"held": False}
        try:
            line = b""
            while not line.endswith(b"\n") and len(line) < 4096:
                part = client.recv(4096)
                if not part:
                    break
                line += part
            holder = json.loads(line.decode("utf-8"))
            return {"held": True, "holder": {key: str(value) for key, value in holder.items()}}
        except (OSError, ValueError, AttributeError) as error:
            return {"held": True, "error": f"its holder does not say who it is: {reason(error)}"}


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _libc() -> str:
    """Such as ``glibc 2.36``: wheels are built for one of at least some version."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (OSError, ValueError):
        return ""


def _cgroup_room() -> List[int]:
    """What this process's control groups (version 2) and those around them leave of their limits."""
    path = text("/proc/self/cgroup").rpartition("0::")[2].splitlines()
    folder, room = _CGROUP + (path[0] if path else "/"), []
    while folder.startswith(_CGROUP):
        limit = number(folder + "/memory.max")
        if limit >= 0:
            room.append(limit - number(folder + "/memory.current", 0))
        folder = os.path.dirname(folder)
    return room

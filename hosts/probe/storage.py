"""The KV store as this host finds it: a directory of a mount, or a server. Tried with one small file."""

import errno
import http.client
import mmap
import os
import re
import socket
from typing import Callable, Dict, List, Tuple
from urllib.parse import urlsplit

from hosts.probe.netlink import route
from hosts.probe.reading import Facts, reason

_NETWORK_FILE_SYSTEMS = (
    "nfs",
    "lustre",
    "ceph",
    "gpfs",
    "beegfs",
    "weka",
    "cifs",
    "smb3",
    "9p",
    "afs",
    "pvfs2",
)
_SAMPLE = bytes(range(256)) * 256
"""Is written, read back, and removed."""
_CONNECT_TIMEOUT_S = 3.0
_ANSWER_TIMEOUT_S = 5.0


def try_store(store: Facts) -> Facts:
    """Add to ``store``, ``{"mount": ...}`` or ``{"url": ...}``, what is found as it is found: of one that
    fails or hangs, what was known before is there all the same."""
    if "mount" in store:
        _try_directory(store["mount"], store)
    else:
        _try_server(store["url"], store)
    return store


def _try_directory(path: str, facts: Facts) -> None:
    """What it is on, how much fits, and whether it can be written and read past the page cache."""
    facts.update(_mount_of(path))
    facts["directory"] = os.path.isdir(path)
    if not facts["directory"]:
        return
    facts.update(_mount_of(os.path.realpath(path)))
    if facts["server"]:
        facts["route"] = _route_to(facts["server"])
    room = os.statvfs(path)
    facts.update(free_bytes=room.f_bavail * room.f_frsize, block_bytes=room.f_bsize)
    file = os.path.join(path, f".dualpath-probe-{os.getpid()}-{os.urandom(4).hex()}")
    try:
        facts["write_error"] = _tried(lambda: _write(file))
        if not facts["write_error"]:
            facts["direct_error"] = _tried(lambda: _read_direct(file))
    finally:
        if os.path.exists(file):
            facts["remove_error"] = _tried(lambda: os.unlink(file))


def _try_server(url: str, facts: Facts) -> None:
    """Which way it is reached, and whether objects can be put, read in part, and deleted."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    facts["server"] = host
    facts["route"] = _route_to(host)
    with socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT_S) as connection:
        facts["local_address"] = connection.getsockname()[0]
    target = f"{parts.path.rstrip('/')}/dualpath-probe-{os.getpid()}-{os.urandom(4).hex()}"
    try:  # a PUT without an answer may have been heard
        facts["put_status"], _ = _exchange(host, port, "PUT", target, _SAMPLE, {})
        wanted = {"Range": f"bytes=1-{len(_SAMPLE) - 1}"}
        facts["get_status"], body = _exchange(host, port, "GET", target, b"", wanted)
        facts["get_intact"] = body == _SAMPLE[1:]
    finally:
        facts["delete_status"], _ = _exchange(host, port, "DELETE", target, b"", {})


def network_mounts() -> Facts:
    """Mounts that may hold a KV store, for a first inventory."""
    found = [m for m in _mounts() if m["type"].startswith(_NETWORK_FILE_SYSTEMS) or _is_fuse(m["type"])]
    return {"mounts": [{"mount": m["at"], "file_system": m["type"], "source": m["source"]} for m in found]}


def _write(file: str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if os.write(descriptor, _SAMPLE) < len(_SAMPLE):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_direct(file: str) -> None:
    descriptor = os.open(file, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        with mmap.mmap(-1, len(_SAMPLE)) as aligned:  # at a page boundary, as O_DIRECT asks
            with memoryview(aligned) as into:
                count = os.readv(descriptor, [into])
            if aligned[:count] != _SAMPLE:
                raise OSError(f"read back {count} bytes that differ from those written")
    finally:
        os.close(descriptor)


def _exchange(
    host: str, port: int, method: str, target: str, body: bytes, fields: Dict[str, str]
) -> Tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, port, timeout=_ANSWER_TIMEOUT_S)
    try:
        connection.request(method, target, body=body, headers=fields)
        answer = connection.getresponse()
        return answer.status, answer.read(len(_SAMPLE) + 1)
    finally:
        connection.close()


def _tried(action: Callable[[], None]) -> str:
    try:
        action()
    except OSError as error:
        return reason(error)
    return ""


def _route_to(host: str) -> Facts:
    try:
        address = str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
        return dict(route(address), address=address)
    except OSError as error:
        return {"error": reason(error)}


def _mount_of(path: str) -> Facts:
    """What a path is on: of mounts on one place the last."""
    around = [mount for mount in _mounts() if _is_below(path, mount["at"])]
    innermost = max(reversed(around), key=lambda mount: len(mount["at"]))
    return {
        "mounted_at": innermost["at"],
        "file_system": innermost["type"],
        "source": innermost["source"],
        "server": _server_of(innermost["source"], innermost["options"]),
    }


def _mounts() -> List[Facts]:
    """In the order in which they were mounted (proc(5), mountinfo)."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            before, _, after = line.rstrip("\n").partition(" - ")
            kind, source, options = [*after.split(" "), "", "", ""][:3]
            at = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), before.split(" ")[4])
            found.append({"at": at, "type": kind, "source": source, "options": options})
    return found


def _is_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def _is_fuse(kind: str) -> bool:
    return kind.startswith("fuse.") and kind not in (
        "fuse.lxcfs",
        "fuse.portal",
        "fuse.gvfsd-fuse",
        "fuse.snapfuse",
    )


def _server_of(source: str, options: str) -> str:
    """The address of a network mount's server, as far as its mount tells: ``addr=`` of NFS and CIFS, or what
    comes before ``:/`` (Lustre's NIDs have their network behind ``@``); empty otherwise."""
    addressed = re.search(r"(?:^|,)addr=([^,]+)", options)
    if addressed:
        return addressed.group(1)
    named, separator, _ = source.partition(":/")
    first = re.split(r"[,@]", named)[0]
    return first.strip("[]") if separator and not first.startswith("/") else ""

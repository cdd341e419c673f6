"""Which kind of cluster this machine allows, found out by trying, best first.

``network_namespaces`` as root; ``user_namespaces`` is the same inside an unprivileged user namespace,
where the whole command is run again; ``loopback`` has plain processes, no links and no rates of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn, get_args

from harness.cluster.errors import ClusterError
from harness.cluster.shaping import shaping_commands
from harness.cluster.topology import HighClass, Nic

Mode = Literal["network_namespaces", "user_namespaces", "loopback"]
MODE_VARIABLE = "DUALPATH_MODE"

_INSIDE_VARIABLE = "DUALPATH_INSIDE_USER_NAMESPACE"
_TOOLS = ("ip", "tc", "nsenter", "setpriv", "unshare")
# With a network of its own: from the machine's, it could enter the control node but never come back.
_USER_NAMESPACE = ("--user", "--map-root-user", "--net")
_PROBE_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class ModeChoice:
    """The mode to use, and for each better one why this machine does not allow it."""

    mode: Mode
    unavailable: Mapping[Mode, str]


def probe(requested: str | None = None) -> ModeChoice:
    """The best mode that works here, or ``requested`` (default: $DUALPATH_MODE) if that one does.

    Raises ClusterError, with the reason, when the requested mode is unknown or does not work.
    """
    requested = requested or os.environ.get(MODE_VARIABLE) or None
    if requested is not None and requested not in get_args(Mode):
        raise ClusterError(f"mode: found {requested!r}, expected one of {', '.join(get_args(Mode))}")
    unavailable: dict[Mode, str] = {}
    for mode in get_args(Mode):
        if requested not in (None, mode):
            continue
        reason = _obstacle(mode)
        if reason is None:
            return ModeChoice(mode, unavailable)
        unavailable[mode] = reason
    raise ClusterError(f"mode {requested} does not work here: {unavailable[requested]}")  # type: ignore[index]


def inside_user_namespace() -> bool:
    """Whether this process is the one that ``reexec_in_user_namespace`` started."""
    return _INSIDE_VARIABLE in os.environ


def reexec_in_user_namespace(argv: Sequence[str]) -> NoReturn:
    """Replace this process by ``argv`` (say ``sys.orig_argv``) as root of a new user namespace.

    It keeps its process id, so signals reach it and its exit status is the command's. Raises ClusterError
    when unshare(1) is missing.
    """
    environment = {**os.environ, _INSIDE_VARIABLE: "1"}
    try:
        os.execvpe("unshare", ["unshare", *_USER_NAMESPACE, "--", *argv], environment)
    except FileNotFoundError as error:
        raise ClusterError("unshare: not found; fix: apt-get install util-linux") from error


def _obstacle(mode: Mode) -> str | None:
    """Why ``mode`` does not work, or None; tried with all it asks of the kernel."""
    if mode == "loopback":
        return None
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not found; fix: apt-get install iproute2 util-linux"
    if mode == "network_namespaces" and inside_user_namespace():
        return "needs root outside of a user namespace"
    if mode == "network_namespaces" and os.geteuid() != 0:
        return f"needs root, running as user {os.geteuid()}"
    isolation = _USER_NAMESPACE if mode == "user_namespaces" and not inside_user_namespace() else ("--net",)
    links = ["link add name br-x type bridge", "link add name x0 type veth peer name x1"]
    nic = Nic("x0", "compute", "", bytes_per_s=1e7)
    script = f"ip -batch - <<'EOF' && exec tc -batch - <<'END'\n{_lines(links)}EOF\n"
    script += f"{_lines(shaping_commands('x0', nic, HighClass()))}END\n"
    argv = ["unshare", *isolation, "--", "sh", "-c", script]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"a trial did not finish in {_PROBE_TIMEOUT_S:g} s"
    return None if done.returncode == 0 else " | ".join(done.stderr.split("\n")).strip(" |")


def _lines(commands: Sequence[str]) -> str:
    return "".join(f"{command}\n" for command in commands)

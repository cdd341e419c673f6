"""The emulated cluster: hosts as network namespaces, NICs as shaped links, nginx as the storage server.

Use: ``choice = probe()``; in mode ``user_namespaces``, and not ``inside_user_namespace()`` yet,
``reexec_in_user_namespace(sys.orig_argv)``; then ``with open_cluster(spec, choice.mode) as cluster``.
``cleanup()`` removes what killed runs left.
"""

from __future__ import annotations

from pathlib import Path

from harness.cluster.cluster import Cluster, ClusterHost
from harness.cluster.emulated import EmulatedCluster
from harness.cluster.errors import ClusterError
from harness.cluster.ledger import RunClaim, RunRecord, cleanup
from harness.cluster.loopback import LoopbackCluster
from harness.cluster.modes import Mode, ModeChoice, inside_user_namespace, probe, reexec_in_user_namespace
from harness.cluster.shaping import shaped_classes
from harness.cluster.soft_roce import GID_INDEX as RDMA_GID_INDEX
from harness.cluster.topology import ClusterSpec, HighClass, Nic
from hosts.config import CacheMode

__all__ = [
    "RDMA_GID_INDEX",
    "Cluster",
    "ClusterError",
    "ClusterHost",
    "ClusterSpec",
    "HighClass",
    "Mode",
    "ModeChoice",
    "Nic",
    "RunClaim",
    "RunRecord",
    "cleanup",
    "inside_user_namespace",
    "open_cluster",
    "probe",
    "reexec_in_user_namespace",
    "shaped_classes",
]


def open_cluster(
    spec: ClusterSpec,
    mode: Mode,
    *,
    cache: CacheMode = "page",
    scratch_parent: Path | None = None,
    state_dir: Path | None = None,
) -> Cluster:
    """The cluster, to be entered, for a mode that ``probe`` found to work; options as for ``Cluster``.

    In mode ``user_namespaces`` the command must already have been started again inside one.
    """
    if mode == "loopback":
        return LoopbackCluster(spec, cache=cache, scratch_parent=scratch_parent, state_dir=state_dir)
    if mode == "user_namespaces" and not inside_user_namespace():
        raise ClusterError("mode user_namespaces: not inside one yet; fix: reexec_in_user_namespace first")
    return EmulatedCluster(spec, cache=cache, scratch_parent=scratch_parent, state_dir=state_dir)

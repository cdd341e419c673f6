"""The circumstances a run's numbers hold in, as stored beside them in metadata.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import msgspec

from harness.control import AgentHandle
from harness.preparation import Preparation
from harness.scale_model import figures_in_force
from harness.sites.base import Site
from hosts.config import CacheMode, TransportKind

_WAYS_BY_NIC: dict[TransportKind, str] = {
    "verbs": "through the compute NIC, by RDMA to the host itself",
    "nixl": "by NIXL to the host itself: through the compute NIC, if UCX chose that",
    "tcp": "by TCP to the host itself, through no NIC",
}
_CACHES: dict[CacheMode, str] = {"page": "page cache", "direct": "bypassed (O_DIRECT)"}


def now() -> str:
    """UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def circumstances(preparation: Preparation, ground: Mapping[str, Any]) -> dict[str, Any]:
    """metadata.json as it is before anything is started (docs/run-directory.md); ``ground`` as in
    `Ground.describe`."""
    experiment, scale = preparation.experiment, preparation.scale
    workload, replay, online = experiment.workload, experiment.replay, experiment.online
    return {
        "format_version": 2,
        "run_id": "",
        "status": "running",
        "failure": None,
        "started_at": now(),
        "dualpath_version": metadata.version("dualpath-testbed"),
        "experiment": msgspec.to_builtins(experiment),
        "baseline": experiment.measurement.baseline,
        "contender": experiment.measurement.contender,
        "variants": {
            name: msgspec.to_builtins(experiment.variant(name)) for name in experiment.measurement.policies
        },
        "trace": {
            "sha256": preparation.trace.sha256,
            "format": preparation.trace.format,
            "sessions": len(preparation.sessions),
            "turns": preparation.turns,
            "hit_rate": preparation.hit_rate,
            "source": workload.trace or f"{workload.synthesize}, seed {workload.seed}",
            "filters": [
                f"{replay.agents} agents from {len(preparation.trace.sessions)} sessions",
                f"{replay.turns_per_agent or 'all'} turns each from the {replay.start}",
                f"gaps x {replay.gap_scale:g}, at most {replay.gap_cap_s:g} s",
                f"append x {workload.append_scale:g}, generated x {workload.generated_scale:g}",
                *_changes(preparation.trace.provenance),
            ],
        },
        "scale": scale.summary(),
        "model": {
            "name": preparation.model.name,
            "layers": scale.geometry.layers,
            "block_tokens": scale.geometry.block_tokens,
            "layer_block_bytes": scale.geometry.layer_block_bytes,
            "kv_bytes_per_token": preparation.model.layers * preparation.model.layer_kv_bytes_per_token,
        },
        "profile": figures_in_force(preparation.profile),
        "hosts": [],
        "emulation": {
            **ground,
            "storage_cache": _CACHES[experiment.storage.cache],
            "transport": experiment.transport.kind,
            "labels": [*_compute_labels(preparation), *ground["labels"]],
        },
        "ceilings": {},
        "attempts": [],
        "repetitions": [],
        "slo": {"ttft_s": online.slo_ttft_s, "tpot_s": online.slo_tpot_s} if online else None,
        "online": {} if online else None,
        "warnings": list(preparation.warnings),
    }


def _compute_labels(preparation: Preparation) -> Iterator[str]:
    compute, scale = preparation.experiment.compute, preparation.scale
    if compute.kind == "torch":
        yield "GPU compute is kernels of the model's shapes by torch, with random weights, no collectives"
        if compute.copy == "nic":
            way = _WAYS_BY_NIC[preparation.experiment.transport.kind]
        else:
            way = "by the GPU's own copy engines, not through the NIC"
        yield f"KV goes between host memory and HBM {way}"
        if compute.device == "cpu":
            yield "what is computed, the CPU computes: times are no GPU's"
        return
    of_role = {
        role: preparation.profile.kernels_of(preparation.model, engines)
        for role, engines in scale.expert_engines.items()
    }
    measured = {
        role: f"{kernels.device} ({kernels.software}) on {kernels.measured_at}"
        for role, kernels in of_role.items()
        if kernels is not None
    }
    if not measured:
        yield "GPU compute is timed by a FLOP model, not executed"
    elif len(set(measured.values())) == 1:
        yield f"GPU compute is timed by what its kernels took on {measured['prefill']}, not executed"
    else:
        for role, on in measured.items():
            yield f"GPU compute of {role} hosts is timed by what its kernels took on {on}, not executed"
    yield "copies between host memory and HBM are timed at the compute NIC's rate, and use none of it"


def _changes(provenance: Mapping[str, str]) -> list[str]:
    """What was done to the trace before, with the hit rate before and after."""
    changes = [line for key, line in provenance.items() if key.startswith("change ")]
    if "scaling" in provenance:
        before, after = (provenance[f"hit_rate_{when}_scaling"] for when in ("before", "after"))
        changes.append(f"{provenance['scaling']}: hit rate {before} -> {after}")
    return changes


def host_entries(
    preparation: Preparation, site: Site, agents: Mapping[str, AgentHandle]
) -> list[dict[str, Any]]:
    """The hosts as they came up, for metadata.json."""
    return [
        {
            "name": host.name,
            "role": host.role,
            "engines": 0 if host.role == "storage" else preparation.scale.engines_per_host,
            "storage_nic": next((nic.name for nic in host.nics if nic.network == "storage"), None),
            "compute_nics": [nic.name for nic in host.nics if nic.network == "compute"],
            "storage_nic_nominal_gbit_per_s": next(
                (n.bytes_per_s * 8 / 1e9 for n in host.nics if n.network == "storage" and n.bytes_per_s), None
            ),
            "facts": agents[host.name].facts,
        }
        for host in site.hosts
    ]

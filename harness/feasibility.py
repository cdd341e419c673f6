"""Can this workload run on this cluster at all, and does anything but its storage NICs bound it?"""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness import bottleneck
from harness.experiment import Experiment, ExperimentError, HardwareProfile
from harness.scale_model import ScaleModel
from hosts.prefill_group import RESIDENT_LAYERS
from hosts.protocol import Role
from workloads.layout import SessionPlan
from workloads.models import Model, kv_bytes_per_token


def bottlenecks(experiment: Experiment, profile: HardwareProfile) -> list[str]:
    """What, besides storage NICs, would bound this cluster (paper 4.2)."""
    host = bottleneck.HostBandwidth(
        engines=int(profile.engines_per_host.value),
        storage_nic_bytes_per_s=profile.storage_nic.value * 1e9 / 8,
        compute_nic_bytes_per_s=profile.compute_nic.value * 1e9 / 8,
        memory_bytes_per_s=profile.host_memory_bandwidth.value * 1e9,
    )
    return bottleneck.warnings(host, experiment.cluster.prefill_hosts, experiment.cluster.decode_hosts)


def check_unscaled(experiment: Experiment) -> None:
    """Kernels take their own time and have the model's layers: neither can be scaled. What an experiment file
    has may be (see `harness.inventory.choosing`): on real links it does not apply."""
    found = experiment.scale
    if experiment.compute.kind == "timed":
        return
    for key, factor in (("time_dilation", found.time_dilation), ("layers_divisor", found.layers_divisor)):
        if factor != 1:
            raise ExperimentError(
                f"scale.{key}: found {factor:g} beside compute.kind = 'torch', expected 1: kernels take the "
                "time that they take, a layer at a time"
            )
    if found.bytes_divisor < 1:
        raise ExperimentError(
            f"scale.bytes_divisor: found {found.bytes_divisor:g} beside compute.kind = 'torch', expected at "
            "least 1: no more is moved than a Layer Block has"
        )


def check_buffers(scaled: ScaleModel, plans: Sequence[SessionPlan]) -> None:
    """Every prompt has to fit a host's buffer, or its turn would wait for ever."""
    largest = max(-(-turn.input_tokens // scaled.geometry.block_tokens) for p in plans for turn in p.turns)
    needed = largest * scaled.geometry.full_block_bytes
    for role, buffer_bytes in scaled.buffer_bytes.items():
        if needed > buffer_bytes:
            gigabytes = scaled.bytes_divisor / 1e9
            enough = math.ceil(needed * gigabytes * 100) / 100
            raise ExperimentError(
                f"profile figure {role}_buffer: found {buffer_bytes * gigabytes:.3g} GB a host, but the "
                f"largest prompt has {largest} blocks; expected at least {enough:g} GB: set "
                f"cluster.replace.{role}_buffer"
            )


def check_weights(profile: HardwareProfile, scaled: ScaleModel, model: Model) -> None:
    """An engine has to have room for its weights, and some for KV."""
    memory, share = profile.gpu_memory.value, profile.gpu_memory_share.value
    for engine in scaled.engines.values():
        if engine.kv_hbm_bytes <= 0:
            weights_gb = engine.weight_bytes / 1e9
            more_hosts = "use more hosts or " if model.expert_parallel else ""
            raise ExperimentError(
                f"profile figure gpu_memory: found {memory:g} GB x {share:g}, but an engine holds "
                f"{weights_gb:.1f} GB of {model.name}'s weights; expected more than "
                f"{math.ceil(weights_gb / share)} GB: {more_hosts}set cluster.replace.gpu_memory"
            )


def check_hbm(experiment: Experiment, scaled: ScaleModel, model: Model, plans: Sequence[SessionPlan]) -> None:
    """Every request has to fit an engine's HBM, or it would wait for ever."""
    token_bytes = kv_bytes_per_token(model)
    variants = map(experiment.variant, experiment.measurement.policies)
    layerwise = all(variant.layerwise for variant in variants)
    resident_share = RESIDENT_LAYERS / model.layers if layerwise else 1.0
    prompt, whole = 0, 0
    for turn in (turn for plan in plans for turn in plan.turns):
        prompt = max(prompt, turn.hit_tokens + turn.new_tokens)
        whole = max(whole, turn.hit_tokens + turn.new_tokens + turn.output_tokens)
    needs: tuple[tuple[Role, float], ...] = (
        ("prefill", prompt * token_bytes * resident_share),
        ("decode", whole * token_bytes),
    )
    for role, needed_bytes in needs:
        left_bytes = scaled.engines[role].kv_hbm_bytes
        if needed_bytes > left_bytes:
            raise ExperimentError(
                f"profile figure gpu_memory: found {left_bytes / 1e9:.1f} GB left for KV on a {role} engine, "
                f"but the largest request needs {needed_bytes / 1e9:.1f} GB there; expected more: set "
                "cluster.replace.gpu_memory, or replay shorter contexts"
            )

"""Model communication of one layer of a forward pass, from the model's geometry, the hardware and the scale.

For a layer with N hosts of g engines, b tokens an engine, hidden size h and k of the experts active, a host
sends each of its N - 1 peers:

    reduce_scatter, all_gather   g b h 2 / N                 BF16 activations, an N-th of the tokens each
    dispatch (EP all-to-all)     g b h 1 (1 - (1 - 1/N)^k)   FP8 activations
    combine (EP all-to-all)      g b h 2 (1 - (1 - 1/N)^k)   BF16 results

bytes. A token goes once to a host that has any of its experts, and the experts' choice is taken as uniform:
the host-to-host part of the two-level all-to-all that engines use for prefill. A reduce-scatter and an
all-gather (TP or CP between hosts) frame attention, dispatch and combine the experts; in a model without
experts, another reduce-scatter and all-gather frame the MLP.

Between two of these four bursts the layer computes for c / 4, where c is a layer's share of the time that
`Prediction.forward_s` predicts for b tokens on ``context_tokens`` cached ones. So the period of a burst is
(N - 1) bytes / link rate + c / 4, all divided and dilated by the scale model.
"""

from __future__ import annotations

from harness.scale_model import ScaleModel
from hosts.bench.phases import Burst, BurstCycle
from hosts.compute import Piece, prediction_of
from workloads.models import Model

_FP8_BYTES, _BF16_BYTES = 1, 2
_BURSTS_PER_LAYER = 4


def wire_s(bytes_to_peer: int, hosts: int, nic_bytes_per_s: float) -> float:
    """Seconds that what a host sends in a burst takes at the rate of its link."""
    return (hosts - 1) * bytes_to_peer / nic_bytes_per_s


def layer_bursts(
    model: Model, scale: ScaleModel, hosts: int, batch_tokens: int, context_tokens: int
) -> BurstCycle:
    """A layer's bursts, emulated; ``hosts`` at least 2."""
    activations = scale.engines_per_host * batch_tokens * model.hidden
    shards = activations * _BF16_BYTES / hosts
    real_bytes = {"reduce_scatter": shards, "all_gather": shards}
    if model.experts is not None:
        reached = 1 - (1 - 1 / hosts) ** model.experts.active
        real_bytes["dispatch"] = activations * reached * _FP8_BYTES
        real_bytes["combine"] = activations * reached * _BF16_BYTES
    engine = scale.engines["prefill"]
    forward_s = prediction_of(engine).forward_s([[Piece(context_tokens, batch_tokens)]])
    gap_s = forward_s / model.layers / _BURSTS_PER_LAYER * scale.time_dilation
    sizes = {name: max(1, round(nbytes / scale.bytes_divisor)) for name, nbytes in real_bytes.items()}
    nic = scale.compute_nic_bytes_per_s
    return BurstCycle(
        tuple(
            Burst(collective, nbytes, wire_s(nbytes, hosts, nic) + gap_s)
            for collective, nbytes in sizes.items()
        )
    )

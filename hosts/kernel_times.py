"""How long an engine's kernels take, as measured: what a calibration fits and a prediction is made from.

Every part of a pass has a time on the device and one of asking for it, which a thread of the host does while
the device is still at earlier parts. A pass or step of engines that run in step takes

    max(device_s, asking_s)
    device_s = longest of the engines' attention + MLPs + head
    asking_s = sum over all engines of the host of (attention + MLPs + head)

since a host's engines ask from one process, whose interpreter does one thing at a time. A layer of attention
is linear in its work, counted by `hosts.kernel_work`: on the device, with coefficients of its own for prefill
and for decoding,

    prefill: layer + tokens (convex: steeper beyond 128, 256, 512) + requests + entries + index scores
             + scores + masked scores
    decode:  layer + requests + index scores + scores

and to ask for it, layer + requests + parts of rows after each one's first. MLPs and head depend on the number
of tokens alone, and are interpolated between what was measured; to ask for one takes the same for any number.
Where asking is computing, on a CPU, it takes no time of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from hosts.kernel_work import AskingWork, DecodeWork, PrefillWork, asking_work, decode_work, prefill_work
from workloads.models import Attention

Batch = Sequence[tuple[int, int]]
"""(cached, new) tokens of each request that one engine computes."""
Work = PrefillWork | DecodeWork | AskingWork


def seconds(each: Work, counted: Work) -> float:
    """The time of work that was counted, by what one of each takes."""
    pairs = zip(msgspec.structs.astuple(each), msgspec.structs.astuple(counted), strict=True)
    return float(sum(one * count for one, count in pairs))


class AttentionTimes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds of one kind of attention, for each of the ``layers`` that have it."""

    layers: int
    prefill: PrefillWork
    decode: DecodeWork
    asking: AskingWork


class TokenTimes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds that a part of ``layers`` layers (the head: of one) takes on the device for so many tokens,
    ascending, and to ask for."""

    layers: int
    asking_s: float
    tokens: tuple[int, ...]
    seconds: tuple[float, ...]

    def of(self, tokens: float) -> float:
        """One layer's time: linear between two measured counts, beyond the last one in proportion to it."""
        if tokens <= 0:
            return 0.0
        if tokens > self.tokens[-1]:
            return self.seconds[-1] * tokens / self.tokens[-1]
        return float(np.interp(tokens, self.tokens, self.seconds))


class KernelTimes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of a model's layers on one engine; ``attention`` and ``kinds`` are in the model's order."""

    attention: tuple[AttentionTimes, ...]
    mlps: tuple[TokenTimes, ...]
    head: TokenTimes

    def prefill_s(self, kinds: Sequence[Attention], batch: Batch) -> float:
        """All layers' attention on the device; of an empty batch what it takes whatever is in one."""
        pairs = zip(self.attention, kinds, strict=True)
        return sum(t.layers * seconds(t.prefill, prefill_work(kind, batch)) for t, kind in pairs)

    def decode_s(self, kinds: Sequence[Attention], contexts: Sequence[int]) -> float:
        """As `prefill_s`, of a step over contexts."""
        pairs = zip(self.attention, kinds, strict=True)
        return sum(t.layers * seconds(t.decode, decode_work(kind, contexts)) for t, kind in pairs)

    def shared_s(self, tokens: float, requests: float) -> float:
        """MLPs for an engine's share of all tokens, and the head for its share of the requests."""
        return sum(mlp.layers * mlp.of(tokens) for mlp in self.mlps) + self.head.of(requests)

    def asking_s(self, kinds: Sequence[Attention], batches: Sequence[Batch]) -> float:
        """All layers of all engines, those with an empty batch asking for their share of the rest alone."""
        pairs = zip(self.attention, kinds, strict=True)
        attention_s = sum(
            t.layers * seconds(t.asking, asking_work(kind, batch))
            for t, kind in pairs
            for batch in batches
            if batch
        )
        shared_s = sum(part.layers * part.asking_s for part in (*self.mlps, self.head))
        return attention_s + len(batches) * shared_s

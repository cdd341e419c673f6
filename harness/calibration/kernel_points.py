"""Where a model's kernels are measured: points to fit, points to compare with, a reference."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hosts.bench.kernels import AttentionPoint, Kernels, TokenPart, TokenPoint
from hosts.config import DeviceKind
from workloads.models import Attention, GroupedQueryAttention, LatentAttention, Model

REFERENCE_CONTEXT, REFERENCE_NEW = 32_768, 429
"""A prompt as the paper's (its mean append over a 32K context), whose rate is reported."""
_HELD_OUT = 12
_LEAST_CONTEXT, _CONTEXTS_GROW = 64, 4
_LEAST_NEW, _NEW_GROWS = 16, 2
_DECODE_REQUESTS = (1, 4, 16, 64)
_MOST_DECODE_TOKENS = 1 << 20


@dataclass(frozen=True, slots=True)
class ComputePlan:
    """What is measured where: contexts to ``longest_context`` and passes to ``most_tokens``, each point for
    ``seconds``. Experts are those of one engine of ``expert_engines``, for each of these numbers: ascending,
    (1,) for a model without experts."""

    model: Model
    device: DeviceKind
    gpu: str
    expert_engines: tuple[int, ...]
    longest_context: int
    most_tokens: int
    seconds: float
    rounds: int
    command: str


@dataclass(frozen=True, slots=True)
class Points:
    """Points by what they are for; attention points of all kinds together."""

    prefill: Sequence[AttentionPoint]
    decode: Sequence[AttentionPoint]
    held_out: Sequence[AttentionPoint]
    reference: Sequence[AttentionPoint]
    tokens: Sequence[TokenPoint]

    @classmethod
    def of(cls, plan: ComputePlan) -> Points:
        """Those of a plan."""
        kinds = [(number, _contexts(kind, plan)) for number, (_, kind) in enumerate(plan.model.attention)]
        new = list(_growing(_LEAST_NEW, _NEW_GROWS, plan.most_tokens))
        several = [(_LEAST_CONTEXT, new[1], 16), (1024, new[2], 4), (1024, new[0], 16)]
        return cls(
            prefill=[
                AttentionPoint(kind, *rest)
                for kind, contexts in kinds
                for rest in (*((c, n, 1) for c in (0, *contexts) for n in new), *several)
            ],
            decode=[
                AttentionPoint(kind, context, 1, requests)
                for kind, contexts in kinds
                for context in contexts
                for requests in _DECODE_REQUESTS
                if context * requests <= _MOST_DECODE_TOKENS
            ],
            held_out=list(_held_out(plan)),
            reference=[
                AttentionPoint(kind, min(REFERENCE_CONTEXT, plan.longest_context), REFERENCE_NEW)
                for kind, _ in kinds
            ],
            tokens=[
                TokenPoint(part, tokens, engines)
                for part, engines in _token_parts(plan)
                for tokens in sorted({*_growing(1, 2, plan.most_tokens), REFERENCE_NEW})
            ],
        )

    def kernels(self, plan: ComputePlan) -> Kernels:
        """What is to be measured: attention in the order of the fields, and what is held out once more."""
        attention = (*self.prefill, *self.decode, *self.held_out, *self.reference, *self.held_out)
        return Kernels(
            plan.model.name,
            plan.device,
            plan.gpu,
            attention,
            tuple(self.tokens),
            plan.seconds,
            plan.rounds,
        )


def _growing(first: int, factor: int, last: int) -> Iterator[int]:
    """Geometric from ``first``, and ``last`` itself."""
    while first < last:
        yield first
        first *= factor
    yield last


def _contexts(kind: Attention, plan: ComputePlan) -> list[int]:
    """Ascending; among them one at which attention picks as many keys as it ever does, and one below it."""
    contexts = {*_growing(_LEAST_CONTEXT, _CONTEXTS_GROW, plan.longest_context)}
    most = _most_keys(kind)
    if most is not None:
        contexts |= {most // _CONTEXTS_GROW, most}
    return sorted(context for context in contexts if context <= plan.longest_context)


def _most_keys(kind: Attention) -> int | None:
    """That attention has of a context however long, if it does not have all."""
    match kind:
        case GroupedQueryAttention():
            return kind.window
        case LatentAttention():
            return None if kind.indexer is None else kind.indexer.top_k


def _held_out(plan: ComputePlan) -> Iterator[AttentionPoint]:
    """Prefill and decoding in equal parts, inside the grid: few tokens are as likely as many are."""
    chance = random.Random(plan.model.name)

    def between(least: int, most: int) -> int:
        return round(math.exp(chance.uniform(math.log(least), math.log(most))))

    for kind in range(len(plan.model.attention)):
        for _ in range(_HELD_OUT):
            context = between(_LEAST_CONTEXT, plan.longest_context)
            yield AttentionPoint(kind, context, between(_LEAST_NEW, plan.most_tokens))
            yield AttentionPoint(
                kind, context, 1, between(1, min(_DECODE_REQUESTS[-1], _MOST_DECODE_TOKENS // context))
            )


def _token_parts(plan: ComputePlan) -> Iterator[tuple[TokenPart, int]]:
    """With the engines that share it."""
    if plan.model.dense_layers:
        yield "dense", 1
    if plan.model.experts is not None:
        yield from (("experts", engines) for engines in plan.expert_engines)
    yield "head", 1

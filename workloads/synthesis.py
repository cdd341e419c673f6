"""Seeded traces with the statistics of the paper's three coding-agent traces (paper section 7).

The paper gives means over sessions of each session's own mean. They determine the shape:

- A session's (append + generated) per turn is total / turns, so the mean of 1 / turns is
  (append + generated) / total. It is far above 1 / mean turns: sessions differ widely. Lognormal turns
  with sigma^2 = ln(arithmetic mean / harmonic mean) have both means.
- Totals reach up to the maximum agent length (MAL): total = MAL * U^(1/k), mean MAL * k / (k + 1).
- The prompt grows linearly from the first one, F, to total - generated: its mean is the recorded mean
  context if F = (2 * context / total - 1) * total + generated.

Every session-level quantity is drawn by stratified sampling, one draw in each of N equal quantile
ranges, shuffled: the means of a few hundred sessions hit the table at any seed. Inside a session,
appended and generated tokens are split over the turns with lognormal weights, so single turns vary as
recorded ones do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from workloads.formats import canonical
from workloads.scaling import scaled_tokens
from workloads.trace import Session, Trace, TraceError, Turn

BLOCK_TOKENS = 64

_TURN_WEIGHT_SIGMA = 1.0
"""Spread of single turns around their session's mean: the largest of 100 is about ten times it."""
_GENERATED_SHARE_SPREAD = 0.3
"""Sessions' shares of generated tokens are uniform within this fraction of the mean."""
_MIN_TOKENS_PER_TURN = 8
"""Caps a short session's turns, so that the least of its turns still has a token of each kind."""

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceStatistics:
    """A row of the paper's trace table: MAL, then means over sessions of each session's own mean."""

    max_agent_tokens: int
    turns: float
    append_tokens: float
    generated_tokens: float
    total_tokens: float
    context_tokens: float


PAPER_TRACES = {
    "paper-32k": TraceStatistics(
        max_agent_tokens=32 * 1024,
        turns=60,
        append_tokens=608,
        generated_tokens=148,
        total_tokens=28639,
        context_tokens=17183,
    ),
    "paper-48k": TraceStatistics(
        max_agent_tokens=48 * 1024,
        turns=106,
        append_tokens=474,
        generated_tokens=172,
        total_tokens=42607,
        context_tokens=25120,
    ),
    "paper-64k": TraceStatistics(
        max_agent_tokens=64 * 1024,
        turns=157,
        append_tokens=429,
        generated_tokens=176,
        total_tokens=55958,
        context_tokens=32721,
    ),
}


def synthesize(
    like: str, sessions: int, seed: int, append_scale: float = 1.0, generated_scale: float = 1.0
) -> Trace:
    """A trace of ``sessions`` append-only sessions like one of ``PAPER_TRACES``; same arguments, same trace.

    ``append_scale`` multiplies every turn's appended tokens but the first prompt, ``generated_scale``
    every output (each at least 1 token); a session then ends where it would pass the MAL, as in the
    paper's section 7. Each turn's prompt is the whole session before it, so generated blocks hit too.
    """
    statistics = _check(like, sessions, seed, append_scale, generated_scale)
    rng = np.random.default_rng(seed)
    totals, turn_counts, generated_shares = _session_shapes(statistics, sessions, rng)
    made: list[Session] = []
    first_block_id = 0
    for index in range(sessions):
        appended, generated = _session_tokens(
            statistics, int(totals[index]), int(turn_counts[index]), float(generated_shares[index]), rng
        )
        appended[1:] = _scaled(appended[1:], append_scale)
        generated = _scaled(generated, generated_scale)
        appended, generated = _truncated(appended, generated, statistics.max_agent_tokens)
        made.append(_session(f"{like}-seed{seed}-{index:04d}", appended, generated, first_block_id))
        first_block_id += int(appended.sum() + generated.sum()) // BLOCK_TOKENS
    return _trace(
        tuple(made),
        {
            "synthesized_like": like,
            "seed": str(seed),
            "append_scale": repr(append_scale),
            "generated_scale": repr(generated_scale),
        },
    )


def _check(
    like: str, sessions: int, seed: int, append_scale: float, generated_scale: float
) -> TraceStatistics:
    scales = (append_scale, generated_scale)
    for what, found, valid, expected in (
        ("like", repr(like), like in PAPER_TRACES, "one of " + ", ".join(PAPER_TRACES)),
        ("sessions", str(sessions), sessions >= 1, "at least 1"),
        ("seed", str(seed), seed >= 0, "0 or more"),
        ("scales", str(scales), all(0 < s < math.inf for s in scales), "positive, finite numbers"),
    ):
        if not valid:
            raise TraceError.at(
                f"synthesis: {what}", found=found, expected=expected, fix="correct the argument"
            )
    return PAPER_TRACES[like]


def _stratified(count: int, rng: np.random.Generator) -> _Floats:
    """``count`` numbers in (0, 1), one in each of ``count`` equal ranges, in random order.

    They stay in their ranges' middle halves: a single session at an extreme quantile (two turns, each
    half the total) would move the mean of 500 by a tenth.
    """
    return rng.permutation((np.arange(count) + rng.uniform(0.25, 0.75, count)) / count)


def _session_shapes(
    statistics: TraceStatistics, sessions: int, rng: np.random.Generator
) -> tuple[_Ints, _Ints, _Floats]:
    """Total tokens, turns and generated share of every session; shape [sessions] each."""
    fill = statistics.total_tokens / statistics.max_agent_tokens
    exponent = (1 - fill) / fill
    totals = np.rint(statistics.max_agent_tokens * _stratified(sessions, rng) ** exponent).astype(np.int64)

    new_tokens = statistics.append_tokens + statistics.generated_tokens
    harmonic_mean = statistics.total_tokens / new_tokens
    variance = math.log(statistics.turns / harmonic_mean)
    log_turns = NormalDist(math.log(statistics.turns) - variance / 2, math.sqrt(variance))
    turns = np.exp([log_turns.inv_cdf(quantile) for quantile in _stratified(sessions, rng)])
    turn_counts = np.clip(np.rint(turns), 2, np.maximum(2, totals // _MIN_TOKENS_PER_TURN)).astype(np.int64)

    spread = 1 + _GENERATED_SHARE_SPREAD * (2 * _stratified(sessions, rng) - 1)
    return totals, turn_counts, statistics.generated_tokens / new_tokens * spread


def _session_tokens(
    statistics: TraceStatistics, total: int, turns: int, generated_share: float, rng: np.random.Generator
) -> tuple[_Ints, _Ints]:
    """Appended tokens (the first prompt included) and generated tokens of every turn; shape [turns] each."""
    generated_sum = max(turns, round(generated_share * total))
    first_share = 2 * statistics.context_tokens / statistics.total_tokens - 1
    first_prompt = round(first_share * total + generated_sum / turns)
    first_prompt = min(max(1, first_prompt), total - generated_sum - (turns - 1))
    appended = _split(total - generated_sum - first_prompt, turns - 1, rng)
    return np.concatenate(([first_prompt], appended)), _split(generated_sum, turns, rng)


def _split(total: int, parts: int, rng: np.random.Generator) -> _Ints:
    """``parts`` positive integers of sum ``total``, in lognormal proportions; shape [parts]."""
    weights = np.cumsum(rng.lognormal(0.0, _TURN_WEIGHT_SIGMA, parts))
    bounds = np.rint(weights / weights[-1] * (total - parts)).astype(np.int64)
    parts_above_one: _Ints = np.diff(bounds, prepend=0)
    return parts_above_one + 1


def _scaled(tokens: _Ints, scale: float) -> _Ints:
    return np.array([scaled_tokens(turn, scale) for turn in tokens.tolist()], dtype=np.int64)


def _truncated(appended: _Ints, generated: _Ints, max_agent_tokens: int) -> tuple[_Ints, _Ints]:
    """The turns that fit under the MAL; at least two, cut to fit, so that a session has a hit."""
    generated[0] = min(generated[0], max_agent_tokens - appended[0] - 2)
    room = max_agent_tokens - int(appended[0] + generated[0])
    appended[1] = min(appended[1], room - 1)
    generated[1] = min(generated[1], room - appended[1])
    fitting = int(np.searchsorted(np.cumsum(appended + generated), max_agent_tokens, side="right"))
    return appended[:fitting], generated[:fitting]


def _session(session_id: str, appended: _Ints, generated: _Ints, first_block_id: int) -> Session:
    """Every turn's ids are views of one array: a prompt is a prefix of the session's blocks."""
    contexts = np.cumsum(appended + generated)
    ids = np.arange(first_block_id, first_block_id + int(contexts[-1]) // BLOCK_TOKENS, dtype=np.int64)
    ids.setflags(write=False)
    turns = []
    for context, output_tokens in zip(contexts.tolist(), generated.tolist(), strict=True):
        input_tokens = context - output_tokens
        prompt_blocks = input_tokens // BLOCK_TOKENS
        turns.append(
            Turn(
                input_tokens,
                output_tokens,
                ids[:prompt_blocks],
                ids[prompt_blocks : context // BLOCK_TOKENS],
            )
        )
    return Session(session_id, tuple(turns))


def _trace(sessions: tuple[Session, ...], provenance: dict[str, str]) -> Trace:
    unidentified = Trace(canonical.NAME, "", BLOCK_TOKENS, sessions, provenance)
    return Trace(canonical.NAME, canonical.content_sha256(unidentified), BLOCK_TOKENS, sessions, provenance)

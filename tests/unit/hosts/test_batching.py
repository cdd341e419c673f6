"""Packing of one engine's forward batch, against a search that tries every number of tokens."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from hosts.batching import pack

BLOCK_TOKENS = 4


@dataclass(frozen=True)
class Waiting:
    cached_tokens: int
    remaining_tokens: int


Batch = list[tuple[Waiting, int]]


@dataclass(frozen=True)
class Engine:
    """Attention in whole units: so much a token, and so much a key that it sees."""

    token: int
    key: int
    quota: int
    hbm_tokens: float

    def attention(self, cached: int, new: int) -> int:
        return self.token * new + self.key * (cached * new + new * (new + 1) // 2)

    def pack(self, waiting: list[Waiting]) -> Batch:
        return pack(
            waiting,
            quota_s=self.quota,
            attention_s=self.attention,
            hbm_tokens=self.hbm_tokens,
            block_tokens=BLOCK_TOKENS,
        )

    def holds(self, batch: Batch) -> bool:
        attention = sum(self.attention(prompt.cached_tokens, new) for prompt, new in batch)
        tokens = sum(prompt.cached_tokens + new for prompt, new in batch)
        return attention <= self.quota and tokens <= self.hbm_tokens


waiting_prompts = st.lists(
    st.builds(Waiting, st.integers(0, 10).map(lambda blocks: blocks * BLOCK_TOKENS), st.integers(1, 40)),
    max_size=8,
)
engines = st.builds(
    Engine,
    token=st.integers(1, 20),
    key=st.integers(0, 3),
    quota=st.integers(0, 3000),
    hbm_tokens=st.one_of(st.just(float("inf")), st.integers(0, 300)),
)


def naive(engine: Engine, waiting: list[Waiting]) -> Batch:
    """Every possible cut of every prompt in its turn: whole, or at the end of a block."""
    batch: Batch = []
    for prompt in waiting:
        cuts = [prompt.remaining_tokens, *range(prompt.remaining_tokens - 1, 0, -1)]
        allowed = (n for n in cuts if n == prompt.remaining_tokens or n % BLOCK_TOKENS == 0)
        fitting = next((n for n in allowed if engine.holds([*batch, (prompt, n)])), 0)
        if not batch:
            fitting = fitting or min(BLOCK_TOKENS, prompt.remaining_tokens)
        if fitting:
            batch.append((prompt, fitting))
        if fitting < prompt.remaining_tokens:
            break
    return batch


@given(engines, waiting_prompts)
def test_the_batch_is_the_one_that_trying_everything_finds(engine: Engine, waiting: list[Waiting]) -> None:
    assert engine.pack(waiting) == naive(engine, waiting)


@given(engines, waiting_prompts)
def test_a_batch_is_a_prefix_of_the_queue_of_which_only_the_last_is_cut(
    engine: Engine, waiting: list[Waiting]
) -> None:
    batch = engine.pack(waiting)
    assert all(a is b for (a, _), b in zip(batch, waiting, strict=False))
    *whole, (last, tokens) = batch or [(Waiting(0, 0), 0)]
    assert all(new == prompt.remaining_tokens for prompt, new in whole)
    assert tokens == last.remaining_tokens or tokens % BLOCK_TOKENS == 0


@given(engines, waiting_prompts)
def test_quota_and_hbm_hold_but_for_a_first_block_that_alone_exceeds_them(
    engine: Engine, waiting: list[Waiting]
) -> None:
    batch = engine.pack(waiting)
    forced = len(batch) == 1 and batch[0][1] == min(BLOCK_TOKENS, batch[0][0].remaining_tokens)
    assert engine.holds(batch) or not batch or forced


@given(engines, waiting_prompts)
def test_every_queue_is_worked_off_in_its_order(engine: Engine, waiting: list[Waiting]) -> None:
    left, finished = list(enumerate(waiting)), []
    passes = 0
    while left:
        batch = engine.pack([prompt for _, prompt in left])
        assert sum(new for _, new in batch) > 0
        advanced = [
            (rank, Waiting(prompt.cached_tokens + new, prompt.remaining_tokens - new))
            for (rank, _), (prompt, new) in zip(left, batch, strict=False)
        ]
        finished += [rank for rank, prompt in advanced if not prompt.remaining_tokens]
        left = [(r, p) for r, p in advanced if p.remaining_tokens] + left[len(batch) :]
        passes += 1
    assert finished == list(range(len(waiting)))
    blocks = sum(-(-prompt.remaining_tokens // BLOCK_TOKENS) for prompt in waiting)
    assert passes <= blocks


@given(
    cached=st.integers(0, 1000).map(lambda blocks: blocks * BLOCK_TOKENS),
    remaining=st.integers(1, 100_000),
    quota=st.integers(0, 10**9),
    token=st.integers(1, 20),
    key=st.integers(0, 3),
)
def test_one_more_block_would_not_have_fitted(
    cached: int, remaining: int, quota: int, token: int, key: int
) -> None:
    engine = Engine(token, key, quota, float("inf"))
    [(_, tokens)] = engine.pack([Waiting(cached, remaining)])
    more = min(tokens + BLOCK_TOKENS, remaining)
    assert tokens == remaining or engine.attention(cached, more) > quota


def test_an_empty_queue_makes_an_empty_batch() -> None:
    assert Engine(1, 1, 100, 100).pack([]) == []

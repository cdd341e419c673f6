"""Block ids for importers: recorded ids renumbered, and new ids where a format records none.

A prompt's ids are either recorded or grown from the previous turn's context; generated blocks always get
new ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from workloads.trace import BlockIds, TraceError, Turn

WITHOUT_INPUT = "requests_without_input_dropped"
WITHOUT_OUTPUT = "requests_without_output_counted_as_one_token"
PARTIAL_BLOCKS = "partial_blocks_dropped"
RECORDED_HIT_RATE = "infinite_cache_hit_rate_of_recorded_ids"


class Mint:
    """Hands out a trace's block ids, each once, consecutive in the order of first use."""

    def __init__(self, first_id: int = 0) -> None:
        self.next_id = first_id
        self._recorded: dict[int, int] = {}

    def reserve(self, count: int) -> int:
        """The first of ``count`` new ids."""
        first = self.next_id
        self.next_id += count
        return first

    def fresh(self, count: int) -> BlockIds:
        """New ids; shape [count]."""
        first = self.reserve(count)
        return np.arange(first, first + count, dtype=np.int64)

    def recorded(self, hash_ids: Sequence[int]) -> BlockIds:
        """One id for each recorded one, the same for the same; shape [len(hash_ids)]."""
        for hash_id in hash_ids:
            if hash_id not in self._recorded:
                self._recorded[hash_id] = self.reserve(1)
        return np.array([self._recorded[hash_id] for hash_id in hash_ids], dtype=np.int64)


class TurnMint:
    """Makes the turns of one file; ``counts`` are the anomalies it met, by description."""

    def __init__(self, mint: Mint, block_tokens: int) -> None:
        self._mint = mint
        self._block_tokens = block_tokens
        self.counts: Counter[str] = Counter()

    def recorded_prompt(self, hash_ids: Sequence[int], input_tokens: int, where: object) -> BlockIds:
        """A prompt's full blocks; the id of a last, partly filled block is dropped and counted.

        ``TraceError`` if there are neither as many ids as the prompt has full blocks nor as it has blocks.
        """
        full, all_blocks = input_tokens // self._block_tokens, -(-input_tokens // self._block_tokens)
        if len(hash_ids) not in (full, all_blocks):
            raise TraceError.at(
                f"{where}: $.hash_ids",
                found=f"{len(hash_ids)} ids",
                expected=f"{all_blocks}, which {input_tokens} tokens need at {self._block_tokens} a block",
                fix="the file is damaged or has another block size: fetch or make it again",
            )
        self.counts[PARTIAL_BLOCKS] += len(hash_ids) > full
        return self._mint.recorded(hash_ids[:full])

    def grown_prompt(self, before: Turn | None, kept_tokens: int, input_tokens: int) -> BlockIds:
        """A prompt that begins with ``kept_tokens`` of the context that the turn ``before`` left (prompt
        and output) and goes on with new content. Only full blocks are kept."""
        blocks = input_tokens // self._block_tokens
        if before is None:
            return self._mint.fresh(blocks)
        context = np.concatenate((before.block_ids, before.generated_block_ids))
        kept = context[: min(kept_tokens // self._block_tokens, blocks)]
        return np.concatenate((kept, self._mint.fresh(blocks - len(kept))))

    def turn(self, prompt: BlockIds, input_tokens: int, output_tokens: int | None, gap_s: float) -> Turn:
        """A turn whose generated blocks get new ids; no recorded output is counted as one token."""
        self.counts[WITHOUT_OUTPUT] += not output_tokens
        output_tokens = output_tokens or 1
        filled = (input_tokens + output_tokens) // self._block_tokens - len(prompt)
        return Turn(input_tokens, output_tokens, prompt, self._mint.fresh(filled), gap_s)


def recorded_hit_rate(requests: Iterable[tuple[Sequence[int], int]], block_tokens: int) -> float:
    """Token-weighted hit rate of (``hash_ids``, input tokens) served in order by one infinite cache that
    keeps partly filled blocks too, as those who publish such files compute it; 0.0 without input."""
    stored: set[int] = set()
    hit_tokens = input_tokens = 0
    for hash_ids, tokens in requests:
        hit = next((i for i, hash_id in enumerate(hash_ids) if hash_id not in stored), len(hash_ids))
        hit_tokens += min(hit * block_tokens, tokens)
        input_tokens += tokens
        stored.update(hash_ids)
    return hit_tokens / input_tokens if input_tokens else 0.0

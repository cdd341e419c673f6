"""Both hosts read a part of the hit at once: named as future work in paper 6.1."""

from __future__ import annotations

import math

from harness.scheduling.engines import ScheduledEngines
from harness.scheduling.load import Request
from harness.scheduling.policy import Policy, ReadChoice, Sides, read_on_decode, read_on_prefill


def finish_together(request: Request, sides: Sides) -> ReadChoice:
    """Whole blocks on each side so that the later of the two is done as early as it can be.

    A side whose queue alone takes longer than the other side with the whole hit reads nothing.
    """
    if not request.hit_blocks:
        return read_on_prefill(request, sides)
    block_tokens = request.hit_tokens / request.hit_blocks

    def done_after(decode_blocks: int) -> float:
        prefill_tokens = sides.prefill_queue_tokens + (request.hit_blocks - decode_blocks) * block_tokens
        decode_tokens = sides.decode_queue_tokens + decode_blocks * block_tokens
        return max(prefill_tokens / sides.prefill_read_rate, decode_tokens / sides.decode_read_rate)

    everything = sides.prefill_queue_tokens + request.hit_tokens + sides.decode_queue_tokens
    decode_share = sides.decode_read_rate / (sides.prefill_read_rate + sides.decode_read_rate)
    balanced_blocks = (everything * decode_share - sides.decode_queue_tokens) / block_tokens
    fewer = min(max(math.floor(balanced_blocks), 0), request.hit_blocks - 1)
    decode_blocks = min(fewer, fewer + 1, key=done_after)
    if decode_blocks == 0:
        return read_on_prefill(request, sides)
    if decode_blocks == request.hit_blocks:
        return read_on_decode(request, sides)
    return ReadChoice("split", request.hit_blocks - decode_blocks, decode_blocks)


SPLIT = Policy("split", ScheduledEngines, finish_together)

"""DualPath: read on the side whose host has the shorter read queue (paper 6.1, path choice)."""

from __future__ import annotations

from harness.scheduling.engines import ScheduledEngines
from harness.scheduling.load import Request
from harness.scheduling.policy import Policy, ReadChoice, Sides, read_on_decode, read_on_prefill


def shorter_read_queue(request: Request, sides: Sides) -> ReadChoice:
    """The side with fewer tokens waiting to be read.

    Of equal queues, which the paper does not mention, that of the host that was given less so far: idle
    NICs then stay in balance, too.
    """
    prefill = sides.prefill_queue_tokens, sides.prefill_read_tokens
    decode = sides.decode_queue_tokens, sides.decode_read_tokens
    return (read_on_decode if decode < prefill else read_on_prefill)(request, sides)


DUAL_PATH = Policy("dual_path", ScheduledEngines, shorter_read_queue)

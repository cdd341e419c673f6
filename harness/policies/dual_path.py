"""DualPath: read on the side whose host has the shorter read queue (paper 6.1, path choice)."""

from __future__ import annotations

from harness.scheduling.engines import ScheduledEngines
from harness.scheduling.load import Request
from harness.scheduling.policy import Policy, ReadChoice, Sides, read_on_decode, read_on_prefill


def shorter_read_queue(request: Request, sides: Sides) -> ReadChoice:
    """The side with fewer tokens waiting to be read; the prefill side if they are equal."""
    shorter = read_on_decode if sides.decode_queue_tokens < sides.prefill_queue_tokens else read_on_prefill
    return shorter(request, sides)


DUAL_PATH = Policy("dual_path", ScheduledEngines, shorter_read_queue)

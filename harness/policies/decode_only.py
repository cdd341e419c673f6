"""The mirror image of Basic: the decode host always reads."""

from __future__ import annotations

from harness.scheduling.engines import ScheduledEngines
from harness.scheduling.policy import Policy, read_on_decode

DECODE_ONLY = Policy("decode_only", ScheduledEngines, read_on_decode)

"""The canonical form of an agentic trace: sessions of turns over numbered KV blocks.

Every importer and the synthesizer produce this form, and everything later reads only it.
A KV block covers ``block_tokens`` tokens; an id names one block's content inside one trace,
and with it all the content before it, as a chained prefix hash does. Sessions share an id where their
prompts begin alike and the trace says so (global ids); in other traces no two sessions share one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

BlockIds = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of a session: a prompt, then generated tokens.

    ``block_ids`` names the prompt's full blocks in order (``input_tokens // block_tokens`` of them).
    ``generated_block_ids`` names the blocks that become full while the output is generated
    (``(input + output) // block_tokens - input // block_tokens`` of them).
    ``gap_s`` runs from the end of the previous turn to the arrival of this one (end-to-start).
    """

    input_tokens: int
    output_tokens: int
    block_ids: BlockIds
    generated_block_ids: BlockIds
    gap_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Session:
    """One agent trajectory: turns in order; ``start_s`` counts from the start of the trace."""

    session_id: str
    turns: tuple[Turn, ...]
    start_s: float = 0.0
    parent_session_id: str | None = None


@dataclass(frozen=True, slots=True)
class Trace:
    """Sessions with their origin. ``sha256`` identifies the source bytes; runs over different
    hashes are never compared."""

    format: str
    sha256: str
    block_tokens: int
    sessions: tuple[Session, ...]
    provenance: dict[str, str] = field(default_factory=dict)


class TraceError(ValueError):
    """A trace that cannot be used: says where, what was found, and what was expected."""

    @classmethod
    def at(cls, where: object, *, found: str, expected: str, fix: str) -> TraceError:
        """Build the one-line message every trace problem is reported with."""
        return cls(" ".join(f"{where}: found {found}, expected {expected}; {fix}".split()))

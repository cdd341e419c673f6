"""What an experiment wants of the hosts, from its file and trace alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.orders import prime_objects
from harness.preparation import Preparation, block_count
from hosts.config import CacheMode, ComputeKind, CopyKind, DeviceKind, PageKind, TransportKind, VerbsConfig
from hosts.host import BUFFER_SLACK
from hosts.protocol import Role


@dataclass(frozen=True, slots=True)
class Needs:
    """``engines`` are a host's. ``buffer_bytes`` are a host's of each role, with what is mapped beside the
    buffer; ``storage_bytes`` are primed and persisted at once, at most. ``without_torch`` and
    ``without_gpu``: what to set to need none."""

    transport: TransportKind = "tcp"
    compute: ComputeKind = "timed"
    device: DeviceKind | None = None
    copy: CopyKind = "cuda"
    engines: int = 1
    without_torch: str = "compute.kind = 'timed'"
    without_gpu: str = "compute.device = 'cpu' (times are no GPU's then)"
    verbs: VerbsConfig = field(default_factory=VerbsConfig)
    buffer_pages: PageKind = "base"
    buffer_bytes: Mapping[Role, int] = field(default_factory=dict)
    cache: CacheMode = "page"
    storage_bytes: int = 0

    @property
    def gpus(self) -> bool:
        """Whether each engine computes on a GPU."""
        return self.compute == "torch" and self.device == "cuda"

    @property
    def gpu_direct(self) -> bool:
        """Whether NICs copy to and from GPU memory."""
        return self.gpus and self.copy == "nic"


def needs_of(preparation: Preparation) -> Needs:
    """Those of a resolved experiment."""
    experiment, plan = preparation.experiment, preparation.plan
    stored = [*prime_objects(plan.sessions, plan.shared), *preparation.ceiling_objects()]
    turns = [turn for session in plan.sessions for turn in session.turns]
    # A repetition's objects are removed before the next one's are written.
    persisted = sum(len(turn.persist_ids) + len(turn.generated_ids) for turn in turns)
    block_bytes = preparation.scale.geometry.full_block_bytes
    return Needs(
        transport=experiment.transport.kind,
        compute=experiment.compute.kind,
        device=experiment.compute.device,
        copy=experiment.compute.copy,
        engines=preparation.scale.engines_per_host,
        verbs=experiment.transport.verbs,
        buffer_pages=experiment.transport.buffer_pages,
        buffer_bytes={
            role: int(nbytes * (1 + BUFFER_SLACK)) for role, nbytes in preparation.scale.buffer_bytes.items()
        },
        cache=experiment.storage.cache,
        storage_bytes=(sum(map(block_count, stored)) + persisted) * block_bytes,
    )

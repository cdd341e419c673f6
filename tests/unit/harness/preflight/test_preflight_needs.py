"""What an experiment wants of hosts."""

from __future__ import annotations

from msgspec.structs import replace
from recorded_rack import inventory

from harness.experiment import Compute, Transport, load_experiment
from harness.inventory.choosing import on_hosts
from harness.orders import prime_objects
from harness.preflight import needs_of
from harness.preparation import prepare


def test_what_is_stored_is_what_is_primed_and_what_a_repetition_persists() -> None:
    experiment = load_experiment("io_bound_1p1d")
    preparation = prepare(experiment)
    needs = needs_of(preparation)
    block_bytes = preparation.scale.geometry.full_block_bytes
    objects = [
        *prime_objects(preparation.plan.sessions, preparation.plan.shared),
        *preparation.ceiling_objects(),
    ]
    primed = sum(blocks.count for stored in objects for blocks in stored.blocks) * block_bytes
    new_tokens = sum(t.new_tokens + t.output_tokens for s in preparation.sessions for t in s.turns)
    assert 0 < primed < needs.storage_bytes
    assert needs.storage_bytes - primed <= (new_tokens // 64 + 2 * preparation.turns) * block_bytes
    assert needs.buffer_bytes["decode"] == preparation.scale.buffer_bytes["decode"] * 3 // 2
    assert (needs.transport, needs.cache, needs.buffer_pages) == ("tcp", "page", "transparent")


def test_what_computes_and_how_it_is_copied_to() -> None:
    real = on_hosts(load_experiment("io_bound_1p1d"), inventory())
    assert not needs_of(prepare(real)).gpus
    through_nics = Compute(kind="torch", copy="nic")
    needs = needs_of(prepare(replace(real, compute=through_nics, transport=Transport(kind="verbs"))))
    assert (needs.gpus, needs.gpu_direct, needs.engines) == (True, True, 8)


def test_on_real_links_buffers_are_the_profiles() -> None:
    real = on_hosts(load_experiment("io_bound_1p1d"), inventory())
    assert needs_of(prepare(real)).buffer_bytes["prefill"] == 120 * 10**9

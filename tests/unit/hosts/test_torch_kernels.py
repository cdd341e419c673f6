"""The kernels have the model's shapes, and compute what the geometry counts: on no device, in true size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed here (tox -e torch installs it)")

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from hosts.compute.torch.attention import _flash_attention, _masked_attention, attention_layer
from hosts.compute.torch.mlp import Dense, Head, MixtureOfExperts, expert_rows
from hosts.compute.torch.weights import weights
from hosts.content import fill_blocks
from hosts.kernel_work import asking_work, prefill_work
from workloads.models import MODELS, Attention, LatentAttention, Model

NOWHERE = torch.device("meta")
KINDS = [
    pytest.param(model, kind, id=f"{model.name}-{number}")
    for model in MODELS.values()
    for number, (_, kind) in enumerate(model.attention)
]


def flops_of(work: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def hidden(model: Model, tokens: int) -> Any:
    return torch.empty(tokens, model.hidden, dtype=torch.bfloat16, device=NOWHERE)


def cache(model: Model, tokens: int) -> Any:
    return torch.empty(tokens, model.layer_kv_bytes_per_token, dtype=torch.uint8, device=NOWHERE)


def attention_flops(model: Model, kind: Attention, cached: int, new: int, requests: int = 1) -> int:
    layer = attention_layer(kind, model.hidden, NOWHERE)
    entries = [(cache(model, cached + new), new)] * requests
    computed = []
    counted = flops_of(lambda: computed.append(layer(hidden(model, requests * new), entries)))
    assert computed[0].shape == (requests * new, model.hidden)
    return counted


def head_sum_flops(kind: Attention, keys: int) -> int:
    """What the indexer's heads cost to sum for one token, which the geometry leaves out."""
    indexed = isinstance(kind, LatentAttention) and kind.indexer is not None
    return 2 * keys * kind.indexer.heads if indexed else 0


@pytest.mark.parametrize(("model", "kind"), KINDS)
@pytest.mark.parametrize("requests", [1, 3])
def test_decoding_computes_exactly_what_the_geometry_counts(
    model: Model, kind: Attention, requests: int
) -> None:
    context = 20_000
    each = 2 * kind.parameters(model.hidden) + kind.score_flops(context, 1)
    counted = attention_flops(model, kind, context, 1, requests)
    assert counted == requests * (each + head_sum_flops(kind, context + 1))


@pytest.mark.parametrize(("model", "kind"), KINDS)
@pytest.mark.parametrize("cached", [0, 5_000, 32_000])
def test_prefill_computes_little_more_than_the_geometry_counts(
    model: Model, kind: Attention, cached: int
) -> None:
    """Masked keys: at most those that the new tokens' own triangle, or a window, completes to a rectangle."""
    new = 429
    counted = attention_flops(model, kind, cached, new)
    expected = 2 * kind.parameters(model.hidden) * new + kind.score_flops(cached, new)
    sums = head_sum_flops(kind, cached + new) * new
    per_key = kind.score_flops(10, 1) - kind.score_flops(9, 1)
    window = getattr(kind, "window", None) or 0
    masked = (new * new if not window else new * (new + window)) * per_key
    assert expected <= counted <= expected + sums + masked


@pytest.mark.parametrize(("model", "kind"), KINDS)
@pytest.mark.parametrize(
    ("cached", "new"), [(0, 1), (0, 700), (40, 30), (900, 700), (1000, 16), (30_000, 40), (65_000, 3000)]
)
def test_predicted_work_is_what_the_kernels_compute(
    model: Model, kind: Attention, cached: int, new: int
) -> None:
    work = prefill_work(kind, [(cached, new)])
    if isinstance(kind, LatentAttention):
        each = kind.heads * 2 * (2 * kind.kv_lora_rank + kind.rope_dim)
        indexer = kind.indexer
        index_each = 0 if indexer is None else 2 * indexer.heads * (indexer.dim + 1)
    else:
        each, index_each = kind.query_heads * 4 * kind.head_dim, 0
    scored = (work.score + work.masked_score) * each + work.index_score * index_each
    expected = 2 * kind.parameters(model.hidden) * new + scored
    assert attention_flops(model, kind, cached, new) == expected


@pytest.mark.parametrize("name", ["toy-latent", "toy-grouped"])
@pytest.mark.parametrize(("cached", "new"), [(900, 30), (900, 1)])
def test_attention_over_what_blocks_contain_is_of_finite_numbers(name: str, cached: int, new: int) -> None:
    cpu, model = torch.device("cpu"), MODELS[name]
    content = np.empty((cached + new, model.layer_kv_bytes_per_token), np.uint8)
    fill_blocks(content, 1, np.arange(cached + new))
    for _, kind in model.attention:
        layer = attention_layer(kind, model.hidden, cpu)
        found = layer(weights(cpu, new, model.hidden), [(torch.from_numpy(content), new)])
        assert found.isfinite().all()
        assert found.float().std() > 0


class Calls(TorchDispatchMode):
    """Counts what latent attention does besides products: parts of rows, and FP8 numbers converted."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = self.converted = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._softmax.default:
            self.parts += 1
        if func is torch.ops.aten._to_copy.default and args[0].dtype is torch.float8_e4m3fn:
            self.converted += args[0].numel()
        return func(*args, **kwargs or {})


@pytest.mark.parametrize(("model", "kind"), [k for k in KINDS if isinstance(k.values[1], LatentAttention)])
@pytest.mark.parametrize("batch", [[(65_000, 3000)], [(30_000, 700)] * 3, [(9000, 4)], [(500, 1)] * 2])
def test_predicted_parts_of_rows_and_entries_are_those_of_the_kernels(
    model: Model, kind: LatentAttention, batch: list[tuple[int, int]]
) -> None:
    layer = attention_layer(kind, model.hidden, NOWHERE)
    entries = [(cache(model, cached + new), new) for cached, new in batch]
    with Calls() as calls:
        layer(hidden(model, sum(new for _, new in batch)), entries)
    asking = asking_work(kind, batch)
    assert asking.request + asking.part == calls.parts
    assert prefill_work(kind, batch).entry * kind.kv_lora_rank == calls.converted


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("tokens", [1, 288, 4096])
def test_mlps_and_head_compute_what_the_geometry_counts(model: Model, tokens: int) -> None:
    counted = 0
    if model.dense_layers:
        dense = Dense(model.hidden, model.dense_intermediate, NOWHERE)
        counted += model.dense_layers * flops_of(lambda: dense(hidden(model, tokens)))
    if model.experts is not None:
        experts = MixtureOfExperts(model.experts, model.hidden, 1, NOWHERE)
        reached, each = expert_rows(tokens, model.experts.active, experts.here)
        padding = reached * each - tokens * model.experts.active
        assert 0 <= padding < reached
        one = 2 * model.experts.parameters(model.hidden, 1)
        of_layer = flops_of(lambda: experts(hidden(model, tokens))) - padding * one
        counted += (model.layers - model.dense_layers) * of_layer
    assert counted == model.mlp_flops(tokens)
    head = Head(model.hidden, model.vocabulary, NOWHERE)
    assert flops_of(lambda: head(hidden(model, 3))) == 3 * model.head_flops


def test_an_engine_has_its_share_of_the_experts_and_computes_its_own_tokens_choices() -> None:
    model = MODELS["dualpath-27b"]
    assert model.experts is not None
    alone, shared = (MixtureOfExperts(model.experts, model.hidden, engines, NOWHERE) for engines in (1, 8))
    assert (alone.here, shared.here) == (72, 9)
    tokens = 720
    assert flops_of(lambda: alone(hidden(model, tokens))) == flops_of(lambda: shared(hidden(model, tokens)))


def test_keys_after_a_token_do_not_matter_to_it() -> None:
    """On the CPU, in numbers: what a token computes is the same whatever later tokens' KV is."""
    for name in ("toy-latent", "toy-grouped"):
        model = MODELS[name]
        kind = model.attention[0][1]
        torch.manual_seed(5)
        layer = attention_layer(kind, model.hidden, torch.device("cpu"))
        tokens = torch.randn(6, model.hidden).to(torch.bfloat16)
        # Small numbers in whatever type they are read as: no infinities, so that a difference is one.
        kv = torch.randint(0x38, 0x3B, (90, model.layer_kv_bytes_per_token), dtype=torch.uint8)
        changed = kv.clone()
        changed[-2:] = 0x3C
        attention_of = layer(tokens, [(kv, 6)])
        assert attention_of.isfinite().all()
        assert torch.equal(attention_of[:-2], layer(tokens, [(changed, 6)])[:-2])
        assert not torch.equal(attention_of[-1], layer(tokens, [(changed, 6)])[-1])


def test_a_batch_is_its_requests() -> None:
    for name in ("toy-latent", "toy-grouped"):
        model = MODELS[name]
        layer = attention_layer(model.attention[0][1], model.hidden, torch.device("cpu"))
        tokens = torch.randn(9, model.hidden).to(torch.bfloat16)
        kv = torch.randint(0x38, 0x3B, (100, model.layer_kv_bytes_per_token), dtype=torch.uint8)
        together = layer(tokens, [(kv[:40], 4), (kv, 5)])
        apart = torch.cat([layer(tokens[:4], [(kv[:40], 4)]), layer(tokens[4:], [(kv, 5)])])
        torch.testing.assert_close(together, apart, rtol=0.05, atol=0.05)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="GPU: torch finds none here")
@pytest.mark.parametrize(("new", "keys"), [(1, 700), (5, 700), (300, 700), (300, 300)])
@pytest.mark.parametrize("window", [None, 128])
def test_a_gpu_attends_as_the_cpu_does(new: int, keys: int, window: int | None) -> None:
    torch.manual_seed(3)
    queries = torch.randn(1, new, 8, 64, dtype=torch.bfloat16)
    kv = torch.randn(1, keys, 2, 2, 64, dtype=torch.bfloat16)
    expected = _masked_attention(queries, kv[:, :, 0], kv[:, :, 1], window)
    on_gpu = kv.cuda()
    found = _flash_attention(queries.cuda(), on_gpu[:, :, 0], on_gpu[:, :, 1], window)
    torch.testing.assert_close(found.cpu(), expected, rtol=0.05, atol=0.02)

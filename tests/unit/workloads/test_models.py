import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.models import (
    MODELS,
    ModelError,
    find_model,
    gb_per_pflop,
    kv_bytes_per_token,
    prefill_flops,
)

models = st.sampled_from(list(MODELS.values()))


@pytest.mark.parametrize(
    ("name", "context_tokens", "ratio"),
    [
        ("qwen2.5-32b", 16384, 117),
        ("qwen2.5-32b", 65536, 267),
        ("deepseek-v3.2-660b", 16384, 13),
        ("deepseek-v3.2-660b", 32721, 22),
        ("deepseek-v3.2-660b", 65536, 36),
    ],
)
def test_cache_compute_ratios_of_the_paper(name, context_tokens, ratio):
    assert gb_per_pflop(find_model(name), context_tokens, 429) == pytest.approx(ratio, rel=0.10)


@pytest.mark.parametrize(
    ("name", "parameters"), [("qwen2.5-32b", 32.8e9), ("deepseek-v3.2-660b", 671e9), ("dualpath-27b", 27e9)]
)
def test_geometries_add_up_to_the_published_parameter_counts(name, parameters):
    assert find_model(name).total_parameters == pytest.approx(parameters, rel=0.005)


def test_deepseek_computes_with_the_published_active_parameters():
    flops = prefill_flops(find_model("deepseek-v3.2-660b"), 0, 1)
    assert flops / 2 == pytest.approx(37e9, rel=0.02)


def test_kv_bytes():
    deepseek = find_model("deepseek-v3.2-660b")
    assert deepseek.layer_kv_bytes_per_token == 656
    assert kv_bytes_per_token(deepseek) == 61 * 656
    assert kv_bytes_per_token(deepseek, include_indexer=True) == 61 * (656 + 132)
    assert kv_bytes_per_token(find_model("qwen2.5-32b"), include_indexer=True) == 64 * 2 * 8 * 128 * 2
    assert kv_bytes_per_token(find_model("dualpath-27b")) == 30 * 656


def test_unknown_model_lists_the_known():
    with pytest.raises(
        ModelError, match=r"'gpt-5', expected one of dualpath-27b, deepseek-v3\.2-660b, qwen2"
    ):
        find_model("gpt-5")


@pytest.mark.parametrize(("context_tokens", "append_tokens"), [(-1, 5), (5, 0)])
def test_impossible_prefills_are_refused(context_tokens, append_tokens):
    with pytest.raises(ModelError, match="expected context >= 0 and append >= 1"):
        prefill_flops(find_model("qwen2.5-32b"), context_tokens, append_tokens)


@given(models, st.integers(0, 100_000), st.integers(1, 500), st.integers(1, 500))
def test_chunked_prefill_costs_the_same_but_for_the_extra_head(model, context_tokens, first, second):
    chunks = prefill_flops(model, context_tokens, first) + prefill_flops(
        model, context_tokens + first, second
    )
    head = 2 * model.hidden * model.vocabulary
    assert chunks - head == prefill_flops(model, context_tokens, first + second)


@given(models, st.integers(0, 100_000), st.integers(1, 1000))
def test_flops_are_the_layers_plus_the_head_and_grow_with_context(model, context_tokens, append_tokens):
    layers = sum(model.layer_flops(i, context_tokens, append_tokens) for i in range(model.layers))
    flops = prefill_flops(model, context_tokens, append_tokens)
    assert flops == layers + 2 * model.hidden * model.vocabulary
    assert flops < prefill_flops(model, context_tokens + 1, append_tokens)

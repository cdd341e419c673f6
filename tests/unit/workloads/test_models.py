from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.models import (
    MODELS,
    Experts,
    GroupedQueryAttention,
    ModelError,
    find_model,
    gb_per_pflop,
    kv_bytes_per_token,
    prefill_flops,
)

models = st.sampled_from(list(MODELS.values()))
contexts = st.integers(0, 5000) | st.integers(0, 200_000)


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
    ("name", "at_16k", "at_64k"),
    [("deepseek-v3-660b", 4.32, 5.14), ("qwen3-235b-a22b", 39.5, 60.2), ("gpt-oss-120b", 100.3, 197.4)],
)
def test_cache_compute_ratios_as_documented(name, at_16k, at_64k):
    model = find_model(name)
    assert gb_per_pflop(model, 16384, 429) == pytest.approx(at_16k, rel=0.005)
    assert gb_per_pflop(model, 65536, 429) == pytest.approx(at_64k, rel=0.005)


@pytest.mark.parametrize(
    ("name", "flops"),
    [
        ("dualpath-27b", 5_935_533_301_760),
        ("deepseek-v3.2-660b", 60_410_128_105_472),
        ("qwen2.5-32b", 45_295_856_517_120),
    ],
)
def test_prefill_flops_do_not_drift(name, flops):
    assert prefill_flops(find_model(name), 32721, 429) == flops


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("dualpath-27b", 27e9),
        ("deepseek-v3.2-660b", 671e9),
        ("deepseek-v3-660b", 671e9),
        ("qwen2.5-32b", 32.8e9),
        ("qwen3-235b-a22b", 235e9),
        ("gpt-oss-120b", 116.83e9),
    ],
)
def test_geometries_add_up_to_the_published_parameter_counts(name, parameters):
    assert find_model(name).total_parameters == pytest.approx(parameters, rel=0.005)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("deepseek-v3.2-660b", 37e9),
        ("deepseek-v3-660b", 37e9),
        ("qwen3-235b-a22b", 22e9),
        ("gpt-oss-120b", 5.13e9),
    ],
)
def test_a_token_computes_with_the_published_active_parameters(name, parameters):
    assert find_model(name).decode_flops(0) / 2 == pytest.approx(parameters, rel=0.02)


def test_kv_bytes():
    deepseek = find_model("deepseek-v3.2-660b")
    assert deepseek.layer_kv_bytes_per_token == 656
    assert kv_bytes_per_token(deepseek) == 61 * 656
    assert kv_bytes_per_token(deepseek, include_indexer=True) == 61 * (656 + 132)
    assert kv_bytes_per_token(find_model("qwen2.5-32b"), include_indexer=True) == 64 * 2 * 8 * 128 * 2
    assert kv_bytes_per_token(find_model("dualpath-27b")) == 30 * 656
    assert kv_bytes_per_token(find_model("deepseek-v3-660b"), include_indexer=True) == 61 * 656
    assert kv_bytes_per_token(find_model("qwen3-235b-a22b")) == 94 * 2 * 4 * 128


def test_a_cache_stores_every_token_of_sliding_layers_too():
    assert kv_bytes_per_token(find_model("gpt-oss-120b")) == 36 * 2 * 8 * 64


def test_weight_bytes_as_published():
    assert find_model("gpt-oss-120b").weight_bytes == pytest.approx(60.8 * 2**30, rel=0.005)
    assert find_model("qwen2.5-32b").weight_bytes == 2 * find_model("qwen2.5-32b").total_parameters
    assert find_model("qwen3-235b-a22b").weight_bytes == 2 * find_model("qwen3-235b-a22b").total_parameters
    assert find_model("deepseek-v3-660b").weight_bytes == find_model("deepseek-v3-660b").total_parameters


def test_expert_weights_are_counted_at_their_own_size():
    gpt_oss = find_model("gpt-oss-120b")
    experts = 36 * 128 * 3 * 2880 * 2880
    assert gpt_oss.weight_bytes == (gpt_oss.total_parameters - experts) * 2 + experts * 17 // 32


def test_only_models_with_experts_are_expert_parallel():
    assert {name for name, model in MODELS.items() if not model.expert_parallel} == {
        "qwen2.5-32b",
        "toy-grouped",
    }


def test_decode_reads_by_attention_kind():
    assert find_model("qwen2.5-32b").decode_read_bytes(10_000) == 10_000 * 262_144
    assert find_model("deepseek-v3-660b").decode_read_bytes(10_000) == 10_000 * 61 * 656
    assert find_model("deepseek-v3.2-660b").decode_read_bytes(10_000) == 61 * (10_000 * 132 + 2048 * 656)
    assert find_model("deepseek-v3.2-660b").decode_read_bytes(1000) == 61 * 1000 * (132 + 656)
    assert find_model("gpt-oss-120b").decode_read_bytes(10_000) == 18 * 1024 * (10_000 + 128)


def test_sparse_attention_sees_at_most_top_k_keys():
    """The difference from V3 is the indexer's projections and keys less what top-k leaves out."""
    sparse, dense = find_model("deepseek-v3.2-660b"), find_model("deepseek-v3-660b")
    indexer = 2 * ((1536 * 64 + 7168) * 128 + 7168 * 64) * 10 + 64 * 2 * 128 * (10 * 5000 + 55)
    left_out = (10 * 5000 + 55 - 10 * 2048) * 128 * 2 * 1088
    assert sparse.attention_flops(5000, 10) - dense.attention_flops(5000, 10) == 61 * (indexer - left_out)


@given(contexts, st.integers(1, 300), st.integers(1, 600))
def test_a_window_limits_the_keys_that_each_token_sees(context_tokens, append_tokens, window):
    full = GroupedQueryAttention(query_heads=4, kv_heads=2, head_dim=8, kv_element_bytes=1)
    sliding = replace(full, window=window)
    seen = sum(min(context_tokens + 1 + i, window) for i in range(append_tokens))
    assert sliding.score_flops(context_tokens, append_tokens) == seen * 4 * 2 * 16
    assert sliding.decode_read_bytes(context_tokens) == min(context_tokens, window) * 32
    if window >= context_tokens + append_tokens:
        assert sliding.score_flops(context_tokens, append_tokens) == full.score_flops(
            context_tokens, append_tokens
        )


def test_unknown_model_lists_the_known():
    with pytest.raises(
        ModelError,
        match=r"'gpt-5', expected one of dualpath-27b, deepseek-v3\.2-660b, deepseek-v3-660b, qwen2",
    ):
        find_model("gpt-5")


@pytest.mark.parametrize(("context_tokens", "append_tokens"), [(-1, 5), (5, 0)])
def test_impossible_prefills_are_refused(context_tokens, append_tokens):
    with pytest.raises(ModelError, match="expected context >= 0 and append >= 1"):
        prefill_flops(find_model("qwen2.5-32b"), context_tokens, append_tokens)


def test_layers_of_different_kv_sizes_are_refused():
    gpt_oss = find_model("gpt-oss-120b")
    (layers, kind), sliding = gpt_oss.attention
    with pytest.raises(ModelError, match=r"entries of \[1024, 2048\] bytes .* expected one size"):
        replace(gpt_oss, attention=((layers, replace(kind, kv_element_bytes=2)), sliding))


def test_layers_without_any_mlp_are_refused():
    with pytest.raises(ModelError, match="dense_layers: found 3, expected 61"):
        replace(find_model("deepseek-v3-660b"), experts=None)


@given(models, contexts, st.integers(1, 500), st.integers(1, 500))
def test_chunked_prefill_costs_the_same_but_for_the_extra_head(model, context_tokens, first, second):
    chunks = prefill_flops(model, context_tokens, first) + prefill_flops(
        model, context_tokens + first, second
    )
    assert chunks - model.head_flops == prefill_flops(model, context_tokens, first + second)


@given(models, contexts, st.integers(1, 200))
def test_decode_steps_cost_what_one_prefill_of_their_tokens_does_but_for_the_heads(
    model, context_tokens, steps
):
    decoded = sum(model.decode_flops(context_tokens + step) for step in range(steps))
    assert decoded - (steps - 1) * model.head_flops == prefill_flops(model, context_tokens, steps)


@given(models, contexts, st.integers(1, 1000))
def test_flops_split_into_attention_mlp_and_head_and_grow_with_context(model, context_tokens, append_tokens):
    flops = prefill_flops(model, context_tokens, append_tokens)
    attention, mlp = model.attention_flops(context_tokens, append_tokens), model.mlp_flops(append_tokens)
    assert flops == attention + mlp + 2 * model.hidden * model.vocabulary
    assert flops < prefill_flops(model, context_tokens + 1, append_tokens)
    assert mlp == append_tokens * model.mlp_flops(1)


@given(models, contexts, st.integers(1, 10_000))
def test_a_decode_step_reads_no_more_than_is_stored_and_more_with_context(model, context_tokens, more_tokens):
    stored = context_tokens * kv_bytes_per_token(model, include_indexer=True)
    assert model.decode_read_bytes(context_tokens) <= stored
    assert model.decode_read_bytes(context_tokens) < model.decode_read_bytes(context_tokens + more_tokens)


def test_mlp_flops_count_router_chosen_and_shared_experts():
    small = replace(
        find_model("deepseek-v3-660b"),
        hidden=10,
        dense_intermediate=7,
        experts=Experts(routed=6, active=2, shared=1, intermediate=5, weight_element_bytes=1),
    )
    assert small.mlp_flops(4) == 4 * 2 * 10 * (3 * (3 * 7) + 58 * (3 * (3 * 5) + 6))

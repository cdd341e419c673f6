"""The models that experiments name, from their public configurations."""

from __future__ import annotations

import difflib
from dataclasses import replace

from workloads.models.attention import GroupedQueryAttention, Indexer, LatentAttention
from workloads.models.model import Experts, Model, ModelError

_DEEPSEEK_MLA = LatentAttention(
    heads=128, q_lora_rank=1536, kv_lora_rank=512, rope_dim=64, nope_dim=128, value_dim=128
)

_DEEPSEEK_V3_660B = Model(
    name="deepseek-v3-660b",
    source="config.json of deepseek-ai/DeepSeek-V3, FP8 weights; KV entries as DeepSeek-V3.2's",
    hidden=7168,
    vocabulary=129280,
    weight_element_bytes=1,
    attention=((61, _DEEPSEEK_MLA),),
    dense_layers=3,
    dense_intermediate=18432,
    experts=Experts(routed=256, active=8, shared=1, intermediate=2048, weight_element_bytes=1),
)

_DEEPSEEK_V3_2_660B = replace(
    _DEEPSEEK_V3_660B,
    name="deepseek-v3.2-660b",
    source="config.json of deepseek-ai/DeepSeek-V3.2-Exp, FP8 weights; KV layout of FlashMLA's FP8 sparse "
    "decoding",
    attention=((61, replace(_DEEPSEEK_MLA, indexer=Indexer(heads=64, dim=128, top_k=2048))),),
)

_DUALPATH_27B = Model(
    name="dualpath-27b",
    source="paper section 7 and appendix A; attention ranks, head sizes and vocabulary, which the paper "
    "does not give, as DeepSeek-V3.2 (they make 27 B parameters); FP8 weights assumed, as its family",
    hidden=2560,
    vocabulary=129280,
    weight_element_bytes=1,
    attention=((30, replace(_DEEPSEEK_MLA, heads=32, indexer=Indexer(heads=32, dim=64, top_k=1024))),),
    dense_layers=1,
    dense_intermediate=12288,
    experts=Experts(routed=72, active=6, shared=2, intermediate=1536, weight_element_bytes=1),
)

_QWEN2_5_32B = Model(
    name="qwen2.5-32b",
    source="config.json of Qwen/Qwen2.5-32B, BF16 weights; FP16 KV as in paper section 3",
    hidden=5120,
    vocabulary=152064,
    weight_element_bytes=2,
    attention=((64, GroupedQueryAttention(query_heads=40, kv_heads=8, head_dim=128, kv_element_bytes=2)),),
    dense_layers=64,
    dense_intermediate=27648,
)

_QWEN3_235B_A22B = Model(
    name="qwen3-235b-a22b",
    source="config.json of Qwen/Qwen3-235B-A22B, BF16 weights (an FP8 variant exists); FP8 KV as in paper "
    "section 3",
    hidden=4096,
    vocabulary=151936,
    weight_element_bytes=2,
    attention=((94, GroupedQueryAttention(query_heads=64, kv_heads=4, head_dim=128, kv_element_bytes=1)),),
    experts=Experts(routed=128, active=8, shared=0, intermediate=1536, weight_element_bytes=2),
)

_GPT_OSS_GQA = GroupedQueryAttention(query_heads=64, kv_heads=8, head_dim=64, kv_element_bytes=1)

_GPT_OSS_120B = Model(
    name="gpt-oss-120b",
    source="config.json of openai/gpt-oss-120b, MXFP4 experts (4-bit elements, an 8-bit scale for each 32), "
    "BF16 rest; every other layer slides; FP8 KV as in paper section 3; attention sinks left out",
    hidden=2880,
    vocabulary=201088,
    weight_element_bytes=2,
    attention=((18, _GPT_OSS_GQA), (18, replace(_GPT_OSS_GQA, window=128))),
    experts=Experts(routed=128, active=4, shared=0, intermediate=2880, weight_element_bytes=4.25 / 8),
)

_MADE_UP = "made up, for tests and machines without a GPU: nobody's model"

_TOY_LATENT = Model(
    name="toy-latent",
    source=_MADE_UP,
    hidden=128,
    vocabulary=512,
    weight_element_bytes=1,
    attention=(
        (
            5,
            LatentAttention(
                heads=4,
                q_lora_rank=64,
                kv_lora_rank=128,
                rope_dim=16,
                nope_dim=16,
                value_dim=16,
                indexer=Indexer(heads=4, dim=16, top_k=64),
            ),
        ),
    ),
    dense_layers=1,
    dense_intermediate=256,
    experts=Experts(routed=8, active=2, shared=1, intermediate=64, weight_element_bytes=1),
)

_TOY_GROUPED = Model(
    name="toy-grouped",
    source=_MADE_UP,
    hidden=128,
    vocabulary=512,
    weight_element_bytes=2,
    attention=((5, GroupedQueryAttention(query_heads=4, kv_heads=2, head_dim=32, kv_element_bytes=2)),),
    dense_layers=5,
    dense_intermediate=256,
)

MODELS = {
    model.name: model
    for model in (
        _DUALPATH_27B,
        _DEEPSEEK_V3_2_660B,
        _DEEPSEEK_V3_660B,
        _QWEN2_5_32B,
        _QWEN3_235B_A22B,
        _GPT_OSS_120B,
        _TOY_LATENT,
        _TOY_GROUPED,
    )
}


def find_model(name: str) -> Model:
    """The model of that name; ``ModelError`` lists the known names."""
    try:
        return MODELS[name]
    except KeyError:
        close = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "correct the name"
        raise ModelError(f"model: found {name!r}, expected one of {', '.join(MODELS)}; {hint}") from None

"""KV-cache sizes, FLOPs and weight bytes of the paper's models, from their public configurations.

What is counted, for a prefill of ``append_tokens`` on top of ``context_tokens`` cached tokens:

- 2 FLOPs per active parameter and appended token: attention projections (for MLA with the two halves
  of ``kv_b`` absorbed into query and output), the sparse indexer's projections, and the MLP or the
  router, the chosen and the shared experts. Norms, biases and embeddings are left out.
- Attention over the keys each appended token sees, cached and causal, by its true kind: grouped-query
  attention over all of them or over a sliding window; MLA in latent space (scores over
  ``kv_lora_rank + rope_dim``, values over ``kv_lora_rank``) over all of them or, sparse, over at most
  ``top_k``, after an indexer that scores every one.
- The language-model head once: prefill needs only the last token's logits.

The KV cache is what a prefix cache stores: every token in every layer, also in layers that slide; FP8
(MLA entries of 656 B per token and layer) but for Qwen2.5's FP16, as paper section 3 has it. Loading the
cached tokens only, this gives at append 429 over contexts of 16K-64K, in GB per PFLOP: Qwen2.5-32B
119-270 (paper 117-267), DeepSeek-V3.2 12.3-35.2 (paper 13-36), DeepSeek-V3 4.3-5.1, Qwen3-235B-A22B
39.5-60.2, GPT-OSS-120B 100-197 (half of that in full-attention layers). The indexer's own key cache,
which a real load would add, is reported apart.
"""

from workloads.models.attention import Attention, GroupedQueryAttention, Indexer, LatentAttention
from workloads.models.known import MODELS, find_model
from workloads.models.model import (
    Experts,
    Model,
    ModelError,
    gb_per_pflop,
    kv_bytes_per_token,
    prefill_flops,
)

__all__ = [
    "MODELS",
    "Attention",
    "Experts",
    "GroupedQueryAttention",
    "Indexer",
    "LatentAttention",
    "Model",
    "ModelError",
    "find_model",
    "gb_per_pflop",
    "kv_bytes_per_token",
    "prefill_flops",
]

"""Attention with weights: the queries, keys and values of several heads.

The arithmetic of one head is the rule `attention` in `ops/network.py`. Read next: `blocks.py`.
"""

from typing import Any

from .. import functional as F, ops
from ..backend import Array
from ..errors import divisible, fraction, positive
from ..random import new_key
from ..tensor import Tensor, bare, no_grad
from .cache import KVCache
from .layers import Linear
from .module import Module


class Attention(Module):
    """Multi-head attention: Concat(head₁ … head_H)·W_O, headᵢ = softmax(qᵢ·kᵢᵀ/√K)·vᵢ, q = x·W_Q, k = m·W_K, v = m·W_V.

    width D is divided into `heads` H of K = D/H. Call `attention(x)` for self-attention, `attention(x, memory)` for
    cross-attention: queries (B, T, D) from x, keys and values (B, S, D) from memory → (B, T, D). `mask` is boolean,
    True where a query may look, and broadcasts to (B, H, T, S); a query that may look nowhere gives zeros. `causal`
    hides what comes later. `dropout` acts on the weights while training.

    Raises ValueError if D is not divisible by H, RuntimeError for a `cache` where gradients are recorded.
    (Vaswani et al. 2017, arXiv:1706.03762, §3.2; others pack the three projections into one weight, `in_proj` or
    `c_attn`: here each has its name.)
    """

    def __init__(self, width: int, heads: int, bias: bool = True, dropout: float = 0.0):
        positive("Attention", width=width, heads=heads)
        divisible("Attention", width, heads)
        fraction("Attention", dropout=dropout)
        self.heads, self.dropout = heads, dropout
        self.query = Linear(width, width, bias)
        self.key = Linear(width, width, bias)
        self.value = Linear(width, width, bias)
        self.out = Linear(width, width, bias)

    def forward(self, query: Tensor, key: Tensor | None = None, value: Tensor | None = None, *, mask: Any = None,
                causal: bool = False, cache: KVCache | None = None) -> Tensor:
        q, k, v = self.project(query, key, value)
        if cache is not None:
            if k.requires_grad or v.requires_grad:
                raise RuntimeError("a cache holds numbers, not how they came about: the gradients of keys and values "
                                   "would be lost; use it inside `with tg.no_grad():`")
            k, v = map(Tensor, cache.append(k.data, v.data))
        p = self.dropout if self.training else 0.0
        heads = F.attention(q, k, v, mask=mask, causal=causal, p=p, key=new_key() if p else 0)
        *B, H, T, K = heads.shape
        return self.out(heads.swapaxes(-3, -2).reshape(*B, T, H * K))

    def project(self, query: Tensor, key: Tensor | None = None, value: Tensor | None = None) -> tuple[Tensor, ...]:
        """Queries (B, H, T, K), keys and values (B, H, S, K); keys come from the queries' input unless given."""
        key = query if key is None else key
        value = key if value is None else value
        return (self.split_heads(self.query(query)), self.split_heads(self.key(key)),
                self.split_heads(self.value(value)))

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, T, D) → (B, H, T, K)"""
        *B, T, D = x.shape
        return x.reshape(*B, T, self.heads, D // self.heads).swapaxes(-3, -2)

    def pattern(self, query: Tensor, key: Tensor | None = None, *, mask: Any = None, causal: bool = False) -> Array:
        """The weights themselves, (B, H, T, S), before any dropout: each row sums to 1. To look at, without a graph."""
        with no_grad():
            q, k, _ = self.project(query, key)
        return ops.network.attention_pattern(q.data, k.data, mask=bare(mask), causal=causal, scale=q.shape[-1] ** -0.5)

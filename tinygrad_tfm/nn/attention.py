"""Attention with weights: the queries, keys and values of several heads, and a cache for generation.

The arithmetic of one head is the rule `attention` in `ops/network.py`. Read next: `blocks.py`.
"""

from __future__ import annotations

from typing import Any

from .. import functional as F, ops
from ..backend import Array, namespace, new_key
from ..tensor import Tensor, bare, no_grad
from .layers import Linear, positive, probability
from .module import Module


class KVCache:
    """The keys and values one attention layer has seen, so that generating a token costs one token.

    Room for `capacity` of them is taken once, at the first `append`; rows of a batch advance together. `append`
    raises ValueError when the room is used up.
    """

    def __init__(self, capacity: int):
        self.capacity, self.length = capacity, 0
        self.keys: Array = None                                    # (B, H, capacity, K)
        self.values: Array = None

    def append(self, k: Array, v: Array) -> tuple[Array, Array]:
        """Add T new keys and values (B, H, T, K); returns all so far, as views."""
        if self.keys is None:
            shape = (*k.shape[:2], self.capacity, k.shape[3])
            self.keys, self.values = namespace(k).empty(shape, k.dtype), namespace(k).empty(shape, k.dtype)
        end = self.length + k.shape[2]
        if end > self.capacity:
            raise ValueError(f"this cache has room for {self.capacity} positions, {end} are needed")
        self.keys[:, :, self.length:end], self.values[:, :, self.length:end] = k, v
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


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
        if width % heads:
            near = sorted({width // heads * heads, (width // heads + 1) * heads} - {0})
            raise ValueError(f"Attention: width {width} is not divisible by {heads} heads; "
                             f"{' or '.join(map(str, near))} would be")
        self.heads, self.dropout = heads, probability("Attention", dropout)
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
        B, H, T, K = heads.shape
        return self.out(heads.swapaxes(1, 2).reshape(B, T, H * K))

    def project(self, query: Tensor, key: Tensor | None = None, value: Tensor | None = None) -> tuple[Tensor, ...]:
        """Queries (B, H, T, K), keys and values (B, H, S, K); keys come from the queries' input unless given."""
        key = query if key is None else key
        value = key if value is None else value
        return (self.split_heads(self.query(query)), self.split_heads(self.key(key)),
                self.split_heads(self.value(value)))

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, T, D) → (B, H, T, K)"""
        B, T, D = x.shape
        return x.reshape(B, T, self.heads, D // self.heads).swapaxes(1, 2)

    def pattern(self, query: Tensor, key: Tensor | None = None, *, mask: Any = None, causal: bool = False) -> Array:
        """The weights themselves, (B, H, T, S), before any dropout: each row sums to 1. To look at, without a graph."""
        with no_grad():
            q, k, _ = self.project(query, key)
        return ops.network.attention_pattern(q.data, k.data, mask=bare(mask), causal=causal, scale=q.shape[-1] ** -0.5)

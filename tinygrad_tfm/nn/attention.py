"""Attention with weights: the queries, keys and values of several heads.

The arithmetic of one head is the rule `attention` in `ops/network.py`; cheaper ways to attend stand in `efficient/`,
where a token stands in `positions.py`. Read next: `blocks.py`.
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
from .positions import NoPositions, Positions


class Attention(Module):
    """Multi-head attention: Concat(head₁ … head_H)·W_O, headᵢ = softmax(qᵢ·kᵢᵀ/√K)·vᵢ, q = x·W_Q, k = m·W_K, v = m·W_V.

    width D is divided into `heads` H of K = D/H. Call `attention(x)` for self-attention, `attention(x, memory)` for
    cross-attention: queries (B, T, D) from x, keys and values (B, S, D) from memory → (B, T, D). `mask` is boolean,
    True where a query may look, and broadcasts to (B, H, T, S); a query that may look nowhere gives zeros. `causal`
    hides what comes later. `dropout` acts on the weights while training. `positions` may turn queries and keys, or add
    to the scores (`positions.py`): for self-attention, where both are counted alike.

    Raises ValueError if D is not divisible by H, RuntimeError for a `cache` where gradients are recorded.
    (Vaswani et al. 2017, arXiv:1706.03762, §3.2; others pack the three projections into one weight, `in_proj` or
    `c_attn`: here each has its name.)
    """

    def __init__(self, width: int, heads: int, bias: bool = True, dropout: float = 0.0,
                 positions: Positions | None = None):
        positive("Attention", width=width, heads=heads)
        divisible("Attention", width, heads)
        fraction("Attention", dropout=dropout)
        self.heads, self.dropout = heads, dropout
        self.query = Linear(width, width, bias)
        self.key = Linear(width, width, bias)
        self.value = Linear(width, width, bias)
        self.out = Linear(width, width, bias)
        self.positions = NoPositions() if positions is None else positions

    def forward(self, query: Tensor, key: Tensor | None = None, value: Tensor | None = None, *, mask: Any = None,
                causal: bool = False, cache: KVCache | None = None) -> Tensor:
        q, k, v = self.project(query, key, value, start=cache.length if cache else 0)
        k, v = cache.extend(k, v) if cache else (k, v)
        heads = self.attend(q, k, v, mask=mask, causal=causal)
        return self.out(heads.swapaxes(-3, -2).reshape(*query.shape))

    def project(self, query: Tensor, key: Tensor | None = None, value: Tensor | None = None,
                start: int = 0) -> tuple[Tensor, ...]:
        """Queries (B, H, T, K), keys and values (B, H, S, K) from position `start` on; keys come from the queries'
        input unless given."""
        key = query if key is None else key
        value = key if value is None else value
        q, k, v = map(self.split_heads, (self.query(query), self.key(key), self.value(value)))
        return self.positions.rotate(q, start), self.positions.rotate(k, start), v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *, mask: Any = None, causal: bool = False) -> Tensor:
        """What each head gathers: the one method in which the attentions of `efficient/` differ.  → (B, H, T, K)"""
        p = self.dropout if self.training else 0.0
        return F.attention(q, k, v, self.positions.bias(q.shape[-2], k.shape[-2]), mask=mask, causal=causal, p=p,
                           key=new_key() if p else 0)

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, T, D) → (B, H, T, K)"""
        *B, T, D = x.shape
        return x.reshape(*B, T, self.heads, D // self.heads).swapaxes(-3, -2)

    def pattern(self, query: Tensor, key: Tensor | None = None, *, mask: Any = None, causal: bool = False) -> Array:
        """The weights themselves, (B, H, T, S), before any dropout: each row sums to 1. To look at, without a graph."""
        with no_grad():
            q, k, _ = self.project(query, key)
        return ops.network.attention_pattern(q.data, k.data, bare(self.positions.bias(q.shape[-2], k.shape[-2])),
                                             mask=bare(mask), causal=causal, scale=q.shape[-1] ** -0.5)

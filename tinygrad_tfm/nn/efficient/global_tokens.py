"""Neighbours, and a few tokens that see all and are seen by all."""

from typing import Any

from ... import functional as F
from ...backend import namespace
from ...errors import positive
from ...tensor import Tensor
from .base import EfficientAttention
from .blocks import band, beside, cut, joined, places
from .local import BY_BLOCKS


class GlobalAttention(EfficientAttention):
    """softmax(q·kᵀ/√K)·v over the keys with |i − j| < window, and over all if i or j is one of the `first` tokens.

    What happened far away reaches every token in two steps, by way of these. n·(window + first) in time and memory;
    exact for its pattern. With `causal` no token sees a later one, so the first ones are only seen, by all.
    (Longformer: Beltagy et al. 2020, arXiv:2004.05150, §3.1; there global attention has projections of its own.)

    Raises ValueError for another sequence, masks, caches, and positions that add to the scores.
    """

    refuses = BY_BLOCKS

    def __init__(self, *shape: Any, window: int, first: int = 1, **settings: Any):
        positive("GlobalAttention", window=window, first=first)
        super().__init__(*shape, **settings)
        self.window, self.first = window, first

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *, mask: Any = None, causal: bool = False) -> Tensor:
        """By blocks, each beside its neighbours and the first tokens.     (B, H, T, K) → (B, H, T, K)"""
        xp, T = namespace(q.data), q.shape[-2]
        window, first, after = min(self.window, T), min(self.first, T), 0 if causal else 1
        blocks, n = cut(q, window), -(-T // window)
        i, j = places(T, window, after, xp)
        near = band(T, window, causal, xp) & (j >= first)                       # none is counted twice
        far = (xp.arange(first) <= i) | (not causal)                            # (n, window, first)
        keys, values = (F.concat([x[..., None, :first, :].repeat(n, axis=-3), beside(cut(x, window), after)], axis=-2)
                        for x in (k, v))
        y = joined(F.attention(blocks, keys, values, mask=xp.concatenate([far, near], axis=-1), **self.drop()), T)
        if causal:
            return y
        return F.concat([F.attention(q[..., :first, :], k, v, **self.drop()), y[..., first:, :]], axis=-2)

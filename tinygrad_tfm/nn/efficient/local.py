"""Every token looks at its neighbours only."""

from typing import Any

from ... import functional as F
from ...backend import namespace
from ...errors import positive
from ...tensor import Tensor
from .base import EfficientAttention
from .blocks import band, beside, cut, joined

BY_BLOCKS = {"cross": "what is near is defined within one sequence",
             "mask": "its blocks have their own; padding belongs at the end, behind causal attention",
             "cache": "it computes block by block; generate with cached=False",
             "bias": "its scores stand in blocks; take positions that turn queries, or are added to the stream"}


class LocalAttention(EfficientAttention):
    """softmax(q·kᵀ/√K)·v over the keys with |i − j| < window; with `causal` those with 0 ≤ i − j < window.

    Blocks of `window` queries meet the keys of their own block and of its neighbours: n·window in time and memory,
    where dense attention takes n². Exact for its pattern. Other settings are those of `Attention`.
    (Beltagy et al. 2020, arXiv:2004.05150, §3.1)

    Raises ValueError for another sequence, masks, caches, and positions that add to the scores.
    """

    refuses = BY_BLOCKS

    def __init__(self, *shape: Any, window: int, **settings: Any):
        positive("LocalAttention", window=window)
        super().__init__(*shape, **settings)
        self.window = window

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *, mask: Any = None, causal: bool = False) -> Tensor:
        """By blocks.     (B, H, T, K) → (B, H, T, K)"""
        T = q.shape[-2]
        window, after = min(self.window, T), 0 if causal else 1
        q, k, v = (cut(x, window) for x in (q, k, v))
        seen = band(T, window, causal, namespace(q.data))
        return joined(F.attention(q, beside(k, after), beside(v, after), mask=seen, **self.drop()), T)

"""Neighbours, and every so-manieth token before and after."""

import math
from typing import Any

from ... import functional as F
from ...backend import namespace
from ...errors import positive
from ...tensor import Tensor
from .base import EfficientAttention
from .blocks import band, beside, cut, joined
from .local import BY_BLOCKS


class StridedAttention(EfficientAttention):
    """softmax(q·kᵀ/√K)·v over the keys with |i − j| < stride, and those with i − j a multiple of `stride`.

    Written in rows of `stride` tokens, a token sees the last row's length of text, and its column. Any other is two
    steps away. n·(stride + n/stride) in time and memory, which is least, n·√n, for a stride of √n; exact for its
    pattern. (Sparse transformer: Child et al. 2019, arXiv:1904.10509, §4.2; both patterns in every head.)

    Raises ValueError for another sequence, masks, caches, and positions that add to the scores.
    """

    refuses = BY_BLOCKS

    def __init__(self, *shape: Any, stride: int, **settings: Any):
        positive("StridedAttention", stride=stride)
        super().__init__(*shape, **settings)
        self.stride = stride

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *, mask: Any = None, causal: bool = False) -> Tensor:
        """Rows and columns are multiplied apart, under one softmax.     (B, H, T, K) → (B, H, T, K)"""
        xp, T = namespace(q.data), q.shape[-2]
        stride, after = min(self.stride, T), 0 if causal else 1
        q, k, v = (cut(x, stride) for x in (q * q.shape[-1] ** -0.5, k, v))     # (B, H, n, stride, K)
        near = q @ beside(k, after).swapaxes(-1, -2)                            # (B, H, n, stride, m)
        far = (columns(q) @ columns(k).swapaxes(-1, -2)).swapaxes(-2, -3)       # (B, H, n, stride, n)
        row, other = xp.arange(far.shape[-1])[:, None, None], xp.arange(far.shape[-1])
        in_column = (other * stride + xp.arange(stride)[:, None] < T) & ((other < row) if causal else (other != row))
        seen = xp.concatenate([band(T, stride, causal, xp), in_column], axis=-1)
        pattern = F.softmax(F.where(seen, F.concat([near, far], axis=-1), -math.inf))
        pattern = F.dropout(pattern, **self.drop()) if self.training and self.dropout else pattern
        m = near.shape[-1]
        gathered = columns(columns(pattern[..., m:]) @ columns(v))
        return joined(pattern[..., :m] @ beside(v, after) + gathered, T)


def columns(x: Tensor) -> Tensor:
    """(B, H, n, stride, K) ↔ (B, H, stride, n, K)"""
    return x.swapaxes(-2, -3)

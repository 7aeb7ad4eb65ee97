"""Every query keeps its best keys."""

import math
from typing import Any

from ... import functional as F
from ...backend import namespace
from ...errors import positive
from ...ops.network import visible
from ...tensor import Tensor, bare
from .base import EfficientAttention


class TopKAttention(EfficientAttention):
    """softmax(q·kᵀ/√K)·v over the k keys with the largest scores of each query; equals of the k-th stay too.

    Sharper, not cheaper: all n² scores are computed to find the best, twice over. What it saves is only what a
    reader must look at. The choice has no gradient, the weights of the chosen have. (Gupta et al. 2021,
    arXiv:2106.06899, §2; with an index that finds the best keys without trying all it would cost less.)
    """

    def __init__(self, *shape: Any, k: int, **settings: Any):
        positive("TopKAttention", k=k)
        super().__init__(*shape, **settings)
        self.k = k

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *, mask: Any = None, causal: bool = False) -> Tensor:
        """The dense rule, with a mask of the chosen.     (B, H, T, K) → (B, H, T, K)"""
        xp, bias = namespace(q.data), self.positions.bias(q.shape[-2], k.shape[-2])
        scores = (q.data * q.shape[-1] ** -0.5) @ k.data.swapaxes(-1, -2)
        scores = scores if bias is None else scores + bias.data
        seen = visible(scores.shape, bare(mask), causal, xp)
        scores = scores if seen is None else xp.where(seen, scores, -math.inf)
        least = xp.sort(scores, axis=-1)[..., -min(self.k, scores.shape[-1])]
        chosen = (scores >= least[..., None]) & (scores > -math.inf)
        return F.attention(q, k, v, bias, mask=chosen, **self.drop())

"""The keys and values of a text, squeezed into a few."""

from typing import Any

from ... import functional as F
from ...errors import positive
from ...tensor import Tensor
from .. import init
from .base import EfficientAttention


class LinformerAttention(EfficientAttention):
    """softmax(q·(Eᵀ·k)ᵀ/√K)·(Fᵀ·v): E and F, (context, rank) each and trained, mix S keys and values into `rank`.

    n·rank in time and memory. A row of E belongs to a place in the text, so there is a longest one, `context`, and
    nothing can be causal: every mixture contains the end. All heads share E and F. (Wang et al. 2020,
    arXiv:2006.04768, §4. First weights: N(0, 1/context), so that a mixture is as large as a key.)

    Raises ValueError for causality, masks, caches, positions that add to the scores, and more than `context` keys.
    """

    refuses = {"causal": "each of its keys is mixed of the whole text", "mask": "its keys are mixtures",
               "cache": "a new token changes every mixture", "bias": "its keys have no places"}

    def __init__(self, *shape: Any, rank: int, context: int, **settings: Any):
        positive("LinformerAttention", rank=rank, context=context)
        super().__init__(*shape, **settings)
        self.mix_keys = init.normal(context, rank, std=context ** -0.5)
        self.mix_values = init.normal(context, rank, std=context ** -0.5)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *, mask: Any = None, causal: bool = False) -> Tensor:
        """Dense attention to the mixtures.     (B, H, T, K), (B, H, S, K), (B, H, S, K) → (B, H, T, K)"""
        S = k.shape[-2]
        if S > len(self.mix_keys):
            raise ValueError(f"LinformerAttention: {S} keys are more than the context of {len(self.mix_keys)}")
        mixed = (mix[:S].swapaxes(0, 1) @ x for mix, x in ((self.mix_keys, k), (self.mix_values, v)))
        return F.attention(q, *mixed, **self.drop())

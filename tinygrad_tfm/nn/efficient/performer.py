"""Linear attention whose features are drawn so that it estimates softmax's."""

import math
from typing import Any

import numpy as np

from ... import functional as F
from ...backend import DEFAULT_DTYPE, to_device
from ...errors import positive
from ...ops.reductions import highest
from ...random import rng
from ...tensor import Tensor
from .linear import LinearAttention


class PerformerAttention(LinearAttention):
    """Linear attention with φ(x)ₘ = exp(wₘ·x − |x|²/2), x divided by K^¼: on average over w, φ(q)·φ(k) ∝ exp(q·k/√K).

    w are `features` Gaussian vectors, in groups of K that stand at right angles, which errs less than drawing each by
    itself; they are drawn once, shared by the heads and not trained; `redraw` draws others. The error falls as
    1/√features while queries and keys are short, and far more slowly where they are long: then a few lucky directions
    carry all the weight. n·features·K in time, n in memory.
    (FAVOR+: Choromanski et al. 2020, arXiv:2009.14794, §2.3–2.4)

    Raises ValueError for what LinearAttention refuses.
    """

    def __init__(self, width: int, heads: int, *more: Any, features: int, **settings: Any):
        positive("PerformerAttention", features=features)
        super().__init__(width, heads, *more, **settings)
        self.directions = Tensor(orthogonal_directions(width // heads, features))

    def redraw(self) -> None:
        """Other directions, by the one seed that rules all."""
        drawn = orthogonal_directions(*self.directions.shape).astype(self.directions.dtype)
        self.directions.data = to_device(drawn, self.directions.device)

    def exponents(self, x: Tensor) -> Tensor:
        """w·x − |x|²/2 with x divided by K^¼.     (B, H, T, K) → (B, H, T, features)"""
        x = x * x.shape[-1] ** -0.25
        return x @ self.directions - (x * x).sum(axis=-1, keepdims=True) * 0.5

    def features(self, x: Tensor) -> Tensor:
        """exp of it; at most exp(|w|²/2), which single precision holds.     (B, H, T, K) → (B, H, T, features)"""
        return F.exp(self.exponents(x))

    def features_of_queries(self, x: Tensor) -> Tensor:
        """Shifted by the largest of each query, as in softmax: that cancels.     (B, H, T, K) → (B, H, T, features)"""
        x = self.exponents(x)
        return F.exp(x - Tensor(highest(x.data, -1)))


def orthogonal_directions(width: int, count: int) -> np.ndarray:
    """`count` vectors with the lengths of Gaussian ones, each `width` of them at right angles: (width, count)."""
    groups = []
    for _ in range(math.ceil(count / width)):
        q, r = np.linalg.qr(rng().standard_normal((width, width)))
        lengths = np.linalg.norm(rng().standard_normal((width, width)), axis=0)
        groups.append(q * np.sign(np.diag(r)) * lengths)
    return np.concatenate(groups, axis=1)[:, :count].astype(DEFAULT_DTYPE)

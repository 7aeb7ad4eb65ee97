"""Queries look for keys in the same bucket of a hash that puts like vectors together."""

import math
from typing import Any, NamedTuple

import numpy as np

from ... import functional as F
from ...backend import DEFAULT_DTYPE, Array, namespace, to_device
from ...errors import positive
from ...ops.reductions import highest
from ...random import rng
from ...tensor import Tensor
from .base import EfficientAttention
from .blocks import band, beside, cut, joined
from .local import BY_BLOCKS

ALONE = 1e5                                                        # taken from a token's score with itself


class Hashing(NamedTuple):
    """One round: the bucket of each token, the tokens sorted by bucket and position, the rank of each.  (B, H, T, 1)"""

    bucket: Array
    order: Array
    rank: Array


class ReformerAttention(EfficientAttention):
    """softmax(q·kᵀ/√K)·v, k = q/|q|, over the keys that in one of `rounds` hashes fall into the query's bucket.

    Only keys that point where a query points get weight, and a random rotation R with bucket = argmax [x·R, −x·R] puts
    those into one of `buckets` more often than not. Sorted by bucket they are neighbours: each query meets those that
    come fewer than `window` places before it, or after it unless `causal`. A key found in N rounds counts once. A
    token sees itself only if it sees nothing else. n·window·rounds in time and memory, and the sorting.
    (Kitaev et al. 2020, arXiv:2001.04451, §2. There the sorted text is cut into chunks, whose edges depend on later
    tokens, so that a little of the future shows; a sliding window has none. Rotations are drawn once; `redraw`.)

    Raises ValueError for an odd number of buckets, another sequence, masks, caches, dropout, and positions that add
    to the scores.
    """

    refuses = BY_BLOCKS | {"dropout": "the weights of a query lie in several rounds"}

    def __init__(self, width: int, heads: int, *more: Any, buckets: int, rounds: int = 2, window: int = 32,
                 **settings: Any):
        positive("ReformerAttention", buckets=buckets, rounds=rounds, window=window)
        if buckets % 2:
            raise ValueError(f"ReformerAttention: buckets come in opposite pairs, {buckets} is odd")
        super().__init__(width, heads, *more, **settings)
        self.key = self.query                                      # one projection for both, found once
        self.window = window
        self.rotations = Tensor(rotations(rounds, width // heads, buckets))

    def redraw(self) -> None:
        """Other rotations, by the one seed that rules all."""
        rounds, K, half = self.rotations.shape
        self.rotations.data = to_device(rotations(rounds, K, 2 * half).astype(self.rotations.dtype),
                                        self.rotations.device)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *, mask: Any = None, causal: bool = False) -> Tensor:
        """Each round a numerator and a denominator, brought to one shift and added.     (B, H, T, K) → (B, H, T, K)"""
        k = k * F.rsqrt((k * k).sum(axis=-1, keepdims=True) + 1e-12)
        hashings = [hashing(q.data, rotation) for rotation in self.rotations.data]
        sums, totals, tops = zip(*(self.round(q * q.shape[-1] ** -0.5, k, v, h, hashings, causal) for h in hashings))
        xp = namespace(q.data)
        top = xp.stack(tops)
        shrink = Tensor(xp.exp(top - top.max(axis=0)))
        return (F.stack(sums) * shrink).sum(axis=0) / (F.stack(totals) * shrink).sum(axis=0)

    def round(self, q: Tensor, k: Tensor, v: Tensor, h: Hashing, hashings: list[Hashing],
              causal: bool) -> tuple[Tensor, Tensor, Array]:
        """Σ exp(score − top)·v, Σ exp(score − top) and top of each query, over what this round has found."""
        xp, T = namespace(q.data), q.shape[-2]
        window, after = min(self.window, T), 0 if causal else 1
        q, k, v = (cut(F.take_along_axis(x, indices=h.order, axis=-2), window) for x in (q, k, v))
        i, j = cut(h.order, window), beside(cut(h.order, window), after).swapaxes(-1, -2)      # which tokens they are
        together = sum((at(other.bucket, i) == at(other.bucket, j))
                       & (abs(at(other.rank, i) - at(other.rank, j)) < window) for other in hashings)
        seen = band(T, window, causal, xp) & (at(h.bucket, i) == at(h.bucket, j))
        less = xp.log(xp.maximum(together, 1)) + ALONE * (i == j)
        scores = q @ beside(k, after).swapaxes(-1, -2) - Tensor(less.astype(q.dtype))
        scores = F.where(seen, scores, -math.inf)
        top = highest(scores.data, -1)
        e = F.exp(scores - Tensor(top))
        back = lambda x: F.take_along_axis(joined(x, T), indices=h.rank, axis=-2)
        return (back(e @ beside(v, after)), back(e.sum(axis=-1, keepdims=True)),
                xp.take_along_axis(joined(top, T), h.rank, axis=-2))


def rotations(rounds: int, width: int, buckets: int) -> np.ndarray:
    """Gaussian matrices, one a round: (rounds, width, buckets/2)."""
    return rng().standard_normal((rounds, width, buckets // 2), dtype=DEFAULT_DTYPE)


def hashing(x: Array, rotation: Array) -> Hashing:
    """The bucket argmax [x·R, −x·R] of each vector, and what sorting by it gives.     (B, H, T, K), (K, n/2)"""
    xp, T = namespace(x), x.shape[-2]
    side = x @ rotation
    bucket = xp.concatenate([side, -side], axis=-1).argmax(axis=-1)
    order = (bucket * T + xp.arange(T)).argsort(axis=-1)           # all keys differ: within a bucket by position
    return Hashing(*(a[..., None] for a in (bucket, order, order.argsort(axis=-1))))


def at(x: Array, places: Array) -> Array:
    """x, (B, H, T, 1), at these places, (B, H, …)."""
    flat = places.reshape(*x.shape[:2], -1)
    return namespace(x).take_along_axis(x[..., 0], flat, axis=-1).reshape(places.shape)

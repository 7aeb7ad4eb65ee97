"""Where a token stands. Attention by itself does not know; a scheme tells it in one of three places.

On the stream, a vector is added to the token's embedding: `positions(T, start)` gives (T, D). On queries and keys,
they are turned: `rotate`. On the scores, a number is added: `bias`. What a scheme does not do it leaves as it is, so a
model calls all three and need not know which scheme it has. Read next: `attention.py`.
"""

import math
from typing import Any

import numpy as np

from .. import functional as F
from ..backend import DEFAULT_DTYPE, namespace
from ..errors import positive
from ..tensor import Tensor
from . import init
from .module import Module


class Positions(Module):
    """What all schemes are: each of the three does nothing unless a scheme says otherwise."""

    def forward(self, T: int, start: int = 0) -> Any:
        """What is added to the embeddings of positions start … start + T − 1: (T, D), or 0."""
        return 0.0

    def rotate(self, x: Tensor, start: int = 0) -> Tensor:
        """Queries or keys (B, H, T, K) at positions from `start` on, turned by where they stand."""
        return x

    def bias(self, T: int, S: int) -> Tensor | None:
        """What is added to the scores of the last T of S positions with all S of them: (H, T, S), or None."""
        return None


class NoPositions(Positions):
    """No word of order: attention that sees everything takes a sentence for a bag of words. A causal one still counts
    how many came before (Haviv et al. 2022, arXiv:2203.16634)."""


class LearnedPositions(Positions):
    """One trained vector for each of `context` positions, added to the stream (GPT-2, BERT).

    Raises ValueError for a position beyond the context: there is no vector for it.
    """

    def __init__(self, context: int, width: int):
        positive("LearnedPositions", context=context, width=width)
        self.weight = init.normal(context, width)

    def forward(self, T: int, start: int = 0) -> Tensor:
        if start + T > len(self.weight):
            raise ValueError(f"positions {start} to {start + T - 1} were asked for, the context has {len(self.weight)}")
        return self.weight[start:start + T]


class SinusoidalPositions(Positions):
    """PE[t, 2i] = sin(t/10000^(2i/D)), PE[t, 2i+1] = cos(t/10000^(2i/D)): fixed, and defined for any position.

    PE[t + k] is a rotation of PE[t] that depends on k alone (Vaswani et al. 2017, arXiv:1706.03762, §3.5).
    """

    def __init__(self, context: int, width: int):
        positive("SinusoidalPositions", context=context, width=width)
        self.width = width
        self.weight = Tensor(sinusoids(0, context, width))

    def forward(self, T: int, start: int = 0) -> Tensor:
        if start + T <= len(self.weight):
            return self.weight[start:start + T]
        return Tensor(sinusoids(start, T, self.width), device=self.weight.device)


class SinusoidalPositions2D(Positions):
    """PE[r·columns + c] = [PE_row[r], PE_column[c]]: half of the width says the row, half the column, each as above.

    For the patches of an image, row after row, as in masked autoencoders (He et al. 2021, arXiv:2111.06377, §3).
    Raises ValueError for an odd width, and for a position outside the picture.
    """

    def __init__(self, rows: int, columns: int, width: int):
        positive("SinusoidalPositions2D", rows=rows, columns=columns, width=width)
        even("SinusoidalPositions2D", width)
        row, column = (sinusoids(0, n, width // 2) for n in (rows, columns))
        self.weight = Tensor(np.concatenate([row.repeat(columns, axis=0), np.tile(column, (rows, 1))], axis=1))

    def forward(self, T: int, start: int = 0) -> Tensor:
        if start + T > len(self.weight):
            raise ValueError(f"positions {start} to {start + T - 1} were asked for, the picture has {len(self.weight)}")
        return self.weight[start:start + T]


class Rotary(Positions):
    """Pair n of a query or key at position t, the complex number x₂ₙ + i·x₂ₙ₊₁, is multiplied by exp(i·t/base^(2n/K)).

    Turned by their own positions, two vectors have a product that depends on the distance alone. `width` is K, that
    of a head; nothing is trained, and any position will do. Pairs are neighbours as in the paper (Su et al. 2021,
    arXiv:2104.09864, §3.2); others (GPT-NeoX, LLaMA in `transformers`) pair number n with number n + K/2, which is
    the same up to the order of the numbers in a head, but not for weights that are carried over.
    Raises ValueError for an odd width.
    """

    def __init__(self, width: int, base: float = 10000.0):
        positive("Rotary", width=width)
        even("Rotary", width)
        self.rates = Tensor((1 / base ** (np.arange(0, width, 2) / width)).astype(DEFAULT_DTYPE))

    def rotate(self, x: Tensor, start: int = 0) -> Tensor:
        """Real and imaginary parts turned, and put side by side again.     (B, H, T, K) → (B, H, T, K)"""
        xp, T = namespace(x.data), x.shape[-2]
        angles = xp.arange(start, start + T, dtype=float)[:, None] * self.rates.data      # (T, K/2), large far out
        cos, sin = (f(angles).astype(x.dtype) for f in (xp.cos, xp.sin))
        re, im = x[..., 0::2], x[..., 1::2]
        return F.stack([re * cos - im * sin, re * sin + im * cos], axis=-1).reshape(x.shape)


class RelativeBias(Positions):
    """scores += b[head, bucket(j − i)]: one trained number a head for each bucket of distances.     (H, T, S)

    Near distances have buckets of their own, farther ones share, in logarithmic steps; beyond `furthest` all are one.
    With `both_ways` half of the buckets are for keys that come later, else those count as distance 0 (for causal
    attention). (Raffel et al. 2019, arXiv:1910.10683, §2.1. T5 does not divide scores by √K; here they are.)
    One object may serve all layers, as in T5.

    Raises ValueError for too few buckets, and if `furthest` is not beyond the buckets of single distances.
    """

    def __init__(self, heads: int, buckets: int = 32, furthest: int = 128, both_ways: bool = True):
        positive("RelativeBias", heads=heads, buckets=buckets, furthest=furthest)
        ways = 2 if both_ways else 1
        single = buckets // ways // 2
        if buckets % ways or not single:
            raise ValueError(f"RelativeBias: buckets must be 2 or more for each way, equally many, not {buckets}")
        if furthest <= single:
            raise ValueError(f"RelativeBias: furthest must be more than {single}, the number of distances that have a "
                             f"bucket of their own, not {furthest}")
        self.both_ways, self.furthest = both_ways, furthest
        self.weight = init.normal(buckets, heads)

    def bias(self, T: int, S: int) -> Tensor:
        """The numbers of the buckets that the offsets fall into: (H, T, S)."""
        xp = namespace(self.weight.data)
        offsets = xp.arange(S) - xp.arange(S - T, S)[:, None]                                      # j − i
        buckets = relative_buckets(offsets, len(self.weight), self.furthest, self.both_ways)
        return F.embedding(self.weight, ids=buckets).transpose(2, 0, 1)


class ALiBi(Positions):
    """scores −= mₕ·|i − j|: every head forgets with distance, the first fastest; nothing is trained.     (H, T, S)

    With H a power of two mₕ = 2^(−8h/H), h = 1 … H; else the slopes of the next smaller power, and for the heads that
    remain every second of the next larger one's (Press et al. 2021, arXiv:2108.12409, §3 and its code).
    """

    def __init__(self, heads: int):
        positive("ALiBi", heads=heads)
        self.slopes = Tensor(alibi_slopes(heads))

    def bias(self, T: int, S: int) -> Tensor:
        """Slopes times distances, negative: (H, T, S)."""
        xp = namespace(self.slopes.data)
        distance = abs(xp.arange(S) - xp.arange(S - T, S)[:, None])
        return Tensor(-self.slopes.data[:, None, None] * distance.astype(self.slopes.dtype))


def sinusoids(start: int, T: int, width: int) -> np.ndarray:
    """The table of SinusoidalPositions from position `start`: (T, D)."""
    angles = np.arange(start, start + T)[:, None] / 10000 ** (np.arange(0, width, 2) / width)    # (T, D/2)
    table = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(T, -1)
    return table[:, :width].astype(DEFAULT_DTYPE)


def relative_buckets(offsets: Any, buckets: int, furthest: int, both_ways: bool) -> Any:
    """The bucket of each offset j − i: of n a way, the first n/2 for single distances d < n/2 = e, then
    e + ⌊(n − e)·ln(d/e)/ln(furthest/e)⌋, at most n − 1."""
    xp, n = namespace(offsets), buckets // (2 if both_ways else 1)
    later = n * (offsets > 0) if both_ways else 0
    distance = abs(offsets) if both_ways else xp.maximum(-offsets, 0)
    exact = n // 2
    steps = xp.log(xp.maximum(distance, exact) / exact) / math.log(furthest / exact) * (n - exact)
    far = xp.minimum(exact + (steps + 1e-9).astype(int), n - 1)              # 1e-9: where a step begins, it has begun
    return later + xp.where(distance < exact, distance, far)


def alibi_slopes(heads: int) -> np.ndarray:
    """The slopes mₕ of ALiBi, one a head: (H,)"""
    below = 1 << heads.bit_length() - 1                                      # the largest power of two up to H
    slopes = [2 ** (-8 * h / below) for h in range(1, below + 1)]
    slopes += [2 ** (-4 * h / below) for h in range(1, 2 * (heads - below), 2)]
    return np.array(slopes, DEFAULT_DTYPE)


def even(owner: str, width: int) -> None:
    """Raise ValueError for an odd width, which has no halves and no pairs."""
    if width % 2:
        raise ValueError(f"{owner}: width must be even, not {width}")

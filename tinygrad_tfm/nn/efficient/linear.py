"""The product of kernels, associated the other way round: keys meet values before they meet queries."""

from typing import Any

from ... import functional as F
from ...backend import namespace
from ...errors import positive
from ...tensor import Tensor
from .base import EfficientAttention
from .blocks import cut, joined


class LinearAttention(EfficientAttention):
    """yᵢ = φ(qᵢ)·(Σⱼ φ(kⱼ)ᵀ·vⱼ) / (φ(qᵢ)·Σⱼ φ(kⱼ)) with φ(x) = elu(x) + 1: weights φ(q)·φ(k), not exp(q·k).

    The sum over j is the same for all queries, K·K numbers however long the text: n·K² in time, n in memory. With
    `causal` it runs to i: within chunks of `chunk` tokens by pairs, before them by the running sum. It is not
    softmax's attention, and no budget brings it there. (Katharopoulos et al. 2020, arXiv:2006.16236, §3.2–3.3)

    Raises ValueError for masks, caches, dropout, positions that add to the scores, and causality between sequences.
    """

    refuses = {"mask": "its sum over the keys is one for all queries",
               "cache": "what it would have to keep is its sum, not the keys; generate with cached=False",
               "dropout": "it has no weights of single keys", "bias": "it has no scores; take rotary positions"}

    def __init__(self, *shape: Any, chunk: int = 32, **settings: Any):
        positive(type(self).__name__, chunk=chunk)
        super().__init__(*shape, **settings)
        self.chunk = chunk

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *, mask: Any = None, causal: bool = False) -> Tensor:
        """A column of ones among the values adds up to the denominator.     (B, H, T, K) → (B, H, T, K)"""
        if causal and q.shape[-2] != k.shape[-2]:
            raise ValueError(f"{type(self).__name__} is causal within one sequence, not between {q.shape[-2]} queries "
                             f"and {k.shape[-2]} keys")
        q, k = self.features_of_queries(q), self.features(k)
        ones = Tensor(namespace(v.data).ones((*v.shape[:-1], 1), v.dtype))
        v = F.concat([v, ones], axis=-1)
        y = running_product(q, k, v, self.chunk) if causal else q @ (k.swapaxes(-1, -2) @ v)
        return y[..., :-1] / y[..., -1:]

    def features(self, x: Tensor) -> Tensor:
        """φ(x) = elu(x) + 1 = max(x, 0) + exp(min(x, 0)), which is positive.     (B, H, T, K) → (B, H, T, K)"""
        return F.relu(x) + F.exp(F.minimum(x, 0.0))

    def features_of_queries(self, x: Tensor) -> Tensor:
        """The same; a factor for each query would cancel.     (B, H, T, K) → (B, H, T, K)"""
        return self.features(x)


def running_product(q: Tensor, k: Tensor, v: Tensor, chunk: int) -> Tensor:
    """yᵢ = Σ_{j ≤ i} (qᵢ·kⱼ)·vⱼ.     (B, H, T, F), (B, H, T, F), (B, H, T, V) → (B, H, T, V)"""
    T = q.shape[-2]
    q, k, v = (cut(x, min(chunk, T)) for x in (q, k, v))                        # (B, H, n, chunk, ·)
    sums = (k.swapaxes(-1, -2) @ v).cumsum(axis=-3)                             # up to and with each chunk
    before = F.pad(sums, pad_width=((0, 0),) * (sums.ndim - 3) + ((1, 0), (0, 0), (0, 0)))[..., :-1, :, :]
    return joined(q @ before + F.tril(q @ k.swapaxes(-1, -2)) @ v, T)

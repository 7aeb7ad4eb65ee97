"""Dense attention, exact, that never holds all scores: block after block, and once more on the way back."""

import math
from typing import Any

from ...backend import namespace
from ...errors import positive
from ...ops.common import constant
from ...tensor import Tensor, lift
from .base import EfficientAttention


class BlockwiseAttention(EfficientAttention):
    """softmax(q·kᵀ/√K)·v, the very numbers of `Attention`, in blocks of `block` queries and keys.

    n² in time, n in memory (Rabe & Staats 2021, arXiv:2112.05682; on a GPU, where it is faster too, FlashAttention:
    Dao et al. 2022, arXiv:2205.14135). The rule is below.

    Raises ValueError for masks, dropout, positions that add to the scores, and causality with more queries than keys.
    """

    refuses = {"mask": "its blocks are cut for the causal one alone", "dropout": "its weights are computed twice",
               "bias": "its scores are computed twice; take rotary positions"}

    def __init__(self, *shape: Any, block: int = 64, **settings: Any):
        positive("BlockwiseAttention", block=block)
        super().__init__(*shape, **settings)
        self.block = block

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *, mask: Any = None, causal: bool = False) -> Tensor:
        """The rule, lifted.     (B, H, T, K), (B, H, S, K), (B, H, S, K) → (B, H, T, K)"""
        return blockwise(q, k, v, block=self.block, causal=causal)


def blockwise_attention(q: Any, k: Any, v: Any, *, block: int, causal: bool = False) -> tuple[Any, Any]:
    """y = softmax(q·kᵀ/√K)·v, with the softmax found block by block of keys.

    Σ exp(s − m)·v and Σ exp(s − m) are carried from block to block with the largest score m so far; where a block
    raises m, both are multiplied by exp(m_old − m_new). Kept are q, k, v, y and L = m + ln Σ, from which the way back
    has P = exp(s − L) again, block by block:  gs = P·(g·vᵀ − Σ g·y), gq = gs·k/√K, gk = gsᵀ·q/√K, gv = Pᵀ·g.
    (Milakov & Gimelshein 2018, arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135, §3.1)
    """
    xp, scale, (T, S) = namespace(constant(q)), 1 / math.sqrt(q.shape[-1]), (q.shape[-2], k.shape[-2])
    if causal and T > S:
        raise ValueError(f"causal attention of {T} queries to {S} keys leaves the first ones nothing to see")
    tiles = [(rows, [columns for columns in slices(S, block) if not causal or columns.start <= rows.stop - 1 + S - T])
             for rows in slices(T, block)]

    def scores(rows, columns):
        s = (q[..., rows, :] * scale) @ k[..., columns, :].swapaxes(-1, -2)
        if not causal or columns.stop - 1 <= rows.start + S - T:
            return s
        late = xp.arange(columns.start, columns.stop) > xp.arange(rows.start, rows.stop)[:, None] + S - T
        return namespace(s).where(late, -math.inf, s)

    values, logs = [], []
    for rows, seen in tiles:
        top, total, y = -math.inf, 0.0, 0.0
        for columns in seen:
            s = scores(rows, columns)
            higher = xp.maximum(constant(s).max(axis=-1, keepdims=True), top)
            e, shrink = namespace(s).exp(s - higher), xp.exp(top - higher)
            total, y, top = total * shrink + e.sum(axis=-1, keepdims=True), y * shrink + e @ v[..., columns, :], higher
        values.append(y / total)
        logs.append(namespace(total).log(total) + top)
    y = namespace(q).concatenate(values, axis=-2)

    def back(g):
        gq, gk, gv = [], [0.0] * len(slices(S, block)), [0.0] * len(slices(S, block))
        for (rows, seen), log in zip(tiles, logs):
            gy, gq_rows = g[..., rows, :], 0.0
            lost = (gy * y[..., rows, :]).sum(axis=-1, keepdims=True)
            for i, columns in enumerate(seen):
                p = namespace(log).exp(scores(rows, columns) - log)
                gs = p * (gy @ v[..., columns, :].swapaxes(-1, -2) - lost) * scale
                gq_rows = gq_rows + gs @ k[..., columns, :]
                gk[i] = gk[i] + gs.swapaxes(-1, -2) @ q[..., rows, :]
                gv[i] = gv[i] + p.swapaxes(-1, -2) @ gy
            gq.append(gq_rows)
        return tuple(namespace(g).concatenate(parts, axis=-2) for parts in (gq, gk, gv))
    return y, back


blockwise = lift(blockwise_attention)


def slices(n: int, block: int) -> list[slice]:
    """0 … n − 1 in pieces of `block`."""
    return [slice(i, min(i + block, n)) for i in range(0, n, block)]

"""Twins of softmax and attention for a GPU.

In bf16 attention goes by tiles, and its weights never leave the chip. In float32, and for what the tiles are not made
for, it is two products with a softmax between them. The kernels: `cuda/softmax.cu`, `cuda/attention.cu`. What launches
them is in `cuda.py`, to be read first.
"""

import math
from functools import partial
from typing import Any

import numpy as np

from ..backend import device_of, namespace
from ..random import drop_below
from . import precision
from .cublaslt import product
from .cuda import LARGEST, compiled, dropped, float32, grid, is_bf16, is_key, launch, seed, stored, twin, whole

TILE, HEADS = 64, (32, 64)          # of attention.cu: queries, or keys, in a tile; and widths of a head it is made for


def _along_rows(x: Any, *, axis: Any = -1) -> bool:
    return stored(x) and x.size > 0 and x.ndim > 0 and axis in (-1, x.ndim - 1)


@twin(fits=_along_rows)
def softmax(x, *, axis=-1):
    """A row by a warp. One of nothing but −∞ gives NaN, as in the plain rule."""
    x = whole(x)
    y = namespace(x).empty_like(x)
    softmax_of_scores(x.reshape(-1, x.shape[-1]), y, nothing=math.nan)
    return y, lambda g: softmax_backward(y, g, namespace(y).empty_like(y))


def softmax_of_scores(x, y, mask=None, causal=False, scale=1.0, nothing=0.0):
    """y = softmax(scale·x) over the last axis of (…, T, S), at most four axes, where x may be seen; y may be x."""
    batch, heads, T, S = (1, 1, 1, *x.shape)[-4:]
    strides = (0, 0, 0)
    if mask is not None:                                           # keys side by side; other axes it may lack
        mask = whole(namespace(x).broadcast_to(mask, (*mask.shape[:-1], S)))
        strides = namespace(x).broadcast_to(mask, (batch, heads, T, S)).strides
    launch(compiled("softmax", x.dtype.name)["softmax"], grid(32 * batch * heads * T), x=x, mask=mask, y=y,
           scale=scale, nothing=nothing, causal=causal, mask_batch=strides[0], mask_head=strides[1],
           mask_query=strides[2], heads=heads, T=T, S=S, rows=batch * heads * T)


def softmax_backward(y, g, gx, scale=1.0):
    """gx = scale·y·(g − Σ g·y), row by row; gx may be g itself."""
    rows, S = y.size // y.shape[-1], y.shape[-1]
    launch(compiled("softmax", y.dtype.name)["softmax_backward"], grid(32 * rows), y=y, g=whole(g), gx=gx, scale=scale,
           S=S, rows=rows)
    return gx


def _one_shape(q: Any, k: Any, v: Any, bias: Any = None, *, mask: Any = None, causal: bool = False, p: float = 0.0,
               key: Any = None, **settings: Any) -> bool:
    if not (bias is None and all(map(stored, (q, k, v))) and q.ndim == k.ndim == v.ndim and 2 <= q.ndim <= 4):
        return False
    scores = (*q.shape[:-1], k.shape[-2])
    return (q.shape[:-2] == k.shape[:-2] == v.shape[:-2] and q.shape[-1] == k.shape[-1] and k.shape[-2] == v.shape[-2]
            and q.size and k.size and v.size and math.prod(scores) <= LARGEST
            and 0 <= p < 1 and (not p or is_key(key))
            and (_in_tiles(q, k, v, mask, causal) if is_bf16(q) else all(map(float32, (q, k, v))))
            and (mask is None or device_of(mask) == "cuda" and mask.dtype == bool and mask.ndim <= q.ndim
                 and all(n in (1, m) for n, m in zip(mask.shape[::-1], scores[::-1]))))


def _in_tiles(q: Any, k: Any, v: Any, mask: Any, causal: bool) -> bool:
    """Whether attention.cu is made for it; if not, these arrays become float32."""
    T, S, K = q.shape[-2], k.shape[-2], q.shape[-1]
    return (is_bf16(k) and is_bf16(v) and mask is None and q.ndim == 4 and K in HEADS and v.shape[-1] == K
            and T % TILE == 0 and S % TILE == 0 and (S >= T or not causal))


@twin(fits=_one_shape)
def attention(q, k, v, bias=None, *, mask=None, causal=False, scale=None, p=0.0, key=0):
    """By tiles in bf16, else by products: two ways to the same numbers, and the same weights are dropped."""
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    if is_bf16(q):
        return _by_tiles(q, k, v, causal, scale, p, key)
    return _by_products(q, k, v, mask, causal, scale, p, key)


def _by_products(q, k, v, mask, causal, scale, p, key):
    """Two products, and between them one kernel, or two with dropout. The weights take the place of the scores, and
    the scores' gradient that of g·vᵀ; no mask of what is seen or dropped is ever stored."""
    multiply = partial(product, tf32=precision.current() == "tf32")
    drop = partial(dropped, p=p, key=key) if p else whole
    pattern = multiply(q, k.swapaxes(-1, -2))                      # (B, H, T, S)
    softmax_of_scores(pattern, pattern, mask, causal, scale)

    def back(g):
        h = drop(multiply(g, v.swapaxes(-1, -2)))
        gs = softmax_backward(pattern, h, h, scale)
        return multiply(gs, k), multiply(gs.swapaxes(-1, -2), q), multiply(drop(pattern).swapaxes(-1, -2), g), None
    return multiply(drop(pattern), v), back


def _by_tiles(q, k, v, causal, scale, p, key):
    """Kept for the way back are q, k, v, y and one number a query: no row of weights exists at any time."""
    if not _in_tiles(q, k, v, None, causal):
        raise ValueError(f"attention by tiles takes heads of {' or '.join(map(str, HEADS))} numbers and lengths that "
                         f"are multiples of {TILE}, not queries {q.shape} and keys {k.shape}")
    (B, H, T, K), S, xp = q.shape, k.shape[2], namespace(q)
    kernels = compiled("attention", HEAD=K, DROP=drop_below(p) if p else 0)
    q, k, v = (_heads_side_by_side(x) for x in (q, k, v))
    shape = dict(key=seed(key) if p else None, scale=scale, keep_scale=1 / (1 - p), causal=causal, H=H, T=T, S=S,
                 stride=H * K)
    y, lse = xp.empty_like(q), xp.empty((B, H, T), np.float32)
    launch(kernels["attention"], (B * H, T // TILE), q=q, k=k, v=v, y=y, lse=lse, **shape)

    def back(g):
        g, delta = _heads_side_by_side(g), xp.empty_like(lse)
        gq, gk, gv = (xp.empty_like(x) for x in (q, k, v))
        launch(kernels["attention_delta"], grid(32 * lse.size), y=y, g=g, delta=delta, H=H, T=T, rows=lse.size)
        given = dict(q=q, k=k, v=v, g=g, lse=lse, delta=delta, **shape)
        launch(kernels["attention_gq"], (B * H, T // TILE), gq=gq, **given)
        launch(kernels["attention_gkv"], (B * H, S // TILE), gk=gk, gv=gv, **given)
        return *(x.swapaxes(1, 2) for x in (gq, gk, gv)), None
    return y.swapaxes(1, 2), back


def _heads_side_by_side(x):
    """(B, H, T, K) as it lies behind a product, (B, T, H, K): nothing is moved if it comes from there."""
    return whole(x.swapaxes(1, 2))

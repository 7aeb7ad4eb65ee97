"""Rules of neural networks: softmax, normalisation, embedding, losses, dropout, attention.

Letters: B batch, T time (of queries), S time (of keys), D width, H heads, K width of a head, V vocabulary.
"""

import math
from typing import Any

from ..backend import namespace
from ..errors import fraction
from ..random import random_mask
from .common import constant, use
from .elementwise import absolute, identity, log1p, relu, sigmoid
from .reductions import highest, spread
from .shapes import place, take_along_axis

ONE_HOT_LIMIT = 1024               # up to this vocabulary a one-hot product is faster than scattered additions


def softmax(x, *, axis: int = -1):
    """yᵢ = exp xᵢ / Σⱼ exp xⱼ.   gx = y·(g − Σ g·y)     (..., n) → (..., n)"""
    e = namespace(x).exp(x - highest(x, axis))
    y = e / e.sum(axis=axis, keepdims=True)
    return y, lambda g: y * (g - (g * y).sum(axis=axis, keepdims=True))


def log_softmax(x, *, axis: int = -1):
    """yᵢ = xᵢ − ln Σⱼ exp xⱼ.   gx = g − exp(y)·Σ g     (..., n) → (..., n)"""
    shifted = x - highest(x, axis)
    y = shifted - namespace(x).log(namespace(x).exp(shifted).sum(axis=axis, keepdims=True))
    return y, lambda g: g - namespace(y).exp(y) * g.sum(axis=axis, keepdims=True)


def layer_norm(x, gain=None, bias=None, *, eps: float = 1e-5):
    """y = (x − mean)/√(var + ε)·gain + bias over the last axis.     (..., D) → (..., D)

    With n = (x − mean)/√(var + ε) and h = g·gain:  gx = (h − mean h − n·mean(h·n))/√(var + ε).
    (Ba et al. 2016, arXiv:1607.06450, eq. 3–4)
    """
    centred = x - x.mean(axis=-1, keepdims=True)
    rstd = 1 / namespace(x).sqrt((centred * centred).mean(axis=-1, keepdims=True) + eps)
    normed = centred * rstd
    y = normed if gain is None else normed * gain
    def back(g):
        h = g if gain is None else g * gain
        gx = rstd * (h - h.mean(axis=-1, keepdims=True) - normed * (h * normed).mean(axis=-1, keepdims=True))
        return gx, g * normed, g
    return (y if bias is None else y + bias), back


def rms_norm(x, gain=None, *, eps: float = 1e-6):
    """y = x/√(mean x² + ε)·gain over the last axis.     (..., D) → (..., D)

    Layer norm without the mean (Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4).
    """
    rstd = 1 / namespace(x).sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
    normed = x * rstd
    def back(g):
        h = g if gain is None else g * gain
        return rstd * (h - normed * (h * normed).mean(axis=-1, keepdims=True)), g * normed
    return (normed if gain is None else normed * gain), back


def embedding(weight, *, ids: Any):
    """y = weight[ids].   A row's gradient is the sum over the places where its id stands.     (V, D), (...) → (..., D)

    Raises IndexError for an id outside 0 … V − 1 (on a GPU this is not looked at: it would mean waiting).
    """
    V, D = weight.shape
    if ids.dtype.kind not in "iu":
        raise TypeError(f"ids must be integers, these are {ids.dtype}")
    if namespace(ids).__name__ == "numpy" and ids.size and not (0 <= ids.min() and ids.max() < V):
        raise IndexError(f"ids run from {ids.min()} to {ids.max()}, the table has rows 0 to {V - 1}")
    def back(g):
        rows = ids.reshape(-1)
        if V > ONE_HOT_LIMIT:
            return use(place, g.reshape(-1, D), index=rows, shape=(V, D))
        hot = (namespace(rows).arange(V)[:, None] == rows).astype(g.dtype)             # (V, B·T)
        return hot @ g.reshape(-1, D)
    return weight[ids], back


def dropout(x, *, p: float, key: int | None):
    """y = x·m/(1 − p), each m being 0 with probability p and else 1; gx = g·m/(1 − p).     (...) → (...)

    The mask is unfolded from `key`, so the same key drops the same numbers: `tg.random.new_key()` draws one.
    (Srivastava et al. 2014, JMLR 15, §4)
    """
    scaled = keep(x.shape, p, key, namespace(constant(x))).astype(x.dtype) * (1 / (1 - p))
    return x * scaled, lambda g: g * scaled


def keep(shape: tuple[int, ...], p: float, key: Any, xp: Any) -> Any:
    """A boolean mask, True with probability 1 − p, that depends on the key alone."""
    fraction("dropout", p=p)
    return random_mask(math.prod(shape), p, key, xp).reshape(shape)


def cross_entropy(logits, *, targets: Any, ignore_index: int = -100, label_smoothing: float = 0.0):
    """y = mean over targets t of −Σᵥ qᵥ·ln softmax(logits)ᵥ,  q = (1 − ε)·[v = t] + ε/V.     (..., V), (...) → ()

    Targets equal to `ignore_index` do not count; if none is left the loss is 0. The gradient is (softmax − q)/n.
    (Label smoothing: Szegedy et al. 2015, arXiv:1512.00567, §7)
    """
    fraction("cross_entropy", label_smoothing=label_smoothing)
    V, logp = logits.shape[-1], use(log_softmax, logits)
    rows, counted, n = _targets(logp, targets, ignore_index)
    y = (1 - label_smoothing) * use(nll, logp, targets=targets, ignore_index=ignore_index)
    if label_smoothing:
        y = y - label_smoothing / V * namespace(logp).where(counted, logp, 0).sum() / n
    def back(g):
        q = (1 - label_smoothing) * _one_hot(rows, logp) + label_smoothing / V
        return namespace(g).where(counted, namespace(logp).exp(logp) - q, 0) * (g / n)
    return y, back


def nll(logp, *, targets: Any, ignore_index: int = -100):
    """y = mean over targets t of −logpₜ: cross-entropy for what is already a log-probability.  (..., V), (...) → ()"""
    rows, counted, n = _targets(logp, targets, ignore_index)
    taken = use(take_along_axis, logp, indices=rows, axis=-1)
    return (-namespace(taken).where(counted, taken, 0).sum() / n,       # a factor of 0 would let a NaN through
            lambda g: -_one_hot(rows, logp) * counted * (g / n))


def _targets(logp, targets: Any, ignore_index: int) -> tuple:
    """The targets as a column of indices, which of them count, and how many do (at least 1)."""
    if logp.shape[:-1] != targets.shape:
        raise ValueError(f"logits {logp.shape} need targets of shape {logp.shape[:-1]}, not {targets.shape}")
    xp, V, counted = namespace(targets), logp.shape[-1], targets != ignore_index
    if xp.__name__ == "numpy" and not (~counted | (targets >= 0) & (targets < V)).all():
        raise IndexError(f"targets must lie in 0 … {V - 1} or be {ignore_index}, "
                         f"these run from {targets.min()} to {targets.max()}")
    return (targets * counted)[..., None], counted[..., None], xp.maximum(counted.sum(), 1).astype(logp.dtype)


def _one_hot(rows, like):
    return (namespace(rows).arange(like.shape[-1]) == rows).astype(like.dtype)


def mse(a, b):
    """y = mean (a − b)².   ga = 2(a − b)/n, gb = −ga     (...), (...) → ()"""
    gap = a - b
    n, shape = math.prod(gap.shape), gap.shape
    return (gap * gap).mean(), (lambda g: spread(g, shape, None) * gap * (2 / n),
                                lambda g: spread(g, shape, None) * gap * (-2 / n))


def binary_cross_entropy(logits, *, targets: Any):
    """y = mean −[t·ln σ(x) + (1 − t)·ln(1 − σ(x))] of logits x.   gx = (σ(x) − t)/n     (...), (...) → ()"""
    if logits.shape != targets.shape:
        raise ValueError(f"logits {logits.shape} and targets {targets.shape} must have one shape")
    n, targets = math.prod(logits.shape), targets.astype(logits.dtype)
    each = use(relu, logits) - logits * targets + use(log1p, namespace(logits).exp(-use(absolute, logits)))
    return each.mean(), lambda g: (use(sigmoid, logits) - targets) * (g / n)


def attention(q, k, v, bias=None, *, mask: Any = None, causal: bool = False, scale: float | None = None, p: float = 0.0,
              key: int | None = None):
    """y = softmax(q·kᵀ·scale + bias)·v: every query takes a weighted mean of the values, by its likeness to the keys.

    (B, H, T, K), (B, H, S, K), (B, H, S, K) → (B, H, T, K); any leading axes will do. scale is 1/√K by default.
    `bias` is added to the scores, `mask` is boolean, True where a query may look; both are broadcast to (B, H, T, S).
    `causal` lets query i of T see the first S − T + i + 1 keys. A query that may look nowhere gives zeros. `p` and
    `key` drop weights as `dropout` does.

    With P the weights and h = g·vᵀ:  gv = Pᵀ·g, gbias = P·(h − Σ h·P), gq = gbias·k·scale, gk = gbiasᵀ·q·scale.
    (Vaswani et al. 2017, arXiv:1706.03762, eq. 1)
    """
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    pattern = attention_pattern(q, k, bias, mask=mask, causal=causal, scale=scale)
    dropped, back_to_pattern = dropout(pattern, p=p, key=key) if p else identity(pattern)
    def back(g):
        h = back_to_pattern(g @ v.swapaxes(-1, -2))
        gbias = pattern * (h - (h * pattern).sum(axis=-1, keepdims=True))
        gs = gbias * scale
        return gs @ k, gs.swapaxes(-1, -2) @ q, dropped.swapaxes(-1, -2) @ g, gbias
    return dropped @ v, back


def attention_pattern(q, k, bias=None, *, mask: Any = None, causal: bool = False, scale: float):
    """softmax(q·kᵀ·scale + bias) without what must not be seen: rows sum to 1, or to 0 where nothing may be seen."""
    scores = (q * scale) @ k.swapaxes(-1, -2)                                            # (B, H, T, S)
    scores = scores if bias is None else scores + bias
    allowed = visible(scores.shape, mask, causal, namespace(constant(scores)))
    if allowed is not None:
        scores = namespace(scores).where(allowed, scores, -math.inf)
    e = namespace(scores).exp(scores - highest(scores, -1))
    total = e.sum(axis=-1, keepdims=True)
    return e / (total + (constant(total) == 0))


def visible(shape: tuple[int, ...], mask: Any, causal: bool, xp: Any) -> Any:
    """What the mask and causality leave of scores of this shape, as one boolean array; None if that is all."""
    if mask is not None and mask.dtype != bool:
        raise TypeError(f"a mask is boolean, True where a query may look, this one is {mask.dtype}: write mask == 0 "
                        "for one of 0 and −∞ that others would add")
    if causal:
        T, S = shape[-2:]
        past = xp.tril(xp.ones((T, S), dtype=bool), S - T)
        mask = past if mask is None else mask & past
    return mask

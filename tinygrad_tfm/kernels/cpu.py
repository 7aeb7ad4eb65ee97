"""Twins for the CPU: the same numbers in fewer trips to memory.

Three things make them fast. Work goes in blocks that stay in the cache, so that the fifth pass over a block costs a
tenth of the first. Sums are matrix products, which NumPy hands to BLAS. And what the way back needs is computed while
its operands are in the cache. No work is divided here: `parallel.py` runs whole steps side by side.
"""

import ctypes
import math
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from ..random import random_mask

BLOCK = 1 << 16                     # numbers in a block: 256 KiB in float32, so that a few of them fit a core's cache
KEEP_SCORES = 256                   # keys: to here attention keeps its scores for the way back
TWINS: dict[str, tuple[Callable, Callable[..., bool]]] = {}       # by rule: the twin, and which calls it is for


def keep_freed_memory() -> None:
    """Ask the C library to keep what is freed, for the whole process: a fresh page from the kernel must be zeroed
    first, which takes longer than computing on it. glibc only; elsewhere nothing happens, nor where somebody has set
    glibc's own variables (`MALLOC_ARENA_MAX=4 python …` is a way to switch this off).

    Large arrays then come from the heap (no mmap up to 1 GiB), its top is never given back, and all threads share
    one heap, so that what one frees another can use.
    """
    if sys.platform == "linux" and not allocator_settings():
        libc = ctypes.CDLL(None)
        if hasattr(libc, "gnu_get_libc_version"):
            trim_threshold, mmap_threshold, arena_max = -1, -3, -8
            libc.mallopt(mmap_threshold, 1 << 30)
            libc.mallopt(trim_threshold, (1 << 31) - 1)
            libc.mallopt(arena_max, 1)


def allocator_settings() -> dict[str, str]:
    """What somebody has set of glibc's own variables."""
    prefixes = ("MALLOC_ARENA_", "MALLOC_MMAP_", "MALLOC_TRIM_", "MALLOC_TOP_PAD_")
    return {name: value for name, value in os.environ.items()
            if name.startswith(prefixes) or name == "GLIBC_TUNABLES" and "glibc.malloc" in value}


def twin(fits: Callable[..., bool], table: dict = TWINS) -> Callable[[Callable], Callable]:
    """Enter a function as the twin of the rule of its name, for the calls that `fits` accepts."""
    def enter(function: Callable) -> Callable:
        table[function.__name__] = function, fits
        return function
    return enter


def float32(x: Any, *others: Any, **settings: Any) -> bool:
    """In double precision the plain rules serve: there one wants their exact words."""
    return getattr(x, "dtype", None) == np.float32


def blocks(n: int, width: int = 1) -> list[slice]:
    """n rows of this width, cut into slices of about BLOCK numbers."""
    rows = max(1, BLOCK // width)
    return [slice(i, min(i + rows, n)) for i in range(0, n, rows)]


# 1 − erf(z) = exp(−z²)·t·P(t) with t = 1/(1 + 0.4675·z), for z ≥ 0: the form of Hastings (Abramowitz & Stegun 7.1.26).
# P, of degree 4, was fitted so that the largest error on the line is 1.2e-7: half of that in Φ, which is what rounding
# does to it. The constants are arrays already because NumPy would make them so at every call, which costs more than
# the arithmetic where there is one token.
ERFC = (0.24376265028099592, 0.40990392553162014, -0.18564707656595125, 0.7529062691493158, -0.22092583222268736)
LAST, *OTHERS = (np.array(-0.5 * c, np.float32) for c in reversed(ERFC))
SLOPE, ONE, HALF, MINUS_HALF = (np.array(c, np.float32) for c in (0.4675 * math.sqrt(0.5), 1, 0.5, -0.5))
SIGN = np.array(0x80000000, np.uint32)


@twin(fits=float32)
def gelu(x):
    """Φ(x), and the derivative Φ + x·φ in the same visit: both are made of one exp(−x²/2)."""
    y, slope = np.empty_like(x, order="C"), np.empty(x.size, x.dtype)
    flat, out = np.ascontiguousarray(x).reshape(-1), y.reshape(-1)
    spare = np.empty((2, min(x.size, BLOCK)), x.dtype)
    for part in blocks(x.size):
        v, d = flat[part], slope[part]
        t, e = spare[:, :v.size]
        _normal(v, d, t, e)
        np.multiply(v, d, out=out[part])
        e *= v
        e *= 1 / math.sqrt(2 * math.pi)
        d += e
    slope = slope.reshape(x.shape)
    return y, lambda g: g * slope


def gelu_only(x):
    """The value of GELU without the derivative, for generation."""
    d, t, e = np.empty((3, *x.shape), x.dtype)
    _normal(x, d, t, e)
    d *= x
    return d


def _normal(x, d, t, e):
    """Φ(x) into d and exp(−x²/2) into e; t is a third place to compute in."""
    np.abs(x, out=t)
    t *= SLOPE
    t += ONE
    np.divide(ONE, t, out=t)
    np.multiply(x, x, out=e)
    e *= MINUS_HALF
    np.exp(e, out=e)
    np.multiply(t, LAST, out=d)
    for c in OTHERS:
        d += c
        d *= t
    d *= e                                                         # −Φ(−|x|)
    d += HALF
    sign, bits = t.view(np.uint32), d.view(np.uint32)              # `copysign` takes seven times as long
    np.bitwise_and(x.view(np.uint32), SIGN, out=sign)
    bits |= sign
    d += HALF


def _has_gain(x: Any, gain: Any = None, bias: Any = None, **settings: Any) -> bool:
    vectors = (gain,) if bias is None else (gain, bias)
    return float32(x) and all(float32(a) and a.shape == x.shape[-1:] for a in vectors)


@twin(fits=_has_gain)
def layer_norm(x, gain, bias=None, *, eps=1e-5):
    """Means as products with a vector of 1/D, variances as row dot products: BLAS sums faster than `mean`."""
    D, shape = x.shape[-1], x.shape
    rows = x.reshape(-1, D)
    normed = rows - (rows @ np.full(D, 1 / D, x.dtype))[:, None]
    rstd = 1 / np.sqrt(np.vecdot(normed, normed) * (1 / D) + eps)[:, None]
    normed *= rstd
    y = normed * gain
    if bias is not None:
        y += bias

    def back(g):
        g = g.reshape(-1, D)
        p = g * normed
        h, share = g * gain, gain * (1 / D)
        h -= (g @ share)[:, None]
        spread = (p @ share)[:, None]
        ones = np.ones(len(p), p.dtype)
        ggain = ones @ p
        np.multiply(normed, spread, out=p)
        h -= p
        h *= rstd
        return h.reshape(shape), ggain, None if bias is None else ones @ g
    return y.reshape(shape), back


def _all_count(logits: Any, *, targets: Any, ignore_index: int = -100, label_smoothing: float = 0.0) -> bool:
    return (float32(logits) and not label_smoothing and targets.size and targets.dtype.kind in "iu"
            and targets.shape == logits.shape[:-1] and 0 <= targets.min() and targets.max() < logits.shape[-1]
            and not 0 <= ignore_index < logits.shape[-1])


@twin(fits=_all_count)
def cross_entropy(logits, *, targets, ignore_index=-100, label_smoothing=0.0):
    """Forward leaves (softmax − onehot)/n, which is the gradient: nothing else is kept, no logarithm is taken of V
    numbers, and no table of ones and zeros is made."""
    rows, t = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
    place = np.arange(len(t)), t
    e = rows - rows.max(axis=-1, keepdims=True)
    picked = e[place]
    np.exp(e, out=e)
    total = e @ np.ones(e.shape[1], e.dtype)
    loss = (np.log(total) - picked).mean()
    e *= (1 / len(t) / total)[:, None]
    e[place] -= 1 / len(t)
    e = e.reshape(logits.shape)
    return loss, lambda g: e * g


def _maskless(q: Any, k: Any, v: Any, bias: Any = None, *, mask: Any = None, causal: bool = False, p: float = 0.0,
              key: Any = None, **settings: Any) -> bool:
    return (q.dtype == k.dtype == v.dtype == np.float32 and q.ndim == k.ndim == v.ndim == 4 and q.size and k.size
            and bias is None and mask is None and 0 <= p < 1 and (not p or isinstance(key, int))
            and q.shape[:2] == k.shape[:2] and v.shape[:3] == k.shape[:3]
            and (not causal or k.shape[2] >= q.shape[2]))


@twin(fits=_maskless)
def attention(q, k, v, bias=None, *, mask=None, causal=False, scale=None, p=0.0, key=0):
    """By blocks of query rows: their scores stay in the cache, keys in the future are not multiplied at all, and
    softmax divides the small value instead of the large scores.

    Beyond a few keys the way back computes scores again instead of keeping them, so that memory grows with T and not
    with T·S (Dao et al. 2022, arXiv:2205.14135, §3.1); with dropout they are kept, as the mask is.
    """
    (B, H, T, K), S = q.shape, k.shape[2]
    scale, rows = 1 / math.sqrt(K) if scale is None else scale, queries_at_once(T)
    y = _heads_side_by_side(B, H, T, v.shape[3], q.dtype)
    late = np.triu(np.ones((rows, rows), bool), 1)
    kept = random_mask(B * H * T * S, p, key, np).reshape(B, H, T, S).astype(q.dtype) * (1 / (1 - p)) if p else None
    places = [(b, slice(i, min(i + rows, T))) for b in blocks(B, H * min(rows, T) * S) for i in range(0, T, rows)]
    seen = [slice(0, i.stop + S - T if causal else S) for b, i in places]

    def scores(b, i, j):
        z = (q[b, :, i] * scale) @ k[b, :, j].swapaxes(-1, -2)
        if causal:
            n = i.stop - i.start
            np.copyto(z[..., j.stop - n:], -np.inf, where=late[:n, :n])
        return z

    numerators = []
    for (b, i), j in zip(places, seen):
        e, total = _softmax_numerator(scores, b, i, j)
        dropped = e if kept is None else e * kept[b, :, i, j]
        np.divide(dropped @ v[b, :, j], total, out=y[b, :, i])
        numerators.append((e, total) if p or S <= KEEP_SCORES else None)

    def back(g):
        gq, gk, gv = (_heads_side_by_side(*a.shape, a.dtype) for a in (q, k, v))
        for (b, i), j, numerator in zip(reversed(places), reversed(seen), reversed(numerators)):
            e, total = numerator or _softmax_numerator(scores, b, i, j)
            last = i.stop == T                                 # the last block sees all keys: it writes, others add
            gz = g[b, :, i] / total
            dropped = e if kept is None else e * kept[b, :, i, j]
            _put(gv[b, :, j], dropped.swapaxes(-1, -2), gz, last)
            gz *= scale
            gs = gz @ v[b, :, j].swapaxes(-1, -2)
            if kept is not None:
                gs *= kept[b, :, i, j]
            gs -= np.vecdot(gz, y[b, :, i])[..., None]
            gs *= e
            np.matmul(gs, k[b, :, j], out=gq[b, :, i])
            _put(gk[b, :, j], gs.swapaxes(-1, -2), q[b, :, i], last)
        return gq, gk, gv, None
    return y, back


def queries_at_once(T):
    """Rows in a block: the fewer, the more of the masked half is skipped, and the more calls it takes."""
    return 32 if T < 128 else 64


def _heads_side_by_side(B, H, T, K, dtype):
    """Room for (B, H, T, K) laid out as (B, T, H, K), so that joining the heads again moves nothing."""
    return np.empty((B, T, H, K), dtype).swapaxes(1, 2)


def _put(out, a, b, first: bool):
    if first:
        np.matmul(a, b, out=out)
    else:
        out += a @ b


def _softmax_numerator(scores, *where):
    """exp(scores − a shift), and its row sums. One shift serves the whole block, which is eight times faster to find
    than one a row and as exact, unless a row nearly vanishes: then every row gets its own."""
    e = scores(*where)
    shift, ones = e.max(), np.ones(e.shape[-1], e.dtype)
    if np.isfinite(shift):                                         # else each row answers for itself
        e -= shift
        np.exp(e, out=e)
        total = e @ ones
        if total.min() > 1e-25:
            return e, total[..., None]
        e = scores(*where)
    highest = e.max(axis=-1, keepdims=True)
    highest[highest == -np.inf] = 0                                # nothing to be seen: zeros, as in the plain rule
    e = np.exp(e - highest)
    total = e @ ones
    return e, (total + (total == 0))[..., None]


def _contiguous(*arrays: Any, **settings: Any) -> bool:
    return all(a.dtype == np.float32 and a.flags.c_contiguous for a in arrays)


@twin(fits=_contiguous)
def adamw(p, g, mean, square, *, scale, lr, betas, eps, decay, step):
    """In blocks, each number visited once, and the corrections folded into the two constants they come to."""
    b1, b2 = betas
    scale, root = float(scale), math.sqrt(1 - b2 ** step)
    rate, tiny = lr * root / (1 - b1 ** step), eps * root
    spare = np.empty(min(p.size, BLOCK), p.dtype)
    p, g, mean, square = (a.reshape(-1) for a in (p, g, mean, square))
    for part in blocks(p.size):
        w, d, m, s = p[part], g[part], mean[part], square[part]
        t = spare[:w.size]
        m *= b1
        np.multiply(d, (1 - b1) * scale, out=t)
        m += t
        s *= b2
        np.multiply(d, d, out=t)
        t *= (1 - b2) * scale * scale
        s += t
        np.sqrt(s, out=t)
        t += tiny
        np.divide(m, t, out=t)
        t *= rate
        if decay:
            w *= 1 - lr * decay
        w -= t

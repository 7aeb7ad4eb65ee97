"""Twins for a GPU, in float32: the same numbers in one trip to memory, where plain rules make a kernel of each step.

The kernels are in `cuda/`, what reads their text and signatures in `cuda_source.py`. Here they are compiled, each when
it is first asked for, and launched on CuPy's current stream. Nothing makes the host wait: what it does not know when it
launches (how many targets count, the factor of clipping) a kernel reads from the GPU's memory. One process drives one
GPU. Products stay with CuPy. Read first: `cpu.py`, the same game by other rules, and `cuda/gelu.cu`.
"""

import math
from collections.abc import Callable
from functools import cache, lru_cache, partial
from typing import Any

import numpy as np

from ..backend import device_of, namespace
from ..random import drop_below
from . import cpu
from .cuda_source import Kernel, source

LARGEST = 1 << 30                   # numbers in an array: kernels count in 32 bits, and up to a grid beyond the end
TWINS: dict[str, tuple[Callable, Callable[..., bool]]] = {}       # by rule: the twin, and which calls it is for
twin = partial(cpu.twin, table=TWINS)


# ---- launching ------------------------------------------------------------------------------------------------------

@cache
def compiled(name: str, real: str = "float32", **constants: int) -> dict[str, tuple[Kernel, Any]]:
    """The kernels of the file `name`.cu by their names: what each takes, and CuPy's function. See `source`.

    The first call in a process compiles, or finds what CuPy keeps on disk under the same text.
    """
    import cupy
    text = source(name, real, **constants)
    module = cupy.RawModule(code=text.text, options=("-std=c++17",))
    return {name: (kernel, module.get_function(name)) for name, kernel in text.kernels.items()}


def launch(kernel, blocks, /, **arguments):
    """Run a kernel of `compiled` in that many blocks. The host goes on at once.

    Raises TypeError or ValueError that names kernel and parameter where a GPU would compute on without a word.
    """
    declared, function = kernel
    for name, value in arguments.items():
        if isinstance(value, np.ndarray):                          # of one number, CuPy would pass that as the address
            raise TypeError(f"{declared.name}: {name} is in the host's memory, where a kernel cannot read: "
                            "cupy.asarray makes a copy on the GPU")
    function((blocks,), (declared.threads,), declared.arguments(**arguments))


def grid(threads, most=8):
    """How many blocks of 256 for so many threads: no more than `most` on a multiprocessor, which keep it busy. Kernels
    deal their work out among the threads there are, so every number is right."""
    return max(1, min(-(-threads // 256), most * multiprocessors()))


@cache
def multiprocessors() -> int:
    """How many this GPU has."""
    import cupy
    return cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())["multiProcessorCount"]


def whole(x):
    """The array as a kernel reads it, in one piece that begins at a multiple of 16 bytes: itself, or a copy."""
    return x if is_whole(x) else x.copy()


def is_whole(x: Any) -> bool:
    """Whether an array lies as kernels need it."""
    return x.flags.c_contiguous and x.data.ptr % 16 == 0


def number(value, dtype):
    """A number in the GPU's memory: where it is already, or written there by a kernel, which nobody waits for."""
    return whole(value.astype(dtype, copy=False)) if device_of(value) == "cuda" else _written(value, dtype)


@lru_cache(maxsize=64)
def _written(value, dtype):
    """Kept for a while: learning rate and step are the same for all parameters. Kernels only read it."""
    import cupy
    return cupy.full((), dtype(value), dtype)


# ---- the twins ------------------------------------------------------------------------------------------------------

def float32(x: Any, *others: Any, **settings: Any) -> bool:
    """In double precision the plain rules serve, and for what lies elsewhere they have the right words."""
    return device_of(x) == "cuda" and x.dtype == np.float32 and x.size <= LARGEST


@twin(fits=float32)
def gelu(x):
    """Φ(x) and, on the way back, Φ + x·φ: one visit each, and nothing is kept but x."""
    x, n = whole(x), x.size
    kernels, y = compiled("gelu"), namespace(x).empty_like(x)
    launch(kernels["gelu"], grid(n), x=x, y=y, n=n)

    def back(g):
        gx = namespace(x).empty_like(x)
        launch(kernels["gelu_backward"], grid(n), x=x, g=whole(g), gx=gx, n=n)
        return gx
    return y, back


def _narrow(x: Any, gain: Any = None, bias: Any = None, **settings: Any) -> bool:
    vectors = (gain,) if bias is None else (gain, bias)
    return (float32(x) and x.ndim > 0 and 0 < x.shape[-1] <= 1024 and x.shape[-1] % 2 == 0
            and all(float32(a) and a.shape == x.shape[-1:] for a in vectors))


@twin(fits=_narrow)
def layer_norm(x, gain, bias=None, *, eps=1e-5):
    """A row in the registers of a warp; kept are x, and two numbers a row."""
    x, gain, bias = whole(x), whole(gain), None if bias is None else whole(bias)
    xp, D, rows = namespace(x), x.shape[-1], x.size // x.shape[-1]
    kernels = compiled("layer_norm", WIDTH=D)
    y, mean, rstd = xp.empty_like(x), xp.empty(rows, x.dtype), xp.empty(rows, x.dtype)
    launch(kernels["layer_norm"], grid(32 * rows), x=x, delta=None, gain=gain, bias=bias, sum=None, y=y, mean=mean,
           rstd=rstd, eps=eps, rows=rows)

    def back(g):
        blocks = grid(32 * rows, most=2)                           # few, since their shares must be added up
        gx, shares, ggain = xp.empty_like(x), xp.empty((blocks, 2, D), x.dtype), xp.empty_like(gain)
        gbias = None if bias is None else xp.empty_like(bias)
        launch(kernels["layer_norm_backward"], blocks, g=whole(g), h=x, gain=gain, mean=mean, rstd=rstd, skip=None,
               gx=gx, shares=shares, rows=rows)
        launch(kernels["layer_norm_weights"], grid(2 * D), shares=shares, ggain=ggain, gbias=gbias, blocks=blocks)
        return gx, ggain, gbias
    return y, back


def _some(x: Any, *, p: float, key: Any) -> bool:
    return float32(x) and 0 < p < 1 and isinstance(key, int)


@twin(fits=_some)
def dropout(x, *, p, key):
    """The mask is made where it is used, on the way back once more: nothing is kept at all."""
    return dropped(x, p, key), lambda g: dropped(g, p, key)


def dropped(x, p, key):
    """x with the numbers gone that `random_mask` drops, the others grown by 1/(1 − p)."""
    x, n = whole(x), x.size
    y = namespace(x).empty_like(x)
    launch(compiled("dropout")["dropout"], grid((n + 1) // 2), x=x, key=number(key % 2**64, np.uint64), y=y,
           drop=drop_below(p), keep_scale=1 / (1 - p), n=n)
    return y


def _classes(logits: Any, *, targets: Any, ignore_index: int = -100, label_smoothing: float = 0.0) -> bool:
    return (float32(logits) and not label_smoothing and device_of(targets) == "cuda" and targets.dtype.kind in "iu"
            and logits.ndim > 0 and logits.size > 0 and targets.shape == logits.shape[:-1]
            and -2**31 <= ignore_index < 2**31)


@twin(fits=_classes)
def cross_entropy(logits, *, targets, ignore_index=-100, label_smoothing=0.0):
    """Forward leaves the gradient, (softmax − onehot)/n, and nothing else. How many targets count, n, only the GPU
    knows. A target that is none of the classes makes the loss NaN: to look would mean to wait."""
    logits, xp, vocab = whole(logits), namespace(logits), logits.shape[-1]
    counted = (targets != ignore_index).sum(dtype=logits.dtype)
    slope, losses = xp.empty_like(logits), xp.empty(targets.size, logits.dtype)
    launch(compiled("cross_entropy")["cross_entropy"], grid(32 * targets.size), logits=logits,
           targets=whole(targets.astype(np.int32)), counted=counted, g=slope, loss=losses, rows=targets.size,
           vocab=vocab, stride=vocab, ignore_index=ignore_index)
    return losses.sum(), lambda g: slope * g


def _along_rows(x: Any, *, axis: Any = -1) -> bool:
    return float32(x) and x.size > 0 and x.ndim > 0 and axis in (-1, x.ndim - 1)


@twin(fits=_along_rows)
def softmax(x, *, axis=-1):
    """A row by a warp. One of nothing but −∞ gives NaN, as in the plain rule."""
    x = whole(x)
    y = namespace(x).empty_like(x)
    softmax_of_scores(x.reshape(-1, x.shape[-1]), y, nothing=math.nan)
    return y, lambda g: softmax_backward(y, g, namespace(y).empty_like(y))


def softmax_of_scores(x, y, mask=None, causal=False, nothing=0.0):
    """y = softmax(x) over the last axis of (…, T, S), at most four axes, where x may be seen; y may be x itself."""
    batch, heads, T, S = (1, 1, 1, *x.shape)[-4:]
    strides = (0, 0, 0)
    if mask is not None:                                           # keys side by side; other axes it may lack
        mask = whole(namespace(x).broadcast_to(mask, (*mask.shape[:-1], S)))
        strides = namespace(x).broadcast_to(mask, (batch, heads, T, S)).strides
    launch(compiled("softmax")["softmax"], grid(32 * batch * heads * T), x=x, mask=mask, y=y, scale=1,
           nothing=nothing, causal=causal, mask_batch=strides[0], mask_head=strides[1], mask_query=strides[2],
           heads=heads, T=T, S=S, rows=batch * heads * T)


def softmax_backward(y, g, gx, scale=1.0):
    """gx = scale·y·(g − Σ g·y), row by row; gx may be g itself."""
    rows, S = y.size // y.shape[-1], y.shape[-1]
    launch(compiled("softmax")["softmax_backward"], grid(32 * rows), y=y, g=whole(g), gx=gx, scale=scale, S=S,
           rows=rows)
    return gx


def _one_shape(q: Any, k: Any, v: Any, *, mask: Any = None, causal: bool = False, p: float = 0.0, key: Any = None,
               **settings: Any) -> bool:
    if not (all(map(float32, (q, k, v))) and q.ndim == k.ndim == v.ndim and 2 <= q.ndim <= 4):
        return False
    scores = (*q.shape[:-1], k.shape[-2])
    return (q.shape[:-2] == k.shape[:-2] == v.shape[:-2] and q.shape[-1] == k.shape[-1] and k.shape[-2] == v.shape[-2]
            and q.size and k.size and v.size and math.prod(scores) <= LARGEST
            and 0 <= p < 1 and (not p or isinstance(key, int))
            and (mask is None or device_of(mask) == "cuda" and mask.dtype == bool and mask.ndim <= q.ndim
                 and all(n in (1, m) for n, m in zip(mask.shape[::-1], scores[::-1]))))


@twin(fits=_one_shape)
def attention(q, k, v, *, mask=None, causal=False, scale=None, p=0.0, key=0):
    """Two products, and between them one kernel, or two with dropout. The weights take the place of the scores, and
    the scores' gradient that of g·vᵀ; no mask of what is seen or dropped is ever stored."""
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    drop = partial(dropped, p=p, key=key) if p else whole
    pattern = whole((q * scale) @ k.swapaxes(-1, -2))              # (B, H, T, S)
    softmax_of_scores(pattern, pattern, mask, causal)

    def back(g):
        h = drop(g @ v.swapaxes(-1, -2))
        gs = softmax_backward(pattern, h, h, scale)
        return gs @ k, gs.swapaxes(-1, -2) @ q, drop(pattern).swapaxes(-1, -2) @ g
    return drop(pattern) @ v, back


def _in_place(p: Any, g: Any, mean: Any, square: Any, **settings: Any) -> bool:
    return (all(float32(a) and a.shape == p.shape for a in (p, g, mean, square))
            and is_whole(p) and is_whole(mean) and is_whole(square))


@twin(fits=_in_place)
def adamw(p, g, mean, square, *, scale, lr, betas, eps, decay, step):
    """One visit. Rate, step and factor are read from the GPU's memory, where clipping left the factor."""
    launch(compiled("adamw")["adamw"], grid(p.size), w=p, g=whole(g), mean=mean, square=square, copy=None,
           lr=number(lr, np.float32), step=number(step, np.int32), factor=number(scale, np.float32), beta1=betas[0],
           beta2=betas[1], eps=eps, decay=decay, decayed=p.size, n=p.size)

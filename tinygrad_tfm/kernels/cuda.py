"""Twins for a GPU: the same numbers in one trip to memory, where plain rules make a kernel of each step.

The kernels are in `cuda/`, what reads their text and signatures in `cuda_source.py`. Here they are compiled, each when
it is first asked for, and launched on CuPy's current stream. The host waits for nothing but the first product of a kind
(see `cublaslt.py`): what it does not know when it launches (how many targets count, the factor of clipping) a kernel
reads from the GPU's memory. One process drives one GPU. Products are cuBLASLt's, how exact they are says
`precision.py`; attention is in `cuda_attention.py`. Read first: `cpu.py`, the same game by other rules, and
`cuda/gelu.cu`.
"""

from collections.abc import Callable
from functools import cache, lru_cache, partial
from itertools import accumulate
from typing import Any

import numpy as np

from ..backend import device_of, namespace
from ..random import drop_below
from . import cpu, precision
from .cublaslt import product
from .cuda_source import STORED, Kernel, source
from .precision import bfloat16

LARGEST = 1 << 30                   # numbers in an array: kernels count in 32 bits, and up to a grid beyond the end
ONE_HOT_LIMIT = 1024                # rows of a table: to here its gradient is a product, as in the plain rule
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
    """Run a kernel of `compiled` in that many blocks, a number or a pair of them. The host goes on at once.

    Raises TypeError or ValueError that names kernel and parameter where a GPU would compute on without a word.
    """
    declared, function = kernel
    for name, value in arguments.items():
        if isinstance(value, np.ndarray):                          # of one number, CuPy would pass that as the address
            raise TypeError(f"{declared.name}: {name} is in the host's memory, where a kernel cannot read: "
                            "cupy.asarray makes a copy on the GPU")
    function(blocks if isinstance(blocks, tuple) else (blocks,), (declared.threads,), declared.arguments(**arguments))


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
    """Kept for a while: learning rate and step are the same for all parameters. Kernels only read it. No step that is
    recorded may come here: the number would lie in the recording's memory, and be written when it is replayed."""
    import cupy
    return cupy.full((), dtype(value), dtype)


def seed(key):
    """The key of dropout as kernels read it."""
    return number(key % 2**64 if isinstance(key, int) else key, np.uint64)


def is_key(key: Any) -> bool:
    """Whether dropout can unfold a mask from it: a number, or one in the GPU's memory, which a recorded step reads."""
    return isinstance(key, int) or device_of(key) == "cuda"


# ---- how numbers are stored -----------------------------------------------------------------------------------------

def is_bf16(x: Any) -> bool:
    """Whether an array is stored so; numbers are not."""
    return getattr(x, "dtype", None) is not None and x.dtype.name == "bfloat16"


def float32(x: Any, *others: Any, **settings: Any) -> bool:
    """In double precision the plain rules serve, and for what lies elsewhere they have the right words."""
    return device_of(x) == "cuda" and x.dtype == np.float32 and x.size <= LARGEST


def stored(x: Any, *others: Any, **settings: Any) -> bool:
    """What flows between layers may be bf16 as well: its twins read and write either."""
    return device_of(x) == "cuda" and x.dtype.name in STORED and x.size <= LARGEST


# ---- products -------------------------------------------------------------------------------------------------------

def _matrices(a: Any, b: Any) -> bool:
    return (stored(a) and stored(b) and a.ndim > 1 and b.ndim > 1 and b.shape[:-2] in ((), a.shape[:-2])
            and a.shape[-1] == b.shape[-2] and a.size > 0 and b.size > 0)


@twin(fits=_matrices)
def matmul(a, b):
    """In bf16 factors are rounded when they are not so already, and sums when they are stored. A weight's gradient is
    stored as the weight is: in float32."""
    shape, of_a, of_b = a.shape, a.dtype, b.dtype
    a = a.reshape(-1, shape[-1]) if b.ndim == 2 else a
    if precision.current() == "bf16" or is_bf16(a) or is_bf16(b):
        a, b = (x.astype(bfloat16(), copy=False) for x in (a, b))
    multiply = partial(product, tf32=precision.current() == "tf32")
    y = multiply(a, b)
    flat, whole_shape = y.shape, (*shape[:-1], b.shape[-1])
    return y.reshape(whole_shape), (
        lambda g: multiply(g.reshape(flat), b.swapaxes(-1, -2), dtype=of_a).reshape(shape),
        lambda g: multiply(a.swapaxes(-1, -2), g.reshape(flat), dtype=of_b))


def _one_in_bf16(a: Any, b: Any) -> bool:
    return (stored(a) and stored(b) and (is_bf16(a) or is_bf16(b))
            and (a.shape[max(0, a.ndim - b.ndim):] == b.shape or b.shape[max(0, b.ndim - a.ndim):] == a.shape))


@twin(fits=_one_in_bf16)
def add(a, b):
    """In bf16 if one of the two is: what flows between layers stays so when a bias or a position comes to it. Gradients
    of those are summed in float32."""
    def back_to(shape):
        return lambda g: g if g.shape == shape else g.reshape(-1, *shape).sum(axis=0, dtype=np.float32)
    return (a.astype(bfloat16(), copy=False) + b.astype(bfloat16(), copy=False)), (back_to(a.shape), back_to(b.shape))


def _small_table(weight: Any, *, ids: Any) -> bool:
    return (float32(weight) and weight.ndim == 2 and device_of(ids) == "cuda" and ids.dtype.kind in "iu"
            and 0 < weight.shape[0] <= ONE_HOT_LIMIT and 0 < ids.size * weight.shape[1] <= LARGEST)


@twin(fits=_small_table)
def embedding(weight, *, ids):
    """Here numbers become bf16, if they are to flow so. The gradient is a product with a one-hot matrix: the same to
    the bit at every run. An id outside the table gives NaNs: to look would mean to wait."""
    xp, (V, D), weight = namespace(weight), weight.shape, whole(weight)
    rows = whole(ids.reshape(-1).astype(np.int64, copy=False))
    y = xp.empty((*ids.shape, D), bfloat16() if precision.current() == "bf16" else weight.dtype)
    launch(compiled("embedding", y.dtype.name)["embedding"], grid(y.size), ids=rows, table=weight, y=y, V=V, D=D,
           n=y.size)

    def back(g, onto=None):
        hot = (xp.arange(V, dtype=np.int64)[:, None] == rows).astype(g.dtype)                  # (V, B·T)
        return product(hot, g.reshape(-1, D), dtype=np.float32, onto=onto)
    return y, back


# ---- rows and single numbers ----------------------------------------------------------------------------------------

@twin(fits=stored)
def gelu(x):
    """Φ(x) and, on the way back, Φ + x·φ: one visit each, and nothing is kept but x."""
    x, n = whole(x), x.size
    kernels, y = compiled("gelu", x.dtype.name), namespace(x).empty_like(x)
    launch(kernels["gelu"], grid(n), x=x, y=y, n=n)

    def back(g):
        gx = namespace(x).empty_like(x)
        launch(kernels["gelu_backward"], grid(n), x=x, g=whole(g), gx=gx, n=n)
        return gx
    return y, back


def _narrow(x: Any, gain: Any = None, bias: Any = None, **settings: Any) -> bool:
    vectors = (gain,) if bias is None else (gain, bias)
    return (stored(x) and x.ndim > 0 and 0 < x.shape[-1] <= 1024 and x.shape[-1] % 2 == 0
            and all(float32(a) and a.shape == x.shape[-1:] for a in vectors))


@twin(fits=_narrow)
def layer_norm(x, gain, bias=None, *, eps=1e-5):
    """A row in the registers of a warp; kept are x, and two numbers a row."""
    _, y, back = add_layer_norm(x, None, gain, bias, eps=eps)

    def back_alone(g):
        gx, _, *affine = back(g)
        return gx, *affine
    return y, back_alone


def add_layer_norm(x, delta, gain, bias=None, *, eps=1e-5, p=0.0, key=0):
    """h = x + drop(delta) and the layer norm y of h, in one visit; without delta h is x. The way back takes the
    gradient of y and, as `skip`, the one that h has from elsewhere, and gives those of x, delta, gain (in a place that
    it may be given) and bias."""
    x, gain, bias = whole(x), whole(gain), None if bias is None else whole(bias)
    xp, D, rows = namespace(x), x.shape[-1], x.size // x.shape[-1]
    kernels = compiled("layer_norm", x.dtype.name, WIDTH=D, DROP=drop_below(p) if p else 0)
    drop = dict(key=seed(key) if p else None, keep_scale=1 / (1 - p))
    h, y = x if delta is None else xp.empty_like(x), xp.empty_like(x)
    mean, rstd = xp.empty(rows, gain.dtype), xp.empty(rows, gain.dtype)
    launch(kernels["layer_norm"], grid(32 * rows), x=x, delta=None if delta is None else whole(delta), gain=gain,
           bias=bias, sum=None if delta is None else h, y=y, mean=mean, rstd=rstd, eps=eps, rows=rows, **drop)

    def back(g, skip=None, ggain=None):
        blocks = grid(32 * rows, most=2)                           # few, since their shares must be added up
        gx, shares = xp.empty_like(h), xp.empty((blocks, 2, D), gain.dtype)
        ggain = xp.empty_like(gain) if ggain is None else ggain
        gbias = None if bias is None else xp.empty_like(bias)
        gdelta = xp.empty_like(gx) if p else None
        launch(kernels["layer_norm_backward"], blocks, g=whole(g), h=h, gain=gain, mean=mean, rstd=rstd, skip=skip,
               gx=gx, gdelta=gdelta, shares=shares, rows=rows, **drop)
        launch(kernels["layer_norm_weights"], grid(2 * D), shares=shares, ggain=ggain, gbias=gbias, blocks=blocks)
        return gx, gdelta if p else gx, ggain, gbias
    return h, y, back


def _some(x: Any, *, p: float, key: Any) -> bool:
    return stored(x) and 0 < p < 1 and is_key(key)


@twin(fits=_some)
def dropout(x, *, p, key):
    """The mask is made where it is used, on the way back once more: nothing is kept at all."""
    return dropped(x, p, key), lambda g: dropped(g, p, key)


def dropped(x, p, key):
    """x with the numbers gone that `random_mask` drops, the others grown by 1/(1 − p)."""
    x, n = whole(x), x.size
    y = namespace(x).empty_like(x)
    launch(compiled("dropout", x.dtype.name)["dropout"], grid((n + 1) // 2), x=x, key=seed(key), y=y,
           drop=drop_below(p), keep_scale=1 / (1 - p), n=n)
    return y


def _classes(logits: Any, *, targets: Any, ignore_index: int = -100, label_smoothing: float = 0.0) -> bool:
    return (stored(logits) and not label_smoothing and device_of(targets) == "cuda" and targets.dtype.kind in "iu"
            and logits.ndim > 0 and logits.size > 0 and targets.shape == logits.shape[:-1]
            and -2**31 <= ignore_index < 2**31)


@twin(fits=_classes)
def cross_entropy(logits, *, targets, ignore_index=-100, label_smoothing=0.0):
    """Forward leaves the gradient, (softmax − onehot)/n, and nothing else. How many targets count, n, only the GPU
    knows. A target that is none of the classes makes the loss NaN: to look would mean to wait."""
    logits, xp, vocab = whole(logits), namespace(logits), logits.shape[-1]
    counted = (targets != ignore_index).sum(dtype=np.float32)
    slope, losses = xp.empty_like(logits), xp.empty(targets.size, np.float32)
    targets = whole(targets.astype(np.int64, copy=False))
    launch(compiled("cross_entropy", logits.dtype.name)["cross_entropy"], grid(32 * targets.size), logits=logits,
           targets=targets, counted=counted, g=slope, loss=losses, rows=targets.size, vocab=vocab, stride=vocab,
           ignore_index=ignore_index)
    return losses.sum(), lambda g=None: slope if g is None else slope * g.astype(slope.dtype, copy=False)


# ---- the optimiser --------------------------------------------------------------------------------------------------

def _all_float32(*arrays: Any) -> bool:
    return all(map(float32, arrays))


@twin(fits=_all_float32)
def norm(*grads):
    """Every gradient leaves the shares of its blocks, and one block adds up all of them."""
    kernels, xp = compiled("norm"), namespace(grads[0])
    blocks = [grid(g.size) for g in grads]
    shares, result = xp.empty(sum(blocks), np.float32), xp.empty((), np.float32)
    for g, count, end in zip(grads, blocks, accumulate(blocks)):
        launch(kernels["sum_of_squares"], count, g=whole(g), shares=shares, first=end - count, n=g.size)
    launch(kernels["gradient_norm"], 1, shares=shares, norm=result, n=shares.size)
    return result


def _in_place(p: Any, g: Any, mean: Any, square: Any, **settings: Any) -> bool:
    return (all(float32(a) and a.shape == p.shape for a in (p, g, mean, square))
            and is_whole(p) and is_whole(mean) and is_whole(square))


@twin(fits=_in_place)
def adamw(p, g, mean, square, *, scale, lr, betas, eps, decay, step):
    """One visit. Rate, step and factor are read from the GPU's memory, where clipping left the factor."""
    launch(compiled("adamw")["adamw"], grid(p.size), w=p, g=whole(g), mean=mean, square=square,
           lr=number(lr, np.float32), step=number(step, np.int32), factor=number(scale, np.float32), beta1=betas[0],
           beta2=betas[1], eps=eps, decay=decay, n=p.size)

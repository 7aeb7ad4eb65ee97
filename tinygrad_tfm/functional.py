"""Floor 4: the rules, lifted: functions on Tensors, one line each.

Inputs come by position, settings by keyword (or after the inputs). The equation, the shapes and the way back of each
stand in the docstring of its rule in `ops/`. What NumPy's arrays have as methods (`sum`, `reshape`), Tensor has as
methods: it does not stand here again. Read next: `nn/module.py`.
"""

from collections.abc import Sequence
from typing import Any

from . import ops
from .backend import DEFAULT_DTYPE, namespace
from .tensor import Tensor, bare, lift

# element by element
exp = lift(ops.exp)
log = lift(ops.log)
log1p = lift(ops.log1p)
sqrt = lift(ops.sqrt)
rsqrt = lift(ops.rsqrt)
abs = lift(ops.absolute)
sin = lift(ops.sin)
cos = lift(ops.cos)
tanh = lift(ops.tanh)
sigmoid = lift(ops.sigmoid)
erf = lift(ops.erf)
relu = lift(ops.relu)
gelu = lift(ops.gelu)
gelu_tanh = lift(ops.gelu_tanh)
silu = lift(ops.silu)
softplus = lift(ops.softplus)
maximum = lift(ops.maximum)
minimum = lift(ops.minimum)

# shapes
expand_dims = lift(ops.expand_dims)
broadcast_to = lift(ops.broadcast_to)
flip = lift(ops.flip)
roll = lift(ops.roll)
pad = lift(ops.pad)
tril = lift(ops.tril)
triu = lift(ops.triu)
take_along_axis = lift(ops.take_along_axis)

# several arrays
outer = lift(ops.outer)

# networks
softmax = lift(ops.softmax)
log_softmax = lift(ops.log_softmax)
logsumexp = lift(ops.logsumexp)
layer_norm = lift(ops.layer_norm)
rms_norm = lift(ops.rms_norm)
embedding = lift(ops.embedding)
dropout = lift(ops.dropout)
attention = lift(ops.attention)
cross_entropy = lift(ops.cross_entropy)
nll = lift(ops.nll)
mse = lift(ops.mse)
binary_cross_entropy = lift(ops.binary_cross_entropy)

_where, _concat, _stack, _einsum = lift(ops.where), lift(ops.concat), lift(ops.stack), lift(ops.einsum)


# Four that NumPy calls in another order than "inputs, then settings".

def where(condition: Any, a: Any, b: Any) -> Tensor:
    """a where the condition holds, else b; the condition is boolean and has no gradient."""
    return _where(a, b, condition=bare(condition))


def concat(tensors: Sequence[Any], axis: int = 0) -> Tensor:
    """Tensors one after the other along an axis they have."""
    return _concat(*tensors, axis=axis)


concatenate = concat                                      # NumPy knows both names, CuPy the long one


def stack(tensors: Sequence[Any], axis: int = 0) -> Tensor:
    """Tensors of one shape side by side along a new axis."""
    return _stack(*tensors, axis=axis)


def einsum(subscripts: str, *tensors: Any, optimize: bool = True) -> Tensor:
    """Einstein's convention, as `numpy.einsum`: "bqd,bkd->bqk" multiplies queries with keys."""
    return _einsum(*tensors, subscripts=subscripts, optimize=optimize)


# Compositions of the above.

def split(x: Tensor, parts: int | Sequence[int], axis: int = 0) -> list[Tensor]:
    """x cut along an axis: into that many equal parts, or at these places.

    Raises ValueError if the axis cannot be divided equally.
    """
    n, before = x.shape[axis], (slice(None),) * (axis % x.ndim)
    if isinstance(parts, int):
        if n % parts:
            raise ValueError(f"an axis of {n} cannot be split into {parts} equal parts")
        parts = range(n // parts, n, n // parts)
    ends = [0, *parts, n]
    return [x[(*before, slice(start, end))] for start, end in zip(ends, ends[1:])]


def sort(x: Tensor, axis: int = -1) -> Tensor:
    """x in rising order along an axis; the gradient follows each number to where it came from."""
    return take_along_axis(x, indices=x.data.argsort(axis=axis), axis=axis)


def topk(x: Tensor, k: int, axis: int = -1) -> tuple[Tensor, Tensor]:
    """The k largest numbers along an axis, largest first, and their indices. Raises ValueError if k is too large."""
    if not 0 < k <= x.shape[axis]:
        raise ValueError(f"topk: k = {k}, the axis has {x.shape[axis]} numbers")
    order = namespace(x.data).flip(x.data.argsort(axis=axis), axis)
    indices = order[(slice(None),) * (axis % x.ndim) + (slice(k),)]
    return take_along_axis(x, indices=indices, axis=axis), Tensor(indices)


def one_hot(ids: Any, size: int, dtype: Any = DEFAULT_DTYPE) -> Tensor:
    """Rows of zeros with a one at each id: (...) → (..., size). No gradient."""
    rows = Tensor(ids).data[..., None]
    return Tensor((namespace(rows).arange(size) == rows).astype(dtype))

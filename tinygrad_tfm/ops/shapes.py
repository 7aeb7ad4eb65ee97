"""Rules that move numbers without changing them: new shapes, orders, slices, joins.

The way back of each moves the gradient to where its numbers came from.
"""

from typing import Any

from ..backend import namespace
from .common import Axis, use


def reshape(x, *, shape: tuple[int, ...]):
    """The same numbers, in the same order, in another shape."""
    before = x.shape
    return x.reshape(shape), lambda g: g.reshape(before)


def transpose(x, *, axes: tuple[int, ...] | None = None):
    """Axis i of the value is axis axes[i] of the input; all axes reversed by default."""
    axes = tuple(a % x.ndim for a in (axes or reversed(range(x.ndim))))
    back_again = tuple(sorted(range(len(axes)), key=lambda i: axes[i]))
    return x.transpose(axes), lambda g: g.transpose(back_again)


def swapaxes(x, *, axis1: int, axis2: int):
    """Two axes change places."""
    return x.swapaxes(axis1, axis2), lambda g: g.swapaxes(axis1, axis2)


def squeeze(x, *, axis: Axis = None):
    """Axes of length 1 are dropped: the named ones, or all."""
    before = x.shape
    return x.squeeze(axis=axis), lambda g: g.reshape(before)


def expand_dims(x, *, axis: Axis):
    """New axes of length 1 at these places of the value."""
    before = x.shape
    return namespace(x).expand_dims(x, axis), lambda g: g.reshape(before)


def broadcast_to(x, *, shape: tuple[int, ...]):
    """Axes of length 1, and missing leading axes, are stretched. The engine sums the gradient over them."""
    return namespace(x).broadcast_to(x, shape), lambda g: g


def flip(x, *, axis: Axis = None):
    """The order along the axes is reversed."""
    return namespace(x).flip(x, axis=axis), lambda g: namespace(g).flip(g, axis=axis)


def roll(x, *, shift: int, axis: int):
    """Numbers move `shift` places along the axis; what leaves at the end comes in at the front."""
    return namespace(x).roll(x, shift, axis=axis), lambda g: namespace(g).roll(g, -shift, axis=axis)


def pad(x, *, pad_width: Any, constant_values: float = 0.0):
    """Numbers equal to `constant_values` are put around: pad_width is ((before, after), …), one pair per axis."""
    inside = tuple(slice(before, before + n) for n, (before, _) in zip(x.shape, pad_width, strict=True))
    return namespace(x).pad(x, pad_width, constant_values=constant_values), lambda g: g[inside]


def tril(x, *, k: int = 0):
    """Numbers above the k-th diagonal of the last two axes become 0."""
    return namespace(x).tril(x, k), lambda g: namespace(g).tril(g, k)


def triu(x, *, k: int = 0):
    """Numbers below the k-th diagonal of the last two axes become 0."""
    return namespace(x).triu(x, k), lambda g: namespace(g).triu(g, k)


def concat(*xs, axis: int = 0):
    """Arrays one after the other along an axis that exists."""
    axis = axis % xs[0].ndim
    ends, pieces = 0, []
    for x in xs:
        pieces.append((slice(None),) * axis + (slice(ends, ends + x.shape[axis]),))
        ends += x.shape[axis]
    return namespace(*xs).concatenate(xs, axis=axis), tuple(lambda g, piece=piece: g[piece] for piece in pieces)


def stack(*xs, axis: int = 0):
    """Arrays of one shape side by side along a new axis."""
    before = (slice(None),) * (axis % (xs[0].ndim + 1))
    return (namespace(*xs).stack(xs, axis=axis),
            tuple(lambda g, i=i: g[(*before, i)] for i in range(len(xs))))


def getitem(x, *, index: Any):
    """y = x[index], by slices, integers, integer arrays or a boolean mask, as in NumPy."""
    shape = x.shape
    return x[index], lambda g: use(place, g, index=index, shape=shape)


def place(x, *, index: Any, shape: tuple[int, ...]):
    """Zeros of this shape to which x is added at the index: the way back of `getitem`, and it of this.

    An index that names a place twice adds twice there.
    """
    if hasattr(x, "__lift__"):
        y = use(place, x, index=index, shape=shape)
    else:
        y = namespace(x).zeros(shape, dtype=x.dtype)
        parts = index if isinstance(index, tuple) else (index,)
        lists = [part for part in parts if not isinstance(part, int | slice | type(None) | type(...))]
        if not lists or len(lists) == 1 and getattr(lists[0], "dtype", None) == "bool":
            y[index] = x                                   # no place is named twice: assigning is enough, and faster
        else:
            namespace(x).add.at(y, index, x)
    return y, lambda g: g[index]


def take_along_axis(x, *, indices: Any, axis: int):
    """yᵢ = x[indicesᵢ] along one axis, each line of the array with its own indices: the partner of argsort."""
    xp, axis = namespace(indices), axis % x.ndim
    grid = [xp.arange(n).reshape(-1, *(1,) * (x.ndim - i - 1)) for i, n in enumerate(x.shape)]
    grid[axis] = indices
    return getitem(x, index=tuple(grid))


def repeat(x, *, repeats: int, axis: int):
    """Every number `repeats` times in a row along the axis."""
    axis = axis % x.ndim
    split = (*x.shape[:axis + 1], repeats, *x.shape[axis + 1:])
    return x.repeat(repeats, axis=axis), lambda g: g.reshape(split).sum(axis=axis + 1)

"""Rules that take many numbers together along an axis: sums, means, extremes, products, running sums.

`axis` is an integer, a tuple, or None for all; `keepdims` leaves axes of length 1, as in NumPy.
"""

from ..backend import namespace
from .common import Axis, constant, kept, reduced, use
from .shapes import flip


def spread(g, shape: tuple[int, ...], axis: Axis):
    """The gradient of a reduction, laid out over all the numbers that were reduced."""
    return namespace(g).broadcast_to(g.reshape(kept(shape, axis)), shape)


def reduce_sum(x, *, axis: Axis = None, keepdims: bool = False):
    """y = Σ x.   ∂y/∂xᵢ = 1"""
    shape = x.shape
    return x.sum(axis=axis, keepdims=keepdims), lambda g: spread(g, shape, axis)


def mean(x, *, axis: Axis = None, keepdims: bool = False):
    """y = Σ x / n.   ∂y/∂xᵢ = 1/n"""
    shape, n = x.shape, reduced(x.shape, axis)
    return x.mean(axis=axis, keepdims=keepdims), lambda g: spread(g / n, shape, axis)


def var(x, *, axis: Axis = None, keepdims: bool = False, ddof: int = 0):
    """y = Σ (x − mean)² / (n − ddof).   ∂y/∂xᵢ = 2(xᵢ − mean)/(n − ddof)"""
    shape, n = x.shape, reduced(x.shape, axis, ddof)
    centred = x - x.mean(axis=axis, keepdims=True)
    y = (centred * centred).sum(axis=axis, keepdims=keepdims) / n
    return y, lambda g: spread(g, shape, axis) * centred * (2 / n)


def std(x, *, axis: Axis = None, keepdims: bool = False, ddof: int = 0):
    """y = √var.   ∂y/∂xᵢ = (xᵢ − mean)/(y·(n − ddof)), and 0 where all are equal"""
    shape, n = x.shape, reduced(x.shape, axis, ddof)
    centred = x - x.mean(axis=axis, keepdims=True)
    y = namespace(x).sqrt((centred * centred).sum(axis=axis, keepdims=keepdims) / n)
    return y, lambda g: spread(g / (y + (constant(y) == 0)), shape, axis) * centred * (1 / n)


def reduce_max(x, *, axis: Axis = None, keepdims: bool = False):
    """y = max x.   The gradient goes to the largest, in equal shares where several are."""
    return _extreme(x, x.max(axis=axis, keepdims=keepdims), axis)


def reduce_min(x, *, axis: Axis = None, keepdims: bool = False):
    """y = min x.   The gradient goes to the smallest, in equal shares where several are."""
    return _extreme(x, x.min(axis=axis, keepdims=keepdims), axis)


def _extreme(x, y, axis: Axis):
    shape = x.shape
    winners = constant(x) == constant(y).reshape(kept(shape, axis))
    share = winners / winners.sum(axis=axis, keepdims=True, dtype=x.dtype)
    return y, lambda g: spread(g, shape, axis) * share


def reduce_prod(x, *, axis: Axis = None, keepdims: bool = False):
    """y = Π x.   ∂y/∂xᵢ = the product of the others, right also where some xᵢ are 0.

    A second derivative is right wherever no factor is 0.
    """
    shape = x.shape
    def back(g):
        zero = constant(x) == 0
        zeros = zero.sum(axis=axis, keepdims=True)
        safe = namespace(x).where(zero, 1, x)
        others = safe.prod(axis=axis, keepdims=True) / safe
        return spread(g, shape, axis) * others * (zeros == zero)        # no zero among the others
    return x.prod(axis=axis, keepdims=keepdims), back


def logsumexp(x, *, axis: Axis = -1, keepdims: bool = False):
    """y = ln Σ eˣ, shifted by the maximum so that nothing overflows.   ∂y/∂xᵢ = exp(xᵢ − y)"""
    shape = x.shape
    high = highest(x, axis)
    y = namespace(x).log(namespace(x).exp(x - high).sum(axis=axis, keepdims=True)) + high
    return y if keepdims else y.sum(axis=axis), lambda g: g.reshape(kept(shape, axis)) * namespace(x).exp(x - y)


def highest(x, axis: Axis):
    """The maximum along an axis as a constant, and 0 where it is not finite: what softmax may be shifted by."""
    x = constant(x)
    high = x.max(axis=axis, keepdims=True)
    return namespace(x).where(namespace(x).isfinite(high), high, 0)


def cumsum(x, *, axis: int):
    """yᵢ = x₀ + … + xᵢ.   gx is the running sum of g from the other end."""
    def back(g):
        return use(flip, use(cumsum, use(flip, g, axis=axis), axis=axis), axis=axis)
    return x.cumsum(axis=axis), back

"""Rules that treat every number by itself: arithmetic, exponentials, activation functions, choices.

All have the shape arrow (...) → (...), two inputs are broadcast against each other as in NumPy.
"""

import math
from typing import Any

from .. import special
from ..backend import namespace
from .common import constant, use


def identity(x):
    """y = x, as a step of its own in the graph."""
    return x, lambda g: g


def add(a, b):
    """y = a + b.   ∂y/∂a = 1, ∂y/∂b = 1"""
    return a + b, (lambda g: g, lambda g: g)


def sub(a, b):
    """y = a − b.   ∂y/∂a = 1, ∂y/∂b = −1"""
    return a - b, (lambda g: g, lambda g: -g)


def mul(a, b):
    """y = a·b.   ∂y/∂a = b, ∂y/∂b = a"""
    return a * b, (lambda g: g * b, lambda g: g * a)


def div(a, b):
    """y = a / b.   ∂y/∂a = 1/b, ∂y/∂b = −y/b"""
    y = a / b
    return y, (lambda g: g / b, lambda g: -g * y / b)


def neg(x):
    """y = −x.   ∂y/∂x = −1"""
    return -x, lambda g: -g


def power(a, b):
    """y = aᵇ.   ∂y/∂a = b·aᵇ⁻¹, ∂y/∂b = y·ln a  (0 at a = 0, where the limit from above is 0)"""
    y, ln = a ** b, (lambda n: math.log(n) if n > 0 else math.nan) if isinstance(a, int | float) else namespace(a).log
    return y, (lambda g: g * (b * a ** (b - (b != 0))),          # b = 0 must not divide by a
               lambda g: g * (y * ln(a + (constant(a) == 0))))


def exp(x):
    """y = eˣ.   ∂y/∂x = y"""
    y = namespace(x).exp(x)
    return y, lambda g: g * y


def log(x):
    """y = ln x.   ∂y/∂x = 1/x"""
    return namespace(x).log(x), lambda g: g / x


def log1p(x):
    """y = ln(1 + x), exact also where x is tiny.   ∂y/∂x = 1/(1 + x)"""
    return namespace(x).log1p(x), lambda g: g / (1 + x)


def sqrt(x):
    """y = √x.   ∂y/∂x = 1/(2y)"""
    y = namespace(x).sqrt(x)
    return y, lambda g: g / (2 * y)


def rsqrt(x):
    """y = 1/√x.   ∂y/∂x = −y³/2"""
    y = 1 / namespace(x).sqrt(x)
    return y, lambda g: g * (-0.5 * y * y * y)


def absolute(x):
    """y = |x|.   ∂y/∂x = sign x, which is 0 at 0"""
    sign = namespace(constant(x)).sign(constant(x))
    return x * sign, lambda g: g * sign


def sin(x):
    """y = sin x.   ∂y/∂x = cos x"""
    return namespace(x).sin(x), lambda g: g * namespace(x).cos(x)


def cos(x):
    """y = cos x.   ∂y/∂x = −sin x"""
    return namespace(x).cos(x), lambda g: -g * namespace(x).sin(x)


def tanh(x):
    """y = tanh x.   ∂y/∂x = 1 − y²"""
    y = namespace(x).tanh(x)
    return y, lambda g: g * (1 - y * y)


def sigmoid(x):
    """y = 1/(1 + e⁻ˣ), written so that e never overflows and the left tail keeps its digits.   ∂y/∂x = y·(1 − y)"""
    e = namespace(x).exp(-abs(constant(x)))
    y = use(sigmoid, x) if hasattr(x, "__lift__") else namespace(x).where(x >= 0, 1, e) / (1 + e)
    return y, lambda g: g * (y * (1 - y))


def erf(x):
    """y = 2/√π ∫₀ˣ exp(−t²) dt.   ∂y/∂x = 2/√π·exp(−x²)"""
    y = use(erf, x) if hasattr(x, "__lift__") else special.erf(x)
    return y, lambda g: g * (2 / math.sqrt(math.pi) * namespace(x).exp(-x * x))


def relu(x):
    """y = max(x, 0).   ∂y/∂x = 1 where x > 0, else 0"""
    y = namespace(x).maximum(x, 0)
    return y, lambda g: g * (constant(y) > 0)


def gelu(x):
    """y = x·Φ(x), Φ the normal distribution.   ∂y/∂x = Φ + x·φ   (Hendrycks & Gimpel 2016, arXiv:1606.08415, §2)"""
    cdf = 0.5 * use(erf, x * math.sqrt(0.5)) + 0.5
    return x * cdf, lambda g: g * (cdf + x * namespace(x).exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi)))


def gelu_tanh(x):
    """y = x·σ(2u), u = √(2/π)(x + 0.044715 x³): GELU as GPT-2 has it.   ∂y/∂x = σ + y(1 − σ)·2u′   (ibid., §2)"""
    c, k = 2 * math.sqrt(2 / math.pi), 0.044715
    square = x * x
    s = use(sigmoid, c * x * (1 + k * square))
    y = x * s
    return y, lambda g: g * (s + y * (1 - s) * (c * (1 + 3 * k * square)))


def silu(x):
    """y = x·σ(x), also called swish.   ∂y/∂x = σ + y(1 − σ)   (Elfwing et al. 2017, arXiv:1702.03118, eq. 5)"""
    s = use(sigmoid, x)
    y = x * s
    return y, lambda g: g * (s + y * (1 - s))


def softplus(x):
    """y = ln(1 + eˣ), written so that e never overflows.   ∂y/∂x = σ(x)"""
    y = use(relu, x) + use(log1p, namespace(x).exp(-use(absolute, x)))
    return y, lambda g: g * use(sigmoid, x)


def maximum(a, b):
    """y = max(a, b).   The gradient goes to the larger, and in halves to both where they are equal."""
    return _choose(namespace(a, b).maximum(a, b), constant(a) > constant(b), constant(a) == constant(b))


def minimum(a, b):
    """y = min(a, b).   The gradient goes to the smaller, and in halves to both where they are equal."""
    return _choose(namespace(a, b).minimum(a, b), constant(a) < constant(b), constant(a) == constant(b))


def _choose(y, first, tie):
    share = lambda g, wins: namespace(g).where(tie, 0.5 * g, g * wins)
    return y, (lambda g: share(g, first), lambda g: share(g, ~first))


def clip(x, *, min: float | None = None, max: float | None = None):
    """y = x, but no less than min and no more than max.   ∂y/∂x = 1 inside the limits (and on them), else 0"""
    low, high = -math.inf if min is None else min, math.inf if max is None else max
    inside = (constant(x) >= low) & (constant(x) <= high)
    y = use(minimum, use(maximum, x, low), high)
    return y, lambda g: g * inside


def where(a, b, *, condition: Any):
    """y = a where the condition holds, else b.   Each gradient passes where its input was taken."""
    return (namespace(a, b).where(condition, a, b),
            (lambda g: namespace(g).where(condition, g, 0), lambda g: namespace(g).where(condition, 0, g)))


def astype(x, *, dtype: Any):
    """The same numbers in another precision.   The gradient returns in the precision the input had."""
    before = x.dtype
    return x.astype(dtype), lambda g: g.astype(before)

"""First weights. All are drawn with NumPy's generator, so one seed gives the same ones on every device."""

import math

import numpy as np

from ..backend import DEFAULT_DTYPE
from ..random import rng
from ..tensor import Tensor


def normal(*shape: int, std: float = 0.02) -> Tensor:
    """N(0, std²): GPT-2's choice with std 0.02 (Radford et al. 2019, §2.3)."""
    return Tensor(rng().standard_normal(shape, dtype=DEFAULT_DTYPE) * std, requires_grad=True)


def xavier(fan_in: int, fan_out: int) -> Tensor:
    """U(−a, a), a = √(6/(in + out)): keeps the variance of values and of gradients (Glorot & Bengio 2010, eq. 16)."""
    bound = math.sqrt(6 / (fan_in + fan_out))
    return Tensor((rng().random((fan_in, fan_out), dtype=DEFAULT_DTYPE) * 2 - 1) * bound, requires_grad=True)


def zeros(*shape: int) -> Tensor:
    """Zeros: biases."""
    return Tensor(np.zeros(shape, DEFAULT_DTYPE), requires_grad=True)


def ones(*shape: int) -> Tensor:
    """Ones: the gains of norms."""
    return Tensor(np.ones(shape, DEFAULT_DTYPE), requires_grad=True)

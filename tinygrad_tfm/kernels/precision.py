"""How exact the products on a GPU are: one knob. The CPU knows one precision, and turns nothing.

Whatever it says, weights, their gradients and what an optimiser keeps are float32, and sums are made in float32. In
"bf16" what flows between the layers, forward and back, has 7 bits of mantissa and half the bytes. Read next: `cuda.py`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import numpy as np

PRECISIONS = {"float32": "products of float32, as exact as the CPU's",
              "tf32": "factors rounded to 10 bits of mantissa, all else float32",
              "bf16": "factors, and what flows between layers, stored with 7 bits of mantissa"}
_precision: ContextVar[str] = ContextVar("precision", default="float32")
current = _precision.get


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Inside the block matrix products on a GPU are made in this precision: "float32", "tf32" or "bf16".

    Not meant are products with a vector, of stretched batches, and `einsum`. A model is not converted: enter the block,
    and leave it. A value in bf16 that leaves it too is best made float32 first: outside, plain rules add up as CuPy
    does. Raises ValueError for another name.
    """
    token = _precision.set(known(name))
    try:
        yield
    finally:
        _precision.reset(token)


def known(name: str) -> str:
    """The name itself. Raises ValueError if there is no such precision."""
    if name not in PRECISIONS:
        raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, not {name!r}")
    return name


@cache
def bfloat16() -> np.dtype:
    """The dtype, which NumPy, and CuPy too, know only from ml_dtypes. Raises ImportError without it."""
    try:
        import ml_dtypes
    except ImportError as error:
        raise ImportError("precision 'bf16' needs the package ml_dtypes, which is not installed: "
                          "pip install 'tinygrad_tfm[cuda13]' (or [cuda12])") from error
    return np.dtype(ml_dtypes.bfloat16)

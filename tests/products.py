"""Matrices that lie in every way, and what their products may be: test_cublaslt.py, gpu/test_products.py."""

import numpy as np
import pytest

ml_dtypes = pytest.importorskip("ml_dtypes", reason="NumPy has no bfloat16: pip install 'tinygrad_tfm[test]'")
BF16 = np.dtype(ml_dtypes.bfloat16)
FLOAT32, TF32, BFLOAT16 = 2.0**-24, 2.0**-11, 2.0**-8              # by how much rounding changes a number, at most


def numbers(cp, *shape, dtype="float32", seed=0):
    x = np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)
    return cp.asarray(x.astype(BF16) if dtype == "bfloat16" else x)


def exact(x):
    return x.get().astype(np.float64)


LAYOUTS = {                                                        # a, b, and which of them has to be copied
    "rows": (lambda x: x(4, 6), lambda x: x(6, 5), ""),
    "a transposed": (lambda x: x(6, 4).T, lambda x: x(6, 5), ""),
    "b transposed": (lambda x: x(4, 6), lambda x: x(5, 6).T, ""),
    "both transposed": (lambda x: x(6, 4).T, lambda x: x(5, 6).T, ""),
    "parts": (lambda x: x(9, 20)[2:6, 3:9], lambda x: x(12, 11)[1:7, 2:7], ""),
    "transposed parts": (lambda x: x(20, 9)[3:9, 2:6].T, lambda x: x(11, 12)[2:7, 1:7].T, ""),
    "every other row": (lambda x: x(8, 6)[::2], lambda x: x(12, 5)[::2], ""),
    "batch": (lambda x: x(3, 4, 6), lambda x: x(3, 6, 5), ""),
    "transposed batch": (lambda x: x(3, 6, 4).swapaxes(1, 2), lambda x: x(3, 5, 6).swapaxes(1, 2), ""),
    "every other matrix": (lambda x: x(6, 4, 6)[::2], lambda x: x(9, 6, 5)[1::3], ""),
    "batch and heads": (lambda x: x(2, 3, 4, 6), lambda x: x(2, 3, 5, 6).swapaxes(2, 3), ""),
    "heads side by side": (lambda x: x(4, 3, 6).swapaxes(0, 1), lambda x: x(6, 3, 5).swapaxes(0, 1), ""),
    "a third of a projection": (lambda x: x(2, 4, 3, 6)[:, :, 1], lambda x: x(2, 6, 3, 5)[:, :, 2], ""),
    "one matrix for a batch": (lambda x: x(3, 4, 6), lambda x: x.broadcast_to(x(6, 5), (3, 6, 5)), ""),
    "one matrix for all heads": (lambda x: x.broadcast_to(x(4, 6), (2, 3, 4, 6)), lambda x: x(2, 3, 6, 5), ""),
    "heads of one batch": (lambda x: x(1, 4, 3, 6).swapaxes(1, 2), lambda x: x(1, 3, 6, 5), ""),
    "one head": (lambda x: x(3, 9, 4, 6)[:, 2:3], lambda x: x(3, 1, 6, 5), ""),
    "a row": (lambda x: x(1, 6), lambda x: x(6, 5), ""),
    "a row that was a column": (lambda x: x(6, 7)[:, 2:3].T, lambda x: x(6, 5), ""),
    "a column": (lambda x: x(4, 6), lambda x: x(6, 7)[:, 2:3], ""),
    "a row of steps of nothing": (lambda x: x(6)[None], lambda x: x(6, 5), ""),
    "a column far apart": (lambda x: x(4, 6), lambda x: x(12)[::2][:, None], ""),
    "inner axis of one": (lambda x: x(4, 7)[:, 2:3], lambda x: x(3, 5)[1:2], ""),
    "numbers": (lambda x: x(3, 3)[1:2, 1:2], lambda x: x(3, 3)[2:, 2:], ""),
    "heads of batches": (lambda x: x(2, 4, 3, 6).swapaxes(1, 2), lambda x: x(2, 3, 6, 5), "a"),
    "heads without a batch": (lambda x: x.broadcast_to(x(2, 1, 4, 6), (2, 3, 4, 6)), lambda x: x(2, 3, 6, 5), "a"),
    "every other number": (lambda x: x(4, 6), lambda x: x(6, 10)[:, ::2], "b"),
    "every other number and row": (lambda x: x(8, 12)[::2, ::2], lambda x: x(12, 5)[::2], "a"),
    "rows backwards": (lambda x: x(4, 6)[::-1], lambda x: x(6, 5)[:, ::-1], "ab"),
    "matrices backwards": (lambda x: x(3, 4, 6)[::-1], lambda x: x(3, 6, 5), "a"),
    "one row": (lambda x: x.broadcast_to(x(1, 6), (4, 6)), lambda x: x.broadcast_to(x(6, 1), (6, 5)), "ab"),
}
TYPES = {"float32": ("float32", None, False), "tf32": ("float32", "float32", True),
         "bfloat16": ("bfloat16", None, False), "bfloat16 to float32": ("bfloat16", np.dtype(np.float32), True)}


class Numbers:
    """x(2, 3) makes an array of that shape, other numbers each time."""

    def __init__(self, cp, dtype):
        self.cp, self.dtype, self.broadcast_to, self.seed = cp, dtype, cp.broadcast_to, 0

    def __call__(self, *shape):
        self.seed += 1
        return numbers(self.cp, *shape, dtype=self.dtype, seed=self.seed)


def bound(a, b, kind, rounding=1):
    """By how much a product may differ from float64's: k roundings of float32 in a sum, and those of the types.

    A GPU's tensor cores cut numbers off where they might round: `rounding` = 2, they err twice as much.
    """
    once = np.abs(exact(a)) @ np.abs(exact(b))
    factors = (1 + rounding * TF32)**2 - 1 if kind == "tf32" else 0
    worst = once * (factors + 1.01 * rounding * a.shape[-1] * FLOAT32)
    return worst + BFLOAT16 * (np.abs(exact(a) @ exact(b)) + worst) if kind == "bfloat16" else worst

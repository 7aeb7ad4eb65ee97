"""The floor under a training step: its matrix products, and nothing else.

No step that multiplies with NumPy is faster than this, so the gap shows what the rest costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from ..kernels.cpu import queries_at_once
from ..models.decoder import DecoderConfig
from ..ops.network import ONE_HOT_LIMIT
from .our_side import Job, in_threads
from .sides import Actions


class Product(NamedTuple):
    """a·b with one of the two transposed, or none, over the last two axes."""

    a: tuple[int, ...]
    b: tuple[int, ...]
    turned: str = ""                # "a", "b" or neither

    @property
    def operations(self) -> int:
        """Multiplications and additions together."""
        inner = self.a[-2] if self.turned == "a" else self.a[-1]
        rows = self.a[-1] if self.turned == "a" else self.a[-2]
        columns = self.b[-2] if self.turned == "b" else self.b[-1]
        return 2 * math.prod(self.a[:-2]) * rows * inner * columns


def products(config: DecoderConfig, batch: int) -> list[Product]:
    """Every matrix product of one step over so many windows, forward and backward, in shapes as they are computed."""
    c, N = config, batch * config.context
    hidden = 4 * c.width if c.hidden is None else c.hidden
    linears = [(c.width, c.width)] * 4 + [(c.width, hidden), (hidden, c.width)]     # query, key, value, out, up, down
    layer = [product for inputs, outputs in linears for product in linear(N, inputs, outputs)]
    rows = queries_at_once(c.context)
    for start in range(0, c.context, rows):                         # keys that none of these may see are skipped
        end = min(start + rows, c.context)
        layer += attention((batch, c.heads), end - start, end, c.width // c.heads)
    embedding = [Product((c.vocab, N), (N, c.width))] if c.vocab <= ONE_HOT_LIMIT else []    # its gradient, one-hot
    return layer * c.layers + linear(N, c.width, c.vocab) + embedding


def linear(N: int, inputs: int, outputs: int) -> list[Product]:
    """x·W, g·Wᵀ and xᵀ·g for N rows."""
    return [Product((N, inputs), (inputs, outputs)), Product((N, outputs), (inputs, outputs), "b"),
            Product((N, inputs), (N, outputs), "a")]


def attention(BH: tuple[int, int], T: int, S: int, K: int) -> list[Product]:
    """Scores and values of T queries over S keys, and the four products back."""
    few, many, pattern = (*BH, T, K), (*BH, S, K), (*BH, T, S)
    return [Product(few, many, "b"), Product(pattern, many), Product(few, many, "b"), Product(pattern, few, "a"),
            Product(pattern, many), Product(pattern, few, "a")]


@contextmanager
def multiplying(job: Job) -> Iterator[Actions]:
    """`step`: the products of a step, shared by threads as our step is; all into memory that is there already."""
    shares = [len(rows) for rows in np.array_split(np.arange(job.batch), job.workers)]
    lists = [ready(products(job.config, share)) for share in shares]

    def multiply(calls: list[Callable[[], object]]) -> None:
        for call in calls:
            call()
    with in_threads(job.workers) as each:
        yield {"step": lambda: each(multiply, lists)}


def ready(wanted: list[Product]) -> list[Callable[[], object]]:
    """The products as functions to call. Operands of one shape share their memory."""
    rng, arrays = np.random.default_rng(0), {}

    def array(role: str, shape: tuple[int, ...]) -> np.ndarray:    # a·a is another product than a·b: BLAS halves it
        if (role, shape) not in arrays:
            arrays[role, shape] = rng.standard_normal(shape, dtype=np.float32)
        return arrays[role, shape]

    def function(product: Product) -> Callable[[], object]:
        a, b = array("a", product.a), array("b", product.b)
        a = a.swapaxes(-1, -2) if product.turned == "a" else a
        b = b.swapaxes(-1, -2) if product.turned == "b" else b
        out = array("out", (*a.shape[:-1], b.shape[-1]))
        return lambda: np.matmul(a, b, out=out)
    return [function(product) for product in wanted]

"""Other engines' side of the chain of small operations: MyGrad, HIPS autograd, micrograd. Whichever is installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from .our_side import chained
from .sides import Actions, Maker


@contextmanager
def mygrad_chain() -> Iterator[Actions]:
    """MyGrad, on the same 4×4 array."""
    import mygrad
    w = mygrad.tensor(np.ones((4, 4), np.float32))

    def run() -> None:
        chained(w).sum().backward()
        w.null_grad()
    yield {"chain": run}


@contextmanager
def autograd_chain() -> Iterator[Actions]:
    """HIPS autograd: a function's gradient is asked for, not a value's."""
    import autograd

    gradient, w = autograd.grad(lambda w: chained(w).sum()), np.ones((4, 4), np.float32)
    yield {"chain": lambda: gradient(w)}


@contextmanager
def micrograd_chain() -> Iterator[Actions]:
    """micrograd knows single numbers only: the chain on one of them, without the last sum."""
    from micrograd.engine import Value
    w = Value(1.0)

    def run() -> None:
        chained(w).backward()
        w.grad = 0
    yield {"chain": run}


PEERS: dict[str, tuple[str, Maker]] = {                            # by name: the module, and the maker of the side
    "MyGrad": ("mygrad", mygrad_chain), "HIPS autograd": ("autograd", autograd_chain),
    "micrograd (one number)": ("micrograd", micrograd_chain)}

"""tinygrad_tfm: reverse-mode autodiff on NumPy or CuPy, and the transformer family built on it in plain view.

    import tinygrad_tfm as tg
    x = tg.Tensor([1.0, 2.0], requires_grad=True)
    (x * x + x).sum().backward()
    x.grad                                              # array([3., 5.], dtype=float32)

One letter means one size everywhere: B batch, T time, S time of the keys, D width, H heads, K width of a head,
F feed-forward width, V vocabulary. Read the source in the order of its floors: `backend`, `ops/`, `tensor`,
`functional`, `nn/`, `models/decoder`; docs/reading-order.md is the tour. (Not part of tinygrad.)
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import functional, models, nn, random, tensor
from .kernels.precision import precision
from .random import manual_seed
from .tensor import Tensor, fused, grad, higher_order, lift, no_grad, watching

if TYPE_CHECKING:                                                          # for readers of types only: see LATER
    from . import checkpoint, data, decoding, emulator, generate, optim, parallel, runs, testing, text, train, watch

F = functional
LATER = ("optim", "watch", "testing", "text", "data", "train", "generate", "decoding", "checkpoint", "runs", "parallel",
         "emulator")


def __getattr__(name: str) -> Any:
    """`tg.optim` and its like, imported when first asked for: so the first import stays quick."""
    if name in LATER:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__version__ = "0.1.0"

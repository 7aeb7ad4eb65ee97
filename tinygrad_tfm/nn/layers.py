"""The small parts: Linear, Embedding, LayerNorm, RMSNorm, Dropout, Sequential. Read next: `attention.py`."""

from collections.abc import Callable
from typing import Any

from .. import functional as F
from ..errors import fraction, positive
from ..random import new_key
from ..tensor import Tensor, as_array
from . import init
from .module import Module


class Linear(Module):
    """y = x·W + b.     (..., in) → (..., out)

    `weight` is (in, out), so that the code reads like the formula; PyTorch stores the transpose. Starts from
    Xavier's uniform distribution, b from 0.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool = True):
        positive("Linear", inputs=inputs, outputs=outputs)
        self.weight = init.xavier(inputs, outputs)
        self.bias = init.zeros(outputs) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight
        return y if self.bias is None else y + self.bias


class Embedding(Module):
    """y = W[ids], times √D if `scale`.     (...) integers → (..., D)

    The original transformer scales its embeddings so that positions of size 1 do not drown them (Vaswani et al.
    2017, §3.4); GPT-2 does not. Raises IndexError for an id outside the table.
    """

    def __init__(self, count: int, width: int, scale: bool = False):
        positive("Embedding", count=count, width=width)
        self.weight = init.normal(count, width, std=width ** -0.5 if scale else 0.02)
        self.factor = width ** 0.5 if scale else 1.0

    def forward(self, ids: Any) -> Tensor:
        y = F.embedding(self.weight, ids=as_array(ids))
        return y if self.factor == 1.0 else y * self.factor

    def unembed(self, x: Tensor) -> Tensor:
        """Logits x·Wᵀ with the same table: a tied output (Press & Wolf 2016, arXiv:1608.05859).  (..., D) → (..., V)"""
        return x @ self.weight.swapaxes(0, 1)


class LayerNorm(Module):
    """y = (x − mean)/√(var + ε)·gain + bias over the last axis.     (..., D) → (..., D)

    The variance is the biased one, and ε stands under the root (Ba et al. 2016, arXiv:1607.06450, eq. 4).
    """

    def __init__(self, width: int, bias: bool = True, eps: float = 1e-5):
        positive("LayerNorm", width=width)
        self.gain = init.ones(width)
        self.bias = init.zeros(width) if bias else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.gain, self.bias, eps=self.eps)


class RMSNorm(Module):
    """y = x/√(mean x² + ε)·gain over the last axis.     (..., D) → (..., D)   (Zhang & Sennrich 2019, eq. 4)"""

    def __init__(self, width: int, eps: float = 1e-6):
        positive("RMSNorm", width=width)
        self.gain = init.ones(width)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.gain, eps=self.eps)


class Dropout(Module):
    """While training, each number becomes 0 with probability p, the others are divided by 1 − p.     (...) → (...)

    In evaluation nothing happens (Srivastava et al. 2014, JMLR 15). `tg.manual_seed` decides the masks.
    """

    def __init__(self, p: float):
        fraction("Dropout", p=p)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, p=self.p, key=new_key()) if self.training and self.p else x


class Sequential(Module):
    """One step after the other; a step is a module or any function of one tensor."""

    def __init__(self, *steps: Callable[[Any], Any]):
        self.steps = list(steps)

    def forward(self, x: Any) -> Any:
        for step in self.steps:
            x = step(x)
        return x

    def __getitem__(self, i: int) -> Callable:
        return self.steps[i]

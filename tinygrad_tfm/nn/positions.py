"""Where a token stands, said as a vector that is added to its embedding.

Each is called with the number of positions T and the first one's index, and gives (T, D).
"""

import numpy as np

from ..backend import DEFAULT_DTYPE
from ..errors import positive
from ..tensor import Tensor
from . import init
from .module import Module


class LearnedPositions(Module):
    """One trained vector for each of `context` positions (GPT-2, BERT).

    Raises ValueError for a position beyond the context: there is no vector for it.
    """

    def __init__(self, context: int, width: int):
        positive("LearnedPositions", context=context, width=width)
        self.weight = init.normal(context, width)

    def forward(self, T: int, start: int = 0) -> Tensor:
        if start + T > len(self.weight):
            raise ValueError(f"positions {start} to {start + T - 1} were asked for, the context has {len(self.weight)}")
        return self.weight[start:start + T]


class SinusoidalPositions(Module):
    """PE[t, 2i] = sin(t/10000^(2i/D)), PE[t, 2i+1] = cos(t/10000^(2i/D)): fixed, and defined for any position.

    PE[t + k] is a rotation of PE[t] that depends on k alone (Vaswani et al. 2017, arXiv:1706.03762, §3.5).
    """

    def __init__(self, context: int, width: int):
        positive("SinusoidalPositions", context=context, width=width)
        self.width = width
        self.weight = Tensor(sinusoids(0, context, width))

    def forward(self, T: int, start: int = 0) -> Tensor:
        if start + T <= len(self.weight):
            return self.weight[start:start + T]
        return Tensor(sinusoids(start, T, self.width), device=self.weight.device)


def sinusoids(start: int, T: int, width: int) -> np.ndarray:
    """The table of SinusoidalPositions from position `start`: (T, D)."""
    angles = np.arange(start, start + T)[:, None] / 10000 ** (np.arange(0, width, 2) / width)    # (T, D/2)
    table = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(T, -1)
    return table[:, :width].astype(DEFAULT_DTYPE)

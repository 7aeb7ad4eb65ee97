"""Series and sounds as tokens: a number, or a frame of many, goes through one linear layer and is a token like others.

A sound is named by a `Classifier` whose encoder embeds with `Linear(bins, width)` what `spectrogram` makes of it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import functional as F
from ..backend import DEFAULT_DTYPE, Array, namespace, to_numpy
from ..errors import positive
from ..nn import Dropout, EncoderBlock, LayerNorm, LearnedPositions, Linear, Module
from ..tensor import Tensor, as_array, no_grad


class Forecaster(Module):
    """x̂ₜ₊₁ = xₜ + (norm(blocks(x·E + b + positions))·W + c)ₜ, from the values up to t alone.    (B, T, C) → (B, T, C)

    A decoder whose tokens are numbers: C of them at each time. What is learned is the change: without it, the last
    value is repeated, which is the naive forecast. Further settings are `EncoderBlock`'s.

    Raises ValueError for more values than the context holds.
    """

    def __init__(self, inputs: int, context: int, layers: int, heads: int, width: int, *, dropout: float = 0.0,
                 positions: Callable[[int, int], Module] = LearnedPositions, **block: Any):
        positive("Forecaster", inputs=inputs, context=context, layers=layers)
        self.context = context
        self.embed = Linear(inputs, width)
        self.positions = positions(context, width)
        self.dropout = Dropout(dropout)
        self.blocks = [EncoderBlock(width, heads, dropout=dropout, **block) for _ in range(layers)]
        self.norm = LayerNorm(width)
        self.head = Linear(width, inputs)

    def forward(self, x: Any) -> Tensor:
        x = Tensor(as_array(x))
        if x.shape[1] > self.context:
            raise ValueError(f"{x.shape[1]} values are more than the context of {self.context}")
        h = self.dropout(self.embed(x) + self.positions(x.shape[1]))
        for block in self.blocks:
            h = block(h, causal=True)
        return x + self.head(self.norm(h))

    def loss(self, x: Any) -> Tensor:
        """Mean squared error of the next values, for every value of x (B, T, C) but the first."""
        x = as_array(x)
        return F.mse(self(x[:, :-1]), x[:, 1:])

    def forecast(self, x: Any, steps: int) -> Array:
        """The `steps` values that follow x (B, T, C), each forecast from those before it.     → (B, steps, C)"""
        x, start = as_array(x), as_array(x).shape[1]
        with no_grad():
            for _ in range(steps):
                x = namespace(x).concatenate([x, self(x[:, -self.context:]).data[:, -1:]], axis=1)
        return x[:, start:]


def frames(x: Array, size: int, hop: int) -> Array:
    """A series cut into pieces of `size` that begin every `hop` values; what is left at the end is dropped.

    (..., T) → (..., 1 + (T − size)//hop, size). Raises ValueError for a series shorter than a piece.
    """
    positive("frames", size=size, hop=hop)
    if x.shape[-1] < size:
        raise ValueError(f"frames: a series of {x.shape[-1]} has no piece of {size}")
    xp = namespace(x)
    return x[..., xp.arange(0, x.shape[-1] - size + 1, hop)[:, None] + xp.arange(size)]


def spectrogram(x: Array, size: int, hop: int) -> Array:
    """ln(1 + |DFT(frame·w)|) for each frame, w Hann's window: how loud each frequency is at each time.

    (..., T) → (..., frames, size//2 + 1), float32. Data are made so once, on the host: there is no gradient.
    """
    window = np.sin(np.arange(size) * (np.pi / size)) ** 2
    return np.log1p(abs(np.fft.rfft(frames(to_numpy(x), size, hop) * window))).astype(DEFAULT_DTYPE)

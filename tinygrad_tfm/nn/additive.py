"""Additive attention: the first one, by which a recurrent decoder looks back at what its encoder read.

A query is compared with a key by a small network of one hidden layer; `attention.py` compares by a dot product, which
is one product of matrices for all pairs. Read next: `models/recurrent.py`.
"""

import math
from typing import Any, NamedTuple

from .. import functional as F
from ..backend import Array
from ..errors import positive
from ..tensor import Tensor, as_array, no_grad
from .layers import Linear
from .module import Module
from .recurrent import Cell, State


class Memory(NamedTuple):
    """What can be looked at: values (B, S, M), their keys (B, S, F), and which of them are there, (B, 1, S) or None."""

    values: Tensor
    keys: Tensor
    mask: Any = None


class AdditiveAttention(Module):
    """c = Σⱼ αⱼ·mⱼ,  α = softmaxⱼ vᵀ·tanh(s·W₁ + mⱼ·W₂).     query s (B, T, D), memory m of (B, S, M) → (B, T, M)

    `remember(m)` multiplies m with W₂, once for all the queries that will look at it. `hidden` is the width of the
    small network. (Bahdanau et al. 2014, arXiv:1409.0473, §3.1 and A.1.2, where vₐ, Wₐ, Uₐ are our v, W₁, W₂)
    """

    def __init__(self, query: int, memory: int, hidden: int):
        positive("AdditiveAttention", query=query, memory=memory, hidden=hidden)
        self.query = Linear(query, hidden, bias=False)
        self.key = Linear(memory, hidden, bias=False)
        self.score = Linear(hidden, 1, bias=False)

    def remember(self, values: Tensor, mask: Any = None) -> Memory:
        """The memory of these values (B, S, M); `mask` (B, S) is True where there is one, False where it is padding.

        Raises TypeError for a mask that is not boolean, ValueError for one of another shape.
        """
        if mask is not None:
            mask = as_array(mask)
            if mask.dtype != bool:
                raise TypeError(f"a mask is boolean, True where a query may look, this one is {mask.dtype}")
            if mask.shape != values.shape[:2]:
                raise ValueError(f"a mask is True or False for each value, {values.shape[:2]}, not {mask.shape}")
            mask = mask[:, None]                                   # the same for every query
        return Memory(values, self.key(values), mask)

    def forward(self, query: Tensor, memory: Memory) -> Tensor:
        return self.weights(query, memory) @ memory.values

    def weights(self, query: Tensor, memory: Memory) -> Tensor:
        """α (B, T, S): each row sums to 1, or to 0 where there is nothing to look at."""
        pairs = F.expand_dims(self.query(query), axis=2) + F.expand_dims(memory.keys, axis=1)        # (B, T, S, F)
        scores = self.score(F.tanh(pairs)).squeeze(axis=-1)                                          # (B, T, S)
        if memory.mask is None:
            return F.softmax(scores)
        nothing = ~memory.mask.any(axis=-1, keepdims=True)         # there softmax may look anywhere: it counts 0 times
        return F.softmax(F.where(memory.mask | nothing, scores, -math.inf)) * memory.mask

    def pattern(self, query: Tensor, memory: Memory) -> Array:
        """The weights (B, T, S) as an array, to look at, without a graph."""
        with no_grad():
            return self.weights(query, memory).data


class AttendingCell(Module):
    """A cell that looks before it steps: c = attention(h, memory), state' = update(x·W + b + c·C, state).

    x (B, D), c (B, M), state of (B, F) → state of (B, F). What it looks at is handed to it at every step:
    `Recurrent(cell)(x, state, memory=attention.remember(m))`. (Bahdanau et al. 2014, A.2.2)
    """

    def __init__(self, cell: Cell, attention: AdditiveAttention):
        self.cell, self.attention = cell, attention
        self.context = Linear(attention.key.weight.shape[0], cell.gates * cell.width, bias=False)

    @property
    def input(self) -> Linear:
        """x·W + b is the inner cell's."""
        return self.cell.input

    def start(self, a: Tensor) -> State:
        """The inner cell's."""
        return self.cell.start(a)

    def update(self, a: Tensor, state: State, memory: Memory | None = None) -> State:
        """The inner cell's step, with what was looked at added to a. Raises ValueError without a memory."""
        if memory is None:
            raise ValueError("AttendingCell has nothing to look at: pass memory=attention.remember(values)")
        context = self.attention(F.expand_dims(state[0], axis=1), memory).squeeze(axis=1)            # (B, M)
        return self.cell.update(a + self.context(context), state)

"""Recurrent networks: what was read so far, kept in a state that every step changes. What there was before attention.

A cell is one step, `Recurrent` the loop over time; a new cell is a new small class. A state is a tuple of tensors
(B, F), of which the first is what the cell gives out. Nothing here looks back: that is `additive.py`, to be read next.
"""

from functools import partial
from typing import Any

import numpy as np

from .. import functional as F
from ..backend import namespace
from ..errors import positive
from ..tensor import Tensor, as_array
from . import init
from .layers import Linear
from .module import Module

State = tuple[Tensor, ...]


class Cell(Module):
    """One step: state' = update(x·W + b, state).     x (B, D), state of (B, F) → state of (B, F)

    To make one, say how many `gates` stand side by side in x·W and h·U and how many `parts` a state has, and write
    `update`. W and U are drawn for each gate by itself: Xavier's variance, 1/F for U, keeps h·U of h's own size.
    """

    gates = parts = 1

    def __init__(self, inputs: int, width: int):
        positive(type(self).__name__, inputs=inputs, width=width)
        self.width = width
        self.input = Linear(inputs, self.gates * width)
        self.hidden = Linear(width, self.gates * width, bias=False)
        for linear, rows in ((self.input, inputs), (self.hidden, width)):
            each = [init.xavier(rows, width).data for _ in range(self.gates)]
            linear.weight = Tensor(np.concatenate(each, axis=1), requires_grad=True)

    def forward(self, x: Tensor, state: State | None = None) -> State:
        a = self.input(x)
        return self.update(a, self.start(a) if state is None else state)

    def start(self, a: Tensor) -> State:
        """A state of zeros, for steps like this a (B, gates·F): same batch, precision and device."""
        return (Tensor(namespace(a.data).zeros((len(a), self.width), dtype=a.dtype)),) * self.parts

    def update(self, a: Tensor, state: State) -> State:
        """The state after a step whose a = x·W + b, (B, gates·F), was computed beforehand for all steps at once."""
        raise NotImplementedError(f"{type(self).__name__} has no update")


class RNNCell(Cell):
    """h' = tanh(x·W + h·U + b).     (B, D), (B, F) → (B, F)

    (Elman 1990, Cognitive Science 14.) PyTorch's RNN has two biases, which only ever act as their sum: here is one.
    """

    def update(self, a: Tensor, state: State) -> State:
        h, = state
        return (F.tanh(a + self.hidden(h)),)


class LSTMCell(Cell):
    """c' = f·c + i·g,  h' = o·tanh c';  i, f, o = σ(x·W + h·U + b), g = tanh(x·W + h·U + b), each with its own weights.

    (B, D), (h, c) of (B, F) → the same. The cell c is only ever scaled and added to, so a gradient goes through it
    undamped where f is near 1; b of the forget gate f starts at 1 for that. Gates lie side by side in PyTorch's order
    i, f, g, o; of its two biases there is the sum. (Hochreiter & Schmidhuber 1997, Neural Computation 9; with forget
    gates Gers et al. 2000, ibid. 12; their bias: Jozefowicz et al. 2015, ICML)
    """

    gates, parts = 4, 2

    def __init__(self, inputs: int, width: int):
        super().__init__(inputs, width)
        bias = np.zeros((4, width), self.input.weight.dtype)
        bias[1] = 1                                                # f
        self.input.bias = Tensor(bias.reshape(-1), requires_grad=True)

    def update(self, a: Tensor, state: State) -> State:
        h, c = state
        i, f, g, o = F.split(a + self.hidden(h), 4, axis=-1)
        c = F.sigmoid(f) * c + F.sigmoid(i) * F.tanh(g)
        return F.sigmoid(o) * F.tanh(c), c


class GRUCell(Cell):
    """h' = (1 − z)·n + z·h,  n = tanh(x·Wₙ + bₙ + r·(h·Uₙ + u)),  r, z = σ(x·W + h·U + b).     (B, D), (B, F) → (B, F)

    r resets, z says how much stays. Gates lie in PyTorch's order r, z, n. The paper resets h before the product with
    Uₙ; here, as in PyTorch and cuDNN, its value is reset, so that one product serves all gates; hence the second bias
    u, inside. For r and z two biases would only act as their sum. (Cho et al. 2014, arXiv:1406.1078, §2.3)
    """

    gates = 3

    def __init__(self, inputs: int, width: int):
        super().__init__(inputs, width)
        self.bias = init.zeros(width)

    def update(self, a: Tensor, state: State) -> State:
        h, = state
        to_reset, to_update, to_new = F.split(a, 3, axis=-1)
        h_reset, h_update, h_new = F.split(self.hidden(h), 3, axis=-1)
        r, z = F.sigmoid(to_reset + h_reset), F.sigmoid(to_update + h_update)
        n = F.tanh(to_new + r * (h_new + self.bias))
        return (n + z * (h - n),)


class Recurrent(Module):
    """A cell, step after step: state_t = update(x_t·W + b, state_{t−1}).     (B, T, D) → outputs (B, T, F), last state

    x·W is one product for all steps; only what needs the state before is done in the loop. `reverse` reads from the
    end. `mask` (B, T) is True where there is something to read: a step that is False leaves the state as it was, so
    that a padded row gives what it would give by itself. `state` is where it starts, zeros by default. A `memory`
    is handed to the cell at every step (`AttendingCell`). A cell is whatever has `input`, `start` and `update`.

    Raises ValueError for an x, a state or a mask of another shape, TypeError for a mask that is not boolean.
    """

    def __init__(self, cell: Any, reverse: bool = False):
        self.cell, self.reverse = cell, reverse

    def forward(self, x: Tensor, state: State | None = None, *, mask: Any = None,
                memory: Any = None) -> tuple[Tensor, State]:
        if x.ndim != 3 or not x.shape[1]:
            raise ValueError(f"Recurrent reads (B, T, D) with at least one step, not {x.shape}")
        a = unstack(self.cell.input(x))                            # T times (B, gates·F)
        state = fitting(state, self.cell.start(a[0]))
        seen = None if mask is None else columns(mask, x.shape[:2])
        update = self.cell.update if memory is None else partial(self.cell.update, memory=memory)
        outputs: list[Any] = [None] * len(a)
        for t in reversed(range(len(a))) if self.reverse else range(len(a)):
            new = update(a[t], state)
            state = new if seen is None else tuple(F.where(seen[t], n, old) for n, old in zip(new, state))
            outputs[t] = state[0]
        return F.stack(outputs, axis=1), state


class Bidirectional(Module):
    """Two readings side by side, from the front and from the end: [→h_t; ←h_t].     (B, T, D) → (B, T, 2F), state

    So every position knows both sides of it; whoever is to write what comes next must not. The last state is of both,
    (B, 2F) for each part. (Schuster & Paliwal 1997; as an encoder Bahdanau et al. 2014, arXiv:1409.0473, §3.2)
    """

    def __init__(self, ahead: Cell, back: Cell):
        self.ahead, self.back = Recurrent(ahead), Recurrent(back, reverse=True)

    def forward(self, x: Tensor, *, mask: Any = None) -> tuple[Tensor, State]:
        (a, ahead), (b, back) = self.ahead(x, mask=mask), self.back(x, mask=mask)
        return F.concat([a, b], axis=-1), tuple(F.concat(pair, axis=-1) for pair in zip(ahead, back))


def RNN(inputs: int, width: int, reverse: bool = False) -> Recurrent:
    """The plain recurrent network."""
    return Recurrent(RNNCell(inputs, width), reverse)


def LSTM(inputs: int, width: int, reverse: bool = False) -> Recurrent:
    """Long short-term memory."""
    return Recurrent(LSTMCell(inputs, width), reverse)


def GRU(inputs: int, width: int, reverse: bool = False) -> Recurrent:
    """The gated recurrent unit."""
    return Recurrent(GRUCell(inputs, width), reverse)


def unstack(x: Tensor) -> list[Tensor]:
    """The steps of a sequence, one by one, by halving it and halving again.     (B, T, ...) → T times (B, ...)

    The gradient of a slice is as large as what it was cut from. T slices of the whole would send back T² steps' worth
    of mostly zeros; halves of halves send back T·log₂T.
    """
    B, T, *rest = x.shape
    if T == 1:
        return [x.reshape(B, *rest)]
    return [*unstack(x[:, :T // 2]), *unstack(x[:, T // 2:])]


def fitting(state: State | None, zeros: State) -> State:
    """The state a sequence starts from: the given one, if it has the shapes of these zeros, or they themselves."""
    if state is None:
        return zeros
    given, wanted = ([tuple(part.shape) for part in s] if isinstance(s, tuple) else [] for s in (state, zeros))
    if given != wanted:
        raise ValueError(f"this cell's state is a tuple of {len(zeros)} of shape {zeros[0].shape}, not "
                         + (f"one of shapes {given}" if isinstance(state, tuple) else f"a {type(state).__name__}"))
    return state


def columns(mask: Any, shape: tuple[int, ...]) -> list[Any]:
    """A mask (B, T) as T columns (B, 1), one for each step."""
    mask = as_array(mask)
    if mask.dtype != bool:
        raise TypeError(f"a mask is boolean, True where there is something to read, this one is {mask.dtype}")
    if mask.shape != shape:
        raise ValueError(f"a mask is True or False for each step of each row, {shape}, this one is {mask.shape}")
    return [mask[:, t, None] for t in range(shape[1])]

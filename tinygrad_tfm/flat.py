"""Parameters laid end to end, so that AdamW, the norm and the rounding to bf16 are a kernel each, on a GPU.

It is no optimiser: it moves the arrays of one, whose tensors and memories become views of the long arrays. Checkpoints
are none the wiser. Who fills the gradients is in `models/on_gpu.py`; read next: `steps.py`.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np

from .backend import Array, namespace
from .kernels import cuda
from .models.on_gpu import goes_by_hand, loss_by_hand, rounded
from .optim import AdamW
from .tensor import Tensor


class Flat:
    """The parameters of an AdamW, their gradients, and what it remembers, each in one array: first those that decay.

    Every parameter begins at a multiple of 16 bytes, as kernels want it; between them stand zeros, which stay zeros.
    """

    def __init__(self, optimizer: AdamW):
        self.optimizer = optimizer
        order = sorted(range(len(optimizer.parameters)), key=lambda i: not optimizer.decays(optimizer.parameters[i]))
        parameters = [optimizer.parameters[i] for i in order]
        sizes = [-(-p.size // 4) * 4 for p in parameters]
        ends = list(accumulate(sizes))
        self.places = {id(p): slice(end - size, end - size + p.size) for p, end, size in zip(parameters, ends, sizes)}
        self.decayed = sum(size for p, size in zip(parameters, sizes) if optimizer.decays(p))
        xp = namespace(parameters[0].data)
        self.weights, self.gradients, self.mean, self.square = (xp.zeros(ends[-1], np.float32) for _ in range(4))
        for i, p in zip(order, parameters):
            for flat, arrays in ((self.mean, optimizer.state["mean"]), (self.square, optimizer.state["square"])):
                arrays[i] = self._moved(flat, p, arrays[i])
            p.data = self._moved(self.weights, p, p.data)

    def _moved(self, flat: Array, p: Tensor, array: Array) -> Array:
        view = self.of(flat, p)
        view[...] = array
        return view

    def of(self, flat: Array, p: Tensor) -> Array:
        """A parameter's part of one of the long arrays, or of one like them."""
        return flat[self.places[id(p)]].reshape(p.shape)

    def step(self, scale: Any) -> None:
        """AdamW's step for all of them, the gradients taken times `scale`."""
        o = self.optimizer
        o.steps += 1
        for part, decay in ((slice(self.decayed), o.decay), (slice(self.decayed, None), 0.0)):
            if self.weights[part].size:
                cuda.adamw(self.weights[part], self.gradients[part], self.mean[part], self.square[part], scale=scale,
                           lr=o.lr, betas=o.betas, eps=o.eps, decay=decay, step=o.steps)


class ByHand:
    """A decoder's steps by hand: see `models/on_gpu.py`. Its parameters move, see `Flat`."""

    def __init__(self, model: Any, optimizer: AdamW):
        self.model, self.flat = model, Flat(optimizer)

    def backward(self, x: Array, y: Array) -> Array:
        """The loss of a batch; its gradients take the place of those that were there.

        Raises RuntimeError if the model is no longer what it was: weights frozen or replaced, parts changed, watched.
        """
        flat = self.flat
        if not (goes_by_hand(self.model) and all(p.data.data.ptr == flat.of(flat.weights, p).data.ptr
                                                 for p in self.model.parameters())):
            raise RuntimeError("the model, or how it is to be computed, has changed since its steps were made: weights "
                               "are changed in place only; for all else make the steps anew")
        weights = rounded(flat.weights)
        loss, back = loss_by_hand(self.model, x, y, lambda p: flat.of(weights, p), lambda p: flat.of(flat.gradients, p))
        back()
        return loss

    def norm(self) -> Array:
        """The norm of all gradients together."""
        return cuda.norm(self.flat.gradients)

    def update(self, scale: Any) -> None:
        """Move the weights."""
        self.flat.step(scale)


def by_hand(model: Any, optimizer: Any) -> ByHand | None:
    """The steps of this model by hand, if it is one for it."""
    known = type(optimizer) is AdamW and goes_by_hand(model)
    mine = known and {id(p) for p in optimizer.parameters} == {id(p) for p in model.parameters()}
    return ByHand(model, optimizer) if mine else None

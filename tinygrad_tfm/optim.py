"""The steps downhill, the learning rate over time, and clipping.

An optimiser never writes into a gradient: clipping returns a factor that `step` multiplies in.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from . import kernels
from .backend import Array, namespace, to_device, to_numpy
from .errors import fraction, nonnegative
from .tensor import Tensor, _fused


class Optimizer:
    """Parameters and, for each, the arrays an optimiser remembers. Subclasses say how one parameter moves.

    `lr` is read at every step, so a schedule just sets it. Raises ValueError if there is nothing to train (an
    optimiser over frozen weights would do nothing, silently), a weight is given twice, or a setting is out of range.
    """

    memory: Sequence[str] = ()                                      # names of the arrays kept for each parameter

    def __init__(self, parameters: Iterable[Tensor], lr: float):
        self.parameters = list(parameters)
        wrong = ("none were given" if not self.parameters else
                 "some of these are frozen" if not all(p.requires_grad for p in self.parameters) else
                 "some of these are values computed from others" if any(p.node and p.node.back for p in self.parameters)
                 else "one is given twice" if len({id(p) for p in self.parameters}) < len(self.parameters) else "")
        if wrong:
            raise ValueError(f"an optimiser needs parameters with requires_grad=True, each once; {wrong}")
        nonnegative(type(self).__name__, lr=lr)
        self.lr, self.steps = lr, 0
        self.state = {name: [namespace(p.data).zeros_like(p.data) for p in self.parameters] for name in self.memory}

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for p in self.parameters:
            p.zero_grad()

    def step(self, scale: Any = 1.0) -> None:
        """Move every parameter that has a gradient, the gradient taken times `scale` (a number or a 0-d array)."""
        self.steps += 1
        for i, p in enumerate(self.parameters):
            if p.grad is not None:
                self.update(p, p.grad, scale, *(arrays[i] for arrays in self.state.values()))

    def update(self, p: Tensor, g: Array, scale: Any, *memory: Array) -> None:
        """Move one parameter, in place, by its gradient times the scale."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs: the step count and, in host memory, every remembered array."""
        return {"steps": self.steps} | {f"{name}.{i}": to_numpy(a).copy() for name, arrays in self.state.items()
                                        for i, a in enumerate(arrays)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` gave. Raises ValueError, changing nothing, if it is not this optimiser's."""
        mine = {f"{name}.{i}": a.shape for name, arrays in self.state.items() for i, a in enumerate(arrays)}
        if mine | {"steps": ()} != {name: np.shape(a) for name, a in state.items()}:
            raise ValueError("this is the state of another optimiser: it remembers other arrays")
        self.steps = int(state["steps"])
        for name, arrays in self.state.items():
            for i, a in enumerate(arrays):
                a[...] = to_device(state[f"{name}.{i}"], self.parameters[i].device)


class SGD(Optimizer):
    """v ← μ·v + g, p ← p − lr·v: stochastic gradient descent with momentum μ (Polyak 1964)."""

    memory = ("velocity",)

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.0):
        super().__init__(parameters, lr)
        fraction(type(self).__name__, momentum=momentum)
        self.momentum = momentum

    def update(self, p: Tensor, g: Array, scale: Any, velocity: Array) -> None:
        velocity *= self.momentum
        velocity += g * scale
        p.data -= self.lr * velocity


class AdamW(Optimizer):
    """m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², p ← p − lr·(m̂/(√v̂ + ε) + λ·p), with m̂ = m/(1−β₁ᵗ), v̂ = v/(1−β₂ᵗ).

    The decay λ pulls only on matrices (`decays`), not on gains and biases, and is not scaled by the gradient's size
    (Loshchilov & Hutter 2017, arXiv:1711.05101, algorithm 2).
    """

    memory = ("mean", "square")

    def __init__(self, parameters: Iterable[Tensor], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, decay: float = 0.01, decays: Callable[[Tensor], bool] = lambda p: p.ndim > 1):
        super().__init__(parameters, lr)
        fraction(type(self).__name__, beta1=betas[0], beta2=betas[1])
        nonnegative(type(self).__name__, eps=eps, decay=decay)
        self.betas, self.eps, self.decay, self.decays = betas, eps, decay, decays

    def update(self, p: Tensor, g: Array, scale: Any, mean: Array, square: Array) -> None:
        decay = self.decay if self.decays(p) else 0.0
        twin = kernels.choose(ADAMW, (p.data, g, mean, square), {}) if _fused.get() else None
        (twin or adamw)(p.data, g, mean, square, scale=scale, lr=self.lr, betas=self.betas, eps=self.eps,
                        decay=decay, step=self.steps)


def adamw(p: Array, g: Array, mean: Array, square: Array, *, scale: Any, lr: float, betas: tuple[float, float],
          eps: float, decay: float, step: int) -> None:
    """AdamW's equations for one parameter, in place; the gradient counts times `scale` and is left alone."""
    b1, b2 = betas
    g = g * scale
    mean += (1 - b1) * (g - mean)
    square += (1 - b2) * (g * g - square)
    corrected = mean / (1 - b1 ** step) / (namespace(square).sqrt(square / (1 - b2 ** step)) + eps)
    p -= lr * (corrected + decay * p)


ADAMW = kernels.twins_of(adamw)


class Adam(AdamW):
    """AdamW without decay (Kingma & Ba 2014, arXiv:1412.6980, algorithm 1)."""

    def __init__(self, parameters: Iterable[Tensor], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8):
        super().__init__(parameters, lr, betas, eps, decay=0.0)


def global_norm(parameters: Iterable[Tensor]) -> Array:
    """√Σ g² over all gradients together, as a 0-d array: reading it on a GPU is left to the caller."""
    grads = [p.grad for p in parameters if p.grad is not None]
    if not grads:
        raise ValueError("no parameter has a gradient: call backward() first")
    twin = kernels.choose(NORM, grads, {}) if _fused.get() else None
    return (twin or norm)(*grads)


def norm(*grads: Array) -> Array:
    """√Σ g² over all numbers of these arrays, as a 0-d array."""
    squares = [g @ g for g in (g.reshape(-1) for g in grads)]
    return namespace(squares[0]).sqrt(sum(squares[1:], squares[0]))


NORM = kernels.twins_of(norm)


def clip_factor(norm: Array, limit: float) -> Array:
    """min(1, limit/norm): the factor for `step` that brings the global norm down to the limit (Pascanu et al. 2012,
    arXiv:1211.5063, algorithm 1). The gradients themselves are left alone."""
    if not limit > 0:
        raise ValueError(f"the limit of the gradient norm must be positive, not {limit!r}")
    return namespace(norm).minimum(limit / (norm + 1e-6), 1.0)


def warmup_cosine(step: int, peak: float, floor: float, warmup: int, total: int) -> float:
    """The learning rate at a step: up in a line to `peak` over `warmup` steps, down half a cosine to `floor` at
    `total`, and `floor` after (Loshchilov & Hutter 2016, arXiv:1608.03983, eq. 5)."""
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + 0.5 * (1 + math.cos(math.pi * done)) * (peak - floor)


def noam(step: int, width: int, warmup: int = 4000, factor: float = 1.0) -> float:
    """D^(−½)·min(step^(−½), step·warmup^(−3/2)), step counted from 1: the original's (Vaswani et al. 2017, eq. 3)."""
    if step < 1 or warmup < 1:
        raise ValueError(f"noam counts steps from 1 and needs a warm-up, not step {step}, warm-up {warmup}")
    return factor * width ** -0.5 * min(step ** -0.5, step * warmup ** -1.5)

"""A module is an object with tensors among its attributes, and a `forward`.

There is nothing to call in `__init__` and nothing to register: parameters are found by walking over attributes,
lists, tuples and dicts in the order they were made. A tensor that stands in two places (a tied weight) is found
once. Read next: `layers.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np

from ..backend import to_device, to_numpy
from ..gpu import resolve_device
from ..tensor import Tensor, place_of, scope


class Module:
    """Something with weights: call it like a function; `forward` says what it computes."""

    training = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The second gate (ops pass the first): errors below learn where in the model they happened."""
        token = scope.set((*scope.get(), self))
        try:
            return self.forward(*args, **kwargs)
        except Exception as error:
            if not any(note.startswith("in the module") for note in getattr(error, "__notes__", ())):
                modules = scope.get()
                error.add_note(f"in the module {place_of(modules) or type(self).__name__} "
                               f"({type(self).__name__}) of {type(modules[0]).__name__}")
            raise
        finally:
            scope.reset(token)

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor below here with its dotted name, in the order of definition, each once."""
        return ((name, x) for name, x in walk(self) if isinstance(x, Tensor))

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """Every module below here, itself first under the name ""."""
        return ((name, x) for name, x in walk(self) if isinstance(x, Module))

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors that are trained: those with requires_grad."""
        return ((name, x) for name, x in self.named_tensors() if x.requires_grad)

    def parameters(self) -> list[Tensor]:
        """The tensors that are trained, without their names."""
        return [x for _, x in self.named_parameters()]

    def size(self) -> int:
        """How many numbers are trained."""
        return sum(x.size for x in self.parameters())

    def path_to(self, module: Module) -> str:
        """The dotted name of a module below here; its class name if it is not to be found by walking."""
        return next((name for name, m in self.named_modules() if m is module), type(module).__name__)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for x in self.parameters():
            x.zero_grad()

    def train(self, training: bool = True) -> Self:
        """Switch everything below to training (dropout acts) or, with False, to evaluation."""
        for _, module in self.named_modules():
            module.training = training
        return self

    def eval(self) -> Self:
        """Switch everything below to evaluation."""
        return self.train(False)

    def to(self, device: str | None = None, dtype: Any = None) -> Self:
        """Move every tensor below to a device or a precision, in place; gradients are forgotten.

        Do this before handing the parameters to an optimiser. Raises what `tg.Tensor(device=…)` raises.
        """
        device = device and resolve_device(device)
        for _, x in self.named_tensors():
            x.data = to_device(x.data, device) if device else x.data
            if x.dtype.kind == "f" and dtype is not None:
                x.data = x.data.astype(dtype)
            x.node = type(x)(x.data, True).node if x.requires_grad else None
        return self

    def state_dict(self) -> dict[str, np.ndarray]:
        """A copy of every tensor below, by name, in host memory."""
        return {name: to_numpy(x.data).copy() for name, x in self.named_tensors()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Write these arrays into the tensors of the same names.

        Raises ValueError, changing nothing, if a name is missing or unknown or a shape differs; all are listed.
        """
        mine = dict(self.named_tensors())
        wrong = [f"missing: {name}" for name in mine.keys() - state.keys()]
        wrong += [f"unknown: {name}" for name in state.keys() - mine.keys()]
        wrong += [f"{name} has shape {mine[name].shape} here and {state[name].shape} there"
                  for name in mine.keys() & state.keys() if mine[name].shape != state[name].shape]
        if wrong:
            raise ValueError(f"these weights do not fit this {type(self).__name__}: " + "; ".join(sorted(wrong)))
        for name, x in mine.items():
            x.data[...] = to_device(np.asarray(state[name], dtype=x.dtype), x.device)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.size():,} parameters)"


def walk(root: Any) -> Iterator[tuple[str, Any]]:
    """Tensors and modules below an object with their dotted names, depth first, each once however often it stands."""
    seen = set()

    def visit(x: Any, name: str) -> Iterator[tuple[str, Any]]:
        # Tuples of types below, since A | B would be made anew at each of hundreds of visits.
        if isinstance(x, (set, frozenset)) and any(isinstance(child, (Tensor, Module)) for child in x):
            raise TypeError(f"{name} is a set, which has no order: put tensors and modules into a list or a dict")
        if id(x) in seen or not isinstance(x, (Tensor, Module, list, tuple, dict)):
            return
        seen.add(id(x))
        if isinstance(x, (Tensor, Module)):
            yield name, x
        children = x.items() if isinstance(x, dict) else enumerate(x) if isinstance(x, (list, tuple)) else \
            vars(x).items() if isinstance(x, Module) else ()
        for key, child in children:
            yield from visit(child, f"{name}.{key}" if name else str(key))
    return visit(root, "")

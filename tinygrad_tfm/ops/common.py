"""What several families of rules share."""

import math
from collections.abc import Callable
from typing import Any

Axis = int | tuple[int, ...] | None


def use(rule: Callable, *inputs: Any, **settings: Any) -> Any:
    """The value of another rule inside a rule. On Tensors it is lifted, so that it is differentiated too."""
    for x in inputs:
        if hasattr(x, "__lift__"):
            return x.__lift__(rule)(*inputs, **settings)
    return rule(*inputs, **settings)[0]


def constant(x: Any) -> Any:
    """The bare array: whatever is computed from it counts as a constant when a rule is differentiated again."""
    return x.data if hasattr(x, "__lift__") else x


def kept(shape: tuple[int, ...], axis: Axis) -> tuple[int, ...]:
    """The shape a reduction over `axis` leaves with keepdims=True."""
    axes = range(len(shape)) if axis is None else (axis,) if isinstance(axis, int) else axis
    gone = {a % len(shape) for a in axes}
    return tuple(1 if i in gone else n for i, n in enumerate(shape))


def reduced(shape: tuple[int, ...], axis: Axis, ddof: int = 0) -> int:
    """How many numbers a reduction over `axis` takes together, less the degrees of freedom that are used up."""
    count = math.prod(n for n, m in zip(shape, kept(shape, axis)) if m == 1)
    if count and ddof >= count:
        raise ValueError(f"ddof = {ddof} needs more than {count} numbers")
    return count - ddof

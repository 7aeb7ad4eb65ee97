"""What went wrong in an operation, said for a learner: the operands, where, and what to change.

Only words are made here; `tensor.py` raises them. Nothing here knows the graph.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from .backend import device_of


def explain(error: Exception, rule: Callable, arrays: Sequence[Any], settings: dict[str, Any]) -> Exception:
    """An error of the same type whose message names the op, its operands and settings, and the likely fix."""
    lines = [f"{rule.__name__}: {error}"]
    lines += [f"  {name:<{_longest(rule)}} {operand(a)}" for name, a in zip(_names(rule, len(arrays)), arrays)]
    lines += [f"  {name} = {_short(value)}" for name, value in settings.items()]
    hint = fix(rule.__name__, arrays, settings) or _fix_named(rule, settings)
    if hint:
        lines.append(f"  → {hint}")
    kind = next((kind for kind in (ValueError, IndexError) if isinstance(error, kind)), TypeError)
    return kind("\n".join(lines))                    # not type(error): a subclass may want other arguments


def settings_by_name(rule: Callable, names: tuple[str, ...], values: tuple, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings, with those that followed the inputs by position under their names. Raises TypeError, naming them."""
    twice = [name for name in names[:len(values)] if name in settings]
    if twice or len(values) > len(names):
        takes = f"after its inputs {rule.__name__} takes " + (", ".join(names) if names else "no settings")
        raise TypeError(f"{takes}; " + (f"{twice[0]} was given twice" if twice else f"{len(values)} were given"))
    return settings | dict(zip(names, values))


def no_such_attribute(name: str, functional: Any) -> str:
    """What to write instead of a method that Tensor does not have."""
    there = inspect.isfunction(getattr(functional, name, None)) and not name.startswith("_")
    return f"a Tensor has no method {name!r}" + (f": it is the function F.{name}(x), with F = tg.functional" if there
                                                 else "")


def no_tensors_in(data: Any, tensor: type) -> None:
    """Raise TypeError for a list or tuple with Tensors in it, however deep: as an array it would lose their graph."""
    if isinstance(data, tensor):
        raise TypeError("a list of Tensors has no graph: F.stack or F.concat make one Tensor of them")
    for part in data if isinstance(data, list | tuple) else ():
        no_tensors_in(part, tensor)


def operand(x: Any) -> str:
    """Shape, dtype and device of an array; anything else as itself."""
    if hasattr(x, "dtype") and hasattr(x, "shape"):
        return f"{tuple(x.shape)} {x.dtype} on {device_of(x)}"
    return f"{_short(x)} ({type(x).__name__})"


def fix(name: str, arrays: Sequence[Any], settings: dict[str, Any]) -> str:
    """The change that would most likely help, or nothing."""
    shaped = [a for a in arrays if hasattr(a, "shape")]
    parts = [part for value in settings.values() for part in (value if isinstance(value, tuple) else (value,))]
    if any(not hasattr(a, "shape") and not isinstance(a, int | float | type(None)) for a in arrays):
        return "operands are Tensors, arrays or numbers"
    if len({device_of(a) for a in [*shaped, *(part for part in parts if hasattr(part, "shape"))]}) > 1:
        return "the operands live on different devices: move one with .to('cuda') or .to('cpu')"
    shapes = [tuple(a.shape) for a in shaped]
    if settings.get("p") and settings.get("key") is None:
        return "dropping needs a key, the same for the same mask: key=tg.random.new_key() draws a new one"
    if name == "matmul" and len(shapes) == 2 and all(shapes):
        return _fix_matmul(*shapes)
    if len(shapes) == 2 and shapes[0] != shapes[1]:
        a, b = shapes
        clash = [(-i, n, m) for i, (n, m) in enumerate(zip(a[::-1], b[::-1]), 1) if n != m and 1 not in (n, m)]
        if clash:
            axis, n, m = clash[0]
            return (f"counted from the right, axes must be equal or 1; axis {axis} is {n} and {m}"
                    + (f": for one number a row, [..., None] turns {b} into {(*b, 1)}" if a[:1] == b else ""))
    return ""


def _fix_named(rule: Callable, settings: dict[str, Any]) -> str:
    code, numpys = rule.__code__, {"dim": "axis", "dims": "axis", "keepdim": "keepdims"}
    known = code.co_varnames[:code.co_argcount + code.co_kwonlyargcount]
    named = [name for name in known[:code.co_argcount] if name in settings]
    foreign = [name for name in settings if name not in known and numpys.get(name) in known]
    return (f"inputs come by position, only settings by name: give {', '.join(named)} without it" if named else
            f"here it is called {numpys[foreign[0]]}" if foreign else "")


def _fix_matmul(a: tuple[int, ...], b: tuple[int, ...]) -> str:
    rows = b[-2] if len(b) > 1 else b[-1]
    if a[-1] == rows:
        return f"the leading axes {a[:-2]} and {b[:-2]} must be equal or 1, counted from the right"
    hint = f"the last axis of a ({a[-1]}) must equal the {'second to last' if len(b) > 1 else 'only'} of b ({rows})"
    if len(b) > 1 and b[-1] == a[-1]:
        hint += "; did you mean a @ b.swapaxes(-1, -2)?"
    elif len(a) > 1 and a[-2] == rows:
        hint += "; did you mean a.swapaxes(-1, -2) @ b?"
    return hint


def _names(rule: Callable, count: int) -> list[str]:
    parameters = list(inspect.signature(rule).parameters.values())
    if parameters and parameters[0].kind is inspect.Parameter.VAR_POSITIONAL:
        return [f"{parameters[0].name}[{i}]" for i in range(count)]
    return [p.name for p in parameters[:count]]


def _longest(rule: Callable) -> int:
    return max((len(name) for name in _names(rule, 9)), default=0)


def _short(x: Any) -> str:
    parts = [operand(part) if hasattr(part, "dtype") and hasattr(part, "shape") else repr(part)
             for part in (x if isinstance(x, tuple) else (x,))]
    text = ", ".join(parts) if len(parts) < 2 else f"({', '.join(parts)})"
    return text if len(text) <= 60 else text[:57] + "..."


# ---- settings that cannot be ----------------------------------------------------------------------------------------

def positive(owner: str, **sizes: int) -> None:
    """Raise ValueError for a size that is no positive integer."""
    for name, n in sizes.items():
        if not hasattr(n, "__index__") or isinstance(n, bool) or n < 1:
            raise ValueError(f"{owner}: {name} must be a positive integer, not {n!r}")


def nonnegative(owner: str, **settings: float) -> None:
    """Raise ValueError for a setting that is negative, infinite or NaN."""
    for name, value in settings.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{owner}: {name} must be a finite number of at least 0, not {value!r}")


def fraction(owner: str, **settings: float) -> None:
    """Raise ValueError for a setting outside 0 ≤ x < 1 (NaN is outside)."""
    for name, value in settings.items():
        if not 0 <= value < 1:
            raise ValueError(f"{owner}: {name} must be in 0 ≤ {name} < 1, not {value!r}")


def divisible(owner: str, width: int, heads: int) -> None:
    """Raise ValueError for a width that heads cannot share equally, proposing others."""
    if width % heads:
        near = sorted({width // heads * heads, (width // heads + 1) * heads} - {0})
        raise ValueError(f"{owner}: width {width} is not divisible by {heads} heads; {' or '.join(map(str, near))} "
                         "would be")

"""At the side of the floors: is a rule right?

`check_rule` holds a rule against what cannot be argued with: the way back against finite differences of the value,
the second derivative against finite differences of the way back. What is wrong is said in words, with the place.
It needs NumPy and the engine, no test runner. docs/add-an-op.md uses it on a new rule, tests/cases.py on the
library's own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .errors import _names
from .tensor import Tensor, higher_order, lift, pull, unbroadcast, walk_back

PLACES = 60                        # an input of more numbers is compared at this many of them, drawn at random
PRECISION = "np.sqrt(2), and an array made without dtype=, are float64: write math.sqrt(2), and dtype=x.dtype"


def check_rule(rule: Callable, *arrays: Any, **settings: Any) -> None:
    """Compare a rule's first and second derivatives with finite differences at these inputs; silent if all is well.

    With weights g and v drawn at random:  back(g) = ∂/∂x Σ g·y,  and what the engine makes of the rule by itself
    = ∂/∂x Σ v·back(g), and ∂/∂g of it. The arrays are taken in float64; None stays None. Looked at as well: one
    gradient per input, of its broadcast shape; float32 stays float32; nothing is written into inputs, settings or
    g; a second run gives the same numbers.

    Raises AssertionError: its first line says what is wrong, the others help to find it.
    """
    check_manners(rule, *arrays, **settings)
    check_first(rule, *arrays, **settings)
    check_second(rule, *arrays, **settings)


def check_manners(rule: Callable, *arrays: Any, **settings: Any) -> None:
    """All that `check_rule` looks at beside derivatives: counts and shapes, precision, no writing, no chance."""
    for dtype in (np.float64, np.float32):
        name, xs, g = _start(rule, arrays, settings, dtype)
        if g.dtype != dtype and "dtype" not in settings:
            raise AssertionError(f"{name} gives {g.dtype} for inputs of {np.dtype(dtype)}\n  {PRECISION}")
        watched = {**{f"its input {n}": x for n, x in zip(_names(rule, len(xs)), xs)},
                   **{f"its setting {n}": value for n, value in settings.items()}, "g, on the way back": g}
        before = {what: a.tobytes() for what, a in watched.items() if isinstance(a, np.ndarray)}
        y, back = rule(*xs, **settings)
        once = [np.array(a) for a in (y, *_gradients(rule, xs, back, g))]
        for what, numbers in before.items():
            if watched[what].tobytes() != numbers:
                raise AssertionError(f"{name} writes into {what}\n  others still need those numbers: make a new array, "
                                     "a + b and not a += b")
        y_again, back_again = rule(*xs, **settings)
        for twice in ([y, *_gradients(rule, xs, back, g)], [y_again, *_gradients(rule, xs, back_again, g)]):
            if not all(a.dtype == object or np.array_equal(a, b, equal_nan=True) for a, b in zip(once, twice)):
                raise AssertionError(f"{name} gives other numbers the second time\n  chance belongs into a setting, as "
                                     "dropout's key, and a way back must not write into what it keeps")


def check_first(rule: Callable, *arrays: Any, **settings: Any) -> None:
    """The way back against finite differences of the value."""
    name, xs, g = _start(rule, arrays, settings)
    found = _gradients(rule, xs, rule(*xs, **settings)[1], g)
    _compare(lambda: (g * rule(*xs, **settings)[0]).sum(), xs, found, _names(rule, len(xs)),
             f"the way back of {name} gives a wrong gradient", "all zeros: is this input taken for a constant?")


def check_second(rule: Callable, *arrays: Any, **settings: Any) -> None:
    """The rule run on Tensors and differentiated twice, against finite differences of its way back."""
    name, xs, g = _start(rule, arrays, settings)
    vs = [None if x is None else _weights(x.shape, seed=2) for x in xs]

    def projection() -> Any:
        """Σ v·back(g), the number that is differentiated."""
        grads = _gradients(rule, xs, rule(*xs, **settings)[1], g)
        return sum((v * gx).sum() for v, gx in zip(vs, grads) if v is not None)

    second: dict[Any, Any] = {}
    try:
        with higher_order():
            leaves = [None if x is None else Tensor(x, requires_grad=True) for x in (*xs, g)]
            node: Any = lift(rule)(*leaves[:-1], **settings).node
            first: dict[Any, Any] = walk_back(node, leaves[-1], True, True)
            total = sum(((first[x.node] * v).sum() for x, v in zip(leaves, vs) if x is not None), start=Tensor(0.0))
            if total.node:
                second = walk_back(total.node, Tensor(1.0), True, True)
    except Exception as error:
        raise AssertionError(f"{name} cannot be differentiated twice: {error}\n  for that its text runs on Tensors: "
                             "write namespace(x).exp and not np.exp, use(rule, x) for another rule") from error
    found = [None if x is None else getattr(second.get(x.node), "data", np.zeros(x.shape)) for x in leaves]
    _compare(projection, [*xs, g], found, [*_names(rule, len(xs)), "g"], f"{name} gives a wrong second derivative",
             "something computed from the inputs is taken for a constant: .data, or np.… called by its name?")


def _start(rule: Callable, arrays: Sequence, settings: dict, dtype: Any = np.float64) -> tuple[str, list, np.ndarray]:
    """The rule's name, copies of the inputs in this precision, and weights g for its value."""
    xs = [None if a is None else np.array(a, dtype) for a in arrays]
    result = rule(*copy.deepcopy(xs), **copy.deepcopy(settings))      # it may write where it should not
    if type(result) is not tuple or len(result) != 2:
        raise AssertionError(f"{rule.__name__} must return two things, its value and the way back\n  return y, "
                             "lambda g: …")
    return rule.__name__, xs, _weights(np.shape(result[0]), seed=1).astype(result[0].dtype)


def _weights(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).standard_normal(shape))


def _gradients(rule: Callable, xs: list, back: Any, g: np.ndarray) -> list:
    """The gradient of each input, summed to its shape as the engine does it; an AssertionError where it could not."""
    name, grads, found = rule.__name__, pull(back, g), []
    if len(grads) != len(xs):
        raise AssertionError(f"{name} has {len(xs)} inputs, its way back gives {len(grads)} gradients\n  it must be a "
                             "tuple of one function per input, or one function that returns as many gradients")
    for i, (x, gx, n) in enumerate(zip(xs, grads, _names(rule, len(xs)))):
        if x is not None and not hasattr(gx, "dtype"):
            raise AssertionError(f"the way back of {name} gives {gx!r} for input {n} (number {i})\n  a gradient is an "
                                 f"array of the shape of its input, here {x.shape}")
        if x is not None and gx.dtype != x.dtype:
            raise AssertionError(f"the way back of {name} gives {gx.dtype} for input {n} (number {i}), which is "
                                 f"{x.dtype}\n  {PRECISION}")
        try:
            found.append(None if x is None else np.asarray(unbroadcast(gx, x, name)))
        except ValueError as error:
            turned = "\n  it looks transposed: .swapaxes(-1, -2)" if gx.shape == x.shape[::-1] else ""
            raise AssertionError(f"{error} (number {i}, {n}){turned}") from error
    return found


def _compare(f: Callable[[], Any], points: list, found: list, names: list, what: str, if_zero: str) -> None:
    """What was found for ∂f/∂points against finite differences. f reads the points, which are changed for a moment."""
    noise, rng = 1e-9 * (1 + abs(float(f()))), np.random.default_rng(0)
    for number, (x, gx) in enumerate(zip(points, found)):
        if x is None:
            continue
        places = range(x.size) if x.size <= PLACES else sorted(rng.choice(x.size, PLACES, replace=False))
        want, got = np.array([_slope(f, x, i) for i in places]), np.ravel(gx)[list(places)]
        gap = np.abs(got - want)
        wrong = ~(gap <= 1e-6 * np.abs(want) + noise)                # NaN is wrong, too
        if not wrong.any():
            continue
        worst = int(np.argmax(np.where(np.isnan(gap), np.inf, gap)))
        place = "" if x.ndim == 0 else str([int(i) for i in np.unravel_index(places[worst], x.shape)])
        if not np.isfinite(want[worst]):
            raise AssertionError(f"no derivative to compare with: next to {names[number]}{place} the value is not "
                                 "finite\n  choose inputs inside the domain")
        left, right = _slope(f, x, places[worst], side=-1), _slope(f, x, places[worst], side=1)
        if abs(right - left) > 1e-3 * (abs(left) + abs(right)) + 1e4 * noise:
            raise AssertionError(f"no derivative to compare with: at {names[number]}{place} the slope is {left:.3g} to "
                                 f"the left and {right:.3g} to the right\n  choose inputs away from kinks and jumps")
        hint = _guess(got, want, x.shape, if_zero)
        raise AssertionError(
            f"{what} for input {names[number]} (number {number}): {got[worst]:.6g} at {names[number]}{place}, finite "
            f"differences give {want[worst]:.6g}\n  the worst of {wrong.sum()} wrong places, {len(got)} were compared"
            + (f"\n  {hint}" if hint else ""))


def _slope(f: Callable[[], Any], x: np.ndarray, i: int, side: int = 0) -> float:
    """∂f/∂x at one place: the central five-point formula for three steps, of which the two that agree best decide;
    or, for side −1 or 1, the plain slope to the left or right."""
    before, scale, found = x.flat[i], min(1.0, max(abs(x.flat[i]), 1e-2)), []

    def at(step: float) -> float:
        x.flat[i] = before + step
        return float(f())
    try:
        with np.errstate(all="ignore"):                              # a step may leave the domain: NaN is not chosen
            if side:
                return (at(side * 1e-6 * scale) - at(0)) / (side * 1e-6 * scale)
            for h in (1e-2 * scale, 1e-3 * scale, 1e-4 * scale):
                found.append((8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h))
    finally:
        x.flat[i] = before
    wide, middle, narrow = found
    return middle if abs(wide - middle) <= abs(middle - narrow) else narrow


def _guess(got: np.ndarray, want: np.ndarray, shape: tuple[int, ...], if_zero: str) -> str:
    """The mistake that would give these numbers, if it is a common one."""
    close = lambda a, b: np.allclose(a, b, rtol=1e-5, atol=1e-7)
    if not got.any():
        return if_zero
    if close(got, -want):
        return "the sign is flipped"
    clear = np.abs(want) > 1e-3 * np.abs(want).max()
    if clear.sum() > 1 and close(got, want * (factor := float(np.median(got[clear] / want[clear])))):
        for n in sorted({int(np.prod(shape)), *shape} - {0, 1}, reverse=True):
            if close(factor, n) or close(factor, 1 / n):
                return f"{n} numbers are averaged or summed: {'/' if factor > 1 else '·'} {n} seems to be missing"
        return f"every number is {factor:.4g} times what it should be"
    if len(shape) > 1 and shape[-1] == shape[-2] and got.size == np.prod(shape):
        if close(got.reshape(shape).swapaxes(-1, -2).ravel(), want):
            return "it is transposed: .swapaxes(-1, -2)"
    return ""

"""One row per rule: the rule, the same value written another way, PyTorch's, what the way back keeps, and calls.

    row(ops.tanh, each(math.tanh), lambda t, x: t.tanh(x), "y", [call(A)])

`tests/test_rules.py` makes all its tests from these rows; a rule without one fails it. The second text is plain
Python or NumPy in float64 and never the library: loops over numbers (`each`), over lines (`along`) and over indices.
What is kept are the arrays that the way back holds on to, by their names in the rule's text; for a rule that returns a tuple,
one string per input.
"""

import itertools
import math
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tinygrad_tfm import ops


class Call(NamedTuple):
    """One call of a rule: its inputs (None where an optional one is left out) and settings."""

    inputs: tuple
    settings: dict
    twice: bool = True                        # whether the second derivative exists and is promised here


class Row(NamedTuple):
    """One rule and all that is known of it from elsewhere."""

    rule: Callable
    value: Callable                           # (*inputs, **settings) → the value in float64
    torch: Callable                           # (torch, *tensors, **settings) → the value as PyTorch has it
    keeps: str | tuple[str, ...]
    calls: list[Call]


def call(*inputs: Any, twice: bool = True, **settings: Any) -> Call:
    return Call(inputs, settings, twice)


def row(rule: Callable, value: Callable, torch: Callable, keeps: str | tuple[str, ...], calls: list[Call]) -> Row:
    return Row(rule, value, torch, keeps, calls)


# ---- inputs: small, always the same, away from kinks ----------------------------------------------------------------

def some(*shape: int, seed: int = 0) -> np.ndarray:
    """Numbers between −2 and 2, no two nearer than the steps of finite differences, none near 0."""
    n = math.prod(shape)
    steps = np.random.default_rng([seed, n]).permutation(n) - (n - 1) / 2 + 0.25
    return np.asarray(steps * (4 / max(n, 4))).reshape(shape)


def positive(*shape: int, seed: int = 0) -> np.ndarray:
    return np.abs(some(*shape, seed=seed)) + 0.2


A, B = some(3, 4), some(3, 4, seed=1)
ROWS_OF_B, COLUMN, LINE, ONE = B[1:2], some(3, 1, seed=2), some(4, seed=3), some(seed=4) + 1.3
CUBE = some(2, 3, 4)
EMPTY = np.zeros((0, 3))
TIED = np.array([[1.0, 2.0, 2.0, -1.0], [0.5, 0.5, 0.5, 0.5], [3.0, -1.0, -1.0, 3.0]])
PAIRS = [(A, B), (A, COLUMN), (LINE, COLUMN), (A, ONE), (CUBE, LINE), (ONE, ONE), (EMPTY, LINE[:3])]
ONES = [A, ONE, EMPTY]                        # a matrix, a number, nothing
AXES = [{}, {"axis": 0}, {"axis": -1, "keepdims": True}, {"axis": (0, 2)}, {"axis": (-1, 0), "keepdims": True}]


# ---- the other texts ------------------------------------------------------------------------------------------------

def each(f: Callable) -> Callable:
    """Number by number, with Python's floats."""
    def value(*arrays: np.ndarray, **settings: Any) -> np.ndarray:
        arrays = np.broadcast_arrays(*arrays)
        numbers = [f(*(float(v) for v in vs), **settings) for vs in zip(*(a.ravel() for a in arrays))]
        return np.array(numbers, np.float64).reshape(arrays[0].shape)
    return value


def along(f: Callable, default: Any = None) -> Callable:
    """A reduction: f of the list of numbers that meet in each place of the value."""
    def value(x: np.ndarray, axis: Any = default, keepdims: bool = False, **settings: Any) -> np.ndarray:
        axes = range(x.ndim) if axis is None else {a % x.ndim for a in ([axis] if isinstance(axis, int) else axis)}
        full = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
        met: dict[tuple, list] = {place: [] for place in np.ndindex(full)}
        for place in np.ndindex(x.shape):
            met[tuple(0 if i in axes else p for i, p in enumerate(place))].append(float(x[place]))
        y = np.array([f(numbers, **settings) for numbers in met.values()]).reshape(full)
        return y if keepdims else y.reshape([n for i, n in enumerate(full) if i not in axes])
    return value


def lines(f: Callable) -> Callable:
    """f of every line along an axis, which it gives back as long as it was."""
    def value(x: np.ndarray, *others: Any, axis: int = -1, **settings: Any) -> np.ndarray:
        y = np.array(np.moveaxis(x, axis, -1))
        for place in np.ndindex(y.shape[:-1]):
            y[place] = f(y[place].tolist(), *others, **settings)
        return np.moveaxis(y, -1, axis)
    return value


def cells(f: Callable) -> Callable:
    """The numbers of the value fetched one by one: f gives the shape of the value, and from where each place has it."""
    def value(x: np.ndarray, **settings: Any) -> np.ndarray:
        shape, source = f(x.shape, **settings)
        y = np.empty(shape)
        for place in np.ndindex(*shape):
            y[place] = x[source(*place)]
        return y
    return value


def normal(x: float) -> float:
    return statistics.NormalDist().cdf(x)


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def softmax_of(v: list) -> list:
    return [1 / math.fsum(math.exp(w - u) for w in v) for u in v]


def cut(x: float, low: float | None = None, high: float | None = None) -> float:
    return low if low is not None and x < low else high if high is not None and x > high else x


def normalised(v: list, gain: Any = None, bias: Any = None, eps: float = 1e-5) -> list:
    m, s = statistics.fmean(v), math.sqrt(statistics.pvariance(v) + eps)
    return [(u - m) / s * (1 if gain is None else gain[i]) + (0 if bias is None else bias[i]) for i, u in enumerate(v)]


def by_root_mean_square(v: list, gain: Any = None, eps: float = 1e-6) -> list:
    s = math.sqrt(math.fsum(u * u for u in v) / len(v) + eps)
    return [u / s * (1 if gain is None else gain[i]) for i, u in enumerate(v)]


def mask_of(count: int, p: float, key: int) -> list[int]:
    """The mask of `dropout` in Python's integers: a counter, scrambled twice, half of the key before each."""
    kept = []
    for bits in range(count):
        for add, multiplier in ((key, 0x7FEB352D), (key >> 32, 0x846CA68B)):
            bits = (bits + add) % 2**32
            bits = (bits ^ bits >> 16) * multiplier % 2**32
            bits ^= bits >> 15
        kept.append(int(bits >= p * 2**32))
    return kept


def dropped(x: np.ndarray, p: float, key: int) -> np.ndarray:
    kept = np.array(mask_of(x.size, p, key), float).reshape(x.shape)
    return np.where(kept, x / (1 - p), 0)


def attended(q: Any, k: Any, v: Any, mask: Any = None, causal: bool = False, scale: float | None = None,
             p: float = 0.0, key: int = 0) -> np.ndarray:
    """Query by query, key by key."""
    T, S = q.shape[-2], k.shape[-2]
    lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    q, k, v = (np.broadcast_to(a, (*lead, *a.shape[-2:])) for a in (q, k, v))
    may = np.broadcast_to(True if mask is None else mask, (*lead, T, S))
    kept = np.array(mask_of(math.prod(lead) * T * S, p, key) if p else [1] * (math.prod(lead) * T * S))
    kept = kept.reshape(*lead, T, S) / (1 - p)
    y = np.zeros((*lead, T, v.shape[-1]))
    for *at, i in np.ndindex(*lead, T):
        at = tuple(at)
        seen = [j for j in range(S) if may[(*at, i, j)] and (not causal or j <= i + S - T)]
        scores = [math.fsum(q[(*at, i)] * k[(*at, j)]) * (q.shape[-1] ** -0.5 if scale is None else scale) for j in seen]
        for j, weight in zip(seen, softmax_of(scores)):
            y[(*at, i)] += weight * kept[(*at, i, j)] * v[(*at, j)]
    return y


def surprise(logp: np.ndarray, targets: np.ndarray, ignore_index: int = -100, label_smoothing: float = 0.0) -> float:
    """−Σ q·logp, target by target, and the mean of those that count."""
    V, found = logp.shape[-1], []
    for place in np.ndindex(targets.shape):
        if targets[place] != ignore_index:
            q = [label_smoothing / V + (1 - label_smoothing) * (v == targets[place]) for v in range(V)]
            found.append(-math.fsum(a * b for a, b in zip(q, logp[place])))
    return statistics.fmean(found) if found else 0.0


def cross_entropy(logits: np.ndarray, **settings: Any) -> float:
    return surprise(np.log(lines(softmax_of)(logits)), **settings)


def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    y = np.einsum("...nk,...km->...nm", a[None] if a.ndim == 1 else a, b[:, None] if b.ndim == 1 else b)
    y = y[..., 0] if b.ndim == 1 else y
    return y[..., 0, :] if a.ndim == 1 and b.ndim > 1 else y[..., 0] if a.ndim == 1 else y


def summed(*xs: np.ndarray, subscripts: str, sizes: dict, terms: list[str], out: str, **_: Any) -> np.ndarray:
    """Einstein's convention read aloud: for every value of every letter, add the product."""
    y = np.zeros([sizes[c] for c in out])
    for values in itertools.product(*(range(n) for n in sizes.values())):
        at = dict(zip(sizes, values))
        y[tuple(at[c] for c in out)] += math.prod(x[tuple(at[c] for c in t)] for x, t in zip(xs, terms))
    return y


def einsum(*xs: np.ndarray, subscripts: str, optimize: bool = True) -> np.ndarray:
    left, arrow, out = subscripts.replace(" ", "").replace("...", "Z").partition("->")
    terms = left.split(",")
    if not arrow:
        out = "Z" * ("Z" in left) + "".join(c for c in sorted(set(left) - {",", "Z"}) if left.count(c) == 1)
    return summed(*xs, subscripts=subscripts, terms=terms, out=out,
                  sizes={c: n for x, t in zip(xs, terms) for c, n in zip(t, x.shape)})


def placed(x: np.ndarray, index: Any, shape: tuple) -> np.ndarray:
    """x added at the index, number by number: an array of places says where each one goes."""
    places, y = np.arange(math.prod(shape)).reshape(shape)[index], np.zeros(math.prod(shape))
    for place, number in zip(places.ravel(), np.broadcast_to(x, places.shape).ravel()):
        y[place] += number
    return y.reshape(shape)


def fetched(x: np.ndarray, index: Any) -> np.ndarray:
    places = np.arange(x.size).reshape(x.shape)[index]
    return np.array([x.flat[place] for place in np.ravel(places)]).reshape(np.shape(places))


def joined(*xs: np.ndarray, axis: int = 0) -> np.ndarray:
    return np.array([line for x in xs for line in np.moveaxis(x, axis, 0)]).swapaxes(0, axis) if xs[0].ndim < 3 else \
        np.moveaxis(np.array([line for x in xs for line in np.moveaxis(x, axis, 0)]), 0, axis)

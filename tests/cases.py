"""One row per rule: the rule, the same value written another way, PyTorch's, what the way back keeps, and calls.

    Row(ops.tanh, each(math.tanh), lambda t, x: t.tanh(x), "y", [call(A)])

`tests/test_rules.py` makes all its tests from these rows, and fails for a rule without one. The second text is plain
Python or NumPy in float64 and never the library: loops over numbers (`each`), over lines (`along`, `lines`), over
indices. What is kept are the arrays that the way back of the first call holds on to, by their names in the rule's
text; where a rule returns a tuple, one string per input.
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
    order: int = 2                            # how many derivatives exist, and are promised, at these inputs


class Row(NamedTuple):
    """One rule and all that is known of it from elsewhere."""

    rule: Callable
    value: Callable                           # (*inputs, **settings) → the value in float64
    torch: Callable                           # (torch, *tensors, **settings) → the value as PyTorch has it
    keeps: str | tuple[str, ...]
    calls: list[Call]


def call(*inputs: Any, order: int = 2, **settings: Any) -> Call:
    return Call(inputs, settings, order)


# ---- inputs: small, always the same, away from kinks ----------------------------------------------------------------

def some(*shape: int, seed: int = 0) -> np.ndarray:
    """Numbers between about −2 and 2 in a random order, all different, also from those of another seed, none 0."""
    n = math.prod(shape)
    steps = np.random.default_rng([seed, n]).permutation(n) - (n - 1) / 2 + 0.25 + 0.11 * seed
    return np.asarray(steps * (4 / max(n, 4))).reshape(shape)


def positive(*shape: int, seed: int = 0) -> np.ndarray:
    return np.abs(some(*shape, seed=seed)) + 0.2


A, B = some(3, 4), some(3, 4, seed=1)
COLUMN, LINE, ONE, CUBE = some(3, 1, seed=2), some(4, seed=3), np.array(1.3), some(2, 3, 4)
EMPTY = np.zeros((0, 3))
ONES = [call(A), call(ONE), call(EMPTY)]                           # a matrix, a number, nothing
POSITIVE = [call(positive(3, 4)), call(ONE), call(EMPTY)]
PAIRS = [(A, B), (A, COLUMN), (LINE, COLUMN), (A, ONE), (CUBE, LINE), (ONE, ONE), (EMPTY, LINE[:3])]
TWOS = [call(a, b) for a, b in PAIRS]
TIED = np.array([[1.0, 2.0, 2.0, -1.0], [0.5, 0.5, 0.5, 0.5], [3.0, -1.0, -1.0, 3.0]])
AXES: list[dict] = [{}, {"axis": 0}, {"axis": -1, "keepdims": True}, {"axis": (0, 2)},
                    {"axis": (-1, 0), "keepdims": True}]
REDUCED = [call(CUBE, **axes) for axes in AXES]
Q, K, V = some(1, 2, 3, 2), some(1, 2, 4, 2, seed=1), some(1, 2, 4, 3, seed=2)
SEEN = np.array([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]], bool)                  # the second query may look nowhere
TARGETS = np.array([[3, 0, 1], [1, 1, 2]])


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


def normal(x: float) -> float:
    return statistics.NormalDist().cdf(x)


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def softmax_of(v: list) -> list:
    return [1 / math.fsum(math.exp(w - u) for w in v) for u in v]


def cut(x: float, min: float | None = None, max: float | None = None) -> float:
    return min if min is not None and x < min else max if max is not None and x > max else x


def normalised(v: list, gain: Any = None, bias: Any = None, eps: float = 1e-5) -> list:
    m, s = statistics.fmean(v), math.sqrt(statistics.pvariance(v) + eps)
    return [(u - m) / s * (1 if gain is None else gain[i]) + (0 if bias is None else bias[i]) for i, u in enumerate(v)]


def by_root_mean_square(v: list, gain: Any = None, eps: float = 1e-6) -> list:
    s = math.sqrt(math.fsum(u * u for u in v) / len(v) + eps)
    return [u / s * (1 if gain is None else gain[i]) for i, u in enumerate(v)]


def mask_of(count: int, p: float, key: int) -> list[int]:
    """The mask of `dropout` in Python's integers: a counter, scrambled twice, half of the key before each; the lower
    half of what comes out decides about one number, the upper half about the next."""
    kept = []
    for bits in range(-(-count // 2)):
        for add, multiplier in ((key, 0x7FEB352D), (key >> 32, 0x846CA68B)):
            bits = (bits + add) % 2**32
            bits = (bits ^ bits >> 16) * multiplier % 2**32
            bits ^= bits >> 15
        kept += [int(half >= round(p * 2**16)) for half in (bits % 2**16, bits >> 16)]
    return kept[:count]


def dropped(x: np.ndarray, p: float, key: int) -> np.ndarray:
    kept = np.array(mask_of(x.size, p, key), float).reshape(x.shape)
    return np.where(kept, x / (1 - p), 0)


def attended(q: Any, k: Any, v: Any, bias: Any, mask: Any = None, causal: bool = False, scale: float | None = None,
             p: float = 0.0, key: int = 0) -> np.ndarray:
    """Query by query, key by key."""
    T, S = q.shape[-2], k.shape[-2]
    lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    q, k, v = (np.broadcast_to(a, (*lead, *a.shape[-2:])) for a in (q, k, v))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    may = np.broadcast_to(True if mask is None else mask, (*lead, T, S))
    more = np.broadcast_to(0.0 if bias is None else bias, (*lead, T, S))
    kept = np.array(mask_of(math.prod(lead) * T * S, p, key) if p else [1] * (math.prod(lead) * T * S))
    kept = kept.reshape(*lead, T, S) / (1 - p)
    y = np.zeros((*lead, T, v.shape[-1]))
    for *at, i in np.ndindex(*lead, T):
        at = tuple(at)
        seen = [j for j in range(S) if may[(*at, i, j)] and (not causal or j <= i + S - T)]
        scores = [math.fsum(q[(*at, i)] * k[(*at, j)]) * scale + more[(*at, i, j)] for j in seen]
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


def einsum(*xs: np.ndarray, subscripts: str, optimize: bool = True) -> np.ndarray:
    """Einstein's convention read aloud: for every value of every letter add the product. "..." is one letter, Z."""
    left, arrow, out = subscripts.replace("...", "Z").partition("->")
    terms, sizes = left.split(","), {}
    if not arrow:
        out = "Z" * ("Z" in left) + "".join(sorted(c for c in set(left) - {",", "Z"} if left.count(c) == 1))
    for x, term in zip(xs, terms):
        sizes |= {c: n for c, n in zip(term, x.shape) if n != 1 or c not in sizes}
    y = np.zeros([sizes[c] for c in out])
    for values in itertools.product(*(range(n) for n in sizes.values())):
        at = dict(zip(sizes, values))
        y[tuple(at[c] for c in out)] += math.prod(float(x[tuple(at[c] % max(n, 1) for c, n in zip(term, x.shape))])
                                                  for x, term in zip(xs, terms))
    return y


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
    return np.moveaxis(np.array([part for x in xs for part in np.moveaxis(x, axis, 0)]), 0, axis)


def swapped(x: np.ndarray, axis1: int, axis2: int) -> np.ndarray:
    order = list(range(x.ndim))
    order[axis1], order[axis2] = order[axis2], order[axis1]
    return np.einsum(x, range(x.ndim), order)


# ---- PyTorch's, where it takes more than its name -------------------------------------------------------------------

def torch_prod(t: Any, x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    axes = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    for a in sorted((a % x.ndim for a in axes), reverse=True):
        x = x.prod(a, keepdim=keepdims)
    return x


def torch_extreme(name: str) -> Callable:
    return lambda t, x, axis=(), keepdims=False: getattr(t, name)(x, axis, keepdims)


def torch_reduction(name: str) -> Callable:
    return lambda t, x, axis=None, keepdims=False: getattr(t, name)(x, dim=axis, keepdim=keepdims)


def torch_spread(name: str) -> Callable:
    return lambda t, x, axis=None, keepdims=False, ddof=0: getattr(t, name)(x, axis, correction=ddof, keepdim=keepdims)


def torch_logsumexp(t: Any, x: Any, axis: Any = -1, keepdims: bool = False) -> Any:
    return t.logsumexp(x, tuple(range(x.ndim)) if axis is None else axis, keepdims)


def torch_place(t: Any, x: Any, index: Any, shape: tuple) -> Any:
    places = np.arange(math.prod(shape)).reshape(shape)[index]
    numbers = x.broadcast_to(places.shape).reshape(-1)
    return t.zeros(math.prod(shape), dtype=x.dtype).index_add(0, t.tensor(places.ravel()), numbers).reshape(shape)


def torch_getitem(t: Any, x: Any, index: Any) -> Any:
    return x.reshape(-1)[t.tensor(np.array(np.arange(math.prod(x.shape)).reshape(x.shape)[index]))]


def torch_expand_dims(t: Any, x: Any, axis: Any) -> Any:
    for a in sorted((axis,) if isinstance(axis, int) else axis):
        x = x.unsqueeze(a)
    return x


def torch_cross_entropy(t: Any, x: Any, targets: Any, ignore_index: int = -100, label_smoothing: float = 0.0) -> Any:
    if (targets == ignore_index).all():                            # PyTorch's mean over nothing is NaN
        return 0 * x.sum()
    return t.nn.functional.cross_entropy(x.reshape(-1, x.shape[-1]), t.tensor(targets.ravel()),
                                         ignore_index=ignore_index, label_smoothing=label_smoothing)


def torch_attention(t: Any, q: Any, k: Any, v: Any, bias: Any, mask: Any = None, causal: bool = False,
                    scale: float | None = None, p: float = 0.0, key: int = 0) -> Any:
    """Its own attention has neither a second derivative nor zeros for a query that sees nothing."""
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale) + (0 if bias is None else bias)
    T, S = scores.shape[-2:]
    seen = t.ones(scores.shape, dtype=bool) if mask is None else t.tensor(mask).expand(scores.shape)
    seen = seen & t.ones(T, S, dtype=bool).tril(S - T) if causal else seen
    weights = scores.masked_fill(~seen, -1e30).softmax(-1) * seen.any(-1, keepdim=True)
    kept = t.tensor(mask_of(math.prod(scores.shape), p, key) if p else 1.0, dtype=q.dtype).expand(scores.numel())
    return weights * kept.reshape(scores.shape) / (1 - p) @ v


# ---- the rows -------------------------------------------------------------------------------------------------------


ROWS = [
    # element by element
    Row(ops.identity, each(lambda x: x), lambda t, x: x.clone(), "", ONES),
    Row(ops.add, each(lambda a, b: a + b), lambda t, a, b: a + b, ("", ""), TWOS),
    Row(ops.sub, each(lambda a, b: a - b), lambda t, a, b: a - b, ("", ""), TWOS),
    Row(ops.mul, each(lambda a, b: a * b), lambda t, a, b: a * b, ("b", "a"), TWOS),
    Row(ops.div, each(lambda a, b: a / b), lambda t, a, b: a / b, ("b", "b y"), TWOS),
    Row(ops.neg, each(lambda x: -x), lambda t, x: -x, "", ONES),
    Row(ops.power, each(math.pow), lambda t, a, b: a ** b, ("a b", "a y"), [call(abs(a), b) for a, b in PAIRS]),
    Row(ops.exp, each(math.exp), lambda t, x: t.exp(x), "y", ONES),
    Row(ops.log, each(math.log), lambda t, x: t.log(x), "x", POSITIVE),
    Row(ops.log1p, each(math.log1p), lambda t, x: t.log1p(x), "x", POSITIVE),
    Row(ops.sqrt, each(math.sqrt), lambda t, x: t.sqrt(x), "y", POSITIVE),
    Row(ops.rsqrt, each(lambda x: x ** -0.5), lambda t, x: t.rsqrt(x), "y", POSITIVE),
    Row(ops.absolute, each(math.fabs), lambda t, x: x.abs(), "sign", ONES),
    Row(ops.sin, each(math.sin), lambda t, x: t.sin(x), "x", ONES),
    Row(ops.cos, each(math.cos), lambda t, x: t.cos(x), "x", ONES),
    Row(ops.tanh, each(math.tanh), lambda t, x: t.tanh(x), "y", ONES),
    Row(ops.sigmoid, each(logistic), lambda t, x: t.sigmoid(x), "y", ONES),
    Row(ops.erf, each(math.erf), lambda t, x: t.erf(x), "x", ONES),
    Row(ops.relu, each(lambda x: x if x > 0 else 0.0), lambda t, x: t.relu(x), "y", ONES),
    Row(ops.gelu, each(lambda x: x * normal(x)), lambda t, x: t.nn.functional.gelu(x), "x cdf", ONES),
    Row(ops.gelu_tanh, each(lambda x: x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))),
        lambda t, x: t.nn.functional.gelu(x, approximate="tanh"), "s y square", ONES),
    Row(ops.silu, each(lambda x: x * logistic(x)), lambda t, x: t.nn.functional.silu(x), "s y", ONES),
    Row(ops.softplus, each(lambda x: math.log(1 + math.exp(x))), lambda t, x: t.nn.functional.softplus(x), "x", ONES),
    Row(ops.maximum, each(max), lambda t, a, b: t.maximum(a, b), ("tie first", "tie first"),
        [*TWOS[:5], call(TIED, TIED[:, ::-1], order=1)]),
    Row(ops.minimum, each(min), lambda t, a, b: t.minimum(a, b), ("tie first", "tie first"),
        [*TWOS[:5], call(TIED, TIED[:, ::-1], order=1)]),
    Row(ops.clip, each(cut), lambda t, x, min=None, max=None: x.clamp(min, max), "inside",
        [call(A, min=-0.5, max=0.7), call(A, min=0.1), call(A, max=0.1), call(ONE, min=0.0), call(EMPTY, max=1.0),
         call(TIED, min=0.5, max=2.0, order=0)]),
    Row(ops.where, lambda a, b, condition: each(lambda c, a, b: a if c else b)(condition, a, b),
        lambda t, a, b, condition: t.where(t.tensor(condition), a, b), ("condition", "condition"),
        [call(a, b, condition=a > 0) for a, b in PAIRS] + [call(LINE, ONE, condition=A > 0)]),
    Row(ops.astype, lambda x, dtype: x, lambda t, x, dtype: x.double(), "", [call(A, dtype=np.float64)]),

    # along axes
    Row(ops.reduce_sum, along(math.fsum), torch_reduction("sum"), "", [*REDUCED, call(ONE), call(EMPTY, axis=0)]),
    Row(ops.mean, along(statistics.fmean), torch_reduction("mean"), "", [*REDUCED, call(ONE), call(EMPTY, axis=-1)]),
    Row(ops.var, along(lambda v, ddof=0: statistics.pvariance(v) * len(v) / (len(v) - ddof)), torch_spread("var"),
        "centred", [*REDUCED, call(A, axis=1, ddof=1), call(EMPTY, axis=-1)]),
    Row(ops.std, along(lambda v, ddof=0: statistics.pstdev(v) * math.sqrt(len(v) / (len(v) - ddof))),
        torch_spread("std"), "centred y", [call(A, axis=1, ddof=1), *REDUCED, call(EMPTY, axis=-1)]),
    Row(ops.reduce_max, along(max), torch_extreme("amax"), "share",
        [*REDUCED, call(ONE), call(EMPTY, axis=-1), call(TIED, axis=-1, order=0), call(TIED, order=0)]),
    Row(ops.reduce_min, along(min), torch_extreme("amin"), "share",
        [*REDUCED, call(ONE), call(EMPTY, axis=-1), call(TIED, axis=-1, order=0), call(TIED, order=0)]),
    Row(ops.reduce_prod, along(math.prod), torch_prod, "x",
        [*REDUCED, call(ONE), call(EMPTY, axis=0), call(A * [[1], [0], [1]], axis=0, order=1),
         call(A * [1, 0, 1, 0], axis=1, order=1), call(A * [1, 0, 1, 1], axis=1, keepdims=True, order=1)]),
    Row(ops.logsumexp, along(lambda v: math.log(math.fsum(map(math.exp, v))), default=-1), torch_logsumexp, "x y",
        [call(CUBE, **axes) for axes in AXES] + [call(CUBE, axis=None), call(A + 100), call(EMPTY)]),
    Row(ops.cumsum, lines(lambda v: list(itertools.accumulate(v))), lambda t, x, axis: t.cumsum(x, axis), "",
        [call(CUBE, axis=-1), call(CUBE, axis=0), call(CUBE, axis=-2), call(EMPTY, axis=-1), call(EMPTY, axis=0)]),

    # products
    Row(ops.matmul, matmul, lambda t, a, b: a @ b, ("b", "a"),
        [call(A, some(4, 2)), call(CUBE, some(4, 2)), call(CUBE, some(2, 4, 2)), call(A, some(2, 4, 2)),
         call(some(2, 1, 2, 3), some(3, 3, 2)), call(LINE, LINE), call(A, LINE), call(COLUMN[:, 0], A),
         call(CUBE, LINE), call(COLUMN[:, 0], CUBE), call(EMPTY, A), call(some(2, 0), EMPTY), call(CUBE[:0], LINE)]),
    Row(ops.outer, np.multiply.outer, lambda t, a, b: t.outer(a, b), ("b", "a"),
        [call(LINE, COLUMN[:, 0]), call(LINE, EMPTY[:, 0])]),
    Row(ops.einsum, einsum, lambda t, *xs, subscripts: t.einsum(subscripts, *xs), ("others", "others"),
        [call(A, some(4, 2), subscripts="ij,jk->ik"), call(A, B, subscripts="ij,ij->"), call(A, subscripts="ij->j"),
         call(A, subscripts="ij->ji"), call(A, subscripts="ij->"), call(LINE, COLUMN[:, 0], subscripts="i,j->ij"),
         call(A, some(4, 2), subscripts="ij,jk"), call(A, B, subscripts="ij,kj"), call(LINE, LINE, subscripts="i,i"),
         call(some(2, 3, 2), some(2, 4, 2), subscripts="bqd,bkd->bqk"), call(A, LINE, subscripts="ij,k->k"),
         call(some(2, 3), A, some(4, 2), subscripts="ij,jk,kl->il"), call(CUBE, A, subscripts="...ij,ij->...j"),
         call(CUBE, some(2, 4, 2), subscripts="...ij,...jk->...ik"), call(EMPTY, A, subscripts="ij,jk->ik"),
         call(A[:1], B, subscripts="...i,...i->..."), call(A, subscripts="b...->...")]),

    # shapes
    Row(ops.reshape, lambda x, shape: np.array(x.ravel().tolist()).reshape(shape), lambda t, x, shape: x.reshape(shape),
        "", [call(CUBE, shape=(4, 6)), call(CUBE, shape=(-1,)), call(ONE, shape=(1, 1)), call(EMPTY, shape=(3, 0, 2))]),
    Row(ops.transpose, lambda x, axes=None: np.einsum(x, range(x.ndim), axes or list(range(x.ndim))[::-1]),
        lambda t, x, axes=None: x.permute(axes or tuple(reversed(range(x.ndim)))), "",
        [call(CUBE), call(CUBE, axes=(1, 2, 0)), call(ONE), call(EMPTY)]),
    Row(ops.swapaxes, swapped, lambda t, x, axis1, axis2: x.swapaxes(axis1, axis2), "",
        [call(CUBE, axis1=0, axis2=2), call(CUBE, axis1=-1, axis2=-2), call(EMPTY, axis1=0, axis2=1)]),
    Row(ops.squeeze, lambda x, axis=None: np.array(x.ravel().tolist()).reshape((1, 3, 4) if axis == 2 else (3, 4)),
        lambda t, x, axis=None: x.squeeze() if axis is None else x.squeeze(axis), "",
        [call(some(1, 3, 1, 4)), call(some(1, 3, 1, 4), axis=2), call(some(1, 3, 1, 4), axis=(0, -2))]),
    Row(ops.expand_dims, lambda x, axis: x[None] if axis == 0 else x[:, :, None] if axis == -1 else x[None, :, None],
        torch_expand_dims, "", [call(A, axis=0), call(A, axis=-1), call(A, axis=(0, 2)), call(EMPTY, axis=0)]),
    Row(ops.broadcast_to, lambda x, shape: np.ones(shape) * x, lambda t, x, shape: x.broadcast_to(shape), "",
        [call(COLUMN, shape=(3, 4)), call(LINE, shape=(2, 3, 4)), call(ONE, shape=(2, 3)), call(LINE, shape=(0, 4))]),
    Row(ops.flip, np.flip, lambda t, x, axis=None: x.flip(
            tuple(range(x.ndim)) if axis is None else (axis,) if isinstance(axis, int) else axis), "",
        [call(CUBE), call(CUBE, axis=1), call(CUBE, axis=(0, -1)), call(EMPTY)]),
    Row(ops.roll, np.roll, lambda t, x, shift, axis: x.roll(shift, axis), "",
        [call(CUBE, shift=1, axis=-1), call(CUBE, shift=-5, axis=1), call(CUBE, shift=0, axis=0),
         call(EMPTY, shift=2, axis=0)]),
    Row(ops.pad, np.pad,
        lambda t, x, pad_width, constant_values=0.0: t.nn.functional.pad(
            x, [n for pair in pad_width[::-1] for n in pair], value=constant_values),
        "", [call(A, pad_width=((1, 2), (0, 3))), call(LINE, pad_width=((2, 0),), constant_values=0.7),
             call(EMPTY, pad_width=((1, 0), (0, 0)))]),
    Row(ops.tril, lambda x, k=0: x * np.tri(*x.shape[-2:], k), lambda t, x, k=0: x.tril(k), "",
        [call(A), call(CUBE, k=1), call(A, k=-1), call(EMPTY)]),
    Row(ops.triu, lambda x, k=0: x * (1 - np.tri(*x.shape[-2:], k - 1)), lambda t, x, k=0: x.triu(k), "",
        [call(A), call(CUBE, k=1), call(A, k=-1), call(EMPTY)]),
    Row(ops.concat, joined, lambda t, *xs, axis=0: t.cat(xs, axis), ("", ""),
        [call(A, some(2, 4)), call(A, COLUMN, B, axis=1), call(CUBE, some(2, 1, 4), axis=-2), call(EMPTY, A[:, :3])]),
    Row(ops.stack, lambda *xs, axis=0: np.moveaxis(np.array(xs), 0, axis), lambda t, *xs, axis=0: t.stack(xs, axis),
        ("", ""), [call(A, B), call(A, B, A, axis=1), call(A, B, axis=-1), call(ONE, ONE), call(EMPTY, EMPTY)]),
    Row(ops.getitem, fetched, torch_getitem, "",
        [call(CUBE, index=index) for index in (
            (slice(None), slice(1, None)), 1, -1, (0, -1, 2), (..., 0), (None, 1, ..., None), slice(None, None, -2),
            np.array([1, 0, 1]), np.array([[-1, 0]]), (np.array([0, 1, 1]), np.array([2, 0, 0])), CUBE > 0,
            np.array([True, False]), (slice(None), np.array([2, 2])), (1, np.array([0, 0, 2]), slice(1, 3)),
            (np.array([0, 1]), slice(None), np.array([3, 3])), (slice(0, 0),), [1, 0, 0],
            (slice(None), np.array([True, False, True])))]
        + [call(ONE, index=()), call(EMPTY, index=(slice(None), 1))]),
    Row(ops.place, placed, torch_place, "",
        [call(some(2, 2, 4), index=(slice(None), slice(1, None)), shape=(2, 3, 4)),
         call(A, index=np.array([1, 0, 1]), shape=(2, 4)), call(LINE, index=LINE > -9, shape=(4,)),
         call(LINE, index=(np.array([0, 0, 1, -1]), 1), shape=(3, 2)), call(ONE, index=(1, 2), shape=(2, 3)),
         call(EMPTY, index=slice(0, 0), shape=(2, 3))]),
    Row(ops.take_along_axis, np.take_along_axis, lambda t, x, indices, axis: x.take_along_dim(t.tensor(indices), axis),
        "index", [call(A, indices=np.argsort(B, axis=1), axis=1), call(A, indices=np.array([[0, 2, 2, 1]]), axis=0),
                  call(CUBE, indices=np.zeros((2, 3, 6), int), axis=-1),
                  call(A, indices=np.zeros((3, 0), int), axis=1)]),
    Row(ops.repeat, np.repeat, lambda t, x, repeats, axis: x.repeat_interleave(repeats, axis), "",
        [call(CUBE, repeats=2, axis=0), call(CUBE, repeats=3, axis=-1), call(CUBE, repeats=2, axis=1),
         call(A, repeats=0, axis=1), call(EMPTY, repeats=2, axis=0)]),

    # networks
    Row(ops.softmax, lines(softmax_of), lambda t, x, axis=-1: x.softmax(axis), "y",
        [call(CUBE), call(CUBE, axis=0), call(A + 900), call(EMPTY)]),
    Row(ops.log_softmax, lines(lambda v: [math.log(y) for y in softmax_of(v)]),
        lambda t, x, axis=-1: x.log_softmax(axis), "y", [call(CUBE), call(CUBE, axis=0), call(A + 900), call(EMPTY)]),
    Row(ops.layer_norm, lines(normalised), lambda t, x, gain, bias, eps=1e-5: t.nn.functional.layer_norm(
            x, x.shape[-1:], t.ones_like(bias) if gain is None and bias is not None else gain, bias, eps),
        "normed rstd gain", [call(A, LINE, LINE + 1), call(CUBE, LINE, None), call(CUBE, None, LINE),
                             call(A, None, None, eps=0.1), call(LINE, LINE, LINE), call(EMPTY, LINE[:3], None)]),
    Row(ops.rms_norm, lines(by_root_mean_square),
        lambda t, x, gain, eps=1e-6: t.nn.functional.rms_norm(x, x.shape[-1:], gain, eps),
        "normed rstd gain", [call(A, LINE), call(CUBE, LINE), call(A, None, eps=0.1), call(EMPTY, LINE[:3])]),
    Row(ops.embedding, lambda weight, ids: np.array([weight[i] for i in ids.ravel()]).reshape(*ids.shape, -1),
        lambda t, weight, ids: weight[t.tensor(ids).long()], "ids",
        [call(some(5, 2), ids=TARGETS), call(some(5, 2), ids=np.array(3)),
         call(some(5, 2), ids=np.array([4], np.uint8)), call(some(1030, 1), ids=TARGETS)]),
    Row(ops.dropout, dropped,
        lambda t, x, p, key: x * t.tensor(mask_of(x.numel(), p, key), dtype=x.dtype).reshape(x.shape) / (1 - p),
        "scaled", [call(CUBE, p=0.4, key=0x123456789ABCDEF0), call(A, p=0.0, key=1), call(EMPTY, p=0.5, key=2),
                   call(ONE, p=0.1, key=3)]),
    Row(ops.attention, attended, torch_attention, "q k v pattern scaled dropped",
        [call(*inputs, None, **settings) for *inputs, settings in [
            (Q, K, V, dict(p=0.3, key=7 << 40)), (Q, K, V, {}), (Q, K, V, dict(causal=True)),
            (Q, K, V, dict(mask=SEEN)), (Q, K, V, dict(mask=SEEN, causal=True, p=0.2, key=5)),
            (Q, K, V, dict(scale=0.3)), (K, Q, Q, dict(causal=True)),
            (Q[0, 0], K[0, 0], V[0, 0], dict(causal=True)), (Q, K[:, :1], V[:, :1], {}), (Q[:, :, :0], K, V, {}),
            (Q[:0], K[:0], V[:0], dict(causal=True))]]
        + [call(Q, K, V, some(1, 2, 3, 4, seed=3), scale=0.3), call(Q, K, V, some(2, 1, 4, seed=4), causal=True),
           call(Q, K, V, some(3, 1, seed=5), mask=SEEN, p=0.2, key=5)]),
    Row(ops.cross_entropy, cross_entropy, torch_cross_entropy, "rows logp counted",
        [call(CUBE, targets=TARGETS), call(A, targets=TARGETS[0], label_smoothing=0.1),
         call(CUBE, targets=np.where(TARGETS == 1, -100, TARGETS), label_smoothing=0.2),
         call(A, targets=TARGETS[0], ignore_index=3), call(A, targets=np.full(3, -100)),
         call(LINE, targets=np.array(2)), call(A + 900, targets=TARGETS[0])]),
    Row(ops.nll, surprise, lambda t, x, targets, ignore_index=-100: t.nn.functional.nll_loss(
            x.reshape(-1, x.shape[-1]), t.tensor(targets.ravel()), ignore_index=ignore_index), "rows logp counted",
        [call(CUBE, targets=TARGETS), call(A, targets=TARGETS[0], ignore_index=3)]),
    Row(ops.mse, lambda a, b: statistics.fmean((u - v) ** 2 for u, v in zip(*map(np.ravel, np.broadcast_arrays(a, b)))),
        lambda t, a, b: ((a - b) ** 2).mean(), ("gap", "gap"), TWOS[:6]),
    Row(ops.binary_cross_entropy, lambda x, targets: statistics.fmean(
            -t * math.log(logistic(u)) - (1 - t) * math.log(1 - logistic(u))
            for u, t in zip(x.ravel(), targets.ravel())),
        lambda t, x, targets: t.nn.functional.binary_cross_entropy_with_logits(x, t.tensor(targets)), "logits targets",
        [call(A, targets=(B > 0).astype(float)), call(A, targets=abs(B) / 3), call(ONE, targets=np.array(0.3))]),
]

"""Twins: for every pair, the numbers of the plain rule, where the twin says it fits and nowhere else."""

import math
import os
import platform
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from cases import some

import tinygrad_tfm as tg
from tinygrad_tfm import functional as F, kernels, ops, optim
from tinygrad_tfm.kernels import cpu
from tinygrad_tfm.tensor import lift, pull, unbroadcast


def normal(*shape, seed=0, scale=1.0):
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) * scale).astype(np.float32)


def heads(T, S, K=8, B=2, H=2, V=None):
    return normal(B, H, T, K), normal(B, H, S, K, seed=1), normal(B, H, S, V or K, seed=2)


def ids(shape):
    return np.random.default_rng([1, *shape]).integers(0, 13, shape)


def scattered(x):
    """The same numbers as every second of a larger array, in Fortran's order."""
    view = np.empty([2 * n for n in x.shape[::-1]], x.dtype).T[tuple(slice(None, None, 2) for _ in x.shape)]
    view[...] = x
    return view


BLOCK = cpu.BLOCK
GAIN, BIAS = normal(24, seed=3) + 1, normal(24, seed=4)
ADAMW = dict(scale=0.7, lr=1e-2, betas=(0.9, 0.95), eps=1e-8, decay=0.1)
FITS = {                                               # by twin: calls that are for it, as (inputs, settings)
    "gelu": [((normal(*shape, scale=3),), {})
             for shape in [(), (1,), (7, 5), (BLOCK - 1,), (BLOCK + 1,), (0, 3), (2, 3, 5)]]
        + [((scattered(normal(33, 20)),), {}), ((np.array([-np.inf, -90, -5.5, 0, 5.5, 90, np.inf], np.float32),), {})],
    "layer_norm": [((normal(*shape, 24, scale=4), GAIN, BIAS), {}) for shape in [(), (1,), (5,), (2, 3), (0,), (3000,)]]
        + [((normal(5, 24), GAIN, None), {}), ((normal(5, 24), GAIN, BIAS), {"eps": 0.1}),
           ((scattered(normal(6, 24)), scattered(GAIN), BIAS), {}), ((normal(4, 24) + 100, GAIN, BIAS), {})],
    "cross_entropy": [((normal(*shape, 13, scale=5),), {"targets": ids(shape)})
                      for shape in [(1,), (), (7,), (2, 3, 5)]]
        + [((scattered(normal(6, 13)),), {"targets": ids((6,))}), ((normal(6, 13) + 1000,), {"targets": ids((6,))}),
           ((normal(6, 13, scale=1000),), {"targets": ids((6,)).astype(np.uint8), "ignore_index": -1})],
    "attention": [(heads(T, S), {"causal": causal}) for causal in (True, False)
                  for T, S in [(1, 1), (3, 3), (64, 64), (65, 65), (130, 130), (1, 70), (66, 90), (5, 300)]]
        + [(heads(90, 66), {}), (heads(70, 70, V=3), {"causal": True}), (heads(70, 70), {"causal": True, "scale": 0.2}),
           (heads(32, 32), {"causal": True}), (tuple(map(scattered, heads(66, 70))), {"causal": True}),
           (heads(130, 130, B=9), {"causal": True, "p": 0.3, "key": 5 << 40}), (heads(5, 90), {"p": 0.2, "key": 3}),
           (heads(5, 300), {"p": 0.2, "key": 3, "causal": True}),
           (heads(200, 200, B=9), {"causal": True}), (tuple(20 * a for a in heads(70, 70)), {"causal": True}),
           (tuple(20 * a for a in heads(270, 270)), {"causal": True}),
           (tuple(a.swapaxes(1, 2).copy().swapaxes(1, 2) for a in heads(66, 66)), {"causal": True})],
    "adamw": [((normal(*shape), normal(*shape, seed=1), normal(*shape, seed=2), abs(normal(*shape, seed=3))),
               ADAMW | {"step": step, "decay": decay})
              for shape in [(), (7,), (3, 5), (BLOCK + 3,), (0,)] for step, decay in [(1, 0.1), (30, 0.0)]],
}
FITS["attention"] = [((*inputs, None), settings) for inputs, settings in FITS["attention"]]        # no bias
REFUSED = {                                            # and calls that are not
    "gelu": [((some(3, 4),), {}), ((normal(3, 4).astype(np.float16),), {}), ((np.arange(-2, 3),), {})],
    "layer_norm": [((some(3, 24), GAIN, BIAS), {}), ((normal(3, 24), None, BIAS), {}), ((normal(3, 24),), {}),
                   ((normal(3, 24), GAIN.astype(np.float64), BIAS), {}), ((normal(3, 24), 2.0), {}),
                   ((normal(3, 24), GAIN, BIAS.astype(np.float64)), {}), ((normal(3, 24), GAIN, 2.0), {}),
                   ((normal(3, 24), np.arange(24), BIAS), {})]
        + [((normal(3, 24), *affine), {})
           for odd in [normal(*shape, seed=5) for shape in [(), (1,), (3, 1), (1, 24), (3, 24), (2, 1, 24)]]
           for affine in [(odd, None), (odd, BIAS), (GAIN, odd)]],
    "cross_entropy": [((some(3, 4),), {"targets": np.zeros(3, int)}),
                      ((normal(3, 4),), {"targets": np.array([0, -100, 1])}),
                      ((normal(3, 4),), {"targets": np.zeros(3, int), "label_smoothing": 0.1}),
                      ((normal(3, 4),), {"targets": np.zeros(3, int), "ignore_index": 2}),
                      ((normal(0, 4),), {"targets": np.zeros(0, int)})],
    "attention": [(heads(90, 66), {"causal": True}), (heads(4, 4), {"mask": np.ones((4, 4), bool)}),
                  ((*heads(4, 5), normal(2, 4, 5)), {}), ((*heads(4, 4), normal(4)), {"causal": True}),
                  (tuple(a[0] for a in heads(4, 4)), {}),
                  (tuple(a.astype(np.float64) for a in heads(4, 4)), {}),
                  ((heads(4, 4)[0], *heads(4, 4, H=1)[1:]), {}), ((*heads(4, 5)[:2], heads(4, 5)[2].astype(float)), {}),
                  ((heads(4, 5)[0], heads(4, 5)[1].astype(float), heads(4, 5)[2]), {}),
                  ((normal(2, 2, 4, 2), normal(2, 2, 2), normal(2, 2, 2, 3)), {})]
        + [((*heads(4, 5)[:2], heads(4, 5, V=3)[2][part]), {"causal": causal}) for causal in (True, False)
           for part in [slice(1), 0, (slice(None), slice(1)), (0, 0)]],
    "adamw": [((some(3, 4),) * 4, ADAMW | {"step": 1}), ((normal(3, 4).T,) * 4, ADAMW | {"step": 1})],
}


def pairs_of(twins):
    """By name: the plain rule, the twin, and which calls the twin is for."""
    return {name: (getattr(ops, name, None) or getattr(optim, name), *pair) for name, pair in twins.items()}


PAIRS = pairs_of(cpu.TWINS)
RULES = [name for name in PAIRS if hasattr(ops, name)]


def calls(table, names=None):
    """A test for every call in such a table of the twins of these names, or of all."""
    return pytest.mark.parametrize("name, inputs, settings", [
        pytest.param(name, *call, id=f"{name}-{i}") for name in names or table for i, call in enumerate(table[name])])


def test_every_twin_has_calls_to_compare():
    assert set(FITS) == set(REFUSED) == set(cpu.TWINS)


def value_and_gradients(rule, inputs, settings, dtype):
    """With weights g that are the same in both precisions; the gradients summed to the shapes of the inputs."""
    inputs = [None if a is None else a.astype(dtype) for a in inputs]
    y, back = rule(*inputs, **settings)
    g = np.asarray(normal(*y.shape, seed=9)).astype(dtype)
    return [y, *(unbroadcast(gx, x, "twin") for gx, x in zip(pull(back, g), inputs, strict=True) if x is not None)]


@calls(FITS, RULES)
def test_a_twin_is_as_exact_as_the_plain_rule(name, inputs, settings):
    """Against the plain rule in double precision it may be off by what the plain rule is in single precision."""
    plain, twin, fits = PAIRS[name]
    before = [None if a is None else a.copy() for a in inputs]
    with np.errstate(invalid="ignore"):                            # −∞ · 0 in gelu
        exact, single = (value_and_gradients(plain, inputs, settings, dtype) for dtype in (np.float64, np.float32))
        assert fits(*inputs, **settings)
        found = value_and_gradients(twin, inputs, settings, np.float32)
        for y, rounded, want in zip(found, single, exact, strict=True):
            clear = np.isfinite(want)
            usual = np.abs(rounded[clear] - want[clear]).max(initial=0)
            size = np.abs(want[clear]).max(initial=1)              # at least that of what goes in
            assert y.dtype == np.float32 and y.shape == want.shape
            assert np.abs(y[clear] - want[clear]).max(initial=0) <= 2 * usual + 5e-7 * size
    assert all(a is None or np.array_equal(a, b) for a, b in zip(inputs, before))


@calls(FITS, ["adamw"])
def test_the_twin_of_adamw_writes_the_same_numbers(name, inputs, settings):
    plain, twin, fits = PAIRS[name]
    assert fits(*inputs, **settings)
    ours, theirs = ([a.copy() for a in inputs] for _ in range(2))
    twin(*ours, **settings)
    plain(*theirs, **settings)
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(ours[1], inputs[1])                            # the gradient is only read


@calls(REFUSED)
def test_a_twin_refuses_what_it_is_not_made_for(name, inputs, settings):
    plain, _, fits = PAIRS[name]
    assert not fits(*inputs, **settings) and kernels.choose(kernels.twins_of(plain), inputs, settings) is None


def test_a_number_is_no_case_for_a_twin():
    assert kernels.choose(kernels.twins_of(ops.gelu), [2.0], {}) is None


def test_a_rule_of_the_same_name_elsewhere_has_no_twin():
    def gelu(x):
        return x, lambda g: g
    assert kernels.twins_of(ops.gelu) and not kernels.twins_of(gelu) and not kernels.twins_of(ops.exp)


@pytest.fixture
def counted(monkeypatch):
    """How often each twin ran; ops lifted inside the test see the counting ones."""
    runs = dict.fromkeys(cpu.TWINS, 0)

    def counting(name, twin):
        def run(*inputs, **settings):
            runs[name] += 1
            return twin(*inputs, **settings)
        return run
    for name, (twin, fits) in cpu.TWINS.items():
        monkeypatch.setitem(cpu.TWINS, name, (counting(name, twin), fits))
    return runs


@pytest.mark.parametrize("name", RULES)
def test_the_twin_runs_where_it_fits_and_the_plain_rule_elsewhere(name, counted):
    op = lift(PAIRS[name][0])
    (inputs, settings), (others, other_settings) = FITS[name][2], REFUSED[name][0]
    y = op(*inputs, **settings)
    assert counted[name] == 1
    with tg.fused(False):
        same = op(*inputs, **settings)
        with tg.fused(True):
            op(*inputs, **settings)
    assert counted[name] == 2
    op(*others, **other_settings)
    assert counted[name] == 2
    np.testing.assert_allclose(y.numpy(), same.numpy(), rtol=1e-4, atol=1e-5)


@calls(REFUSED, RULES)
def test_what_a_twin_refuses_is_the_plain_rules(name, inputs, settings, counted):
    op, found = lift(PAIRS[name][0]), []
    for on in (True, False):
        given = [tg.Tensor(a, requires_grad=a.dtype.kind == "f") if hasattr(a, "dtype") else a for a in inputs]
        with tg.fused(on):
            y = op(*given, **settings)
            if y.requires_grad:
                y.backward(np.ones(y.shape))
        found.append([y.data, *(x.grad for x in given if isinstance(x, tg.Tensor) and x.requires_grad)])
    assert not counted[name]
    for a, b in zip(*found, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_values_may_be_wider_or_narrower_than_queries(counted):
    for width in (1, 3, 20):
        q, k, v = (tg.Tensor(a, requires_grad=True) for a in heads(5, 6, V=width))
        y = F.attention(q, k, v, causal=True)
        with tg.fused(False):
            plain = F.attention(q, k, v, causal=True)
        np.testing.assert_allclose(y.data, plain.data, rtol=1e-4, atol=1e-5)
    assert y.shape == (2, 2, 5, 20)


@pytest.mark.parametrize("name", RULES)
def test_under_create_graph_the_plain_rule_runs_and_its_second_derivative_is_right(name, counted):
    op, (inputs, settings) = lift(PAIRS[name][0]), FITS[name][1]

    weight = normal(*inputs[0].shape, seed=8)

    def second(dtype):
        def value(x):
            y = op(x, *rest, **settings)
            return (y * y * y).sum()
        rest = [None if a is None else a.astype(dtype) for a in inputs[1:]]
        return tg.grad(lambda x: (tg.grad(value)(x) * weight.astype(dtype)).sum())(inputs[0].astype(dtype)).numpy()
    exact = second(np.float64)
    assert counted[name] == 0
    found = second(np.float32)
    assert counted[name] == 1 and found.dtype == np.float32     # once, on the way forward
    np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-4 * np.abs(exact).max())


def test_blocks_cover_every_row_once():
    for n, width in [(0, 1), (1, 1), (BLOCK, 1), (BLOCK + 1, 1), (10, BLOCK * 2), (1000, 700)]:
        parts = cpu.blocks(n, width)
        assert [i for part in parts for i in range(part.start, part.stop)] == list(range(n))
        assert all((part.stop - part.start) * width <= max(BLOCK, width) for part in parts)
        assert len(parts) <= math.ceil(n / max(1, BLOCK // width))


def test_attention_over_a_long_text_keeps_no_scores():
    q, k, v = heads(1024, 1024)
    tracemalloc.start()
    y, back = cpu.attention(q, k, v, causal=True)
    held = tracemalloc.get_traced_memory()[0] - y.nbytes
    tracemalloc.stop()
    assert held < q.nbytes                                         # the half of all scores is 64 times that


@pytest.mark.parametrize("causal, rows", [(False, 6), (True, 1)])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_what_is_no_number_stays_where_it_is_seen(bad, causal, rows):
    q, k, v = (abs(a) for a in heads(6, 6))
    q[0, 0, 2], k[1, 0, 5] = bad, bad                                     # one query, and the last key
    k[1, 1] += 500                                                        # and other rows are far from 0
    with np.errstate(invalid="ignore", over="ignore"):
        y, plain = (rule(q, k, v, causal=causal)[0] for rule in (cpu.attention, ops.attention))
    np.testing.assert_allclose(y, plain, rtol=1e-4, atol=1e-5)
    lost = np.isnan(y).any(axis=-1)
    assert not lost[0, 1].any() and not lost[1, 1].any() and lost[1, 0].sum() <= rows


def test_a_query_whose_scores_are_all_minus_infinity_sees_nothing():
    q, k, v = (abs(a) for a in heads(3, 3))
    q[0, 0, 1, 0] = -np.inf
    with np.errstate(invalid="ignore"):                                   # BLAS multiplies a zero of its own by it
        y, plain = (rule(q, k, v)[0] for rule in (cpu.attention, ops.attention))
    np.testing.assert_allclose(y, plain, rtol=1e-5)
    assert not y[0, 0, 1].any()


HOLDS = """
import mmap, numpy as np
from tinygrad_tfm.kernels.cpu import keep_freed_memory
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE >> 20
keep_freed_memory()
before = resident()
np.ones(64 << 20, np.uint8)
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
@pytest.mark.parametrize("variables, kept", [({}, 64), ({"MALLOC_ARENA_MAX": "4"}, 0),
                                             ({"GLIBC_TUNABLES": "glibc.malloc.arena_max=4"}, 0),
                                             ({"HELP": "see glibc.malloc", "MALLOC_CONF": "jemalloc's"}, 64)], ids=str)
def test_freed_memory_is_kept_unless_somebody_has_chosen(variables, kept):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    found = subprocess.run([sys.executable, "-c", HOLDS], env=clean | variables, capture_output=True, text=True,
                           check=True)
    assert abs(int(found.stdout) - kept) < 8

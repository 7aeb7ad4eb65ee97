"""The twins for a GPU on the stand-in, whose kernels run on the emulator: the plain rules' numbers, and nobody waits.

Each kernel by itself, in both orders of its threads: test_cuda_kernels.py. On a GPU: tests/gpu.
"""

import math
import subprocess
import sys

import device_checks as checks
import numpy as np
import pytest
import standin
import test_twins
from cases import some
from test_twins import ADAMW, BIAS, GAIN, calls, heads, ids, normal, pairs_of

import tinygrad_tfm as tg
from tinygrad_tfm import emulator, functional as F, kernels, ops, optim
from tinygrad_tfm.backend import namespace, to_device, to_numpy
from tinygrad_tfm.kernels import cuda, cuda_attention
from tinygrad_tfm.random import random_mask
from tinygrad_tfm.tensor import lift, pull, unbroadcast

pytestmark = pytest.mark.skipif(not emulator.COMPILER, reason="kernels run on the CPU only with g++, on Linux")
KEY = 0x1234_5678_9ABC_DEF1                                        # all of its bits matter


@pytest.fixture(autouse=True)
def cupy():
    with standin.install() as cupy:
        yield cupy


@pytest.fixture(autouse=True)
def waited():
    """How often the host has waited in this test: a test that reads a number does so at its end, and says so."""
    with standin.count_syncs() as counter:
        yield counter


# ---- which calls ----------------------------------------------------------------------------------------------------

def seen(*shape):
    """A mask: True at about half of the places, and in one row nowhere."""
    mask = np.random.default_rng([3, *shape]).random(shape) < 0.5
    mask[(0,) * (len(shape) - 1)] = False
    return mask


def tables(*calls):
    """Calls of `embedding`: (V, D) and ids."""
    return [((normal(*shape),), {"ids": given}) for shape, given in calls]


WIDE, FEW, SIX = (normal(3, 1024), normal(1024, seed=1), normal(1024, seed=2)), (normal(7, 5),), (normal(6, 13),)
FITS = {                                               # calls for the twins, beside those that the CPU's twins take
    "matmul": [((normal(*a), normal(*b, seed=1)), {}) for a, b in [
        ((3, 4), (4, 5)), ((1, 70), (70, 1)), ((2, 3, 4), (4, 5)), ((2, 2, 3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)),
        ((2, 2, 3, 4), (2, 2, 4, 5)), ((70, 130), (130, 33))]],
    "embedding": tables(((5, 12), ids((3, 4)) % 5), ((1, 3), np.array([0])), ((1024, 7), ids((9,))),
                        ((5, 12), np.array(3, np.uint8))),
    "norm": [((normal(3, 4),), {}), (tuple(normal(n, seed=n) for n in (1, 7, 5000)), {}),
             ((normal(3, 4), normal(2000, 3), np.zeros((0, 2), np.float32), np.array(3, np.float32)), {})],
    "gelu": [],
    "layer_norm": [(tuple(a[..., :D] for a in WIDE), {}) for D in (2, 70, 128, 1024)],
    "dropout": [((normal(*shape),), {"p": 0.3, "key": 5 << 40}) for shape in [(), (1,), (2, 3), (0, 3), (65_537,)]]
        + [(FEW, {"p": p, "key": key}) for p, key in [(1 - 1e-9, 3), (1e-6, KEY), (0.5, -1), (0.5, 2**70 + 3)]],
    "cross_entropy": [(SIX, {"targets": np.array([3, -100, 12, 0, -100, 5])}),
                      (SIX, {"targets": np.array([3, 4, 12, 0, 3, 5], np.uint16), "ignore_index": 3}),
                      (SIX, {"targets": np.full(6, -100)}), ((normal(300, 70),), {"targets": ids((300,))})],
    "softmax": [((normal(*shape, scale=5),), {}) for shape in [(1,), (33,), (7, 5), (2, 3, 4, 2, 70), (300, 3)]]
        + [((normal(3, 40),), {"axis": 1}), ((normal(3, 40) * 1000,), {})],
    "attention": [(heads(T, S), {"mask": mask, "causal": causal}) for causal in (True, False) for T, S, mask in [
        (5, 7, seen(2, 2, 5, 7)), (5, 7, seen(5, 7)), (5, 7, seen(2, 1, 1, 7)), (5, 7, seen(7)), (4, 6, seen(2, 4, 1)),
        (4, 6, seen(1, 1)), (4, 6, np.array(True)), (9, 3, seen(1, 2, 9, 3)), (3, 3, seen(3, 3).T)]]
        + [(heads(90, 66), {"causal": True}), (tuple(a[0] for a in heads(4, 4)), {"causal": True}),
           (tuple(a[0, 0] for a in heads(4, 5)), {"mask": seen(4, 5), "p": 0.3, "key": KEY}),
           (heads(5, 7, V=3), {"mask": seen(2, 1, 1, 7), "p": 0.5, "key": KEY})],
    "adamw": [],
}
FITS["attention"] = [((*inputs, None), settings) for inputs, settings in FITS["attention"]]        # no bias
FITS = {name: test_twins.FITS.get(name, []) + calls for name, calls in FITS.items()}
REFUSED = {                                            # and calls that are for the plain rules
    "matmul": [((some(3, 4), some(4, 5)), {}), ((normal(3, 4), some(4, 5)), {}), ((normal(4), normal(4, 5)), {}),
               ((normal(3, 4), normal(4)), {}), ((normal(2, 3, 4), normal(1, 4, 5)), {}),
               ((normal(0, 4), normal(4, 5)), {}), ((normal(4, 5), normal(2, 5, 3)), {})],
    "embedding": [((some(5, 12),), {"ids": ids((3, 4)) % 5}), *tables(((1025, 3), ids((3, 4))), ((5, 3), ids((0,))))],
    "norm": [((some(3, 4),), {}), ((normal(3, 4), some(3, 4)), {})],
    "gelu": [((some(3, 4),), {})],
    "layer_norm": [((some(3, 24), GAIN, BIAS), {}), ((normal(3, 24), None, BIAS), {}), ((normal(3, 24), 2.0), {}),
                   ((normal(3, 24), GAIN.astype(np.float64), BIAS), {}), ((normal(3, 24), GAIN, BIAS[:1]), {}),
                   ((normal(3, 23), GAIN[:23], BIAS[:23]), {}), ((normal(2, 1026), normal(1026)), {})],
    "dropout": [((some(3, 4),), {"p": 0.3, "key": 1}), ((normal(3, 4),), {"p": 0.0, "key": 1})],
    "cross_entropy": [((some(3, 4),), {"targets": np.zeros(3, int)}),
                      ((normal(3, 4),), {"targets": np.zeros(3, int), "label_smoothing": 0.1}),
                      ((normal(3, 4),), {"targets": np.zeros(3, int), "ignore_index": 2**31}),
                      ((normal(0, 4),), {"targets": np.zeros(0, int)})],
    "softmax": [((some(3, 4),), {}), ((normal(3, 4),), {"axis": 0}), ((normal(3, 4),), {"axis": -2})],
    "attention": [(tuple(a.astype(np.float64) for a in heads(4, 4)), {}), ((*heads(4, 5), normal(2, 4, 5)), {}),
                  ((heads(4, 4)[0], *(a[:1] for a in heads(4, 4)[1:])), {}),
                  ((heads(4, 4)[0], heads(4, 4)[1][0], heads(4, 4)[2]), {}),
                  (tuple(a[None] for a in heads(4, 4)), {}),
                  (tuple(a[0] for a in heads(4, 4)), {"mask": seen(2, 2, 4, 4)})],
    "adamw": [((some(3, 4),) * 4, ADAMW | {"step": 1}), ((normal(3, 4).T,) * 4, ADAMW | {"step": 1})],
}
PAIRS = pairs_of(cuda.TWINS)
RULES = [name for name in FITS if hasattr(ops, name)]


def test_a_tables_gradient_is_a_product_as_far_as_in_the_plain_rule():
    assert cuda.ONE_HOT_LIMIT == ops.network.ONE_HOT_LIMIT


def test_every_twin_has_calls_to_compare():
    """All but that of `add`, which is for bf16 alone: test_precision.py."""
    assert set(FITS) == set(REFUSED) == set(cuda.TWINS) - {"add"}
    assert all(FITS.values()) and all(REFUSED.values())


# ---- how an array may lie -------------------------------------------------------------------------------------------

def plainly(x):
    return x


def scattered(x):
    """The same numbers as every second of a larger array, in Fortran's order."""
    view = namespace(x).empty([2 * n for n in x.shape[::-1]], x.dtype).T[(slice(None, None, 2),) * x.ndim]
    view[...] = x
    return view


def shifted(x):
    """The same numbers in one piece that does not begin at a multiple of 16 bytes."""
    view = namespace(x).empty(x.size + 1, x.dtype)[1:].reshape(x.shape)
    view[...] = x
    return view


def stretched(x):
    """One number everywhere, stored once: as the way back of a sum gives it."""
    return namespace(x).broadcast_to(x.reshape(-1)[0], x.shape)


def there(x, lay=plainly):
    """An array on the device; what is none stays."""
    return lay(to_device(np.asarray(x), "cuda")) if isinstance(x, np.ndarray | np.generic) else x


# ---- numbers --------------------------------------------------------------------------------------------------------

def value_and_gradients(rule, inputs, settings, lay_g, device, dtype):
    """With weights g that are the same for all; the gradients summed to the shapes of the inputs."""
    y, back = rule(*inputs, **settings)
    g = lay_g(to_device(np.asarray(normal(*y.shape, seed=9), dtype), device))
    return [y, *(unbroadcast(gx, x, "twin") for gx, x in zip(pull(back, g), inputs, strict=True) if x is not None)]


def compare(name, inputs, settings, waited, lay=plainly, lay_g=plainly):
    """Against the plain rule in double precision a twin may be off by what the plain rule is in single precision."""
    plain, twin, fits = PAIRS[name]
    exact, single = (value_and_gradients(plain, [a if a is None else a.astype(dtype) for a in inputs], settings, lay_g,
                                         "cpu", dtype) for dtype in (np.float64, np.float32))
    given, settings = [there(a, lay) for a in inputs], {key: there(value) for key, value in settings.items()}
    assert fits(*given, **settings)
    found = value_and_gradients(twin, given, settings, lay_g, "cuda", np.float32)
    assert waited.value == 0, waited.where
    for y, rounded, want in zip(map(to_numpy, found), single, exact, strict=True):
        clear = np.isfinite(want)
        usual = np.abs(rounded[clear] - want[clear]).max(initial=0)
        size = np.abs(want[clear]).max(initial=1)                  # at least that of what goes in
        assert y.dtype == np.float32 and y.shape == want.shape
        assert np.abs(y[clear] - want[clear]).max(initial=0) <= 2 * usual + 5e-7 * size
    for a, b in zip(given, inputs, strict=True):
        np.testing.assert_array_equal(b, b if a is None else to_numpy(a))        # what goes in is only read


@calls(FITS, RULES)
@pytest.mark.filterwarnings("ignore:invalid value")                # −∞ · 0 in the plain rule of gelu
def test_a_twin_is_as_exact_as_the_plain_rule(name, inputs, settings, waited, launched):
    compare(name, inputs, settings, waited)
    assert launched


@pytest.mark.parametrize("lay, lay_g", [(scattered, scattered), (shifted, shifted), (plainly, stretched)])
@pytest.mark.parametrize("name, inputs, settings", [
    ("gelu", (normal(7, 5),), {}), ("layer_norm", (normal(2, 3, 24), GAIN, BIAS), {}),
    ("dropout", (normal(7, 5),), {"p": 0.3, "key": KEY}), ("cross_entropy", SIX, {"targets": ids((6,))}),
    ("softmax", (normal(2, 7, 5),), {}), ("attention", (*heads(5, 7), None), {"p": 0.3, "key": KEY}),
    ("attention", (*heads(5, 7), None), {"causal": True})])
def test_arrays_may_lie_as_they_like(name, inputs, settings, lay, lay_g, waited):
    lay_g = plainly if name == "cross_entropy" and lay_g is scattered else lay_g          # there it is one number
    compare(name, inputs, settings, waited, lay, lay_g)


@pytest.mark.parametrize("lay", [plainly, shifted, scattered])
def test_masks_and_targets_may_lie_as_they_like_too(lay, waited):
    q, k, v = heads(5, 7)
    mask, targets = seen(2, 1, 5, 7), ids((6,))
    (y, _), (loss, _) = (cuda_attention.attention(*map(there, (q, k, v)), mask=there(mask, lay)),
                         cuda.cross_entropy(*map(there, SIX), targets=there(targets, lay)))
    assert waited.value == 0
    np.testing.assert_allclose(y.get(), ops.attention(q, k, v, mask=mask)[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(loss.get(), ops.cross_entropy(*SIX, targets=targets)[0], rtol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 999, 5000])
@pytest.mark.parametrize("p, key", [(0.2, KEY), (0.5, 0), (1e-6, 2**63 - 1), (1 - 1e-9, 5), (0.3, -7)])
def test_dropout_drops_what_the_cpu_drops_to_the_bit(n, p, key):
    ones = there(np.ones(n, np.float32))
    y, back = cuda.dropout(ones, p=p, key=key)
    kept = random_mask(n, p, key, np)
    for found in (y, back(ones), back(ones)):
        np.testing.assert_array_equal(found.get(), np.where(kept, np.float32(1 / (1 - p)), np.float32(0)))


def test_attention_drops_the_weights_that_the_cpu_drops(launched):
    """Of equal scores, with the identity as values, y shows the weights; and their gradients are dropped likewise."""
    B, H, T, S, p = 2, 2, 5, 8, 0.4
    zeros, eye = there(np.zeros((B, H, S, 3), np.float32)), np.broadcast_to(np.eye(S, dtype=np.float32), (B, H, S, S))
    y, back = cuda_attention.attention(zeros[:, :, :T], zeros, there(eye), p=p, key=KEY)
    kept = random_mask(B * H * T * S, p, KEY, np).reshape(B, H, T, S)
    np.testing.assert_array_equal(y.get(), kept * np.float32(np.float32(1 / S) * np.float32(1 / (1 - p))))
    _, _, gv, _ = back(there(np.ones((B, H, T, S), np.float32)))
    np.testing.assert_allclose(gv.get(), y.get().sum(2)[..., None].repeat(S, -1), rtol=1e-6)
    assert launched["dropout"] == 3                                # forward; back for weights and for their gradients


def test_no_mask_is_kept():
    """For the way back stay the inputs, two numbers a row of layer norm, attention's weights, and the loss's slope."""
    x, gain = (tg.Tensor(a, True, device="cuda") for a in (normal(6, 24), GAIN))
    q, k, v = (tg.Tensor(a, True, device="cuda") for a in heads(8, 8))
    with tg.watch.saved_memory() as ledger:
        F.dropout(x, p=0.3, key=KEY)
        assert not ledger.bytes
        F.gelu(x), F.layer_norm(x, gain)
        F.attention(q, k, v, causal=True, mask=there(seen(8, 8)), p=0.3, key=KEY)
        F.cross_entropy(x, targets=there(ids((6,))))
    heads_bytes, pattern = 4 * 2 * 2 * 8 * 8, 4 * 2 * 2 * 8 * 8
    assert ledger.bytes == {"gelu": x.data.nbytes, "layer_norm": gain.data.nbytes + 2 * 6 * 4,
                            "attention": 3 * heads_bytes + pattern, "cross_entropy": x.data.nbytes}


def test_what_no_host_looks_at_is_seen_in_the_loss(waited):
    """A target that is no class makes the loss NaN, where CuPy would wrap it around."""
    for wrong in (13, -1, 2**32 + 3):
        loss, back = cuda.cross_entropy(*map(there, SIX), targets=there(np.array([3, 4, wrong, 0, 3, 5])))
        assert waited.value == 0 and np.isnan(loss.get())
        waited.reset()


@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_row_that_vanishes_is_nan_in_softmax_and_nothing_in_attention():
    x = normal(3, 5)
    x[1] = -np.inf
    np.testing.assert_allclose(cuda_attention.softmax(there(x))[0].get(), ops.softmax(x)[0], rtol=1e-6)
    assert np.isnan(ops.softmax(x)[0][1]).all()
    q, k, v = (abs(a) for a in heads(3, 3))
    q[0, 0, 1, 0] = -np.inf
    found, plain = cuda_attention.attention(*map(there, (q, k, v)))[0].get(), ops.attention(q, k, v)[0]
    np.testing.assert_allclose(found, plain, rtol=1e-5)
    assert not found[0, 0, 1].any()


# ---- the norm -------------------------------------------------------------------------------------------------------

@calls(FITS, ["norm"])
@pytest.mark.parametrize("lay", [plainly, shifted, scattered])
def test_the_norm_of_all_gradients(name, inputs, settings, lay, waited):
    found = cuda.norm(*(there(a, lay) for a in inputs))
    assert waited.value == 0 and found.shape == () and found.dtype == np.float32
    np.testing.assert_allclose(found.get(), optim.norm(*(a.astype(np.float64) for a in inputs)), rtol=1e-6)


# ---- AdamW ----------------------------------------------------------------------------------------------------------

def stepped(update, inputs, settings, lay_g=plainly):
    p, g, mean, square = map(there, inputs)
    update(p, lay_g(g), mean, square, **settings)
    return p, g, mean, square


@calls(FITS, ["adamw"])
@pytest.mark.parametrize("lay_g", [plainly, shifted])
def test_the_twin_of_adamw_writes_the_same_numbers(name, inputs, settings, lay_g, waited):
    plain, twin, fits = PAIRS[name]
    assert fits(*map(there, inputs), **settings)
    found, expected = stepped(twin, inputs, settings, lay_g), stepped(plain, inputs, settings)
    factor = there(np.array(settings["scale"], np.float32))                      # as clipping leaves it
    again = stepped(twin, inputs, settings | {"scale": factor})
    assert waited.value == 0, waited.where
    for a, b, c in zip(found, expected, again):
        np.testing.assert_allclose(a.get(), b.get(), rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(a.get(), c.get())
    np.testing.assert_array_equal(found[1].get(), inputs[1])                     # the gradient is only read


def test_rate_and_step_are_written_once_for_all_parameters(cupy, monkeypatch):
    written, full = [], cupy.full
    monkeypatch.setattr(cupy, "full", lambda shape, value, dtype: written.append(value) or full(shape, value, dtype))
    parameters = [tg.Tensor(normal(3, n), True, device="cuda") for n in (4, 5, 6)]
    for p in parameters:
        p.node.grad = cupy.ones(p.shape, np.float32)
    optimizer = optim.AdamW(parameters, lr=0.0123)
    optimizer.steps = 1000
    for _ in range(2):
        optimizer.step(scale=optim.clip_factor(optim.global_norm(parameters), 1.0))
    assert written == [np.float32(0.0123), 1001, 1002]


# ---- the choice -----------------------------------------------------------------------------------------------------

@calls(REFUSED)
def test_what_a_twin_refuses_is_the_plain_rules(name, inputs, settings, launched):
    plain, _, fits = PAIRS[name]
    given, settings_there = list(map(there, inputs)), {key: there(value) for key, value in settings.items()}
    assert not fits(*given, **settings_there)
    assert kernels.choose(kernels.twins_of(plain), given, settings_there) is None
    if name in RULES:
        found = lift(plain)(*given, **settings_there)
        with tg.fused(False):
            expected = lift(plain)(*inputs, **settings)
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-6, atol=1e-6)
    assert not launched


@pytest.mark.parametrize("name", RULES)
def test_the_twin_runs_by_itself_and_not_where_it_is_switched_off(name, launched):
    op, (inputs, settings) = lift(PAIRS[name][0]), FITS[name][2]
    inputs, settings = list(map(there, inputs)), {k: there(v) for k, v in settings.items()}
    with tg.fused(False):
        plain = op(*inputs, **settings)
        assert not launched
    found = op(*inputs, **settings)
    assert launched and found.device == plain.device == "cuda"
    np.testing.assert_allclose(found.numpy(), plain.numpy(), rtol=1e-4, atol=1e-5)


def test_a_host_array_has_no_twin_here(launched):
    for name in RULES:
        (inputs, settings) = FITS[name][2]
        assert not PAIRS[name][2](*inputs, **settings) and lift(PAIRS[name][0])(*inputs, **settings).device == "cpu"
    assert not launched


@pytest.mark.parametrize("name, inputs, settings", [
    ("layer_norm", (there, np.asarray, there), {}), ("layer_norm", (there, there, np.asarray), {}),
    ("attention", (there, np.asarray, there), {}), ("attention", (there, there, np.asarray), {}),
    ("attention", (there,) * 3, {"mask": np.ones((4, 4), bool)}),
    ("cross_entropy", (there,), {"targets": np.zeros(3, int)})])
def test_arrays_of_two_devices_are_named_by_the_plain_rules(name, inputs, settings, launched, cupy):
    arrays = {"layer_norm": (normal(3, 24), GAIN, BIAS), "attention": heads(4, 4), "cross_entropy": (normal(3, 4),)}
    given = [f(a) for f, a in zip(inputs, arrays[name], strict=True)]
    assert not PAIRS[name][2](*given, **settings)
    with pytest.raises(TypeError) as caught:
        lift(PAIRS[name][0])(*given, **settings)
    said = str(caught.value)
    assert said.startswith(f"{name}:") and "on cuda" in said and "on cpu" in said
    assert not launched


def test_a_mask_that_does_not_fit_is_the_plain_rules_error(launched):
    with pytest.raises(ValueError, match="^attention: "):
        F.attention(*map(there, heads(4, 4)), mask=there(seen(3, 4)))
    with pytest.raises(TypeError, match="a mask is boolean"):
        F.attention(*map(there, heads(4, 4)), mask=there(np.ones((4, 4), np.int32)))
    assert not launched


@pytest.mark.parametrize("name", RULES)
def test_under_create_graph_the_plain_rule_runs(name, launched, cupy):
    op, (inputs, settings) = lift(PAIRS[name][0]), FITS[name][1]
    settings = {k: there(v) for k, v in settings.items()}
    def slope(x, *rest):
        return tg.grad(lambda x: (op(x, *rest, **settings) ** 3).sum())(x)
    found = slope(*map(there, inputs)).numpy()
    launched.pop("product", None)                                  # on Tensors each product is an op, and has its twin
    assert sum(launched.values()) == (name != "matmul"), launched  # once, on the way forward
    with tg.fused(False):
        plain = slope(*map(there, inputs)).numpy()
    np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-5)


# ---- training -------------------------------------------------------------------------------------------------------

STEP = {                                               # what a step of a decoder with 2 blocks and 19 weights launches
    "product": 2 * (3 * 6 + 6) + 3 + 1, "embedding": 1, "layer_norm": 5, "layer_norm_backward": 5,
    "layer_norm_weights": 5, "gelu": 2, "gelu_backward": 2, "softmax": 2, "softmax_backward": 2, "cross_entropy": 1,
    "sum_of_squares": 19, "gradient_norm": 1, "adamw": 19}
DROPPED = {"dropout": 5 + 5 + 2 * 3}                   # after the embedding and in two places of a block; of weights


@pytest.mark.parametrize("shape, step", [("gpt", STEP), ("dropout", STEP | DROPPED)])
def test_a_training_step_launches_these_kernels_and_never_waits(shape, step, launched, waited):
    training = checks.Training("cuda", **checks.SHAPES[shape])
    launched.clear()
    found = [training.step() for _ in range(4)]
    assert waited.value == 0, waited.where
    assert launched == {name: 4 * count for name, count in step.items()}
    assert all(math.isfinite(float(loss) + float(norm)) for loss, norm in found)


@pytest.mark.parametrize("shape", checks.SHAPES)
def test_training_gives_the_hosts_losses(shape, launched):
    checks.training_gives_the_hosts_losses(shape, rel=1e-5)
    assert launched["adamw"] and launched["cross_entropy"] == 8


@pytest.mark.parametrize("optimizer", checks.OPTIMIZERS)
def test_every_optimizer_goes_the_hosts_way(optimizer):
    checks.training_gives_the_hosts_losses("dropout", optimizer, rel=1e-5)
    checks.twenty_steps_lower_the_loss(optimizer)


def test_nothing_is_float64(launched):
    checks.nothing_is_float64()
    assert launched.total() > 100


@pytest.mark.parametrize("cached", [True, False])
def test_generation_gives_the_hosts_tokens(cached, launched):
    checks.generation_gives_the_hosts_tokens(cached)
    assert launched["softmax"]


# ---- launching ------------------------------------------------------------------------------------------------------

def gelu(**changed):
    x = there(np.ones(6, np.float32))
    cuda.launch(cuda.compiled("gelu")["gelu"], 1, **dict(x=x, y=there(np.zeros(6, np.float32)), n=6) | changed)


@pytest.mark.parametrize("changed, error, words", [
    (dict(x=np.ones(6, np.float32)), TypeError, "gelu: x is in the host's memory.*cupy.asarray makes a copy"),
    (dict(x=np.ones((), np.float32)), TypeError, "gelu: x is in the host's memory"),
    (dict(n=2.0), TypeError, "gelu: n is a whole number, not 2.0"),
    (dict(z=1), TypeError, "gelu takes x, y, n; unknown: z")])
def test_what_a_kernel_cannot_take_is_refused(changed, error, words, launched):
    gelu()
    with pytest.raises(error, match=words):
        gelu(**changed)
    assert launched == {"gelu": 1}


def test_a_file_is_compiled_once(cupy):
    made = []

    def module(**given):
        made.append(given)
        return standin.RawModule(**given)
    cuda.compiled.cache_clear()
    with standin.install(RawModule=module):
        for width in (24, 26, 24):
            x = there(normal(3, width))
            cuda.layer_norm(x, there(normal(width)))[1](x)
    cuda.compiled.cache_clear()
    assert [given["options"] for given in made] == [("-std=c++17",)] * 2
    assert ["WIDTH 24" in given["code"] for given in made] == [True, False]


def test_a_grid_keeps_a_gpu_busy_and_is_no_larger(monkeypatch):
    assert [cuda.grid(n) for n in (0, 1, 256, 257, 10**9)] == [1, 1, 1, 2, 8]    # the stand-in has one multiprocessor
    monkeypatch.setattr(cuda, "multiprocessors", lambda: 132)
    assert [cuda.grid(n) for n in (1, 10**6, 10**9)] == [1, 132 * 8, 132 * 8] and cuda.grid(10**9, most=2) == 264


def test_more_rows_than_warps_are_all_done(monkeypatch):
    """Whatever the grid: one block, or more than there is work for."""
    x, g = there(normal(300, 24)), there(normal(300, 24, seed=1))
    found = []
    for blocks in (1, 8, 60):
        monkeypatch.setattr(cuda, "grid", lambda threads, most=8, blocks=blocks: blocks)
        y, back = cuda.layer_norm(x, there(GAIN), there(BIAS))
        found.append([a.get() for a in (y, *back(g), *(f(g) for _, f in (cuda.gelu(x), cuda_attention.softmax(x))))])
    for others in found[1:]:
        for a, b in zip(found[0], others, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


OPENED = """
import sys
opened = []
sys.addaudithook(lambda event, args: event == "open" and opened.append(str(args[0])))
import tinygrad_tfm
print(*[name for name in opened if name.endswith((".cu", ".cuh"))], "cupy" in sys.modules)
from tinygrad_tfm.kernels.cuda_source import source
source("gelu")
print(*sorted(name[-8:] for name in opened if name.endswith((".cu", ".cuh"))))
"""


def test_importing_the_package_reads_no_kernel_and_asks_for_no_cupy():
    done = subprocess.run([sys.executable, "-c", OPENED], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["False", "/gelu.cu warp.cuh"]

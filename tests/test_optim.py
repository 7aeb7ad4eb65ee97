"""Optimisers: the steps of their formulas, of PyTorch, resumed to the bit; learning rates and clipping."""

import math

import numpy as np
import pytest

import tinygrad_tfm as tg
from tinygrad_tfm.kernels.cpu import TWINS
from tinygrad_tfm.optim import SGD, Adam, AdamW, adamw, clip_factor, global_norm, noam, warmup_cosine

SHAPES = [(3, 4), (4,), (2, 1, 3), ()]


def parameters(dtype="float64"):
    rng = np.random.default_rng(0)
    return [tg.Tensor(np.asarray(rng.standard_normal(s), dtype), requires_grad=True) for s in SHAPES]


def gradients(step, dtype="float64"):
    rng = np.random.default_rng(100 + step)
    return [np.asarray(10.0 ** rng.integers(-3, 2) * rng.standard_normal(s), dtype) for s in SHAPES]


def give(ps, gs):
    """Each parameter this gradient, by way of backward."""
    for p, g in zip(ps, gs, strict=True):
        p.zero_grad()
        (p * g).sum().backward()


# ---- the formulas, in NumPy -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_its_formula(momentum):
    ps = parameters()
    expected, velocity = [p.data.copy() for p in ps], [np.zeros(s) for s in SHAPES]
    optimizer = SGD(ps, lr=0.1, momentum=momentum)
    for step in range(6):
        give(ps, gradients(step))
        optimizer.step(scale=0.5)
        for i, g in enumerate(gradients(step)):
            velocity[i] = momentum * velocity[i] + 0.5 * g
            expected[i] = expected[i] - 0.1 * velocity[i]
    for p, e in zip(ps, expected, strict=True):
        np.testing.assert_allclose(p.data, e, rtol=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamw_is_its_formula(decay):
    b1, b2, eps, lr, scale = 0.8, 0.95, 1e-6, 0.01, 0.5
    ps = parameters()
    expected = [p.data.copy() for p in ps]
    m, v = [np.zeros(s) for s in SHAPES], [np.zeros(s) for s in SHAPES]
    optimizer = AdamW(ps, lr, (b1, b2), eps, decay) if decay else Adam(ps, lr, (b1, b2), eps)
    for t in range(1, 8):
        give(ps, gradients(t))
        optimizer.step(scale)
        for i, g in enumerate(gradients(t)):
            g = scale * g
            m[i] = b1 * m[i] + (1 - b1) * g
            v[i] = b2 * v[i] + (1 - b2) * g ** 2
            mhat, vhat = m[i] / (1 - b1 ** t), v[i] / (1 - b2 ** t)
            pull = decay * expected[i] if expected[i].ndim > 1 else 0    # on matrices only
            expected[i] = expected[i] - lr * (mhat / (np.sqrt(vhat) + eps) + pull)
    for p, e in zip(ps, expected, strict=True):
        np.testing.assert_allclose(p.data, e, rtol=1e-11)


def test_decay_pulls_where_it_is_told_to_and_needs_no_large_gradient():
    ps = parameters()
    before = [p.data.copy() for p in ps]
    optimizer = AdamW(ps, lr=0.1, decay=0.5, decays=lambda p: p.ndim == 1)
    give(ps, [np.zeros(s) for s in SHAPES])
    optimizer.step()
    for p, b in zip(ps, before, strict=True):
        np.testing.assert_allclose(p.data, b * (1 - 0.1 * 0.5 * (p.ndim == 1)), rtol=1e-12)


def test_adams_first_step_is_lr_whatever_the_size_of_the_gradient():
    ps = [tg.Tensor(np.zeros(3), requires_grad=True)]
    give(ps, [np.array([1e-3, -1.0, 1e3])])
    Adam(ps, lr=0.1).step()
    np.testing.assert_allclose(ps[0].data, [-0.1, 0.1, -0.1], rtol=1e-4)


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW])
def test_a_step_leaves_gradients_alone_and_skips_what_has_none(kind):
    ps = parameters()
    before = ps[0].data.copy()
    give(ps, gradients(0))
    ps[0].zero_grad()
    kept = [None] + [p.grad.copy() for p in ps[1:]]
    optimizer = kind(ps, lr=0.1)
    optimizer.step(scale=0.3)
    assert np.array_equal(ps[0].data, before) and ps[0].grad is None
    assert all(np.array_equal(p.grad, k) for p, k in zip(ps[1:], kept[1:], strict=True))
    optimizer.zero_grad()
    assert all(p.grad is None for p in ps)


def test_a_step_writes_into_the_array_that_is_there():
    p = tg.Tensor(np.ones((2, 2), np.float32), requires_grad=True)
    array = p.data
    for kind in (SGD, AdamW):
        give([p], [np.ones((2, 2), np.float32)])
        kind([p], lr=0.1).step(scale=np.float32(0.5))
        assert p.data is array and array.dtype == np.float32 and (array < 1).all()


# ---- the twin -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("shape", [(5,), (300, 500), ()], ids=str)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_twin_of_adamw_takes_the_same_steps(shape, decay):
    twin, fits = TWINS["adamw"]
    rng = np.random.default_rng(0)
    start = np.asarray(rng.standard_normal(shape), np.float32)
    sides = [[start.copy(), np.zeros_like(start), np.zeros_like(start)] for _ in range(2)]
    for step in range(1, 6):
        g = np.asarray(10.0 ** rng.integers(-4, 3) * rng.standard_normal(shape), np.float32)
        for run, (p, mean, square) in zip((adamw, twin), sides, strict=True):
            before = g.copy()
            assert fits(p, g, mean, square)
            run(p, g, mean, square, scale=np.float32(0.7), lr=1e-2, betas=(0.9, 0.99), eps=1e-8, decay=decay,
                step=step)
            assert np.array_equal(g, before)
    for plain, fast in zip(*sides, strict=True):                        # in each of 5 steps either side may round twice
        np.testing.assert_allclose(plain, fast, rtol=0, atol=20 * np.finfo(np.float32).eps / 2 * abs(plain).max())
    assert abs(sides[0][0] - start).max() > 1e-3


def test_the_twin_is_not_for_other_precisions_or_strided_arrays():
    _, fits = TWINS["adamw"]
    a = np.ones((4, 4), np.float32)
    assert fits(a, a) and not fits(a, a.T[:2]) and not fits(a.astype(float))


def test_fused_false_holds_for_optimisers_too(monkeypatch):
    called = []
    monkeypatch.setitem(tg.optim.ADAMW, "cpu", (lambda *arrays, **settings: called.append(1), lambda *arrays: True))
    p = tg.Tensor([1.0], requires_grad=True)
    for on, count in ((False, 0), (True, 1)):
        give([p], [np.ones(1, np.float32)])
        with tg.fused(on):
            AdamW([p]).step()
        assert len(called) == count


# ---- PyTorch --------------------------------------------------------------------------------------------------------

@pytest.mark.oracle
@pytest.mark.parametrize("name, settings, theirs", [
    ("SGD", dict(lr=0.1), dict(lr=0.1)), ("SGD", dict(lr=0.1, momentum=0.9), dict(lr=0.1, momentum=0.9)),
    ("Adam", dict(lr=0.01, betas=(0.8, 0.95), eps=1e-6), dict(lr=0.01, betas=(0.8, 0.95), eps=1e-6)),
    ("AdamW", dict(lr=0.01, decay=0.3), dict(lr=0.01)),
], ids=["sgd", "momentum", "adam", "adamw"])
@pytest.mark.parametrize("limit", [None, 0.5])
def test_steps_are_pytorchs(torch, name, settings, theirs, limit):
    ps = parameters()
    copies = [torch.tensor(p.data, requires_grad=True) for p in ps]
    groups = copies if name != "AdamW" else [
        {"params": [p for p in copies if p.ndim > 1], "weight_decay": 0.3},
        {"params": [p for p in copies if p.ndim <= 1], "weight_decay": 0.0}]
    mine, other = getattr(tg.optim, name)(ps, **settings), getattr(torch.optim, name)(groups, **theirs)
    for step in range(8):
        give(ps, gradients(step))
        for p, g in zip(copies, gradients(step), strict=True):
            p.grad = torch.tensor(g)
        norm = global_norm(ps)
        if limit:
            assert float(torch.nn.utils.clip_grad_norm_(copies, limit)) == pytest.approx(float(norm), rel=1e-12)
        mine.step(clip_factor(norm, limit) if limit else 1.0)
        other.step()
    for p, q in zip(ps, copies, strict=True):
        np.testing.assert_allclose(p.data, q.detach(), rtol=1e-9)


# ---- resuming -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind, settings", [(SGD, dict(momentum=0.9)), (Adam, {}), (AdamW, dict(decay=0.1))],
                         ids=["sgd", "adam", "adamw"])
def test_a_saved_optimiser_goes_on_to_the_bit(kind, settings, dtype):
    def steps(optimizer, ps, numbers):
        for step in numbers:
            give(ps, gradients(step, dtype))
            optimizer.step()
    whole = parameters(dtype)
    steps(kind(whole, lr=0.01, **settings), whole, range(6))
    half = parameters(dtype)
    first = kind(half, lr=0.01, **settings)
    steps(first, half, range(3))
    state = first.state_dict()
    steps(first, half, range(3, 4))                                     # leaves no trace in the state: it is a copy
    half = parameters(dtype)
    steps(kind(half, lr=0.01, **settings), half, range(3))
    second = kind(half, lr=0.01, **settings)
    second.load_state_dict(state)
    steps(second, half, range(3, 6))
    assert second.steps == 6
    assert all(np.array_equal(a.data, b.data) for a, b in zip(whole, half, strict=True))


def test_the_state_of_another_optimiser_is_refused_and_changes_nothing():
    ps = parameters()
    mine = AdamW(ps)
    give(ps, gradients(0))
    mine.step()
    before = mine.state_dict()
    turned = [tg.Tensor(np.ones(s[::-1]), requires_grad=True) for s in SHAPES]
    for other in (AdamW(ps[:2]), SGD(ps, 0.1), AdamW(turned), AdamW([*ps, *turned])):
        with pytest.raises(ValueError, match="another optimiser"):
            mine.load_state_dict(other.state_dict())
    assert all(np.array_equal(a, before[name]) for name, a in mine.state_dict().items())


# ---- refusals -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", [SGD, Adam, AdamW])
def test_parameters_that_would_not_move_or_move_twice_are_refused(kind):
    p = tg.Tensor([1.0], requires_grad=True)
    for ps, word in (([], "none were given"), ([p, tg.Tensor([1.0])], "frozen"), ([p * 2], "computed from others"),
                     ([p, p], "given twice")):
        with pytest.raises(ValueError, match=f"requires_grad=True.*{word}"):
            kind(ps, lr=0.1)


@pytest.mark.parametrize("kind, bad", [
    (SGD, dict(lr=-1)), (SGD, dict(lr=math.nan)), (SGD, dict(lr=math.inf)), (SGD, dict(lr=1, momentum=1.0)),
    (SGD, dict(lr=1, momentum=-0.1)), (AdamW, dict(lr=-1)), (AdamW, dict(lr=math.nan)),
    (AdamW, dict(eps=-1e-8)), (AdamW, dict(eps=math.nan)), (AdamW, dict(decay=-0.1)), (AdamW, dict(decay=math.nan)),
    (AdamW, dict(betas=(1.0, 0.9))), (AdamW, dict(betas=(0.9, -0.1))), (AdamW, dict(betas=(math.nan, 0.9))),
    (Adam, dict(lr=math.inf)), (Adam, dict(betas=(0.9, 1.5)))], ids=str)
def test_settings_out_of_range_are_refused_by_name(kind, bad):
    name = {"betas": "beta[12]"}.get(list(bad)[-1], list(bad)[-1])
    with pytest.raises(ValueError, match=f"{name} must be"):
        kind([tg.Tensor([1.0], requires_grad=True)], **bad)


# ---- clipping -------------------------------------------------------------------------------------------------------

def test_global_norm_is_that_of_all_gradients_together():
    ps = parameters()
    give(ps, gradients(1))
    assert float(global_norm(ps)) == pytest.approx(math.sqrt(sum((g ** 2).sum() for g in gradients(1))), rel=1e-12)
    ps[0].zero_grad()
    assert float(global_norm(ps)) == pytest.approx(math.sqrt(sum((g ** 2).sum() for g in gradients(1)[1:])), rel=1e-12)
    with pytest.raises(ValueError, match="backward"):
        global_norm(parameters())


def test_clip_factor_shortens_what_is_long_and_leaves_the_rest():
    assert clip_factor(np.float64(4.0), 1.0) == pytest.approx(0.25, rel=1e-6)
    assert clip_factor(np.float64(0.5), 1.0) == 1 and clip_factor(np.float64(0.0), 1.0) == 1
    assert clip_factor(np.float32(4.0), 1.0).dtype == np.float32
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="positive"):
            clip_factor(np.float64(1.0), bad)


# ---- learning rates over time ---------------------------------------------------------------------------------------

def test_warmup_cosine_at_its_turning_points():
    lr = lambda step: warmup_cosine(step, peak=1.0, floor=0.1, warmup=9, total=109)
    assert lr(0) == pytest.approx(0.1) and lr(4) == pytest.approx(0.5)  # a line, and the first step is not in vain
    assert lr(9) == 1.0 and lr(59) == pytest.approx(0.55)               # the peak, half way down
    assert lr(34) == pytest.approx(0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2)
    assert lr(109) == pytest.approx(0.1) and lr(10_000) == pytest.approx(0.1)
    values = [lr(step) for step in range(120)]
    assert values[:10] == sorted(values[:10]) and values[9:] == sorted(values[9:], reverse=True)


def test_warmup_cosine_without_a_warm_up_or_with_nothing_after_it():
    assert warmup_cosine(0, 1.0, 0.0, 0, 10) == 1.0 and warmup_cosine(5, 1.0, 0.0, 0, 10) == pytest.approx(0.5)
    assert warmup_cosine(10, 1.0, 0.0, 10, 10) == 1.0 and warmup_cosine(11, 1.0, 0.0, 10, 10) == pytest.approx(0.0)


@pytest.mark.formula("F10")
def test_noam_rises_in_a_line_and_falls_with_the_root():
    peak = 512 ** -0.5 * 4000 ** -0.5
    assert noam(4000, 512) == pytest.approx(peak) == pytest.approx(6.987712e-4, rel=1e-6)
    assert noam(1, 512) == pytest.approx(peak / 4000) and noam(1000, 512) == pytest.approx(peak / 4)
    assert noam(16_000, 512) == pytest.approx(peak / 2) and noam(400_000, 512) == pytest.approx(peak / 10)
    assert noam(100, 64, warmup=100, factor=2.0) == pytest.approx(2 * 64 ** -0.5 / 10)
    assert max(range(1, 9000), key=lambda step: noam(step, 512)) == 4000
    for bad in (dict(step=0), dict(step=1, warmup=0)):
        with pytest.raises(ValueError, match="counts steps from 1"):
            noam(width=512, **bad)


def test_a_schedule_just_sets_the_rate():
    p = tg.Tensor(np.zeros(1), requires_grad=True)
    optimizer = SGD([p], lr=0.0)
    for step, lr in enumerate((0.5, 0.25)):
        give([p], [np.ones(1)])
        optimizer.lr = lr
        optimizer.step()
        assert p.data[0] == (-0.5, -0.75)[step] and optimizer.steps == step + 1


def test_every_optimiser_walks_downhill():
    for kind, lr in ((SGD, 0.05), (Adam, 0.3), (AdamW, 0.3)):
        x = tg.Tensor(np.array([3.0, -2.0]), requires_grad=True)
        optimizer = kind([x], lr)
        for _ in range(200):
            optimizer.zero_grad()
            ((x - np.array([1.0, 2.0])) ** 2 * np.array([1.0, 5.0])).sum().backward()
            optimizer.step()
        np.testing.assert_allclose(x.data, [1.0, 2.0], atol=0.02)

"""Every rule, from its row in cases.py; and `check_rule` itself, which must catch every kind of broken rule."""

import inspect
import math
import types

import cases
import numpy as np
import pytest
from cases import ROWS, A, Call, Row, some

import tinygrad_tfm as tg
from tinygrad_tfm import functional as F, ops
from tinygrad_tfm.backend import namespace
from tinygrad_tfm.tensor import lift, pull, unbroadcast, walk_back
from tinygrad_tfm.testing import check_first, check_manners, check_rule, check_second

CALLS = [pytest.param(row, call, id=f"{row.rule.__name__}-{i}") for row in ROWS for i, call in enumerate(row.calls)]
EACH_ROW = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.rule.__name__)
EACH_CALL = pytest.mark.parametrize("row, call", CALLS)


def gradients(rule, inputs, settings, g):
    """The value, and the gradients of all inputs that are given, as the engine would leave them."""
    y, back = rule(*inputs, **settings)
    return y, [unbroadcast(gx, x, rule.__name__) for x, gx in zip(inputs, pull(back, g), strict=True) if x is not None]


def weights(shape, seed=5):
    return np.asarray(np.random.default_rng(seed).standard_normal(shape))


# ---- from the rows --------------------------------------------------------------------------------------------------

def test_every_rule_has_one_row():
    rules = {f for f in vars(ops).values() if inspect.isfunction(f)}
    assert {row.rule for row in ROWS} == rules and len(ROWS) == len(rules)


def test_every_rule_is_within_reach():
    lifted = [*vars(F).values(), *vars(tg.Tensor).values()]
    reached = {getattr(f, "rule", None) for f in lifted}
    assert {row.rule for row in ROWS} - reached == {ops.place}     # a way back of others, not an operation to call


@EACH_CALL
def test_value_is_that_of_the_other_text(row: Row, call: Call):
    y, _ = row.rule(*call.inputs, **call.settings)
    other = np.asarray(row.value(*call.inputs, **call.settings), np.float64)
    assert np.shape(y) == other.shape and y.dtype == np.float64
    np.testing.assert_allclose(y, other, rtol=1e-12, atol=1e-13)


@EACH_CALL
def test_first_and_second_derivative_precision_and_manners(row: Row, call: Call):
    check_manners(row.rule, *call.inputs, **call.settings)
    if call.order > 0:
        check_first(row.rule, *call.inputs, **call.settings)
    if call.order > 1:
        check_second(row.rule, *call.inputs, **call.settings)


@EACH_CALL
def test_inputs_and_gradient_may_lie_anyhow_in_memory(row: Row, call: Call):
    def scattered(x):
        """The same numbers, no two side by side, in Fortran's order, backwards."""
        if not x.ndim:
            return x
        view = np.empty([2 * n for n in x.shape[::-1]]).T[tuple(slice(None, None, -2) for _ in x.shape)]
        view[...] = x
        return view
    g = weights(np.shape(row.rule(*call.inputs, **call.settings)[0]))
    y, grads = gradients(row.rule, call.inputs, call.settings, g)
    inputs = [None if x is None else scattered(x) for x in call.inputs]
    assert all(x.size < 2 or not x.flags.c_contiguous for x in inputs if x is not None)
    y_too, grads_too = gradients(row.rule, inputs, call.settings, scattered(g))
    for a, b in zip([y, *grads], [y_too, *grads_too], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def captured(value, name=""):
    """The arrays that a way back holds on to, by the names they have in its text."""
    if isinstance(value, np.ndarray):
        return {name: value}
    if isinstance(value, types.FunctionType):
        cells = zip(value.__code__.co_freevars, value.__closure__ or ())
        return {n: a for name, cell in cells for n, a in captured(cell.cell_contents, name).items()}
    if isinstance(value, tuple | list):
        return {n: a for part in value for n, a in captured(part, name).items()}
    return {}


@EACH_ROW
def test_the_way_back_keeps_what_the_row_says_and_no_more(row: Row):
    for i, call in enumerate(row.calls):
        back = row.rule(*call.inputs, **call.settings)[1]
        assert isinstance(back, tuple) == isinstance(row.keeps, tuple)
        for f, names in [(back, row.keeps)] if isinstance(row.keeps, str) else zip(back, row.keeps):
            kept, promised = set(captured(f)), set(names.split())
            assert kept == promised if i == 0 else kept - {"index"} <= promised


@pytest.mark.parametrize("row", [row for row in ROWS if isinstance(row.keeps, tuple)], ids=lambda r: r.rule.__name__)
def test_a_frozen_input_costs_nothing(row: Row):
    inputs = row.calls[0].inputs
    for i, _ in enumerate(inputs):
        leaves = [tg.Tensor(x, requires_grad=i == j) for j, x in enumerate(inputs)]
        node = lift(row.rule)(*leaves, **row.calls[0].settings).node
        assert [back is not None for back in node.back] == [i == j for j in range(len(inputs))]
        assert set(captured(node.back)) == set(row.keeps[i].split())


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore:.*degrees of freedom")             # of variances along an axis of 0 lines
@EACH_CALL
def test_value_and_derivatives_are_those_of_pytorch(row: Row, call: Call, torch):
    where = [i for i, x in enumerate(call.inputs) if x is not None]
    theirs = [None if x is None else torch.tensor(x.copy(), requires_grad=True) for x in call.inputs]
    y = row.torch(torch, *theirs, **call.settings)
    g, vs = weights(tuple(y.shape)), [weights(call.inputs[i].shape, seed=6 + i) for i in where]
    seed = torch.tensor(g, requires_grad=True)
    first = torch.autograd.grad(y, [theirs[i] for i in where], seed, create_graph=True, allow_unused=True,
                                materialize_grads=True)
    total = sum((a * torch.tensor(v)).sum() for a, v in zip(first, vs))
    points = [*(theirs[i] for i in where), seed]
    second = torch.autograd.grad(total, points, allow_unused=True, materialize_grads=True)

    with tg.higher_order():
        ours = [None if x is None else tg.Tensor(x, requires_grad=True) for x in call.inputs]
        value = lift(row.rule)(*ours, **call.settings)
        seed = tg.Tensor(g, requires_grad=True)
        found = walk_back(value.node, seed, True, True)
        total = sum(((found[ours[i].node] * v).sum() for i, v in zip(where, vs)), start=tg.Tensor(0.0))
        again = walk_back(total.node, tg.Tensor(1.0), True, True) if total.node else {}
    plain = gradients(row.rule, call.inputs, call.settings, g)[1]
    close = lambda a, b: np.testing.assert_allclose(a, b.numpy(force=True), rtol=1e-8, atol=1e-10)
    close(value.numpy(), y)
    for i, a, b in zip(where, plain, first, strict=True):
        close(a, b)
        close(found[ours[i].node].numpy(), b)
    if call.order != 1:
        for x, b in zip([*(ours[i] for i in where), seed], second, strict=True):
            close(again[x.node].numpy() if x.node in again else np.zeros(x.shape), b)


# ---- what no row can say --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("exponent, slope, curvature", [(0.0, 0.0, 0.0), (1.0, 1.0, 0.0), (2.0, 0.0, 2.0),
                                                        (3.0, 0.0, 0.0)])
def test_powers_have_derivatives_at_zero_too(exponent, slope, curvature):
    f = lambda x: x ** exponent
    assert tg.grad(f)(0.0).item() == slope and tg.grad(tg.grad(f))(0.0).item() == curvature


@pytest.mark.parametrize("f, x, slope", [
    (F.relu, 0.0, 0.0), (F.abs, 0.0, 0.0), (lambda x: x.clip(-1.0, 2.0), 2.0, 1.0),
    (lambda x: x.clip(-1.0, 2.0), -1.0, 1.0), (lambda x: F.maximum(x, 1.0), 1.0, 0.5),
    (lambda x: F.minimum(x, x), 1.0, 1.0), (lambda x: F.stack([x, x, 0 * x]).max(), 3.0, 1.0)])
def test_slopes_at_kinks_are_those_of_the_docstrings(f, x, slope):
    assert tg.grad(f)(x).item() == slope


@pytest.mark.parametrize("op", [F.sigmoid, F.softplus, F.silu, F.gelu, F.gelu_tanh, F.tanh, F.erf, F.logsumexp,
                                F.softmax, F.log_softmax], ids=lambda op: op.__name__)
def test_nothing_overflows_far_out(op):
    x = tg.Tensor([-3e4, -90.0, 90.0, 3e4], requires_grad=True)
    y = op(x)
    y.sum().backward()
    assert np.isfinite(y.numpy()).all() and np.isfinite(x.grad).all()


@pytest.mark.parametrize("x", [-700.0, -100.0, -30.0, -1.0, 0.0, 1.0, 30.0])
def test_sigmoid_and_its_slope_keep_their_digits_far_out(x):
    e = math.exp(-x)
    assert F.sigmoid(tg.Tensor(np.array(x))).item() == pytest.approx(1 / (1 + e), rel=1e-14, abs=0)
    if x < 30:                                          # there 1 − y has none left
        assert tg.grad(F.sigmoid)(np.array(x)).item() == pytest.approx(e / (1 + e) / (1 + e), rel=1e-12, abs=0)


def test_sigmoid_ends_in_zero_and_one():
    x = tg.Tensor(np.array([-np.inf, -1e4, 1e4, np.inf]), requires_grad=True)
    y = F.sigmoid(x)
    y.sum().backward()
    assert y.data.tolist() == [0, 0, 1, 1] and x.grad.tolist() == [0, 0, 0, 0]


def test_the_slope_of_a_negative_number_to_a_power_is_no_number():
    for base in (-2.0, -2):
        x = tg.Tensor([1.0, 2.0, 3.0], requires_grad=True)
        y = base ** x
        y.sum().backward()
        assert y.data.tolist() == [-2, 4, -8] and np.isnan(x.grad).all()
    assert tg.grad(lambda x: 0.0 ** x)(2.0).item() == 0


@pytest.mark.parametrize("axis", [None, 0, -1])
def test_numbers_that_are_all_equal_have_a_deviation_of_slope_zero(axis):
    x = tg.Tensor(np.full((2, 3), 0.5), requires_grad=True)
    y = x.std(axis)
    y.sum().backward()
    assert not y.data.any() and not x.grad.any()


def test_a_line_of_equal_numbers_leaves_the_slopes_of_others_alone():
    x = tg.Tensor([[1.0, 1.0], [0.0, 4.0]], requires_grad=True)
    x.std(axis=1).sum().backward()
    assert x.grad.tolist() == [[0, 0], [-0.5, 0.5]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.2}], ids=str)
@pytest.mark.parametrize("lost", [[-np.inf, 1.0, 2.0], [-np.inf] * 3, [np.nan] * 3, [np.inf, 0.0, 0.0]], ids=str)
def test_what_is_ignored_has_no_part_in_a_loss_whatever_it_is(lost, settings, dtype):
    rows = tg.Tensor([[1.0, 2.0, 3.0], lost, [0.0, 1.0, 0.0]], True, dtype)
    seen = tg.Tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]], True, dtype)
    with np.errstate(all="ignore"):
        loss = F.cross_entropy(rows, targets=[2, -100, 0], **settings)
        loss.backward()
    with tg.fused(False):                               # the very same numbers, so by the same text
        expected = F.cross_entropy(seen, targets=[2, 0], **settings)
        expected.backward()
    assert loss.item() == expected.item() and not rows.grad[1].any()
    np.testing.assert_array_equal(rows.grad[[0, 2]], seen.grad)


def test_nll_passes_over_what_is_ignored_too():
    logp = tg.Tensor([[-1.0, -2.0], [-np.inf, 0.0], [np.nan, np.nan]], requires_grad=True)
    loss = F.nll(logp, targets=[1, -1, -1], ignore_index=-1)
    loss.backward()
    assert loss.item() == 2 and logp.grad.tolist() == [[0, -1], [0, 0], [0, 0]]
    ignored = F.nll(logp, targets=[-1, -1, -1], ignore_index=-1)
    assert ignored.item() == 0


@pytest.mark.parametrize("index, same", [
    ([1, 0], np.array([1, 0])), ([1, 1], np.array([1, 1])), ([], np.zeros(0, int)), ([True, False, True], [0, 2]),
    ((slice(None), [0, 2]), (slice(None), np.array([0, 2]))), ((slice(None), []), (slice(None), np.zeros(0, int))),
    ((slice(None), [True, False, False, True]), (slice(None), np.array([0, 3]))), ([[0, 1], [1, 1]], np.array(
        [[0, 1], [1, 1]])), (tg.Tensor([2, 0]), np.array([2, 0])), ((tg.Tensor(1), [0, 0]), (1, np.array([0, 0]))),
    ((slice(1), tg.Tensor([3, 3])), (slice(1), np.array([3, 3]))),
    ((tg.Tensor([0, 2]), tg.Tensor([1, 1])), (np.array([0, 2]), np.array([1, 1]))),
    (tg.Tensor(A) > 0, A > 0), ((0, tg.Tensor(A[0]) > 0), (0, A[0] > 0)), (np.int64(1), 1), ((..., [-1]), (..., [-1])),
], ids=str)
def test_lists_and_tensors_are_indices_as_arrays_are(index, same):
    x = tg.Tensor(A, requires_grad=True)
    y, expected = x[index], A[same]
    g, placed = weights(expected.shape), np.zeros(A.shape)
    y.backward(g)
    np.add.at(placed, same, g)
    np.testing.assert_array_equal(y.data, expected)
    np.testing.assert_allclose(x.grad, placed, rtol=1e-14)


TABLE = some(5, 4)
AS_LISTS = {
    "targets": (F.cross_entropy, A, {"targets": [0, 3, -100]}), "targets in rows": (
        F.cross_entropy, cases.CUBE, {"targets": cases.TARGETS.tolist()}), "nll": (F.nll, A, {"targets": [1, 0, 2]}),
    "ids": (F.embedding, TABLE, {"ids": [[0, 4], [4, 1]]}),
    "bce": (F.binary_cross_entropy, A, {"targets": (A > 0).tolist()}),
    "indices": (F.take_along_axis, A, {"indices": [[3, 0], [1, 1], [2, 0]], "axis": 1}),
    "mask": (lambda x, mask: F.attention(x, x, x, mask=mask), A, {"mask": np.tri(3, dtype=bool).tolist()}),
    "condition": (lambda x, condition: F.where(condition, x, 0.0), A, {"condition": (A > 0).tolist()}),
}


@pytest.mark.parametrize("op, x, settings", AS_LISTS.values(), ids=AS_LISTS.keys())
def test_lists_are_settings_as_arrays_are(op, x, settings):
    arrays = {name: np.array(value) if isinstance(value, list) else value for name, value in settings.items()}
    leaves = tg.Tensor(x, requires_grad=True), tg.Tensor(x, requires_grad=True)
    for leaf, given in zip(leaves, (settings, arrays)):
        y = op(leaf, **given)
        (y * y).sum().backward()
    assert leaves[0].grad.any()
    np.testing.assert_array_equal(leaves[0].grad, leaves[1].grad)


def test_a_query_that_sees_nothing_gives_zeros_and_takes_no_gradient():
    q, k, v = (tg.Tensor(some(1, 3, 2, seed=i), requires_grad=True) for i in range(3))
    y = F.attention(q, k, v, mask=np.array([[1, 1, 0], [0, 0, 0], [1, 1, 1]], bool))
    y.sum().backward()
    assert (y.numpy()[0, 1] == 0).all() and (q.grad[0, 1] == 0).all() and np.isfinite(k.grad).all()


def test_optional_inputs_may_be_left_out():
    x, w = tg.Tensor(A, requires_grad=True), tg.Tensor(cases.LINE, requires_grad=True)
    for y in (F.layer_norm(x), F.layer_norm(x, w), F.layer_norm(x, None, w), F.rms_norm(x), F.rms_norm(x, w)):
        (y * y).sum().backward()
    full = F.layer_norm(x, w, w)
    assert full.node.parents == (x.node, w.node, w.node)
    np.testing.assert_array_equal(F.layer_norm(x, w).numpy(), F.layer_norm(x, w, np.zeros(4)).numpy())


def test_compositions_move_each_gradient_to_where_its_number_was():
    x = tg.Tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0]], requires_grad=True)
    values, indices = F.topk(x, 2)
    assert values.numpy().tolist() == [[3, 2], [5, 4]] and indices.numpy().tolist() == [[0, 2], [1, 2]]
    (values * [[1.0, 2.0], [3.0, 4.0]]).sum().backward()
    assert x.grad.tolist() == [[1, 0, 2], [0, 3, 4]]
    x.zero_grad()
    (F.sort(x) * [10.0, 20.0, 30.0]).sum().backward()
    assert x.grad.tolist() == [[30, 10, 20], [10, 30, 20]]
    x.zero_grad()
    left, right = F.split(x, [1], axis=1)
    (2 * left).sum().backward()
    (3 * right).sum().backward()
    assert x.grad.tolist() == [[2, 3, 3], [2, 3, 3]] and (left.shape, right.shape) == ((2, 1), (2, 2))
    assert F.one_hot([2, 0], 3).numpy().tolist() == [[0, 0, 1], [1, 0, 0]]
    assert x.argmax(axis=1).numpy().tolist() == [0, 1]
    assert not any(y.requires_grad for y in (x > 1, x == x, x.argmax(axis=1), x.argsort(), indices))


@pytest.mark.parametrize("wrong, words", [
    (lambda: F.embedding(np.zeros((3, 2)), ids=np.array([3])), "ids run from 3 to 3, the table has rows 0 to 2"),
    (lambda: F.cross_entropy(A, targets=np.array([0, 4, 0])), r"targets must lie in 0 … 3 or be -100"),
    (lambda: F.cross_entropy(A, targets=np.array([0, 1])), r"need targets of shape \(3,\), not \(2,\)"),
    (lambda: F.binary_cross_entropy(A, targets=A[0]), "must have one shape"),
    (lambda: F.einsum("ii->i", A[:, :3]), "repeats a letter"), (lambda: F.einsum("ij,j", A), "names 2 inputs, 1 were"),
    (lambda: F.pad(A, pad_width=((1, 1),)), "argument 2 is shorter"),
    (lambda: F.layer_norm(A, bias=A[0]), "give bias without it"),
    (lambda: tg.Tensor(A).std(ddof=12), "ddof = 12 needs more than 12 numbers"),
    (lambda: tg.Tensor(A).var(1, ddof=5), "ddof = 5 needs more than 4 numbers"),
    (lambda: tg.Tensor(A).cumsum(), "missing .* 'axis'"),
    (lambda: F.split(tg.Tensor(A), 3, axis=1), "cannot be split into 3"), (lambda: F.topk(tg.Tensor(A), 5), "k = 5")])
def test_calls_that_cannot_be_are_refused_in_words(wrong, words):
    with pytest.raises((ValueError, IndexError, TypeError), match=words):
        wrong()


def test_integer_targets_and_double_targets_leave_float32_alone():
    x = A.astype(np.float32)
    for targets in (np.ones(A.shape, int), np.ones(A.shape), np.ones(A.shape, bool)):
        y, back = ops.binary_cross_entropy(x, targets=targets)
        assert y.dtype == back(y).dtype == np.float32


# ---- check_rule -----------------------------------------------------------------------------------------------------

def square(x):
    return x * x, lambda g: g * (2 * x)


def writes(x):
    namespace(x).maximum(x, 0, out=x)
    return x + 0, lambda g: g


def writes_into_g(x):
    def back(g):
        g *= 2
        return g
    return 2 * x, back


def spends(x):
    y = namespace(x).exp(x)
    def back(g):
        nonlocal y
        y = y * 0.5
        return 2 * g * y
    return y, back


def chance(x):
    return x * tg.random.rng().standard_normal(), lambda g: g


def by_setting(x, *, table):
    table += 1
    return x, lambda g: g


def np_by_name(x):
    y = np.tanh(x)
    return y, lambda g: g * (1 - y * y)


S = some(3, 3)
WRONG = {                                              # (rule, inputs, settings, words of the message)
    "a constant factor": (lambda x: (x * x, lambda g: g * x), (A,),
                          r"the way back of <lambda> gives a wrong gradient for input x \(number 0\): [-\d.]+ at "
                          r"x\[\d, \d\], finite differences give [-\d.]+\n  the worst of 12 wrong places, 12 were "
                          r"compared\n  every number is 0.5 times what it should be"),
    "the sign": (lambda x: (-x, lambda g: g), (A,), "the sign is flipped"),
    "a mean": (lambda x: (x.mean(axis=-1), lambda g: namespace(g).broadcast_to(g.reshape(3, 1), (3, 4))), (A,),
               "4 numbers are averaged or summed: / 4 seems to be missing"),
    "one mean too many": (lambda x: (x.sum(), lambda g: namespace(g).broadcast_to(g / 12, (3, 4))), (A,), "· 12 seems"),
    "a constant": (lambda a, b: (a * b, (lambda g: g * b, lambda g: 0 * a)), (A, 2.0), r"input b \(number 1\): 0 at b, "
                   r"finite[^\0]*all zeros: is this input taken for a constant"),
    "one place": (lambda x: (x * x, lambda g: g * 2 * x + (x == A[1, 2])), (A,), r"at x\[1, 2\][^\0]*worst of 1 wrong"),
    "one of many inputs": (lambda *xs: (sum(xs), tuple(lambda g, i=i: g * (i != 1) for i in range(3))), (A, A, A),
                           r"input xs\[1\] \(number 1\)"),
    "transposed": (lambda a, b: (a @ b, (lambda g: b @ g.swapaxes(0, 1), lambda g: a.swapaxes(0, 1) @ g)), (S, S),
                   "it is transposed"),
    "transposed, not square": (lambda x: (x * 2, lambda g: 2 * g.swapaxes(0, 1)), (A,),
                               r"shape \(4, 3\) for an input of shape \(3, 4\)[^\0]*looks transposed"),
    "summed by itself": (lambda x: (x * 2, lambda g: 2 * g.sum()), (A,),
                         r"gradient of shape \(\) for an input of shape \(3, 4\)"),
    "a gradient forgotten": (lambda a, b: (a * b, (lambda g: g * b,)), (A, A), "2 inputs, its way back gives 1 grad"),
    "a gradient that is None": (lambda a, b: (a * b, (lambda g: g * b, lambda g: None)), (A, A),
                                "gives None for input b"),
    "no way back": (lambda x: x * 2, (A,), "must return two things"),
    "float64 value": (lambda x: (x * np.sqrt(2), lambda g: g * math.sqrt(2)), (A,),
                      "gives float64 for inputs of float32"),
    "float64 gradient": (lambda x: (x * 2, lambda g: g * np.full(x.shape, 2.0)), (A,),
                         r"gives float64 for input x \(number 0\), which is float32"),
    "float32 only": (lambda x: (x * 2, lambda g: (g * 2).astype("float32")), (A,), "float32 for input x .* is float64"),
    "an input written": (writes, (A,), "writes writes into its input x"),
    "g written": (writes_into_g, (A,), "writes into g, on the way back"),
    "what it kept written": (spends, (A,), "gives other numbers the second time"),
    "chance": (chance, (A,), "gives other numbers the second time"),
    "np by name": (np_by_name, (A,), "np_by_name cannot be differentiated twice[^\0]*namespace"),
    "a constant, second time": (lambda x: (x * x, lambda g: g * (2 * np.asarray(x))), (A,),
                                "wrong second derivative for input x[^\0]*taken for a constant"),
    "g a constant, second time": (lambda x: (x * 3, lambda g: 3 * (g.detach() if hasattr(g, "detach") else g)), (A,),
                                  "wrong second derivative for input g"),
    "a kink": (ops.relu, (A * [1, 0, 1, 1],),
               r"no derivative to compare with: at x\[\d, 1\] the slope is .*0 to the left and 0\.\d+ to the right"),
    "outside the domain": (ops.sqrt, (np.zeros(2),), "the value is not finite"),
}


@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value)")       # of the way back of √0, on purpose
@pytest.mark.parametrize("rule, inputs, words", WRONG.values(), ids=WRONG.keys())
def test_check_rule_says_what_is_wrong(rule, inputs, words):
    with pytest.raises(AssertionError, match=words):
        check_rule(rule, *inputs)


def test_check_rule_sees_a_setting_written():
    with pytest.raises(AssertionError, match="by_setting writes into its setting table"):
        check_rule(by_setting, A, table=np.zeros(2))


def test_check_rule_is_silent_when_all_is_well_and_leaves_the_inputs_as_they_were():
    x = A.copy()
    x.flags.writeable = False
    assert check_rule(square, x) is None and check_rule(square, 3) is None and check_rule(square, [1.0, -2]) is None
    assert (x == A).all()


def test_check_rule_finds_a_wrong_number_among_many():
    big = some(20, 30)
    with pytest.raises(AssertionError, match="60 were compared"):
        check_rule(lambda x: (x * x, lambda g: g * namespace(x).where(x.shape[0] > 9, 3 * x, 2 * x)), big)
    check_rule(square, big)


def test_check_rule_follows_functions_of_any_scale():
    check_rule(lambda x: (namespace(x).exp(50 * x), lambda g: 50 * g * namespace(x).exp(50 * x)), A / 10)
    check_rule(ops.log, np.array([1e-3, 1e3]))
    check_rule(ops.relu, np.array([-1e-3, 1e-3]))

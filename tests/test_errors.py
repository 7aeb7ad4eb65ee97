"""Errors for learners: what was asked, of which operands, where in the model, and what to change."""

from types import SimpleNamespace

import numpy as np
import pytest

import tinygrad_tfm as tg
import tinygrad_tfm.functional as F
from tinygrad_tfm.errors import fix, operand


def said(kind, action):
    """The message of the error, and its notes, as they are printed below one another."""
    with pytest.raises(kind) as caught:
        action()
    return "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())])


def ones(*shape, dtype=np.float32, requires_grad=False):
    return tg.Tensor(np.ones(shape, dtype), requires_grad)


def test_an_error_names_the_op_and_every_operand_with_shape_dtype_and_device():
    message = said(ValueError, lambda: ones(2, 3) + ones(4, 5, dtype=np.float64))
    assert message.startswith("add: ")
    assert "a (2, 3) float32 on cpu" in message and "b (4, 5) float64 on cpu" in message


def test_an_error_names_the_settings():
    assert "axis = 7" in said(ValueError, lambda: ones(2, 3).sum(7))
    assert "shape = (4, 2)" in said(ValueError, lambda: ones(2, 3).reshape(4, 2))


def test_operands_of_an_op_that_takes_many_are_numbered():
    message = said(ValueError, lambda: F.concat([ones(2, 3), ones(2, 3), ones(2, 4)]))
    assert "xs[2] (2, 4)" in message


@pytest.mark.parametrize("a, b, hint", [
    ((2, 3), (4, 3), "did you mean a @ b.swapaxes(-1, -2)?"),
    ((3, 2), (3, 4), "did you mean a.swapaxes(-1, -2) @ b?"),
    ((2, 3), (5, 4), "the last axis of a (3) must equal the second to last of b (5)"),
    ((2, 3), (4,), "the last axis of a (3) must equal the only of b (4)"),
    ((5, 2, 3), (4, 3, 2), "the leading axes (5,) and (4,) must be equal or 1"),
], ids=str)
def test_matmul_says_which_axes_clash_and_which_transpose_would_help(a, b, hint):
    message = said(ValueError, lambda: ones(*a) @ ones(*b))
    assert message.startswith("matmul: ") and hint in message


def test_the_transpose_proposed_works():
    a, b = ones(2, 3), ones(4, 3)
    assert "a @ b.swapaxes(-1, -2)" in said(ValueError, lambda: a @ b)
    assert (a @ b.swapaxes(-1, -2)).shape == (2, 4)


def test_broadcasting_names_the_axis_and_the_way_to_give_one_number_a_row():
    assert "axis -1 is 3 and 4" in said(ValueError, lambda: ones(2, 3) * ones(2, 4))
    message = said(ValueError, lambda: ones(2, 3) * ones(2))
    assert "axis -1 is 3 and 2" in message and "[..., None] turns (2,) into (2, 1)" in message
    assert (ones(2, 3) * ones(2)[..., None]).shape == (2, 3)


def test_what_is_no_operand_is_named():
    message = said(TypeError, lambda: ones(2) + "one")
    assert "'one' (str)" in message and "operands are Tensors, arrays or numbers" in message


def test_operands_on_two_devices():
    gpu = SimpleNamespace(shape=(2, 3), dtype=np.dtype("float32"),
                          __array_namespace__=lambda: SimpleNamespace(__name__="cupy"))
    assert operand(gpu) == "(2, 3) float32 on cuda"
    assert "different devices" in fix("add", [np.ones((2, 3)), gpu], {})
    assert ".to('cuda')" in fix("matmul", [gpu, np.ones(3)], {})
    assert fix("add", [gpu, gpu], {}) == ""


def test_a_long_setting_is_cut_short():
    message = said(ValueError, lambda: ones(2, 3).reshape(tuple(range(1, 60))))
    assert max(map(len, message.splitlines()[1:])) < 100 and "..." in message


@pytest.mark.parametrize("call, name", [
    (lambda x: x.sum(dim=0), "axis"), (lambda x: x.mean(axis=0, keepdim=True), "keepdims"),
    (lambda x: x.max(0, keepdim=True), "keepdims"), (lambda x: F.softmax(x, dim=-1), "axis"),
    (lambda x: F.flip(x, dims=(0, 1)), "axis"),
])
def test_another_librarys_name_of_a_setting_is_translated(call, name):
    assert said(TypeError, lambda: call(ones(2, 3))).endswith(f"→ here it is called {name}")


def test_a_name_that_the_op_has_under_no_name_is_not_translated():
    assert "→" not in said(TypeError, lambda: F.relu(ones(2), dim=0))
    assert "→" not in said(TypeError, lambda: ones(2).sum(colour=0))


@pytest.mark.parametrize("key", [{}, {"key": None}], ids=["left out", "None"])
def test_dropout_without_a_key_asks_for_one(key):
    for action in (lambda: F.dropout(ones(2, 3), p=0.5, **key),
                   lambda: F.attention(*[ones(1, 2, 3)] * 3, p=0.5, **key)):
        assert "→ dropping needs a key, the same for the same mask: key=tg.random.new_key()" in said(TypeError, action)


@pytest.mark.parametrize("value", [-0.1, 1.0, 1.5, np.nan])
def test_shares_outside_zero_to_one_are_named(value):
    x = ones(1, 2, 3)
    for action in (lambda: F.dropout(x, p=value, key=1), lambda: F.attention(x, x, x, p=value, key=1)):
        assert f"p must be in 0 ≤ p < 1, not {value}" in said(ValueError, action)
    loss = lambda: F.cross_entropy(ones(1, 3), targets=[1], label_smoothing=value)
    assert f"label_smoothing must be in 0 ≤ label_smoothing < 1, not {value}" in said(ValueError, loss)


def test_an_array_in_an_index_is_shown_by_its_shape():
    message = said(IndexError, lambda: ones(2, 3)[:, np.full(40, 7)])
    assert "index = (slice(None, None, None), (40,) int64 on cpu)" in message


@pytest.mark.parametrize("kind, action", [
    (ValueError, lambda: ones(2) @ ones(3)),
    (IndexError, lambda: ones(2)[5]),
    (TypeError, lambda: F.embedding(ones(2, 3), ids=np.ones(2))),
    (IndexError, lambda: F.embedding(ones(2, 3), ids=np.array([2]))),
    (ValueError, lambda: F.cross_entropy(ones(2, 3), targets=np.array([0, 1, 2]))),
    (IndexError, lambda: F.cross_entropy(ones(2, 3), targets=np.array([0, 3]))),
], ids=["ValueError", "IndexError", "ids", "id", "targets", "target"])
def test_the_kind_of_error_stays_and_its_cause_is_kept(kind, action):
    with pytest.raises(kind) as caught:
        action()
    assert type(caught.value) is kind and isinstance(caught.value.__cause__, kind)


def test_numpys_own_subclasses_of_an_error_are_said_plainly():
    with pytest.raises(ValueError) as caught:
        ones(2, 3).sum(7)                                               # AxisError, which wants other arguments
    assert type(caught.value) is ValueError and "reduce_sum" in str(caught.value)


# ---- where in the model ---------------------------------------------------------------------------------------------

def model():
    tg.manual_seed(0)
    return tg.models.Decoder(tg.models.DecoderConfig(vocab=7, context=6, layers=3, heads=2, width=8))


IDS = np.zeros((1, 4), int)


def notes(kind, action):
    with pytest.raises(kind) as caught:
        action()
    return caught.value.__notes__


def test_an_error_says_in_which_module_of_which_model():
    decoder = model()
    decoder.blocks[2].attention.query.weight = ones(5, 8)
    found = notes(ValueError, lambda: decoder(IDS))
    assert found == ["in the module blocks.2.attention.query (Linear) of Decoder"]        # once, the innermost


def test_an_error_in_the_outermost_module_names_its_class():
    layer = tg.nn.Linear(3, 2)
    assert notes(ValueError, lambda: layer(ones(2, 5))) == ["in the module Linear (Linear) of Linear"]


def test_any_error_learns_where_it_happened_and_stays_itself():
    class Broken(tg.nn.Module):
        def forward(self, x):
            return {}["nothing"]
    whole = tg.nn.Sequential(F.relu, tg.nn.Sequential(Broken()))
    assert notes(KeyError, lambda: whole(ones(2))) == ["in the module steps.1.steps.0 (Broken) of Sequential"]


def test_after_an_error_the_next_call_starts_outside_again():
    layer = tg.nn.Linear(3, 2)
    for _ in range(2):
        assert notes(ValueError, lambda: layer(ones(2, 5))) == ["in the module Linear (Linear) of Linear"]
    assert tg.tensor.scope.get() == ()


def test_a_module_without_forward_says_so():
    class Empty(tg.nn.Module):
        pass
    assert "Empty has no forward" in said(NotImplementedError, lambda: Empty()(1))


def broken(x):
    def back(g):
        raise ArithmeticError("lost the way")
    return x * 2, back


def test_an_error_on_the_way_back_tells_whose_it_was():
    x = ones(2, 3, requires_grad=True)
    y = tg.lift(broken)(x).sum()
    assert notes(ArithmeticError, y.backward) == ["in the gradient of broken, value (2, 3) float32, inputs (2, 3)"]


def test_an_error_on_the_way_back_tells_where_in_the_model():
    decoder = model()
    decoder.blocks[1].feed_forward.activation = tg.lift(broken)
    loss = decoder(IDS).sum()
    assert notes(ArithmeticError, loss.backward) == [
        "in the gradient of broken, value (1, 4, 32) float32, inputs (1, 4, 32), in blocks.1.feed_forward"]


def test_a_gradient_of_the_wrong_shape_names_the_rule_and_both_shapes():
    def careless(x):
        return x * 2, lambda g: g.sum(axis=0)
    message = said(ValueError, tg.lift(careless)(ones(2, 3, requires_grad=True)).sum().backward)
    assert "careless" in message and "(3,)" in message and "(2, 3)" in message

"""Broadcasting and indexing against NumPy, on shapes and indices that nobody thought of."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

import tinygrad_tfm as tg
from tinygrad_tfm import functional as F

modest = settings(deadline=None, derandomize=True, max_examples=60)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
TWO_OPS = {"add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "div": lambda a, b: a / b,
           "power": lambda a, b: a ** b, "maximum": F.maximum, "minimum": F.minimum}


def numbers(shape, seed):
    """Between 1 and 2, so that quotients and powers are tame."""
    return np.random.default_rng([seed, *shape]).uniform(1, 2, shape)


def leaf(x):
    return tg.Tensor(x, requires_grad=True)


@pytest.mark.parametrize("op", TWO_OPS.values(), ids=TWO_OPS.keys())
@modest
@given(shapes=hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, min_side=0, max_side=3))
def test_gradients_of_stretched_inputs_are_those_of_explicit_copies_summed(op, shapes):
    (one, two), full = shapes.input_shapes, shapes.result_shape
    a, b, g = leaf(numbers(one, 0)), leaf(numbers(two, 1)), numbers(full, 2)
    y = op(a, b)
    y.backward(g)
    wide_a, wide_b = (leaf(np.broadcast_to(x.data, full).copy()) for x in (a, b))
    op(wide_a, wide_b).backward(g)
    assert y.shape == full and a.grad.shape == one and b.grad.shape == two
    for x, wide in ((a, wide_a), (b, wide_b)):
        expected = np.zeros(x.shape)
        for place in np.ndindex(*full):                # every copy brings its gradient home
            home = tuple(0 if n == 1 else p for n, p in zip(x.shape, place[len(full) - x.ndim:]))
            expected[home] += wide.grad[place]
        np.testing.assert_allclose(x.grad, expected, rtol=1e-12, atol=1e-12)


@modest
@given(shapes=hnp.mutually_broadcastable_shapes(signature="(n,k),(k,m)->(n,m)", max_dims=2, max_side=3))
def test_matmul_broadcasts_its_leading_axes_as_numpy(shapes):
    a, b, g = (numbers(shape, i) for i, shape in enumerate((*shapes.input_shapes, shapes.result_shape)))
    x, y = leaf(a), leaf(b)
    value = x @ y
    value.backward(g)
    np.testing.assert_allclose(value.numpy(), np.matmul(a, b), rtol=1e-12)
    for tensor, product in ((x, g @ np.swapaxes(b, -1, -2)), (y, np.swapaxes(a, -1, -2) @ g)):
        lead = product.ndim - tensor.ndim
        stretched = tuple(i for i in range(product.ndim)
                          if i < lead or tensor.shape[i - lead] == 1 and product.shape[i] != 1)
        np.testing.assert_allclose(tensor.grad, product.sum(stretched).reshape(tensor.shape), rtol=1e-12)


@modest
@given(shape=SHAPES, data=st.data())
def test_reductions_agree_with_numpy_over_any_axes(shape, data):
    axis = data.draw(st.none() | hnp.valid_tuple_axes(len(shape), min_size=1) if shape else st.none())
    keepdims, x = data.draw(st.booleans()), leaf(numbers(shape, 0))
    y = x.sum(axis=axis, keepdims=keepdims)
    expected = np.sum(x.data, axis=axis, keepdims=keepdims)
    g = numbers(y.shape, 1)
    y.backward(g)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-12)
    laid_out = g if keepdims or axis is None else np.expand_dims(g, tuple(a % len(shape) for a in axis))
    np.testing.assert_array_equal(x.grad, np.broadcast_to(laid_out, shape))


@st.composite
def indexed(draw):
    """A shape and an index into it: slices, integers, None and "...", or integer arrays, or a boolean mask."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4))
    kind = draw(st.sampled_from(["basic", "integers", "mask", "mixed"]))
    if kind == "basic":
        return shape, draw(hnp.basic_indices(shape, allow_newaxis=True))
    if kind == "integers":
        return shape, draw(hnp.integer_array_indices(shape, result_shape=hnp.array_shapes(max_dims=2, max_side=4)))
    if kind == "mask":
        return shape, draw(hnp.arrays(bool, shape[:draw(st.integers(1, len(shape)))]))
    rows = draw(hnp.arrays(int, draw(st.integers(0, 4)), elements=st.integers(-shape[0], shape[0] - 1)))
    return shape, (rows, *(draw(st.slices(n)) for n in shape[1:draw(st.integers(1, len(shape)))]))


@settings(modest, max_examples=250)
@given(indexed())
def test_indexing_fetches_as_numpy_and_puts_gradients_where_numbers_came_from(case):
    shape, index = case
    x = leaf(numbers(shape, 0))
    y, expected = x[index], x.data[index]
    np.testing.assert_array_equal(y.numpy(), expected)
    g, placed = numbers(y.shape, 1), np.zeros(shape)
    y.backward(g)
    np.add.at(placed, index, g)
    np.testing.assert_allclose(x.grad, placed, rtol=1e-12)


@modest
@given(indexed())
def test_the_second_derivative_goes_through_an_index(case):
    shape, index = case
    x = numbers(shape, 0)
    found = tg.grad(lambda x: (tg.grad(lambda x: (x[index] ** 3.0).sum())(x) ** 2.0).sum())(x).numpy()
    times = np.zeros(shape)                            # Σ over (3·n·x²)² where x stands n times in the value
    np.add.at(times, index, 1.0)
    np.testing.assert_allclose(found, 36 * times ** 2 * x ** 3, rtol=1e-10, atol=1e-12)


@modest
@given(shape=SHAPES, data=st.data())
def test_moves_can_be_undone_and_so_can_their_gradients(shape, data):
    axes = tuple(data.draw(st.permutations(range(len(shape)))))
    x = leaf(numbers(shape, 0))
    y = x.transpose(axes).reshape(-1).reshape([shape[a] for a in axes]).transpose(np.argsort(axes).tolist())
    y = F.flip(F.flip(y, axis=0), axis=0) if shape else y
    g = numbers(shape, 1)
    y.backward(g)
    np.testing.assert_array_equal(y.numpy(), x.data)
    np.testing.assert_array_equal(x.grad, g)

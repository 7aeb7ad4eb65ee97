"""Modules: weights are found wherever they stand, and every layer computes what its formula says, both ways."""

import math
import pickle

import numpy as np
import pytest

import tinygrad_tfm as tg
import tinygrad_tfm.functional as F
from tinygrad_tfm import nn


@pytest.fixture(autouse=True)
def seed():
    tg.manual_seed(0)


def normal(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape)


def leaf(*shape):
    return tg.Tensor(normal(*shape), requires_grad=True)


def double(module):
    """In float64, and with no weight at 0 or 1, where a wrong formula may hide."""
    rng = np.random.default_rng(1)
    module.to(dtype="float64")
    for _, x in module.named_tensors():
        x.data += 0.3 * rng.standard_normal(x.shape)
    return module


def assert_gradients(module, run, *inputs):
    """The gradients of weights and inputs against finite differences of Σ y·c, c random, entry by entry."""
    rng = np.random.default_rng(2)
    c = rng.standard_normal(run(*inputs).shape)
    objective = lambda: (run(*inputs) * c).sum()
    objective().backward()
    named = {**{f"input {i}": x for i, x in enumerate(inputs)}, **dict(module.named_parameters())}
    for name, x in named.items():
        flat = x.data.reshape(-1)
        for i in rng.permutation(flat.size)[:12]:
            h, before = 1e-6, flat[i]
            with tg.no_grad():
                flat[i] = before + h
                up = objective().item()
                flat[i] = before - h
                down = objective().item()
            flat[i] = before
            assert x.grad.reshape(-1)[i] == pytest.approx((up - down) / (2 * h), rel=1e-5, abs=1e-7), (name, i)


# ---- finding weights ------------------------------------------------------------------------------------------------

class Everything(nn.Module):
    """Weights in every place a learner may put them."""

    def __init__(self):
        self.first = nn.Linear(2, 3)
        self.listed = [nn.Linear(3, 3, bias=False), (nn.LayerNorm(3), nn.init.zeros(1))]
        self.named = {"a": nn.Embedding(4, 3), "b": {"deep": nn.init.ones(2)}}
        self.text, self.number, self.nothing, self.function = "no weight", 3, None, F.relu
        self.array = np.ones(3)
        self.last = nn.init.zeros(2)
        self.buffer = tg.Tensor([1.0])


NAMES = ["first.weight", "first.bias", "listed.0.weight", "listed.1.0.gain", "listed.1.0.bias", "listed.1.1",
         "named.a.weight", "named.b.deep", "last"]


def test_weights_are_found_in_attributes_lists_tuples_and_dicts_in_the_order_they_were_made():
    model = Everything()
    assert [name for name, _ in model.named_parameters()] == NAMES
    assert [name for name, _ in model.named_tensors()] == [*NAMES, "buffer"]
    assert [name for name, _ in model.named_modules()] == ["", "first", "listed.0", "listed.1.0", "named.a"]
    assert all(a is b for a, (_, b) in zip(model.parameters(), model.named_parameters(), strict=True))
    assert model.size() == sum(p.size for p in model.parameters()) == 6 + 3 + 9 + 3 + 3 + 1 + 12 + 2 + 2
    assert repr(model) == "Everything(41 parameters)"


def test_a_list_of_layers_that_grows_is_seen():
    model = nn.Sequential(nn.Linear(2, 2))
    model.steps.append(nn.Linear(2, 1))
    assert len(model.parameters()) == 4 and model(leaf(3, 2)).shape == (3, 1)


def test_a_tied_weight_is_found_once_under_its_first_name():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert [name for name, _ in model.named_parameters()] == ["steps.0.weight", "steps.0.bias", "steps.1.bias"]
    same = nn.Linear(2, 2)
    assert len(nn.Sequential(same, F.relu, same).parameters()) == 2


def test_modules_that_hold_each_other_are_walked_once():
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    a.friend, b.friend = b, a
    assert [name for name, _ in a.named_parameters()] == ["weight", "bias", "friend.weight", "friend.bias"]


@pytest.mark.parametrize("place", [lambda x: {x}, lambda x: frozenset({x}), lambda x: [{"deep": {x, 1}}]],
                         ids=["set", "frozenset", "deep"])
@pytest.mark.parametrize("what", [nn.Linear, nn.init.zeros], ids=["module", "tensor"])
def test_a_set_has_no_order_and_may_hold_no_weights(place, what):
    model = nn.Linear(2, 2)
    model.extra = place(what(1, 1))
    with pytest.raises(TypeError, match="^extra.* is a set, which has no order: put tensors and modules into a list"):
        model.parameters()


def test_a_set_without_weights_is_nobodys_business():
    model = nn.Linear(2, 2)
    model.words, model.nothing = {"a", 1}, set()
    assert len(model.parameters()) == 2


def test_frozen_weights_are_no_parameters_but_are_saved():
    model = nn.Linear(2, 3)
    model.bias.requires_grad = False
    assert [name for name, _ in model.named_parameters()] == ["weight"] and model.size() == 6
    assert set(model.state_dict()) == {"weight", "bias"}


def test_zero_grad_forgets_all():
    model = nn.Linear(2, 3)
    model(leaf(4, 2)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_train_and_eval_reach_every_module():
    model = Everything()
    modules = [m for _, m in model.named_modules()]
    assert all(m.training for m in modules)
    assert model.eval() is model and not any(m.training for m in modules)
    assert model.train() is model and all(m.training for m in modules)
    assert nn.Linear(1, 1).training                                     # of one model only


def test_path_of_a_module():
    model = Everything()
    assert model.path_to(model.listed[1][0]) == "listed.1.0" and model.path_to(nn.LayerNorm(2)) == "LayerNorm"


# ---- saving, loading, moving ----------------------------------------------------------------------------------------

def test_a_state_goes_out_and_comes_back():
    model, other = Everything(), Everything()
    state = model.state_dict()
    assert list(state) == [*NAMES, "buffer"] and all(type(a) is np.ndarray for a in state.values())
    model.first.weight.data[:] = 7                                      # the state is a copy
    assert not (state["first.weight"] == 7).any()
    arrays = [x.data for _, x in other.named_tensors()]
    other.load_state_dict(state)
    for (name, x), before in zip(other.named_tensors(), arrays, strict=True):
        assert np.array_equal(x.data, state[name])
        assert x.data is before                                         # written into: whoever holds the array sees it


def test_a_model_can_be_pickled_with_the_functions_it_holds():
    model, x = nn.Sequential(nn.FeedForward(3), F.tanh, nn.LayerNorm(3)), leaf(2, 3)
    again = pickle.loads(pickle.dumps(model))
    assert again[0].activation is F.gelu and np.array_equal(again(x).data, model(x).data)


def test_loading_keeps_the_precision_of_the_model():
    model = nn.Linear(2, 2).to(dtype="float64")
    model.load_state_dict(nn.Linear(2, 2).state_dict())
    assert model.weight.dtype == np.float64


def test_all_that_does_not_fit_is_listed_and_nothing_is_changed():
    model = Everything()
    before = model.state_dict()
    state = {name: a + 1 for name, a in before.items()}
    del state["last"], state["first.bias"]
    state |= {"extra": np.ones(1), "first.weight": np.ones((3, 2)), "named.b.deep": np.ones(())}
    with pytest.raises(ValueError) as caught:
        model.load_state_dict(state)
    message = str(caught.value)
    for part in ("this Everything", "missing: first.bias", "missing: last", "unknown: extra",
                 "first.weight has shape (2, 3) here and (3, 2) there",
                 "named.b.deep has shape (2,) here and () there"):
        assert part in message
    assert all(np.array_equal(a, before[name]) for name, a in model.state_dict().items())


def test_to_a_precision_and_back():
    model = Everything()
    model.first(leaf(2, 2)).sum().backward()
    assert model.to(dtype="float64") is model
    assert all(x.dtype == np.float64 for _, x in model.named_tensors())
    assert [name for name, _ in model.named_parameters()] == NAMES
    assert model.first.weight.grad is None                              # it had the old precision
    y = model.first(leaf(2, 2))
    y.sum().backward()
    assert y.dtype == model.first.weight.grad.dtype == np.float64
    assert model.to("cpu").to(dtype="float32").first.weight.dtype == np.float32


def test_to_a_device_there_is_none_of():
    with pytest.raises(ValueError, match="'cpu', 'cuda' or 'auto'"):
        nn.Linear(1, 1).to("tpu")


def test_a_tied_weight_stays_tied_when_moved():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model.to(dtype="float64")
    assert model[0].weight is model[1].weight and len(model.parameters()) == 3


# ---- the small layers -----------------------------------------------------------------------------------------------

def test_linear():
    layer, x = double(nn.Linear(3, 2)), leaf(4, 5, 3)
    np.testing.assert_allclose(layer(x).data, x.data @ layer.weight.data + layer.bias.data, rtol=1e-13)
    assert_gradients(layer, layer, x)
    bare = nn.Linear(3, 2, bias=False)
    assert bare.bias is None and [n for n, _ in bare.named_tensors()] == ["weight"]


@pytest.mark.formula("F20")
def test_xavier_bounds_and_variance():
    w = nn.init.xavier(200, 300).data
    bound = math.sqrt(6 / 500)
    assert abs(w).max() <= bound and abs(w).max() > 0.999 * bound
    assert w.var() == pytest.approx(2 / 500, rel=0.02) and abs(w.mean()) < 3 * math.sqrt(2 / 500 / w.size)
    layer = nn.Linear(200, 300)
    assert abs(layer.weight.data).max() <= bound and not layer.bias.data.any() and layer.weight.dtype == np.float32


@pytest.mark.formula("F20")
def test_xavier_keeps_the_variance_through_many_layers():
    x = tg.Tensor(np.random.default_rng(0).standard_normal((200, 256)), dtype="float32")
    for _ in range(10):
        x = nn.Linear(256, 256)(x)
    assert 0.7 < x.data.var() < 1.4


def test_embedding_takes_rows_and_gives_each_the_gradients_of_its_places():
    layer = double(nn.Embedding(5, 3))
    ids = np.array([[0, 4, 4], [1, 4, 0]])
    assert np.array_equal(layer(ids).data, layer.weight.data[ids])
    for same in (tg.Tensor(ids), ids.tolist()):
        assert np.array_equal(layer(same).data, layer.weight.data[ids])
    assert_gradients(layer, lambda: layer(ids))
    assert not layer.weight.grad[2:4].any()


@pytest.mark.parametrize("ids, kind", [([5], IndexError), ([-1], IndexError), ([0.0], TypeError)], ids=str)
def test_embedding_refuses_what_has_no_row(ids, kind):
    with pytest.raises(kind):
        nn.Embedding(5, 3)(np.array(ids))


@pytest.mark.formula("F19")
def test_embedding_scaled_by_the_root_of_the_width():
    plain, scaled = nn.Embedding(50, 64), nn.Embedding(50, 64, scale=True)
    ids = np.arange(50)
    np.testing.assert_allclose(scaled(ids).data, scaled.weight.data * 8, rtol=1e-6)
    assert np.array_equal(plain(ids).data, plain.weight.data)
    assert scaled(ids).data.std() == pytest.approx(1, rel=0.05)         # as large as the positions added to it
    assert plain(ids).data.std() == pytest.approx(0.02, rel=0.05)


def test_unembedding_uses_the_same_table():
    layer, x = double(nn.Embedding(5, 3)), leaf(2, 4, 3)
    np.testing.assert_allclose(layer.unembed(x).data, x.data @ layer.weight.data.T, rtol=1e-13)
    assert_gradients(layer, layer.unembed, x)


@pytest.mark.formula("F4")
@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm(bias):
    layer, x = double(nn.LayerNorm(6, bias=bias, eps=1e-3)), leaf(2, 3, 6)
    mean, var = x.data.mean(-1, keepdims=True), x.data.var(-1, keepdims=True)
    expected = (x.data - mean) / np.sqrt(var + 1e-3) * layer.gain.data + (layer.bias.data if bias else 0)
    np.testing.assert_allclose(layer(x).data, expected, rtol=1e-12)
    assert_gradients(layer, layer, x)


@pytest.mark.formula("F4")
def test_layer_norm_starts_with_mean_zero_and_variance_one():
    y = nn.LayerNorm(64)(tg.Tensor(5 + 3 * normal(4, 64), dtype="float32")).data
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(y.var(-1), 1, rtol=1e-4)


def test_rms_norm():
    layer, x = double(nn.RMSNorm(6, eps=1e-3)), leaf(2, 3, 6)
    expected = x.data / np.sqrt((x.data ** 2).mean(-1, keepdims=True) + 1e-3) * layer.gain.data
    np.testing.assert_allclose(layer(x).data, expected, rtol=1e-12)
    assert_gradients(layer, layer, x)


def test_dropout_zeroes_a_share_and_scales_the_rest_while_training_only():
    layer, x = nn.Dropout(0.3), tg.Tensor(np.ones((300, 300), np.float32), requires_grad=True)
    y = layer(x)
    kept = y.data != 0
    assert abs(kept.mean() - 0.7) < 5 * math.sqrt(0.21 / kept.size)
    np.testing.assert_allclose(y.data[kept], 1 / 0.7, rtol=1e-6)
    y.sum().backward()
    assert np.array_equal(x.grad, y.data)                               # the same mask both ways
    assert not np.array_equal(layer(x).data, y.data)                    # and another one next time
    assert layer.eval()(x) is x and nn.Dropout(0.0)(x) is x


def test_the_seed_decides_the_dropout():
    x, layer, found = tg.Tensor(np.ones(100)), nn.Dropout(0.5), []
    for _ in range(2):
        tg.manual_seed(3)
        found.append(layer(x).data)
    assert np.array_equal(*found)


def test_sequential_takes_modules_and_functions():
    model = double(nn.Sequential(nn.Linear(3, 4), F.tanh, nn.Linear(4, 2)))
    x = leaf(5, 3)
    a, b = model[0], model[2]
    np.testing.assert_allclose(model(x).data, np.tanh(x.data @ a.weight.data + a.bias.data) @ b.weight.data
                               + b.bias.data, rtol=1e-12)
    assert list(model)[1] is F.tanh and nn.Sequential()(x) is x
    assert_gradients(model, model, x)


@pytest.mark.formula("F3")
def test_feed_forward():
    layer, x = double(nn.FeedForward(3, 7, activation=F.relu)), leaf(2, 4, 3)
    up, down = layer.up, layer.down
    expected = np.maximum(0, x.data @ up.weight.data + up.bias.data) @ down.weight.data + down.bias.data
    np.testing.assert_allclose(layer(x).data, expected, rtol=1e-12)
    assert_gradients(layer, layer, x)
    assert nn.FeedForward(3).up.weight.shape == (3, 12) and nn.FeedForward(3, bias=False).up.bias is None


@pytest.mark.formula("F3")
@pytest.mark.parametrize("activation", [F.gelu, F.gelu_tanh, F.silu, F.tanh], ids=lambda f: f.__name__)
def test_feed_forward_with_other_activations(activation):
    layer, x = double(nn.FeedForward(3, 5, activation=activation)), leaf(2, 3)
    assert_gradients(layer, layer, x)


def test_feed_forward_drops_its_result():
    layer = nn.FeedForward(8, dropout=0.5)
    assert (layer(leaf(50, 8)).data == 0).mean() > 0.3 and not (layer.eval()(leaf(50, 8)).data == 0).any()


@pytest.mark.parametrize("make, word", [
    (lambda: nn.Linear(0, 2), "inputs"), (lambda: nn.Linear(2, -1), "outputs"), (lambda: nn.Linear(2.0, 1), "inputs"),
    (lambda: nn.Linear(True, 1), "inputs"), (lambda: nn.Embedding(0, 2), "count"), (lambda: nn.LayerNorm(0), "width"),
    (lambda: nn.RMSNorm(0), "width"), (lambda: nn.Dropout(1.0), "Dropout: p"), (lambda: nn.Dropout(-0.1), "Dropout: p"),
    (lambda: nn.Dropout(math.nan), "Dropout: p"), (lambda: nn.FeedForward(4, 0), "outputs"),
    (lambda: nn.LearnedPositions(0, 4), "context"), (lambda: nn.SinusoidalPositions(4, 0), "width"),
    (lambda: nn.Attention(8, 0), "heads"), (lambda: nn.Attention(8, 2, dropout=2.0), "Attention: dropout"),
    (lambda: nn.Block(nn.Linear(1, 1), nn.Linear(1, 1), []), "2 steps need as many norms, 0"),
])
def test_sizes_that_cannot_be_are_refused_by_name(make, word):
    with pytest.raises(ValueError, match=word):
        make()


def test_sizes_may_be_numpys_integers():
    sizes = np.array([2, 3])
    assert nn.Linear(*sizes)(leaf(4, 2)).shape == (4, 3) and nn.LayerNorm(sizes.max()).gain.shape == (3,)


# ---- attention ------------------------------------------------------------------------------------------------------

def by_hand(layer, x, memory=None, mask=None, causal=False):
    """Attention in plain loops over batch and heads, from the formulas of the paper."""
    memory = x if memory is None else memory
    weight = lambda part: (part.weight.data, 0 if part.bias is None else part.bias.data)
    q, k, v = (y @ w + b for y, (w, b) in zip((x, memory, memory), map(weight, (layer.query, layer.key, layer.value))))
    B, T, D = q.shape
    S, K = k.shape[1], D // layer.heads
    mask = np.broadcast_to(True if mask is None else mask, (B, layer.heads, T, S))
    out, patterns = np.zeros((B, T, D)), np.zeros((B, layer.heads, T, S))
    for b in range(B):
        for h in range(layer.heads):
            part = slice(h * K, (h + 1) * K)
            for i in range(T):
                seen = [j for j in range(S) if mask[b, h, i, j] and (not causal or j <= i + S - T)]
                if seen:
                    e = np.exp([q[b, i, part] @ k[b, j, part] / math.sqrt(K) for j in seen])
                    patterns[b, h, i, seen] = e / e.sum()
                out[b, i, part] = patterns[b, h, i] @ v[b, :, part]
    w, b = weight(layer.out)
    return out @ w + b, patterns


def masks(T, S):
    rng = np.random.default_rng(3)
    lower = np.tril(np.ones((T, S), bool))
    return {"none": None, "(T, S)": lower, "(S,)": np.arange(S) != 1, "(B, 1, 1, S)": rng.random((2, 1, 1, S)) < 0.6,
            "(H, 1, S)": rng.random((2, 1, S)) < 0.6, "(B, H, T, S)": rng.random((2, 2, T, S)) < 0.5,
            "(T, 1)": (np.arange(T) != 2)[:, None], "Tensor": tg.Tensor(lower)}


@pytest.mark.formula("F2")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", list(masks(1, 1)))
def test_attention_equals_loops_for_any_mask(name, causal):
    layer, x = double(nn.Attention(6, 2)), leaf(2, 5, 6)
    mask = masks(5, 5)[name]
    expected, pattern = by_hand(layer, x.data, mask=None if mask is None else np.asarray(mask), causal=causal)
    np.testing.assert_allclose(layer(x, mask=mask, causal=causal).data, expected, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(layer.pattern(x, mask=mask, causal=causal), pattern, rtol=1e-10, atol=1e-13)
    assert_gradients(layer, lambda x: layer(x, mask=mask, causal=causal), x)


@pytest.mark.formula("F1")
def test_one_head_is_the_formula():
    q, k, v = leaf(1, 4, 3), leaf(1, 5, 3), leaf(1, 5, 2)
    scores = q.data @ k.data.swapaxes(1, 2) / math.sqrt(3)
    e = np.exp(scores)
    np.testing.assert_allclose(F.attention(q, k, v).data, e / e.sum(-1, keepdims=True) @ v.data, rtol=1e-12)


@pytest.mark.formula("F1")
def test_the_lectures_cat_on_the_mat():
    q = np.array([0.2, 0.8, 0.1, 0.1])                                  # only its products with the keys are given
    products = np.array([0.30, 0.96, 0.10, 0.00, 0.30, 0.20])
    k = np.outer(products, q) / (q @ q)
    pattern = nn.attention.ops.network.attention_pattern(q[None], k, scale=1 / math.sqrt(4))
    np.testing.assert_allclose(pattern[0], [.164, .228, .148, .141, .164, .156], atol=6e-4)


def test_cross_attention_looks_at_the_memory():
    layer, x, memory, values = double(nn.Attention(6, 3)), leaf(2, 4, 6), leaf(2, 7, 6), leaf(2, 7, 6)
    expected, pattern = by_hand(layer, x.data, memory.data)
    np.testing.assert_allclose(layer(x, memory).data, expected, rtol=1e-10)
    np.testing.assert_allclose(layer.pattern(x, memory), pattern, rtol=1e-10)
    assert layer(x, memory).shape == (2, 4, 6) and pattern.shape == (2, 3, 4, 7)
    assert_gradients(layer, lambda x, memory, values: layer(x, memory, values), x, memory, values)


@pytest.mark.formula("F9")
@pytest.mark.parametrize("twins", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_query_that_may_look_nowhere_gives_zeros_and_never_nan(dtype, twins):
    layer = nn.Attention(4, 2, bias=False).to(dtype=dtype)
    x = tg.Tensor(normal(2, 5, 4), requires_grad=True, dtype=dtype)
    mask = np.ones((2, 1, 5, 5), bool)
    mask[0, :, 3] = False
    mask[1] = False
    with tg.fused(twins), tg.watch.find_nan():
        y = layer(x, mask=mask)
        (y * y).sum().backward()
    assert not y.data[0, 3].any() and not y.data[1].any() and y.data[0, [0, 1, 2, 4]].all()
    assert not x.grad[1].any() and x.grad[0].any()
    pattern = layer.pattern(x, mask=mask)
    assert not pattern[0, :, 3].any() and not pattern[1].any()
    np.testing.assert_allclose(pattern[0, :, [0, 1, 2, 4]].sum(-1), 1, rtol=1e-6)


@pytest.mark.formula("F9")
def test_what_a_mask_hides_has_no_influence_however_loud():
    layer, x = double(nn.Attention(4, 2)), normal(1, 5, 4)
    mask = np.arange(5) != 4
    quiet = layer(tg.Tensor(x), mask=mask).data
    x[0, 4] = 1e4
    assert np.array_equal(layer(tg.Tensor(x), mask=mask).data[0, :4], quiet[0, :4])


@pytest.mark.formula("F9")
def test_causal_attention_sees_the_past_and_itself():
    layer = nn.Attention(4, 2)
    pattern = layer.pattern(tg.Tensor(normal(1, 6, 4), dtype="float32"), causal=True)
    assert np.array_equal(pattern[0, 0] > 0, np.tril(np.ones((6, 6), bool)))
    np.testing.assert_allclose(pattern.sum(-1), 1, rtol=1e-6)


def test_the_pattern_is_seen_before_dropout_and_leaves_no_graph():
    layer = nn.Attention(4, 2, dropout=0.5)
    x = tg.Tensor(normal(2, 6, 4), requires_grad=True, dtype="float32")
    assert layer.training
    pattern = layer.pattern(x)
    np.testing.assert_allclose(pattern.sum(-1), 1, rtol=1e-6)
    assert (pattern > 0).all() and type(pattern) is np.ndarray
    assert np.array_equal(layer.eval().pattern(x), pattern)


def test_dropout_in_attention_acts_while_training_only():
    layer, x = nn.Attention(8, 2, dropout=0.5), tg.Tensor(normal(2, 6, 8), dtype="float32")
    assert not np.array_equal(layer(x).data, layer(x).data)
    assert np.array_equal(layer.eval()(x).data, layer(x).data)


def test_dropout_in_attention_has_the_right_gradient():
    layer, x = double(nn.Attention(4, 2, dropout=0.4)), leaf(2, 5, 4)

    def run(x):
        tg.manual_seed(5)                                               # the same mask each time
        return layer(x)
    assert_gradients(layer, run, x)


@pytest.mark.parametrize("pieces", [[6], [1] * 6, [3, 1, 2]], ids=str)
def test_a_cache_fed_in_pieces_gives_what_the_whole_gives(pieces):
    layer, x = double(nn.Attention(4, 2)), tg.Tensor(normal(2, 6, 4))
    whole = layer(x, causal=True).data
    cache, found, start = nn.KVCache(6), [], 0
    with tg.no_grad():
        for n in pieces:
            found.append(layer(x[:, start:start + n], causal=True, cache=cache).data)
            start += n
    assert cache.length == 6
    np.testing.assert_allclose(np.concatenate(found, axis=1), whole, rtol=1e-10)


def test_a_cache_where_gradients_are_recorded_would_lose_some():
    layer, x = nn.Attention(4, 2), tg.Tensor(normal(1, 3, 4), dtype="float32")
    with pytest.raises(RuntimeError, match=r"no_grad\(\)"):
        layer(x, cache=nn.KVCache(4))
    for p in layer.parameters():
        p.requires_grad = False
    assert layer(x, cache=nn.KVCache(4)).shape == (1, 3, 4)


def test_a_cache_holds_what_was_put_in_and_says_when_it_is_full():
    cache, k, v = nn.KVCache(4), normal(2, 2, 3, 5), normal(2, 2, 3, 6)[..., :5]
    cache.append(k[:, :, :1], v[:, :, :1])
    keys, values = cache.append(k[:, :, 1:], v[:, :, 1:])
    assert np.array_equal(keys, k) and np.array_equal(values, v) and keys.base is cache.keys
    with pytest.raises(ValueError, match="room for 4 positions, 6 are needed"):
        cache.append(k, v)
    assert cache.length == 3


@pytest.mark.parametrize("width, heads, near", [(10, 4, "8 or 12"), (3, 4, "4 would be"), (7, 2, "6 or 8")])
def test_a_width_the_heads_do_not_divide_names_widths_they_do(width, heads, near):
    with pytest.raises(ValueError, match=f"width {width} is not divisible by {heads} heads; {near}"):
        nn.Attention(width, heads)


def test_attention_without_bias_has_four_weights():
    assert [n for n, _ in nn.Attention(4, 2, bias=False).named_parameters()] == [
        "query.weight", "key.weight", "value.weight", "out.weight"]


@pytest.mark.formula("F2")
@pytest.mark.oracle
@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_pytorchs(torch, causal):
    layer, x = double(nn.Attention(6, 2)), leaf(2, 5, 6)
    theirs = torch.nn.MultiheadAttention(6, 2, batch_first=True, dtype=torch.float64)
    parts = [layer.query, layer.key, layer.value]
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.tensor(np.concatenate([p.weight.data.T for p in parts])))
        theirs.in_proj_bias.copy_(torch.tensor(np.concatenate([p.bias.data for p in parts])))
        theirs.out_proj.weight.copy_(torch.tensor(layer.out.weight.data.T.copy()))
        theirs.out_proj.bias.copy_(torch.tensor(layer.out.bias.data))
    z = torch.tensor(x.data, requires_grad=True)
    hidden = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1) if causal else None        # theirs is True where hidden
    expected, weights = theirs(z, z, z, attn_mask=hidden, average_attn_weights=False)
    y = layer(x, causal=causal)
    np.testing.assert_allclose(y.data, expected.detach(), rtol=1e-10)
    np.testing.assert_allclose(layer.pattern(x, causal=causal), weights.detach(), rtol=1e-10)
    (y ** 2).sum().backward()
    (expected ** 2).sum().backward()
    np.testing.assert_allclose(x.grad, z.grad, rtol=1e-9)
    found = np.concatenate([p.weight.grad.T for p in parts])
    np.testing.assert_allclose(found, theirs.in_proj_weight.grad, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(layer.out.weight.grad.T, theirs.out_proj.weight.grad, rtol=1e-9)


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["Linear", "LayerNorm", "RMSNorm", "Embedding"])
def test_a_layer_is_pytorchs(torch, name):
    sizes = (5, 4) if name == "Embedding" else (4, 3) if name == "Linear" else (4,)
    mine = double(getattr(nn, name)(*sizes))
    eps = {"eps": mine.eps} if hasattr(mine, "eps") else {}
    theirs = getattr(torch.nn, name)(*sizes, dtype=torch.float64, **eps)
    weight = mine.gain if hasattr(mine, "gain") else mine.weight
    flip = (lambda a: a.T) if name == "Linear" else (lambda a: a)
    with torch.no_grad():
        theirs.weight.copy_(torch.tensor(np.ascontiguousarray(flip(weight.data))))
        if hasattr(mine, "bias"):
            theirs.bias.copy_(torch.tensor(mine.bias.data))
    x = np.array([[0, 4, 4], [1, 0, 2]]) if name == "Embedding" else normal(2, 3, 4)
    y, z = mine(tg.Tensor(x)), theirs(torch.tensor(x))
    np.testing.assert_allclose(y.data, z.detach(), rtol=1e-12)
    (y ** 3).sum().backward()
    (z ** 3).sum().backward()
    np.testing.assert_allclose(flip(weight.grad), theirs.weight.grad, rtol=1e-10)
    if hasattr(mine, "bias"):
        np.testing.assert_allclose(mine.bias.grad, theirs.bias.grad, rtol=1e-10)


# ---- blocks ---------------------------------------------------------------------------------------------------------

@pytest.mark.formula("F7")
@pytest.mark.parametrize("pre_norm", [True, False])
def test_an_encoder_block_is_its_formula(pre_norm):
    block, x = double(nn.EncoderBlock(4, 2, 6, pre_norm=pre_norm)), leaf(2, 3, 4)
    first, second = block.norms
    mask = np.array([[True, True, False]] * 3)
    if pre_norm:
        h = x + block.attention(first(x), mask=mask)
        expected = h + block.feed_forward(second(h))
    else:
        h = first(x + block.attention(x, mask=mask))
        expected = second(h + block.feed_forward(h))
    assert np.array_equal(block(x, mask=mask).data, expected.data)
    assert_gradients(block, lambda x: block(x, mask=mask), x)


@pytest.mark.formula("F7")
@pytest.mark.parametrize("pre_norm", [True, False])
def test_a_decoder_block_is_its_formula(pre_norm):
    block, x, memory = double(nn.DecoderBlock(4, 2, pre_norm=pre_norm)), leaf(2, 3, 4), leaf(2, 5, 4)
    a, b, c = block.norms
    hidden = np.arange(5) < 4
    if pre_norm:
        h = x + block.attention(a(x), causal=True)
        h = h + block.cross(b(h), memory, mask=hidden)
        expected = h + block.feed_forward(c(h))
    else:
        h = a(x + block.attention(x, causal=True))
        h = b(h + block.cross(h, memory, mask=hidden))
        expected = c(h + block.feed_forward(h))
    run = lambda x, memory: block(x, memory, causal=True, memory_mask=hidden)
    assert np.array_equal(run(x, memory).data, expected.data)
    assert_gradients(block, run, x, memory)
    assert not memory.grad[:, 4].any() and memory.grad[:, :4].all()


@pytest.mark.formula("F7")
@pytest.mark.oracle
@pytest.mark.parametrize("pre_norm", [True, False])
def test_an_encoder_block_is_pytorchs(torch, pre_norm):
    block, x = double(nn.EncoderBlock(4, 2, 6, pre_norm=pre_norm)), leaf(2, 3, 4)
    theirs = torch.nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, activation="gelu", norm_first=pre_norm,
                                              batch_first=True, dtype=torch.float64)
    attention, ff = block.attention, block.feed_forward
    parts = [attention.query, attention.key, attention.value]
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(torch.tensor(np.concatenate([p.weight.data.T for p in parts])))
        theirs.self_attn.in_proj_bias.copy_(torch.tensor(np.concatenate([p.bias.data for p in parts])))
        for a, b in ((theirs.self_attn.out_proj, attention.out), (theirs.linear1, ff.up), (theirs.linear2, ff.down)):
            a.weight.copy_(torch.tensor(b.weight.data.T.copy()))
            a.bias.copy_(torch.tensor(b.bias.data))
        for a, b in ((theirs.norm1, block.norms[0]), (theirs.norm2, block.norms[1])):
            a.weight.copy_(torch.tensor(b.gain.data))
            a.bias.copy_(torch.tensor(b.bias.data))
    z = torch.tensor(x.data, requires_grad=True)
    y, expected = block(x), theirs(z)
    np.testing.assert_allclose(y.data, expected.detach(), rtol=1e-10)
    (y ** 3).sum().backward()
    (expected ** 3).sum().backward()
    np.testing.assert_allclose(x.grad, z.grad, rtol=1e-8, atol=1e-11)
    np.testing.assert_allclose(ff.up.weight.grad.T, theirs.linear1.weight.grad, rtol=1e-8, atol=1e-11)


@pytest.mark.formula("F6")
def test_a_residual_adds_one_to_the_derivative():
    f = double(nn.FeedForward(3, 5, activation=F.tanh))
    x = leaf(3)
    jacobian = lambda run: np.array([tg.grad(lambda x, i=i: run(x)[i])(x).data for i in range(3)])
    np.testing.assert_allclose(jacobian(lambda x: x + f(x)), np.eye(3) + jacobian(f), rtol=1e-12, atol=1e-14)


@pytest.mark.formula("F6")
def test_the_gradient_passes_a_block_whose_steps_write_nothing():
    block, x = nn.EncoderBlock(4, 2).to(dtype="float64"), leaf(2, 3, 4)
    for step in (block.attention.out, block.feed_forward.down):
        step.weight.data[:] = 0
    g = normal(2, 3, 4)
    y = block(x)
    y.backward(g)
    assert np.array_equal(y.data, x.data) and np.array_equal(x.grad, g)


def test_blocks_take_other_parts():
    norm = nn.RMSNorm
    block = nn.EncoderBlock(4, 2, norm=norm, activation=F.silu, bias=False)
    assert all(type(n) is norm for n in block.norms) and not [n for n, _ in block.named_parameters() if "bias" in n]
    mixer = nn.Block(Mixer(), nn.FeedForward(4), [nn.LayerNorm(4), nn.LayerNorm(4)])
    assert mixer(leaf(2, 3, 4)).shape == (2, 3, 4)
    with pytest.raises(ValueError, match="3 steps need as many norms, 2"):
        nn.Block(Mixer(), nn.FeedForward(4), [nn.LayerNorm(4)] * 2, cross=Mixer())


class Mixer(nn.Module):
    """Stands in for attention: the mean over time."""

    def forward(self, x, *, mask=None, causal=False, cache=None):
        return x.mean(axis=1, keepdims=True) + x * 0


def test_a_memory_is_for_cross_attention_and_cross_attention_for_a_memory():
    x = tg.Tensor(normal(2, 3, 4), dtype="float32")
    for action in (lambda: nn.DecoderBlock(4, 2)(x), lambda: nn.EncoderBlock(4, 2)(x, x)):
        with pytest.raises(ValueError, match="a block with cross-attention needs a memory, one without has no use"):
            action()


def test_dropout_in_a_block_is_off_in_evaluation():
    block, x = nn.DecoderBlock(4, 2, dropout=0.5), tg.Tensor(normal(2, 3, 4), dtype="float32")
    assert not np.array_equal(block(x, x).data, block(x, x).data)
    block.eval()
    assert np.array_equal(block(x, x).data, block(x, x).data)


# ---- positions ------------------------------------------------------------------------------------------------------

@pytest.mark.formula("F5")
@pytest.mark.parametrize("width", [6, 7])
def test_sinusoidal_positions_are_the_formula(width):
    table = nn.SinusoidalPositions(50, width)(50).data
    for t in (0, 1, 49):
        for j in range(width):
            angle = t / 10000 ** (2 * (j // 2) / width)
            assert table[t, j] == pytest.approx(math.cos(angle) if j % 2 else math.sin(angle), abs=1e-6)


@pytest.mark.formula("F5")
def test_a_shift_of_sinusoidal_positions_is_a_rotation():
    D, k = 16, 7
    table = nn.SinusoidalPositions(64, D)(64).data.astype(float)
    rotation = np.zeros((D, D))
    for i in range(0, D, 2):
        angle = k / 10000 ** (i / D)
        c, s = math.cos(angle), math.sin(angle)
        rotation[i:i + 2, i:i + 2] = [[c, s], [-s, c]]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(D), atol=1e-12)
    np.testing.assert_allclose(table[k:], table[:-k] @ rotation.T, atol=1e-6)


@pytest.mark.formula("F5")
def test_sinusoidal_positions_are_bounded_unique_and_nearest_to_their_neighbours():
    table = nn.SinusoidalPositions(200, 32)(200).data.astype(float)
    assert abs(table).max() <= 1
    likeness = table @ table.T
    np.testing.assert_allclose(np.diag(likeness), 16, rtol=1e-5)        # sin² + cos², D/2 times
    assert (likeness - np.eye(200) * 16).max() < 16 - 0.1
    assert (np.diff(likeness[100, 100:104]) < 0).all()


def test_sinusoidal_positions_go_on_beyond_the_context_and_are_not_trained():
    layer, longer = nn.SinusoidalPositions(8, 6), nn.SinusoidalPositions(40, 6)
    np.testing.assert_allclose(layer(20, start=15).data, longer(20, start=15).data)
    np.testing.assert_allclose(layer(5, start=2).data, longer(7).data[2:])
    assert not layer.parameters()


def test_learned_positions_are_rows_and_end_with_the_context():
    layer = double(nn.LearnedPositions(8, 4))
    assert np.array_equal(layer(3, start=2).data, layer.weight.data[2:5])
    assert layer(8).shape == (8, 4) and len(layer.parameters()) == 1
    with pytest.raises(ValueError, match="positions 6 to 8 were asked for, the context has 8"):
        layer(3, start=6)
    assert_gradients(layer, lambda: layer(3, start=2))
    assert not layer.weight.grad[:2].any() and not layer.weight.grad[5:].any()

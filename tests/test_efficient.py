"""Cheaper attentions: the exact ones equal dense attention under their mask, the others come nearer with their budget;
no causal one sees the future, what is linear in memory is, and a decoder learns with each.
"""

import math
from functools import partial

import numpy as np
import pytest
import standin
from drawn import normal

import tinygrad_tfm as tg
from tinygrad_tfm import nn
from tinygrad_tfm.backend import to_numpy
from tinygrad_tfm.models import Decoder, DecoderConfig
from tinygrad_tfm.nn import efficient
from tinygrad_tfm.nn.efficient.blocks import beside, cut, joined
from tinygrad_tfm.nn.efficient.blockwise import blockwise_attention
from tinygrad_tfm.nn.efficient.linear import running_product
from tinygrad_tfm.nn.efficient.performer import orthogonal_directions
from tinygrad_tfm.optim import AdamW
from tinygrad_tfm.testing import check_rule

D, H = 8, 2
MAKE = {
    "local": partial(efficient.LocalAttention, window=3),
    "global": partial(efficient.GlobalAttention, window=3, first=2),
    "strided": partial(efficient.StridedAttention, stride=3),
    "topk": partial(efficient.TopKAttention, k=3),
    "linear": partial(efficient.LinearAttention, chunk=3),
    "performer": partial(efficient.PerformerAttention, features=16),
    "linformer": partial(efficient.LinformerAttention, rank=3, context=40),
    "reformer": partial(efficient.ReformerAttention, buckets=4, rounds=3, window=4),
    "blockwise": partial(efficient.BlockwiseAttention, block=3)}
CAUSAL = [name for name in MAKE if name != "linformer"]
LINEAR_MEMORY = [name for name in MAKE if name not in ("topk", "strided")]
LENGTHS = [1, 2, 3, 7, 12, 13]
each = pytest.mark.parametrize("name", MAKE)
each_causal_one = pytest.mark.parametrize("name", CAUSAL)
both_ways = pytest.mark.parametrize("causal", [False, True], ids=["two-way", "causal"])


@pytest.fixture(autouse=True)
def seed():
    tg.manual_seed(0)


def layer_of(name, dtype="float64", **settings):
    """One of them, its weights large enough that it matters where it looks."""
    layer = MAKE[name](D, H, **settings).to(dtype=dtype)
    for which, x in layer.named_parameters():
        if which.endswith("weight"):
            x.data *= 2
    return layer


def gradients_of(layer, run, x, g):
    """The value, and the gradients of the input and of every weight."""
    leaf = tg.Tensor(x, requires_grad=True)
    layer.zero_grad()
    y = run(leaf)
    y.backward(g)
    return [y.data, leaf.grad, *(p.grad for p in layer.parameters())]


# ---- exact for their pattern ----------------------------------------------------------------------------------------

def sees_local(i, j, T):
    return abs(i - j) < 3


def sees_global(i, j, T):
    return abs(i - j) < 3 or i < 2 or j < 2


def sees_strided(i, j, T):
    return abs(i - j) < 3 or (i - j) % 3 == 0


def sees_all(i, j, T):
    return True


PATTERNS = {"local": sees_local, "global": sees_global, "strided": sees_strided, "blockwise": sees_all}


def mask_of(sees, T, causal):
    """Key by key; a global token that is causal sees no more than others."""
    return np.array([[sees(i, j, T) and (not causal or j <= i) for j in range(T)] for i in range(T)])


@both_ways
@pytest.mark.parametrize("T", LENGTHS)
@pytest.mark.parametrize("name", PATTERNS)
def test_the_exact_ones_are_dense_attention_with_their_mask(name, T, causal):
    layer, dense = layer_of(name), nn.Attention(D, H).to(dtype="float64")
    dense.load_state_dict(layer.state_dict())
    x, g, mask = normal(2, T, D), normal(2, T, D, seed=1), mask_of(PATTERNS[name], T, causal)
    expected = gradients_of(dense, lambda x: dense(x, mask=mask), x, g)
    for a, b in zip(gradients_of(layer, lambda x: layer(x, causal=causal), x, g), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)
    pattern = layer.pattern(tg.Tensor(x), causal=causal)
    np.testing.assert_allclose(pattern, dense.pattern(tg.Tensor(x), mask=mask), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("settings", [dict(window=1), dict(window=50)])
def test_a_window_may_be_one_or_more_than_all(settings):
    layer, x = efficient.LocalAttention(D, H, **settings).to(dtype="float64"), tg.Tensor(normal(1, 7, D))
    seen = np.eye(7, dtype=bool) | (settings["window"] == 50)
    np.testing.assert_allclose(layer(x).data, dense_of(layer)(x, mask=seen).data, rtol=1e-10)


def dense_of(layer):
    """Dense attention with the weights of another."""
    dense = nn.Attention(D, H).to(dtype="float64")
    dense.load_state_dict({name: a for name, a in layer.state_dict().items() if name in dict(dense.named_tensors())})
    return dense


@pytest.mark.formula("F25")
@both_ways
@pytest.mark.parametrize("k", [1, 3, 100])
def test_top_k_keeps_the_best_keys_of_each_query(k, causal):
    layer, T = efficient.TopKAttention(D, H, k=k).to(dtype="float64"), 9
    x, g, dense = normal(2, T, D), normal(2, T, D, seed=1), dense_of(layer)
    q, keys, _ = dense.project(tg.Tensor(x))
    scores, mask = q.data @ keys.data.swapaxes(-1, -2), np.zeros((2, H, T, T), bool)
    for b, h, i in np.ndindex(2, H, T):
        allowed = range(i + 1 if causal else T)
        mask[b, h, i, sorted(allowed, key=lambda j: -scores[b, h, i, j])[:k]] = True
    expected = gradients_of(dense, lambda x: dense(x, mask=mask), x, g)
    for a, b in zip(gradients_of(layer, lambda x: layer(x, causal=causal), x, g), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_top_k_takes_masks_memories_biases_and_caches():
    layer = efficient.TopKAttention(D, H, k=2, positions=nn.ALiBi(H)).to(dtype="float64")
    x, memory, mask = tg.Tensor(normal(2, 4, D)), tg.Tensor(normal(2, 6, D, seed=1)), np.arange(6) % 2 == 0
    pattern = layer.pattern(x, memory, mask=mask)
    assert ((pattern > 0).sum(-1) == 2).all() and not pattern[..., ~mask].any()
    cache = nn.KVCache(4)
    with tg.no_grad():
        found = [layer(x[:, i:i + 1], causal=True, cache=cache).data for i in range(4)]
    np.testing.assert_allclose(np.concatenate(found, axis=1), layer(x, causal=True).data, rtol=1e-10)


@pytest.mark.formula("F22")
@both_ways
@pytest.mark.parametrize("T", LENGTHS)
def test_linear_attention_is_its_formula_and_its_gradient(T, causal):
    """Against weights φ(q)·φ(k) written out, with the gradients of that."""
    layer = layer_of("linear")
    x, g = normal(2, T, D), normal(2, T, D, seed=1)

    def written_out(x):
        q, k, v = layer.project(x)
        phi = lambda z: tg.functional.where(z > 0, z + 1, tg.functional.exp(tg.functional.minimum(z, 0.0)))
        weights = phi(q) @ phi(k).swapaxes(-1, -2)
        weights = tg.functional.tril(weights) if causal else weights
        y = weights / weights.sum(axis=-1, keepdims=True) @ v
        return layer.out(y.swapaxes(1, 2).reshape(2, T, D))
    expected = gradients_of(layer, written_out, x, g)
    for a, b in zip(gradients_of(layer, lambda x: layer(x, causal=causal), x, g), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_chunks_do_not_show():
    q, k, v = (tg.Tensor(normal(1, 2, 11, n, seed=n)) for n in (3, 3, 4))
    whole = np.tril(q.data @ k.data.swapaxes(-1, -2)) @ v.data
    for chunk in (1, 2, 4, 11, 100):
        np.testing.assert_allclose(running_product(q, k, v, chunk).data, whole, rtol=1e-11, atol=1e-12)


def test_linformer_is_dense_attention_to_mixtures():
    layer, x = layer_of("linformer"), tg.Tensor(normal(2, 7, D))
    q, k, v = layer.project(x)
    E, F = layer.mix_keys.data[:7], layer.mix_values.data[:7]
    e = np.exp(q.data @ (E.T @ k.data).swapaxes(-1, -2) / 2)
    y = e / e.sum(-1, keepdims=True) @ (F.T @ v.data)
    np.testing.assert_allclose(layer(x).data, layer.out(tg.Tensor(y.swapaxes(1, 2).reshape(2, 7, D))).data, rtol=1e-10)
    with pytest.raises(ValueError, match="41 keys are more than the context of 40"):
        layer(tg.Tensor(normal(1, 41, D)))


def reformers_mask(layer, x, causal):
    """Token by token: what some round has put among the last `window` of the query's bucket."""
    q = layer.project(x)[0].data
    B, H, T, _ = q.shape
    mask = np.zeros((B, H, T, T), bool)
    for b, h, r in np.ndindex(B, H, len(layer.rotations)):
        side = q[b, h] @ layer.rotations.data[r]
        bucket = [int(np.argmax([*s, *-s])) for s in side]
        for name in set(bucket):
            members = [t for t in range(T) if bucket[t] == name]
            for a, i in enumerate(members):
                for c, j in enumerate(members):
                    mask[b, h, i, j] |= (0 <= a - c if causal else True) and abs(a - c) < layer.window
    alone = mask.sum(-1, keepdims=True) == 1
    return mask & (~np.eye(T, dtype=bool) | alone)


@both_ways
@pytest.mark.parametrize("T", [1, 2, 7, 13, 30])
def test_reformer_is_dense_attention_to_what_its_hashes_find(T, causal):
    layer = layer_of("reformer")
    x, g = normal(2, T, D), normal(2, T, D, seed=1)
    mask = reformers_mask(layer, tg.Tensor(x), causal)
    assert T < 30 or 0.1 < mask.mean() < 0.9

    def dense(x):
        q, _, v = layer.project(x)
        k = q / tg.functional.sqrt((q * q).sum(axis=-1, keepdims=True))
        y = tg.functional.attention(q, k, v, mask=mask)
        return layer.out(y.swapaxes(1, 2).reshape(2, T, D))
    expected = gradients_of(layer, dense, x, g)
    for a, b in zip(gradients_of(layer, lambda x: layer(x, causal=causal), x, g), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)
    assert [name for name, _ in layer.named_parameters() if name.startswith("key")] == []


# ---- the rule of blocks ---------------------------------------------------------------------------------------------

@both_ways
@pytest.mark.parametrize("T, S, block", [(5, 5, 2), (3, 7, 2), (4, 4, 10), (1, 5, 3)])
def test_blockwise_attention_is_a_rule_with_both_derivatives(T, S, block, causal):
    check_rule(blockwise_attention, normal(1, 2, T, 2), normal(1, 2, S, 2, seed=1), normal(1, 2, S, 3, seed=2),
               block=block, causal=causal)


def test_blockwise_attention_goes_by_caches_and_memories_and_holds_large_scores():
    layer = layer_of("blockwise")
    x, memory, dense = tg.Tensor(normal(2, 4, D) * 30), tg.Tensor(normal(2, 7, D)), dense_of(layer)
    np.testing.assert_allclose(layer(x, memory).data, dense(x, memory).data, rtol=1e-9, atol=1e-10)
    cache = nn.KVCache(4)
    with tg.no_grad():
        found = np.concatenate([layer(x[:, i:i + 2], causal=True, cache=cache).data for i in (0, 2)], axis=1)
    np.testing.assert_allclose(found, dense(x, causal=True).data, rtol=1e-9, atol=1e-10)
    with pytest.raises(ValueError, match="causal attention of 7 queries to 4 keys"):
        layer(memory, x, causal=True)


# ---- no future ------------------------------------------------------------------------------------------------------

@each_causal_one
def test_a_causal_one_sees_no_future_and_sends_it_no_gradient(name):
    layer, T = layer_of(name), 13
    x, g = normal(1, T, D), normal(1, T, D, seed=1)
    for t in (0, 1, 5, 6, 11):
        other, past = x.copy(), g.copy()
        other[:, t + 1:] = 3 * normal(1, T - t - 1, D, seed=2)
        past[:, t + 1:] = 0
        (y, gx, *gw), (y_too, gx_too, *gw_too) = (gradients_of(layer, lambda x: layer(x, causal=True), a, past)
                                                  for a in (x, other))
        np.testing.assert_allclose(y_too[:, :t + 1], y[:, :t + 1], rtol=0, atol=1e-10)
        assert not gx[:, t + 1:].any() and not gx_too[:, t + 1:].any()
        for a, b in zip([gx, *gw], [gx_too, *gw_too]):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)
        assert abs(y_too[:, t + 1:] - y[:, t + 1:]).max() > 1e-3


@each_causal_one
def test_a_causal_pattern_has_no_future_and_rows_that_sum_to_one(name):
    pattern = layer_of(name).pattern(tg.Tensor(normal(2, 13, D)), causal=True)
    assert abs(np.triu(pattern, 1)).max() < 1e-12
    np.testing.assert_allclose(pattern.sum(-1), 1, rtol=1e-10)


# ---- shapes and refusals --------------------------------------------------------------------------------------------

@each
@pytest.mark.parametrize("T", [1, 2, 5, 40])
def test_any_length_in_single_precision_with_gradients_everywhere(name, T):
    layer, x = layer_of(name, "float32"), normal(1, T, D).astype(np.float32)
    for causal in (False, True)[:1 if name == "linformer" else 2]:
        y, gx, *gw = gradients_of(layer, lambda x, causal=causal: layer(x, causal=causal), x, np.ones_like(x))
        assert y.shape == x.shape and y.dtype == np.float32
        assert all(np.isfinite(a).all() and a.dtype == np.float32 for a in (gx, *gw)) and abs(gx).max() > 0


@each
def test_gradients_are_those_of_finite_differences(name):
    layer, x, g = layer_of(name), tg.Tensor(normal(1, 7, D), requires_grad=True), normal(1, 7, D, seed=1)
    value = lambda: (layer(x, causal=name != "linformer") * g).sum()
    value().backward()
    rng = np.random.default_rng(0)
    for what, leaf in {"x": x, **dict(layer.named_parameters())}.items():
        flat, found = leaf.data.reshape(-1), leaf.grad.reshape(-1)
        for i in rng.permutation(flat.size)[:6]:
            before, values = flat[i], []
            for h in (1e-6, -1e-6):
                flat[i] = before + h
                with tg.no_grad():
                    values.append(value().item())
            flat[i] = before
            assert found[i] == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5, abs=1e-7), (what, i)


SAID = {"cross": "cannot attend to another sequence", "mask": "cannot take a mask", "causal": "cannot be causal",
        "cache": "cannot use a cache", "dropout": "cannot drop weights", "bias": "cannot add to the scores"}


@each
def test_what_one_cannot_it_says_and_the_rest_it_does(name):
    layer, x = layer_of(name), tg.Tensor(normal(1, 4, D))
    causal = name != "linformer"

    def with_cache():
        with tg.no_grad():
            return layer(x, causal=causal, cache=nn.KVCache(4))
    actions = {"cross": lambda: layer(x, tg.Tensor(normal(1, 6, D))), "mask": lambda: layer(x, mask=np.ones(4, bool)),
               "causal": lambda: layer(x, causal=True), "cache": with_cache,
               "dropout": lambda: layer_of(name, dropout=0.3)(x),
               "bias": lambda: layer_of(name, positions=nn.ALiBi(H))(x)}
    for what, action in actions.items():
        if what in layer.refuses:
            with pytest.raises(ValueError, match=f"^{type(layer).__name__} {SAID[what]}.*: "):
                action()
        else:
            assert action().shape == (1, 4, D)
    assert layer_of(name, positions=nn.Rotary(D // H))(x).shape == (1, 4, D)


@pytest.mark.parametrize("name", [name for name in MAKE if "dropout" not in MAKE[name].func.refuses])
def test_dropout_acts_while_training_and_never_on_the_pattern(name):
    layer, x = layer_of(name, dropout=0.5), tg.Tensor(normal(1, 9, D))
    assert not np.array_equal(layer(x).data, layer(x).data)
    assert np.array_equal(layer.pattern(x), layer.pattern(x)) and layer.training
    layer.eval()
    assert np.array_equal(layer(x).data, layer(x).data)


@pytest.mark.parametrize("make, words", [
    (lambda: efficient.LocalAttention(D, H, window=0), "LocalAttention: window must be a positive integer"),
    (lambda: efficient.GlobalAttention(D, H, window=2, first=0), "GlobalAttention: first"),
    (lambda: efficient.StridedAttention(D, H, stride=1.5), "StridedAttention: stride"),
    (lambda: efficient.TopKAttention(D, H, k=0), "TopKAttention: k must"),
    (lambda: efficient.LinearAttention(D, H, chunk=0), "LinearAttention: chunk"),
    (lambda: efficient.PerformerAttention(D, H, features=-1), "PerformerAttention: features"),
    (lambda: efficient.LinformerAttention(D, H, rank=0, context=4), "LinformerAttention: rank"),
    (lambda: efficient.ReformerAttention(D, H, buckets=3), "buckets come in opposite pairs, 3 is odd"),
    (lambda: efficient.ReformerAttention(D, H, buckets=4, rounds=0), "ReformerAttention: rounds"),
    (lambda: efficient.BlockwiseAttention(D, H, block=0), "BlockwiseAttention: block"),
    (lambda: efficient.LinearAttention(D, H)(tg.Tensor(normal(1, 2, D), dtype="float32"),
                                             tg.Tensor(normal(1, 3, D), dtype="float32"), causal=True),
     "causal within one sequence, not between 2 queries and 3 keys")])
def test_settings_that_cannot_be_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_blocks_stand_beside_their_neighbours():
    x = np.arange(1, 8).reshape(1, 1, 7, 1)
    blocks = cut(x, 3)
    assert blocks[0, 0, ..., 0].tolist() == [[1, 2, 3], [4, 5, 6], [7, 0, 0]]
    assert beside(blocks, 1)[0, 0, :, :, 0].tolist() == [[0, 0, 0, 1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6, 7, 0, 0],
                                                         [4, 5, 6, 7, 0, 0, 0, 0, 0]]
    assert beside(blocks, 0)[0, 0, 1, :, 0].tolist() == [1, 2, 3, 4, 5, 6]
    assert np.array_equal(joined(blocks, 7), x)


# ---- on a device ----------------------------------------------------------------------------------------------------

@each
def test_the_stand_in_for_a_gpu_gives_the_hosts_numbers_and_nobody_waits(name):
    causal, x, found = name != "linformer", normal(2, 9, D).astype(np.float32), []
    with standin.install(), tg.fused(False):
        for device in ("cpu", "cuda"):
            tg.manual_seed(1)
            layer, leaf = MAKE[name](D, H).to(device), tg.Tensor(x, True, device=device)
            with standin.count_syncs() as counter:
                y = layer(leaf, causal=causal)
                (y * y).sum().backward()
            assert counter.value == 0, counter.where
            found.append([to_numpy(a) for a in (y.data, leaf.grad, *(p.grad for p in layer.parameters()))])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


# ---- budgets --------------------------------------------------------------------------------------------------------

def error(found, exact):
    return np.linalg.norm(found.data - exact.data) / np.linalg.norm(exact.data)


def with_bar(errors):
    """Their mean and its standard error."""
    return np.mean(errors), np.std(errors, ddof=1) / math.sqrt(len(errors))


def assert_falls(pairs, factor):
    """Every step down is larger than its error bars, and the last error is at most the first divided by `factor`."""
    for (a, da), (b, db) in zip(pairs, pairs[1:]):
        assert a - b > 2 * math.hypot(da, db), pairs
    assert pairs[-1][0] * factor < pairs[0][0], pairs


def performers_errors(size, budgets=(8, 32, 128, 512)):
    """With queries and keys of N(0, size²), for each number of features."""
    q, k, v = (tg.Tensor(normal(2, 2, 40, 8, seed=i) * s) for i, s in enumerate((size, size, 1)))
    exact, found = tg.functional.attention(q, k, v), []
    for features in budgets:
        layer, draws = efficient.PerformerAttention(16, 2, features=features).to(dtype="float64"), []
        for _ in range(12):
            layer.redraw()
            draws.append(error(layer.attend(q, k, v), exact))
        found.append(with_bar(draws))
    return found


def test_performer_errs_less_with_more_features_and_less_so_for_long_vectors():
    short, long = performers_errors(0.4), performers_errors(1.0)
    assert_falls(short, factor=5)                                  # 1/√64 = 1/8
    assert long[0][0] / long[-1][0] < 3                            # heavy tails: few draws decide
    assert long[-1][0] > 5 * short[-1][0]


def test_directions_have_right_angles_and_the_lengths_of_gaussian_vectors():
    w = orthogonal_directions(8, 20).astype(float)
    angles = w[:, :8].T @ w[:, :8]
    np.testing.assert_allclose(angles - np.diag(np.diag(angles)), 0, atol=1e-5)
    assert w.shape == (8, 20)
    many = np.concatenate([orthogonal_directions(8, 8) for _ in range(400)], axis=1).astype(float)
    squares = (many ** 2).sum(axis=0)
    assert squares.mean() == pytest.approx(8, abs=5 * math.sqrt(16 / 3200))              # χ² of 8: mean 8, variance 16
    assert squares.var() == pytest.approx(16, rel=0.15)
    assert abs(many.mean(axis=1)).max() < 5 / math.sqrt(3200)


@both_ways
def test_reformer_misses_less_with_more_rounds(causal):
    """Against dense attention with k = q/|q| that sees itself only where it is alone."""
    x, T = tg.Tensor(normal(2, 48, 16)), 48
    found = []
    for rounds in (1, 2, 4, 16):
        draws = []
        for number in range(10):
            tg.manual_seed(number)
            layer = efficient.ReformerAttention(16, 2, buckets=4, rounds=rounds, window=T).to(dtype="float64")
            layer.query.weight.data = normal(16, 16, seed=7)
            q, k, v = layer.project(x)
            k = q / tg.functional.sqrt((q * q).sum(axis=-1, keepdims=True))
            seen = ~np.eye(T, dtype=bool) & (np.tri(T, dtype=bool) | (not causal))
            seen[0, 0] |= causal
            draws.append(error(layer.attend(q, k, v, causal=causal), tg.functional.attention(q, k, v, mask=seen)))
        found.append(with_bar(draws))
    assert_falls(found, factor=4)


def test_linformer_errs_less_with_more_rank():
    """With mixtures that are the means of stretches of text; at full rank they are the tokens themselves."""
    T, found = 32, []
    for rank in (2, 8, 16, 32):
        layer, draws = efficient.LinformerAttention(16, 2, rank=rank, context=T).to(dtype="float64"), []
        means = np.kron(np.eye(rank), np.full((T // rank, 1), rank / T))
        layer.mix_keys.data, layer.mix_values.data = means, means
        for s in range(10):
            q, k, v = (tg.Tensor(normal(1, 2, T, 8, seed=3 * s + i)) for i in range(3))
            draws.append(error(layer.attend(q, k, v), tg.functional.attention(q, k, v)))
        found.append(with_bar(draws))
    assert_falls(found, factor=1e6)


# ---- memory ---------------------------------------------------------------------------------------------------------

def kept(layer, T):
    x = tg.Tensor(np.zeros((1, T, D), np.float32) + 0.1, requires_grad=True)
    with tg.watch.saved_memory() as ledger:
        layer(x, causal=type(layer) is not efficient.LinformerAttention)
    return ledger.total


@pytest.mark.formula("C9")
@pytest.mark.parametrize("name", LINEAR_MEMORY)
def test_what_is_kept_for_the_way_back_grows_as_the_text_does(name):
    layer = MAKE[name](D, H, **(dict(context=512) if name == "linformer" else {}))
    assert kept(layer, 512) < 2.2 * kept(layer, 256)


@pytest.mark.formula("C9")
def test_what_dense_attention_keeps_grows_as_its_square_and_strided_between():
    dense, strided = nn.Attention(D, H), [efficient.StridedAttention(D, H, stride=s) for s in (16, 32)]
    with tg.fused(False):
        assert kept(dense, 1024) > 3.7 * kept(dense, 512)
    assert 2.2 * kept(strided[0], 256) < kept(strided[1], 1024) < 9 * kept(strided[0], 256)         # √n: 8


# ---- they learn -----------------------------------------------------------------------------------------------------

TEXT = "the cat sat on the mat. the dog sat on the log. the cow sat on the hay. "
ALPHABET = sorted(set(TEXT))


@each_causal_one
def test_a_decoder_learns_with_it(name):
    """Far below what letters by themselves give: their entropy in this text is 2.5 nats."""
    ids = np.array([ALPHABET.index(c) for c in TEXT * 20])
    make = {"reformer": partial(efficient.ReformerAttention, buckets=4, window=8),
            "performer": partial(efficient.PerformerAttention, features=32)}.get(name, MAKE[name])
    model = Decoder(DecoderConfig(vocab=len(ALPHABET), context=24, layers=1, heads=H, width=16, std=0.1))
    model.blocks[0].attention = make(16, H)
    optimizer, rng, losses = AdamW(model.parameters(), lr=1e-2), np.random.default_rng(0), []
    for _ in range(100):
        starts = rng.integers(0, len(ids) - 25, 8)
        windows = np.stack([ids[s:s + 25] for s in starts])
        loss = model.loss(windows[:, :-1], windows[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    counts = np.bincount(ids) / len(ids)
    assert np.mean(losses[-10:]) < 0.5 * -(counts * np.log(counts)).sum(), losses[-10:]


def test_blocks_take_any_of_them():
    block, x = nn.EncoderBlock(D, H, attention=MAKE["local"]), tg.Tensor(normal(1, 5, D), dtype="float32")
    assert type(block.attention) is efficient.LocalAttention and block(x, causal=True).shape == (1, 5, D)
    block, memory = nn.DecoderBlock(D, H, attention=MAKE["local"]), tg.Tensor(normal(1, 7, D), dtype="float32")
    assert type(block.attention) is efficient.LocalAttention and type(block.cross) is nn.Attention
    assert block(x, memory, causal=True).shape == (1, 5, D)

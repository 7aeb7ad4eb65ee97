"""The decoder: it starts ignorant, sees no future, gives the same with a cache, learns, and equals a PyTorch twin."""

import math
from itertools import product

import numpy as np
import pytest

import tinygrad_tfm as tg
from tinygrad_tfm.models import Decoder, DecoderConfig
from tinygrad_tfm.optim import AdamW

SHAPE = dict(vocab=11, context=8, layers=2, heads=2, width=16)
VARIANTS = [dict(pre_norm=pre, positions=positions, tied=tied) for pre, positions, tied
            in product([True, False], ["learned", "sinusoidal"], [True, False])]
VARIANTS += [dict(activation=a) for a in ("gelu_tanh", "relu", "silu")]
VARIANTS += [dict(bias=True), dict(bias=True, pre_norm=False, tied=False), dict(hidden=10), dict(heads=1, layers=1),
             dict(scale_embedding=True, positions="sinusoidal")]
each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: ",".join(f"{k}={x}" for k, x in v.items()))


def decoder(seed=0, **variant):
    tg.manual_seed(seed)
    return Decoder(DecoderConfig(**{**SHAPE, **variant}))


def lively(model, dtype="float64"):
    """With weights large enough that every part of the model matters to the last digits."""
    rng = np.random.default_rng(4)
    model.to(dtype=dtype)
    for _, x in model.named_parameters():
        x.data += (0.3 * rng.standard_normal(x.shape)).astype(dtype)
    return model


def tokens(B=3, T=8, vocab=11, seed=0):
    return np.random.default_rng(seed).integers(0, vocab, (2, B, T))


# ---- what it starts from --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("variant", [v for v in VARIANTS if "scale_embedding" not in v], ids=str)
def test_a_fresh_decoder_is_as_wise_as_a_die(variant):
    model = decoder(**variant | dict(vocab=65))
    assert model.loss(*tokens(8, vocab=65)).item() == pytest.approx(math.log(65), abs=0.1)


@pytest.mark.parametrize("layers", [2, 8])
def test_weights_start_as_gpt2s(layers):
    model = decoder(layers=layers, width=64, vocab=200, context=128, tied=False, bias=True)
    for name, x in model.named_parameters():
        writes = name.endswith(("attention.out.weight", "feed_forward.down.weight"))
        std = 0.02 / math.sqrt(2 * layers) if writes else 0.02
        if name.endswith("gain"):
            assert (x.data == 1).all()
        elif name.endswith("bias"):
            assert not x.data.any()
        else:
            n = x.size
            assert abs(x.data.std() / std - 1) < 5 / math.sqrt(2 * n), name
            assert abs(x.data.mean()) < 5 * std / math.sqrt(n), name


def test_the_stream_does_not_grow_with_depth():
    sizes = []
    for layers in (1, 24):
        model = decoder(layers=layers, width=32)
        x = model.embed(tokens()[0]) + model.positions(8)
        for block in model.blocks:
            x = block(x, causal=True)
        sizes.append(x.data.std())
    assert sizes[1] < 2 * sizes[0]


def test_the_seed_decides_the_weights():
    a, b, c = decoder(1).state_dict(), decoder(1).state_dict(), decoder(2).state_dict()
    assert all(np.array_equal(a[k], b[k]) for k in a) and not np.array_equal(a["embed.weight"], c["embed.weight"])


def test_the_number_of_weights_is_the_formulas():
    V, T, L, D = 11, 8, 2, 16
    per_block = 4 * D * D + 2 * D * 4 * D + 2 * D
    assert decoder().size() == V * D + T * D + L * per_block + D
    assert decoder(tied=False).size() == decoder().size() + V * D
    assert decoder(positions="sinusoidal").size() == decoder().size() - T * D
    assert decoder(pre_norm=False).size() == decoder().size() - D       # no last norm
    assert decoder(bias=True).size() == decoder().size() + L * (4 * D + 4 * D + D + 2 * D) + D
    assert decoder(hidden=10).size() == decoder().size() - L * 2 * D * (4 * D - 10)


# ---- no future ------------------------------------------------------------------------------------------------------

@each_variant
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_token_changes_nothing_before_it_and_something_from_it_on(variant, dtype):
    model = lively(decoder(**variant), dtype)
    ids, _ = tokens()
    with tg.no_grad():
        before = model(ids).data
        for t in range(8):
            other = ids.copy()
            other[:, t] = (other[:, t] + 1) % 11
            after = model(other).data
            np.testing.assert_allclose(after[:, :t], before[:, :t], rtol=0, atol=1e-5 if dtype == "float32" else 1e-12)
            assert (abs(after - before)[:, t:].max(axis=-1) > 1e-4).all()


@each_variant
def test_no_gradient_flows_from_a_position_to_later_ones(variant):
    model = lively(decoder(**variant))
    stream = tg.Tensor(np.random.default_rng(0).standard_normal((2, 8, 16)), requires_grad=True)
    y = stream
    for block in model.blocks:
        y = block(y, causal=True)
    y[:, 3].backward(np.random.default_rng(1).standard_normal((2, 16)))
    assert stream.grad[:, :4].all() and not stream.grad[:, 4:].any()


# ---- the cache ------------------------------------------------------------------------------------------------------

@each_variant
def test_cached_logits_equal_uncached_ones(variant):
    model = lively(decoder(**variant), "float32").eval()
    ids, _ = tokens()
    with tg.no_grad():
        whole = model(ids).data
        cache, found, start = model.new_cache(), [], 0
        for n in (3, 1, 1, 2, 1):
            found.append(model(ids[:, start:start + n], cache).data)
            start += n
    np.testing.assert_allclose(np.concatenate(found, axis=1), whole, atol=1e-5)
    with pytest.raises(ValueError, match="9 tokens are more than the context of 8"):
        model(ids[:, :1], cache)


# ---- it learns ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("variant", [{}, dict(pre_norm=False, positions="sinusoidal", activation="relu", bias=True,
                                              tied=False)], ids=["pre-norm", "post-norm"])
def test_one_batch_is_learned_by_heart(variant):
    model = decoder(width=32, **variant)
    x, y = tokens(4)
    optimizer = AdamW(model.parameters(), lr=1e-2, decay=0.0)
    for _ in range(80):
        model.loss(x, y).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert model.loss(x, y).item() < 0.05


# ---- tying ----------------------------------------------------------------------------------------------------------

def test_a_tied_table_gets_gradients_from_both_ends():
    tied = lively(decoder())
    loose = decoder(tied=False).to(dtype="float64")
    state = tied.state_dict()
    loose.load_state_dict(state | {"unembed.weight": state["embed.weight"].T})
    x, y = tokens()
    for model in (tied, loose):
        model.loss(x, y).backward()
    both, ends = tied.embed.weight.grad, (loose.embed.weight.grad, loose.unembed.weight.grad.T)
    assert all(abs(end).max() > 1e-3 for end in ends)
    np.testing.assert_allclose(both, ends[0] + ends[1], rtol=1e-10, atol=1e-14)
    assert [n for n, _ in tied.named_parameters() if "embed" in n] == ["embed.weight"]


# ---- refusals -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("bad", [
    dict(vocab=0), dict(context=-1), dict(layers=0), dict(heads=0), dict(width=0), dict(width=15), dict(width=16.0),
    dict(hidden=0), dict(hidden=-4), dict(dropout=1.0), dict(dropout=math.nan), dict(positions="random"),
    dict(activation="swish"),
], ids=str)
def test_a_shape_that_cannot_be_names_its_field(bad):
    with pytest.raises(ValueError, match=f"DecoderConfig.*{next(iter(bad))}"):
        DecoderConfig(**{**SHAPE, **bad})


def test_more_tokens_than_the_context_are_refused():
    with pytest.raises(ValueError, match="9 tokens are more than the context of 8"):
        decoder()(np.zeros((1, 9), int))


def test_tokens_may_be_a_list():
    model = decoder()
    assert np.array_equal(model([[1, 2, 3]]).data, model(np.array([[1, 2, 3]])).data)


def test_tokens_outside_the_vocabulary_are_refused():
    with pytest.raises(IndexError, match="ids run from 0 to 11, the table has rows 0 to 10"):
        decoder()(np.array([[0, 11]]))


# ---- the twin -------------------------------------------------------------------------------------------------------

def twin(torch, w, ids, targets, c):
    """The decoder in PyTorch's functions; w holds the weights by our names."""
    N = torch.nn.functional
    act = {"gelu": N.gelu, "gelu_tanh": lambda x: N.gelu(x, approximate="tanh"), "relu": N.relu, "silu": N.silu}
    linear = lambda x, name: x @ w[name + ".weight"] + w.get(name + ".bias", 0)
    norm = lambda x, name: N.layer_norm(x, (c.width,), w[name + ".gain"], w.get(name + ".bias"), 1e-5)
    B, T = ids.shape

    def attention(x, name):
        q, k, v = (linear(x, f"{name}.{part}").view(B, T, c.heads, -1).transpose(1, 2)
                   for part in ("query", "key", "value"))
        y = N.scaled_dot_product_attention(q, k, v, is_causal=True)
        return linear(y.transpose(1, 2).reshape(B, T, c.width), name + ".out")

    def feed_forward(x, name):
        return linear(act[c.activation](linear(x, name + ".up")), name + ".down")

    x = w["embed.weight"][ids] * (c.width ** 0.5 if c.scale_embedding else 1) + w["positions.weight"][:T]
    for i in range(c.layers):
        for j, (step, name) in enumerate([(attention, "attention"), (feed_forward, "feed_forward")]):
            n, f = f"blocks.{i}.norms.{j}", f"blocks.{i}.{name}"
            x = x + step(norm(x, n), f) if c.pre_norm else norm(x + step(x, f), n)
    x = norm(x, "norm") if c.pre_norm else x
    logits = x @ (w["embed.weight"].T if c.tied else w["unembed.weight"])
    return N.cross_entropy(logits.reshape(-1, c.vocab), targets.reshape(-1))


@pytest.mark.oracle
@each_variant
def test_loss_and_every_gradient_are_those_of_a_twin_in_pytorch(torch, variant):
    model = lively(decoder(**variant))
    x, y = tokens()
    w = {name: torch.tensor(t.data, requires_grad=t.requires_grad) for name, t in model.named_tensors()}
    expected = twin(torch, w, torch.tensor(x), torch.tensor(y), model.config)
    expected.backward()
    loss = model.loss(x, y)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    for name, p in model.named_parameters():
        np.testing.assert_allclose(p.grad, w[name].grad, rtol=0, atol=1e-8, err_msg=name)
        assert abs(p.grad).max() > 1e-6 or name.endswith("key.bias"), name              # no empty comparison


@pytest.mark.oracle
def test_a_few_steps_of_training_stay_with_the_twin(torch):
    model = lively(decoder())
    w = {name: torch.tensor(t.data, requires_grad=t.requires_grad) for name, t in model.named_tensors()}
    mine = AdamW(model.parameters(), lr=1e-3, decay=0.1)
    flat = [p for p in w.values() if p.ndim < 2]
    theirs = torch.optim.AdamW([{"params": [p for p in w.values() if p.ndim > 1], "weight_decay": 0.1},
                                {"params": flat, "weight_decay": 0.0}], lr=1e-3)
    for step in range(5):
        x, y = tokens(seed=step)
        loss, expected = model.loss(x, y), twin(torch, w, torch.tensor(x), torch.tensor(y), model.config)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
        for a, b in ((loss, mine), (expected, theirs)):
            b.zero_grad()
            a.backward()
            b.step()

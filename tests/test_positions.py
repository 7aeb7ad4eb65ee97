"""Where a token stands: each scheme is its formula, and a decoder with it is right with a cache and without."""

import cmath
import math

import numpy as np
import pytest
from drawn import leaf, normal

import tinygrad_tfm as tg
import tinygrad_tfm.functional as F
from tinygrad_tfm import nn
from tinygrad_tfm.generate import generate
from tinygrad_tfm.models import Decoder, DecoderConfig
from tinygrad_tfm.models.decoder import POSITIONS
from tinygrad_tfm.models.without_engine import without_engine
from tinygrad_tfm.nn.positions import alibi_slopes, relative_buckets

SHAPE = dict(vocab=11, context=12, layers=2, heads=2, width=16)
SCHEMES = {"rotary": lambda: nn.Rotary(4), "relative": lambda: nn.RelativeBias(2, 8, 6),
           "relative, causal": lambda: nn.RelativeBias(2, 8, 6, both_ways=False), "alibi": lambda: nn.ALiBi(2)}
each_scheme = pytest.mark.parametrize("name", SCHEMES)


@pytest.fixture(autouse=True)
def seed():
    tg.manual_seed(0)


def attention(name):
    """Self-attention of width 8 with a scheme, in double precision, with weights that matter."""
    layer = nn.Attention(8, 2, positions=SCHEMES[name]()).to(dtype="float64")
    for _, x in layer.named_parameters():
        x.data += normal(*x.shape) * 0.3
    return layer


# ---- two axes -------------------------------------------------------------------------------------------------------

@pytest.mark.formula("F13")
def test_positions_of_a_picture_are_those_of_its_row_and_of_its_column():
    rows, columns, D = 3, 5, 12
    table = nn.SinusoidalPositions2D(rows, columns, D)(rows * columns).data.reshape(rows, columns, D)
    for r, c, i in np.ndindex(rows, columns, D // 2):
        f = math.cos if i % 2 else math.sin
        assert table[r, c, i] == pytest.approx(f(r / 10000 ** (i // 2 * 2 / 6)), abs=1e-6)
        assert table[r, c, D // 2 + i] == pytest.approx(f(c / 10000 ** (i // 2 * 2 / 6)), abs=1e-6)


def test_a_picture_has_no_positions_outside_and_an_odd_width_no_halves():
    layer = nn.SinusoidalPositions2D(2, 3, 4)
    assert np.array_equal(layer(2, start=4).data, layer(6).data[4:]) and not layer.parameters()
    with pytest.raises(ValueError, match="positions 5 to 6 were asked for, the picture has 6"):
        layer(2, start=5)
    with pytest.raises(ValueError, match="SinusoidalPositions2D: width must be even, not 5"):
        nn.SinusoidalPositions2D(2, 3, 5)


@pytest.mark.formula("C4")
@pytest.mark.parametrize("k", [1, 5, 40])
def test_a_shift_is_a_linear_map_that_least_squares_finds(k):
    """From every second position; it holds for those between."""
    table = nn.SinusoidalPositions(200, 16)(200).data.astype(float)
    before, after = table[:-k], table[k:]
    shift, *_ = np.linalg.lstsq(before[::2], after[::2], rcond=None)
    np.testing.assert_allclose(before[1::2] @ shift, after[1::2], atol=1e-6)
    assert abs(before @ np.eye(16) - after).max() > 0.1


# ---- rotary ---------------------------------------------------------------------------------------------------------

@pytest.mark.formula("F12")
def test_rotating_is_multiplying_complex_numbers():
    K, start = 6, 7
    x = normal(2, 3, 5, K)
    y = nn.Rotary(K).rotate(tg.Tensor(x), start).data
    for *at, t, i in np.ndindex(2, 3, 5, K // 2):
        z = complex(*x[(*at, t)][2 * i:2 * i + 2]) * cmath.exp(1j * (start + t) / 10000 ** (2 * i / K))
        np.testing.assert_allclose(y[(*at, t)][2 * i:2 * i + 2], [z.real, z.imag], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(y, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-12)


def test_the_product_of_two_turned_vectors_knows_their_distance_only():
    turn, q, k = nn.Rotary(8), tg.Tensor(normal(1, 1, 1, 8)), tg.Tensor(normal(1, 1, 1, 8, seed=1))
    product = lambda m, n: (turn.rotate(q, m).data * turn.rotate(k, n).data).sum()
    for distance in (0, 1, 13):
        found = [product(distance + n, n) for n in (0, 1, 100, 5000)]
        np.testing.assert_allclose(found, found[0], rtol=1e-9)
    assert abs(product(1, 0) - product(2, 0)) > 1e-3 and abs(product(0, 1) - product(1, 0)) > 1e-3


def test_turning_keeps_single_precision_and_refuses_an_odd_width():
    assert nn.Rotary(4).rotate(tg.Tensor(normal(3, 4), dtype="float32")).dtype == np.float32
    with pytest.raises(ValueError, match="Rotary: width must be even, not 5"):
        nn.Rotary(5)
    with pytest.raises(ValueError, match="Rotary: width must be even, not 3"):
        Decoder(DecoderConfig(**SHAPE | dict(width=6, positions="rotary")))


# ---- relative -------------------------------------------------------------------------------------------------------

def bucket(offset, buckets, furthest, both_ways):
    """T5's, in whole numbers: step j of m begins where (d/e)^m ≥ (furthest/e)^j."""
    n = buckets // 2 if both_ways else buckets
    base = n if both_ways and offset > 0 else 0
    d = abs(offset) if both_ways else max(-offset, 0)
    e = n // 2
    m = n - e
    if d < e:
        return base + d
    return base + e + max(j for j in range(m) if d ** m * e ** j >= furthest ** j * e ** m)


@pytest.mark.formula("F12")
@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize("buckets, furthest", [(32, 128), (8, 20), (4, 3), (32, 1000), (6, 11), (10, 160),
                                               (20, 160)])
def test_buckets_are_those_of_t5(buckets, furthest, both_ways):
    offsets = np.arange(-3 * furthest, 3 * furthest + 1)
    found = relative_buckets(offsets, buckets, furthest, both_ways)
    assert found.tolist() == [bucket(int(d), buckets, furthest, both_ways) for d in offsets]
    assert found.min() == 0 and found.max() == buckets - 1


def test_buckets_by_hand():
    """Sixteen a way: 0 to 7 alone, then 8–11, 12–15, 16–22, 23–31, 32–45, 46–63, 64–90 and all beyond."""
    starts = [8, 12, 16, 23, 32, 46, 64, 91]
    assert [int(relative_buckets(np.array([-d]), 32, 128, True)[0]) for d in starts] == list(range(8, 16))
    assert [int(relative_buckets(np.array([1 - d]), 32, 128, True)[0]) for d in starts] == list(range(7, 15))
    assert relative_buckets(np.array([1, 100, 0]), 32, 128, True).tolist() == [17, 31, 0]
    assert relative_buckets(np.array([1, 100]), 32, 128, False).tolist() == [0, 0]


@pytest.mark.formula("F12")
def test_relative_bias_is_looked_up_by_offset():
    layer = nn.RelativeBias(3, 8, 10)
    bias = layer.bias(4, 9)
    assert bias.shape == (3, 4, 9)
    for h, i, j in np.ndindex(3, 4, 9):
        assert bias.data[h, i, j] == layer.weight.data[bucket(j - (5 + i), 8, 10, True), h]
    bias.sum().backward()
    counts = np.bincount(relative_buckets(np.arange(9) - np.arange(5, 9)[:, None], 8, 10, True).ravel(), minlength=8)
    assert np.array_equal(layer.weight.grad, np.tile(counts[:, None], 3))


@pytest.mark.parametrize("settings, words", [
    (dict(buckets=3), "buckets must be 2 or more for each way"), (dict(buckets=2), "buckets must be 2 or more"),
    (dict(buckets=1, both_ways=False), "buckets must be 2 or more"), (dict(furthest=8), "furthest must be more than 8"),
    (dict(heads=0), "heads must be a positive integer"), (dict(furthest=-1), "furthest must be a positive integer")])
def test_buckets_that_cannot_be_are_refused(settings, words):
    with pytest.raises(ValueError, match=f"RelativeBias: {words}"):
        nn.RelativeBias(**{"heads": 2} | settings)


def test_alibi_slopes_are_the_papers():
    assert alibi_slopes(8).tolist() == [1 / 2 ** h for h in range(1, 9)]
    assert alibi_slopes(1).tolist() == [2 ** -8]
    np.testing.assert_allclose(alibi_slopes(16), [2 ** (-h / 2) for h in range(1, 17)], rtol=1e-6)
    eight, sixteen = alibi_slopes(8), alibi_slopes(16)
    for heads in range(9, 16):
        assert alibi_slopes(heads).tolist() == [*eight, *sixteen[::2][:heads - 8]]
    assert alibi_slopes(3).tolist() == [2 ** -4, 2 ** -8, 2 ** -2]


def test_alibi_falls_with_distance():
    bias = nn.ALiBi(2).bias(2, 4).data
    assert np.array_equal(bias[0] * -16, [[2, 1, 0, 1], [3, 2, 1, 0]])
    assert np.array_equal(bias[1] * 16, bias[0])


# ---- in attention ---------------------------------------------------------------------------------------------------

@pytest.mark.formula("F12")
@pytest.mark.parametrize("name", ["relative", "alibi"])
def test_a_bias_is_added_to_the_scores(name):
    layer, x = attention(name), tg.Tensor(normal(2, 5, 8))
    q, k, v = layer.project(x)
    scores = q.data @ k.data.swapaxes(-1, -2) / 2 + layer.positions.bias(5, 5).data
    pattern = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(layer.pattern(x), pattern, rtol=1e-12)
    heads = (pattern @ v.data).swapaxes(1, 2).reshape(2, 5, 8)
    np.testing.assert_allclose(layer(x).data, layer.out(tg.Tensor(heads)).data, rtol=1e-11)


@each_scheme
def test_relative_schemes_know_distances_only(name):
    """The same tokens later in a longer text attend to each other alike, when nothing else is seen."""
    layer, x = attention(name), normal(1, 9, 8)
    seen = np.arange(9) >= 4
    late = layer.pattern(tg.Tensor(x), mask=seen, causal=True)[:, :, 4:, 4:]
    np.testing.assert_allclose(layer.pattern(tg.Tensor(x[:, 4:]), causal=True), late, rtol=1e-9)


@each_scheme
@pytest.mark.parametrize("causal", [False, True])
def test_gradients_are_those_of_finite_differences(name, causal):
    layer, x, g = attention(name), leaf(2, 5, 8), normal(2, 5, 8, seed=3)
    value = lambda: (layer(x, causal=causal) * g).sum()
    value().backward()
    rng = np.random.default_rng(0)
    for what, leaf_ in {"x": x, **dict(layer.named_parameters())}.items():
        flat, found = leaf_.data.reshape(-1), leaf_.grad.reshape(-1)
        for i in rng.permutation(flat.size)[:8]:
            before, values = flat[i], []
            for h in (1e-6, -1e-6):
                flat[i] = before + h
                values.append(value().item())
            flat[i] = before
            assert found[i] == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5, abs=1e-7), (what, i)


@pytest.mark.formula("C2")
def test_attention_without_positions_permutes_with_its_input_and_with_them_it_does_not():
    order, x = np.random.default_rng(1).permutation(6), normal(2, 6, 8)
    off = {}
    for name, scheme in {"none": nn.NoPositions, **SCHEMES}.items():
        tg.manual_seed(3)
        layer = nn.Attention(8, 2, positions=scheme()).to(dtype="float64")
        for _, p in layer.named_parameters():
            p.data *= 3
        off[name] = abs(layer(tg.Tensor(x[:, order])).data - layer(tg.Tensor(x)).data[:, order]).max()
    assert off.pop("none") < 1e-12 and min(off.values()) > 1e-4


@pytest.mark.parametrize("positions", POSITIONS)
def test_all_schemes_answer_the_same_three_questions(positions):
    scheme = POSITIONS[positions](DecoderConfig(**SHAPE))
    added, x, bias = scheme(3, 2), tg.Tensor(normal(1, 2, 3, 8)), scheme.bias(3, 5)
    acts = (isinstance(added, tg.Tensor), scheme.rotate(x, 2) is not x, bias is not None)
    assert sum(acts) == (positions != "none")                              # in one place, or in none
    assert not acts[0] or added.shape == (3, 16)
    assert scheme.rotate(x, 2).shape == x.shape
    assert bias is None or bias.shape == (2, 3, 5)


# ---- in a decoder ---------------------------------------------------------------------------------------------------

@pytest.fixture(params=POSITIONS)
def model(request):
    model = Decoder(DecoderConfig(**SHAPE, positions=request.param))
    for _, x in model.named_parameters():
        x.data += (0.3 * normal(*x.shape)).astype(x.dtype)
    return model.eval()


def test_cached_logits_and_cached_text_are_the_uncached_ones(model):
    ids = np.random.default_rng(0).integers(0, 11, (2, 12))
    with tg.no_grad():
        whole, cache, found, start = model(ids).data, model.new_cache(), [], 0
        for n in (5, 1, 2, 1, 3):
            found.append(model(ids[:, start:start + n], cache).data)
            start += n
    np.testing.assert_allclose(np.concatenate(found, axis=1), whole, atol=2e-5)
    texts = [list(generate(model, [1, 2, 3], 40, rng=np.random.default_rng(5), cached=cached))
             for cached in (True, False)]
    assert texts[0] == texts[1] and len(set(texts[0])) > 3


def test_a_decoder_tells_orders_apart(model):
    """Also without positions, since a causal model sees more at later places; but not which came first of two."""
    logits = lambda ids: model(np.array([ids])).data[0, -1]
    assert abs(logits([1, 1, 2]) - logits([1, 2, 2])).max() > 1e-4
    one_layer = Decoder(DecoderConfig(**SHAPE | dict(layers=1), positions=model.config.positions)).to(dtype="float64")
    same = np.allclose(one_layer([[3, 4, 5]]).data[0, -1], one_layer([[4, 3, 5]]).data[0, -1], rtol=1e-12, atol=1e-14)
    assert same == (model.config.positions == "none")


def test_one_scheme_serves_all_layers_and_has_one_name(model):
    assert all(block.attention.positions is model.positions for block in model.blocks)
    assert not [name for name, _ in model.named_tensors() if "attention.positions" in name]
    trained = [name for name, _ in model.named_parameters() if "positions" in name]
    assert trained == ["positions.weight"] * (model.config.positions in ("learned", "relative"))


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_weights_saved_before_there_were_other_schemes_have_their_names(positions):
    block = ["norms.0.gain", "norms.1.gain", *(f"attention.{part}.weight" for part in ("query", "key", "value", "out")),
             "feed_forward.up.weight", "feed_forward.down.weight"]
    names = ["embed.weight", "positions.weight", *(f"blocks.{i}.{name}" for i in (0, 1) for name in block), "norm.gain"]
    assert list(Decoder(DecoderConfig(**SHAPE, positions=positions)).state_dict()) == names


def test_weights_of_a_relative_scheme_fit_a_longer_context():
    for positions in ("rotary", "relative", "alibi", "none"):
        short, long = (Decoder(DecoderConfig(**SHAPE | dict(context=n), positions=positions)) for n in (12, 30))
        long.load_state_dict(short.state_dict())
        ids = np.random.default_rng(0).integers(0, 11, (1, 30))
        np.testing.assert_allclose(long(ids).data[:, :12], short(ids[:, :12]).data, atol=1e-5)


def test_what_generates_without_the_engine_knows_the_schemes_that_are_added(model):
    assert bool(without_engine(model)) == (model.config.positions in ("learned", "sinusoidal"))
    own = Decoder(DecoderConfig(**SHAPE))
    own.blocks[1].attention.positions = nn.ALiBi(2)
    assert not without_engine(own)


@pytest.mark.oracle
def test_attention_with_a_bias_is_pytorchs(torch):
    q, k, v, bias = (leaf(2, 2, 4, 3), leaf(2, 2, 5, 3, seed=1), leaf(2, 2, 5, 3, seed=2), leaf(2, 4, 5, seed=4))
    theirs = [torch.tensor(x.data, requires_grad=True) for x in (q, k, v, bias)]
    y = F.attention(q, k, v, bias)
    expected = torch.nn.functional.scaled_dot_product_attention(*theirs[:3], attn_mask=theirs[3])
    np.testing.assert_allclose(y.data, expected.detach(), rtol=1e-10)
    (y ** 2).sum().backward()
    (expected ** 2).sum().backward()
    for x, other in zip((q, k, v, bias), theirs):
        np.testing.assert_allclose(x.grad, other.grad, rtol=1e-9, atol=1e-12)

"""Generation: the right distribution, the same numbers with a cache and without, a clean end."""

import numpy as np
import pytest

import tinygrad_tfm as tg
from tinygrad_tfm.generate import Sampling, generate, generate_text, last_logits, window_start
from tinygrad_tfm.models.without_engine import without_engine
from tinygrad_tfm.text import CharTokenizer

LOGITS = np.log(np.array([0.1, 0.4, 0.2, 0.3]))


@pytest.fixture
def model():
    tg.manual_seed(5)
    return tg.models.Decoder(tg.models.DecoderConfig(vocab=12, context=8, layers=2, heads=2, width=16, dropout=0.3))


def test_probabilities_are_softmax_at_temperature_one():
    np.testing.assert_allclose(Sampling().probabilities(LOGITS), [0.1, 0.4, 0.2, 0.3])


def test_temperature_zero_takes_the_likeliest_and_low_temperature_tends_to_it():
    assert Sampling(temperature=0).probabilities(LOGITS).tolist() == [0, 1, 0, 0]
    assert Sampling(temperature=0.01).probabilities(LOGITS)[1] > 0.999999


@pytest.mark.formula("F8")
def test_temperature_divides_the_logits():
    p = np.array([0.1, 0.4, 0.2, 0.3]) ** (1 / 2.0)
    np.testing.assert_allclose(Sampling(temperature=2.0).probabilities(LOGITS), p / p.sum())


def test_top_k_keeps_exactly_k_also_among_equals():
    np.testing.assert_allclose(Sampling(top_k=2).probabilities(LOGITS), [0, 4 / 7, 0, 3 / 7])
    assert np.count_nonzero(Sampling(top_k=3).probabilities(np.zeros(9))) == 3
    assert np.count_nonzero(Sampling(top_k=99).probabilities(LOGITS)) == 4


def test_top_p_keeps_the_fewest_that_reach_p():
    np.testing.assert_allclose(Sampling(top_p=0.69).probabilities(LOGITS), [0, 4 / 7, 0, 3 / 7])
    np.testing.assert_allclose(Sampling(top_p=0.71).probabilities(LOGITS), [0, 4 / 9, 2 / 9, 3 / 9])
    assert Sampling(top_p=1e-9).probabilities(LOGITS).tolist() == [0, 1, 0, 0]


def test_huge_logits_and_minus_infinity_do_no_harm():
    np.testing.assert_allclose(Sampling().probabilities(np.array([1e30, -np.inf, 1e30], np.float32)), [0.5, 0, 0.5])


def test_choices_follow_the_distribution():
    rng = np.random.default_rng(0)
    found = np.bincount([Sampling().choose(LOGITS, rng) for _ in range(4000)], minlength=4) / 4000
    assert abs(found - [0.1, 0.4, 0.2, 0.3]).max() < 5 * np.sqrt(0.25 / 4000)


@pytest.mark.parametrize("bad", [dict(temperature=-1), dict(temperature=float("nan")), dict(top_k=0), dict(top_p=0.0),
                                 dict(top_p=1.5), dict(top_p=float("nan")), dict(top_k=1.5)])
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Sampling(**bad)


@pytest.mark.parametrize("context", [1, 2, 7, 8])
def test_the_window_holds_the_last_tokens_and_moves_in_halves(context):
    starts = [window_start(n, context) for n in range(1, 60)]
    for n, start in enumerate(starts, 1):
        assert 1 <= n - start <= context and start % max(1, context // 2) == 0
        assert n <= context or n - start > context - max(1, context // 2)
    assert starts == sorted(starts)


@pytest.mark.parametrize("prompt", [1, 8, 9, 30])
def test_cached_and_uncached_logits_agree_within_and_beyond_the_context(model, prompt):
    ids = list(np.random.default_rng(0).integers(0, 12, prompt))
    seen = {True: [], False: []}
    for cached in seen:
        class Spy(Sampling):
            def choose(self, logits, rng, kept=seen[cached]):
                kept.append(logits)
                return super().choose(logits, rng)
        out = list(generate(model, ids, 25, Spy(), np.random.default_rng(3), cached=cached))
        seen[cached] = (out, np.array(seen[cached]))
    assert seen[True][0] == seen[False][0]
    np.testing.assert_allclose(seen[True][1], seen[False][1], atol=1e-5)


def test_a_token_within_the_context_costs_one_token(model, monkeypatch):
    fed = []
    forward = type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda self, ids, cache=None: (fed.append(ids.shape[1]),
                                                                            forward(self, ids, cache))[1])
    with tg.fused(False):
        list(generate(model, [1, 2, 3], 9))
    assert fed == [3, 1, 1, 1, 1, 1, 5, 1, 1]                             # full at 8: the last 5 are run once more
    fed.clear()
    list(generate(model, [1, 2, 3], 9))
    assert fed == [3]                                                     # all that follows goes another way


def test_greedy_takes_the_models_likeliest(model):
    out = list(generate(model, [3], 1, Sampling(temperature=0)))
    assert out == [int(last_logits(model, [3]).argmax())]


def test_the_same_seed_writes_the_same_and_dropout_is_off_but_comes_back(model):
    model.train()
    once, again = (list(generate(model, [1], 20, rng=np.random.default_rng(7))) for _ in range(2))
    assert once == again and model.training


def test_an_interrupted_generation_leaves_the_gradient_switch_alone(model):
    pieces = generate(model, [1], 5)
    next(pieces)
    x = tg.Tensor(2.0, requires_grad=True)
    (x * x).backward()
    assert x.grad == 4


def text_model():
    tg.manual_seed(1)
    tokenizer = CharTokenizer("abcd\n")
    return tg.models.Decoder(tg.models.DecoderConfig(5, 8, 1, 1, 8)), tokenizer


def test_text_stops_before_the_stop_string_and_gives_out_no_part_of_it():
    model, tokenizer = text_model()
    whole = "".join(generate_text(model, tokenizer, "a", 400, seed=2))
    stop = whole[50:53]
    cut = "".join(generate_text(model, tokenizer, "a", 400, seed=2, stop=stop))
    assert cut == whole[:whole.index(stop)] and len(whole) == 400


def test_a_stop_string_that_never_comes_changes_nothing():
    model, tokenizer = text_model()
    whole = "".join(generate_text(model, tokenizer, "a", 50, seed=2))
    assert "".join(generate_text(model, tokenizer, "a", 50, seed=2, stop="abcdabcdabcd")) == whole


def test_unseen_characters_are_named_and_an_empty_prompt_is_a_line_break():
    model, tokenizer = text_model()
    with pytest.raises(ValueError, match="'é'"):
        list(generate_text(model, tokenizer, "aé", 3))
    assert (list(generate_text(model, tokenizer, "", 9, seed=1))
            == list(generate_text(model, tokenizer, "\n", 9, seed=1)))


def test_no_token_to_start_from_is_refused(model):
    with pytest.raises(ValueError, match="at least one token"):
        list(generate(model, [], 3))


@pytest.mark.parametrize("shape", [
    {}, dict(bias=True), dict(bias=True, without_bias=["key"]), dict(bias=True, without_bias=["query"], tied=False),
    dict(tied=False), dict(activation="relu"), dict(activation="gelu_tanh"), dict(heads=1),
    dict(positions="sinusoidal", scale_embedding=True), dict(hidden=7, layers=1, activation="silu")], ids=str)
def test_without_the_engine_logits_are_the_models_own(shape):
    tg.manual_seed(2)
    without_bias = shape.get("without_bias", ())
    shape = {k: v for k, v in shape.items() if k != "without_bias"}
    c = dict(vocab=12, context=20, layers=3, heads=2, width=16, std=0.3) | shape
    model = tg.models.Decoder(tg.models.DecoderConfig(**c)).eval()
    model.norm.eps = 0.1
    for part in without_bias:
        getattr(model.blocks[0].attention, part).bias = None
    for x in model.parameters():                                          # biases and gains that are not 0 and 1
        x.data += tg.random.rng().normal(size=x.shape).astype(np.float32) / 10
    ids, cache = np.random.default_rng(0).integers(0, 12, 20), model.new_cache()
    step = without_engine(model)
    seen = [5, 6, 7, 12, 13, 20]                                          # one more, or several
    found = [last_logits(model, ids[:5], cache), *(step(ids[a:b], cache) for a, b in zip(seen, seen[1:]))]
    for n, logits in zip(seen, found, strict=True):
        np.testing.assert_allclose(logits, last_logits(model, ids[:n]), rtol=1e-4, atol=2e-5)
    assert cache[0].length == cache[-1].length == 20


def test_what_the_quick_step_does_not_know_is_left_to_the_model(model):
    def config(**changes):
        return tg.models.Decoder(tg.models.DecoderConfig(**dict(vocab=12, context=8, layers=2, heads=2, width=16)
                                                         | changes))
    assert without_engine(model) and not without_engine(config(pre_norm=False))
    with tg.fused(False):
        assert not without_engine(model)
    with tg.watch.timed():
        assert not without_engine(model)
    def no_norm(m): m.norm = None
    def loose(m): m.blocks[0].pre_norm = False
    def own_projection(m): m.blocks[0].attention.project = lambda *inputs: inputs
    def only_linear(m): m.blocks[0].feed_forward = tg.nn.Linear(16, 16)
    def odd_norm(m): m.norm = tg.nn.Dropout(0.0)
    for change in (no_norm, loose, own_projection, only_linear, odd_norm,
                   lambda m: setattr(m.blocks[0].attention, "forward", lambda x: x),
                   lambda m: setattr(m.blocks[1], "norms", [tg.nn.RMSNorm(16), tg.nn.RMSNorm(16)]),
                   lambda m: setattr(m.blocks[1].feed_forward, "activation", tg.F.tanh),
                   lambda m: setattr(m.embed.weight, "data", m.embed.weight.data.astype(np.float64))):
        changed = config()
        change(changed)
        assert not without_engine(changed)

"""The explorer page's arithmetic, run by Node: the same logits and gradients as Python's, for every kind of decoder.

Mutations of model.js show that these checks can fail. The questions are answered by `explorer_model.js`.
"""

import json
import math
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import tinygrad_tfm as tg
from tinygrad_tfm import checkpoint, functional as F
from tinygrad_tfm.generate import Sampling, window_start
from tinygrad_tfm.inspect import explore
from tinygrad_tfm.inspect.explorer import fixed, pack, unpack
from tinygrad_tfm.inspect.stations import stations
from tinygrad_tfm.models import Decoder, DecoderConfig
from tinygrad_tfm.models.decoder import ACTIVATIONS, POSITIONS
from tinygrad_tfm.text import CharTokenizer
from tinygrad_tfm.train import PRESETS

PAGE = Path(tg.__file__).parent / "inspect/page"
ALPHABET = "\n !',-.:;?ABCEFGHIKLMNOPRSTUWYabcdefghiklmnoprstuvwyz"
SMALL = dict(context=12, layers=2, heads=2, width=12)
SHAPES = {
    "lecture": PRESETS["lecture"][0],
    "nanogpt-cpu": PRESETS["nanogpt-cpu"][0],
    "one layer, one head": SMALL | dict(layers=1, heads=1, hidden=20, activation="gelu_tanh"),
    "post-norm": SMALL | dict(pre_norm=False, bias=True, activation="relu"),
    "untied, sinusoidal": SMALL | dict(tied=False, positions="sinusoidal", scale_embedding=True),
    "rotary": SMALL | dict(positions="rotary", activation="silu", bias=True),
    "relative": SMALL | dict(positions="relative", pre_norm=False, context=30),
    "alibi": SMALL | dict(positions="alibi", heads=3, tied=False),
    "no positions": SMALL | dict(positions="none", width=10, hidden=7),
}
TEXTS = ["Ye qéäuick 𝕏 fox: \u202e§", "", "q",
         "But soft, what light through yonder window breaks? It is the East: " * 2]

# A shape, and a break of model.js that must be noticed on it.
MUTATIONS = [
    ("post-norm", "activation.value(", "activation.value(1.001 * "),
    ("rotary", "(1 + u * (1 - sigmoid(u)))", "(1 + u)"),
    ("relative", "0.5 * erf(u * Math.SQRT1_2)", "0.5 * erf(u * 0.7)"),
    ("one layer, one head", "CUBE = 0.044715", "CUBE = 0.05"),
    ("one layer, one head", "(1 + 3 * CUBE * u * u)", "(1 + CUBE * u * u)"),
    ("post-norm", "slope: u => +(u > 0)", "slope: u => 1"),
    ("alibi", "A.key, j * D + h * K, K) * scale", "A.key, j * D + h * K, K) / K"),
    ("alibi", "Math.sqrt(variance + eps)", "Math.sqrt(variance + 2 * eps)"),
    ("post-norm", "(bias ? bias[d] : 0)", "0"),
    ("one layer, one head", "t < u ? y.subarray(u * m, u * m + m) : zeros(m)", "y.subarray(u * m, u * m + m)"),
    ("alibi", "(G.pattern[at + j] - mean)", "G.pattern[at + j]"),
    ("alibi", "- mean - hat[i] * along)", "- mean)"),
    ("alibi", "addTo(B.middle, B.sum2, T * D);", ""),
    ("post-norm", "addTo(G.resid[l], B.sum1, T * D);", ""),
    ("alibi", "G.key[k + c] += gs", "G.key[k + c] = gs"),
    ("alibi", "G.value[v + c] += A.pattern", "G.value[v + c] = A.pattern"),
    ("rotary", "if (gb) for (const t of rows) addTo", "if (gb) for (const t of rows.slice(1)) addTo"),
    ("alibi", "+ as * d;", "+ as * c;"),
    ("untied, sinusoidal", "G.resid[0][t * D + d] * model.embedScale", "G.resid[0][t * D + d]"),
    ("one layer, one head", 'gw["positions.weight"][t * D + d] += ', 'gw["positions.weight"][t * D + d] = 2 * '),
    ("rotary", 'rotate(model, B[n], B[n + "Raw"], 0, T, -1)', 'rotate(model, B[n], B[n + "Raw"], 0, T, 1)'),
    ("rotary", "(d % K) / 2", "d / 2"),
    ("relative", "Math.floor(steps + 1e-9)", "Math.ceil(steps + 1e-9)"),
    ("relative", "gPositions[bucket(i - j) * H + h] += gs", "gPositions[bucket(i - j) * H + h] -= gs"),
    ("alibi", '-w["positions.slopes"][h] * distance', '-w["positions.slopes"][0] * distance'),
    ("alibi", "ids[from] === trace.ids[from]", "from < trace.ids.length"),
    ("alibi", "(v === target)) / rows;", "(v === target));"),
    ("alibi", "logits, from, to, D, V)", "logits, from, to - 1, D, V)"),
    ("rotary", "if (model.muted.has(l * H + h)) continue;\n        for", "for"),
    ("alibi", "layerNorm(one, w", "(() => {})(one, w"),
    ("one layer, one head", 'gw["embed.weight"][v * D + d] += a *', 'gw["embed.weight"][v * D + d] = a *'),
    ("no positions", "2 ** (exponent - 15)", "2 ** (exponent - 14)"),
]


def node(*ask):
    """Node's answers to these questions, in one process."""
    if shutil.which("node") is None:
        (pytest.fail if os.environ.get("TINYGRAD_TFM_BROWSER") == "required" else pytest.skip)(
            "Node.js is not installed: what the page computes is checked with it")
    asked = {"model": (PAGE / "model.js").read_text("utf-8"), "state": (PAGE / "views/state.js").read_text("utf-8"),
             "ask": ask}
    done = subprocess.run(["node", Path(__file__).with_name("explorer_model.js")], input=json.dumps(asked),
                          capture_output=True, text=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def decoder(shape):
    """A decoder whose every number matters: no gain is 1 and no bias 0."""
    tg.manual_seed(3)
    model = Decoder(DecoderConfig(vocab=len(ALPHABET), **shape | dict(std=0.15)))
    for _, x in model.named_parameters():
        x.data[...] += tg.random.rng().normal(size=x.shape) * 0.1
    return model


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The page of every shape, by name."""
    made = {}
    for name, shape in SHAPES.items():
        path = tmp_path_factory.mktemp("pages") / "checkpoint.safetensors"
        checkpoint.save_model(path, decoder(shape), CharTokenizer(ALPHABET), {})
        made[name] = explore(path).path
    return made


@pytest.fixture(scope="module")
def found(pages):
    """What Node measured on every page."""
    less = dict(places=1, longest=24)                                   # of the large ones: the small have it all
    ask = [dict(what="measure", page=page, texts=TEXTS) | (less if name in PRESETS else dict(places=3))
           for name, page in pages.items()]
    return dict(zip(pages, node(*ask)))


@cache
def expected(name):
    """A decoder in float64 with the weights that the page has."""
    model = decoder(SHAPES[name])
    packed = unpack(*pack(model.state_dict(), "float16", fixed(model)))
    model.to(dtype=np.float64).load_state_dict(packed)
    return model.eval()


def window(text, context):
    """The ids that the model sees: known characters, and of a long text what a window holds that moves by quarters."""
    known = [ALPHABET.index(c) for c in text if c in ALPHABET] or [ALPHABET.index("\n")]
    while len(known) > context:
        known = known[context // 4:] if len(known) - context // 4 >= context - context // 4 else known
    return known


@pytest.mark.parametrize("name", SHAPES)
def test_logits_are_pythons_for_unseen_characters_and_beyond_the_window_too(name, found):
    for text, answer in zip(TEXTS, found[name]["logits"]):
        assert answer["ids"] == window(text, SHAPES[name]["context"])
        with tg.no_grad():
            logits = expected(name)(np.array([answer["ids"]])).data[0]
        np.testing.assert_allclose(answer["rows"], logits, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", SHAPES)
def test_what_the_page_checks_itself_against_holds(name, found):
    assert found[name]["python"]["logits"] <= 1e-5 and found[name]["python"]["norms"] <= 1e-6


@pytest.mark.parametrize("name", SHAPES)
def test_gradients_are_finite_differences(name, found):
    slopes = found[name]["slopes"]
    assert slopes.keys() == {name for name, _ in decoder(SHAPES[name]).named_parameters()}
    assert max(slopes.values()) <= 1e-6


@pytest.mark.parametrize("name", SHAPES)
def test_rows_that_are_kept_are_rows_computed_anew_and_a_muted_head_is_one_without_values(name, found):
    assert found[name]["kept"] == 0.0 and found[name]["muted"] <= 1e-12


@pytest.mark.parametrize("name", SHAPES)
def test_the_lens_is_what_a_model_of_fewer_layers_says(name, found):
    assert found[name]["lens"] == 0.0


@pytest.mark.parametrize("name", SHAPES)
def test_every_station_has_words_and_every_weight_a_station(name, found):
    model = decoder(SHAPES[name])
    assert {stop["kind"] for stop in found[name]["stations"]} == stations(model.config).keys()
    blocks = [stop["l"] for stop in found[name]["stations"] if "l" in stop]
    assert blocks == sorted(blocks) and set(blocks) == set(range(model.config.layers))
    apart = {"positions.rates", "positions.slopes"}                     # of turning and of forgetting: not trained
    assert set(found[name]["weights"]) == model.state_dict().keys() - apart


def test_the_shapes_have_every_option():
    configs = [decoder(shape).config for shape in SHAPES.values()]
    assert {c.positions for c in configs} == POSITIONS.keys() and {c.activation for c in configs} == ACTIVATIONS.keys()
    for option in ("bias", "tied", "pre_norm", "scale_embedding"):
        assert {getattr(c, option) for c in configs} == {True, False}


def wrong(answer, right):
    """Which of the checks above an answer fails."""
    rows = [np.subtract(np.array(a["rows"], float), b["rows"]) if a["ids"] == b["ids"] else [math.nan]
            for a, b in zip(answer["logits"], right["logits"])]
    gaps = dict(logits=max(np.abs(gap).max() for gap in rows), norms=answer["python"]["norms"],
                slopes=np.max(np.array([*answer["slopes"].values()], float)), kept=answer["kept"],
                muted=answer["muted"], lens=answer["lens"])
    limits = dict(logits=1e-9, norms=1e-6, slopes=1e-6, kept=0.0, muted=1e-12, lens=0.0)
    return {name for name, gap in gaps.items() if gap is None or not gap <= limits[name]}        # NaN is JSON's null


def test_every_break_of_the_arithmetic_is_noticed(pages, found):
    answers = node(*[dict(what="measure", page=pages[name], texts=TEXTS[:1], places=1, changes=[[old, new]])
                     for name, old, new in MUTATIONS])
    assert not any(wrong(found[name], found[name]) for name, _, _ in MUTATIONS)
    missed = [(name, new) for (name, _, new), answer in zip(MUTATIONS, answers) if not wrong(answer, found[name])]
    assert not missed


def test_the_window_moves_as_in_generation_only_by_smaller_jumps():
    contexts, counts = (1, 2, 7, 64), list(range(200))
    found = node(*[dict(what="window", counts=counts, context=context, **jump) for context in contexts
                   for jump in ({"jump": max(1, context // 2)}, {})])
    for context, halves, quarters in zip(contexts, found[::2], found[1::2]):
        assert halves == [window_start(n, context) for n in counts]
        assert all(0 < n - start <= context for n, start in zip(counts[1:], quarters[1:]))
        assert max(np.diff(quarters)) == max(1, context // 4)


def test_what_is_drawn_from_is_what_python_draws_from():
    logits = [0.3, 2.0, 2.0, -1.0, 0.9, -40.0]
    cuts = [dict(temperature=t, topK=k, topP=p)
            for t in (0, 0.05, 0.7, 1, 2) for k in (1, 2, 3, 6) for p in (0.05, 0.6, 1)]
    for cut, p in zip(cuts, node(dict(what="distribution", logits=logits, cuts=cuts))[0]):
        sampling = Sampling(cut["temperature"], cut["topK"], cut["topP"])
        np.testing.assert_allclose(p, sampling.probabilities(np.array(logits)), atol=1e-12)


def test_a_seed_decides_what_is_drawn_and_often_enough_it_is_the_distribution():
    p = [0.1, 0.0, 0.6, 0.3]
    one, again, other = node(*[dict(what="draw", p=p, count=4000, seed=seed) for seed in (1, 1, 2)])
    assert one == again != other
    np.testing.assert_allclose(np.bincount(one, minlength=4) / 4000, p, atol=5 * math.sqrt(0.25 / 4000))
    assert 1 not in one


def test_activations_are_those_of_the_rules_far_out_too():
    at = [-40.0, -9.0, -6.1, -3.0, -0.5, 0.25, 1.0, 4.3, 9.0, 40.0]
    found = iter(node(*[dict(what="activation", name=name, of=of, at=at) for name in ACTIVATIONS
                        for of in ("value", "slope")]))
    for name in ACTIVATIONS:
        x = tg.Tensor(np.array(at), requires_grad=True)
        y = getattr(F, name)(x)
        y.sum().backward()
        np.testing.assert_allclose(next(found), y.data, rtol=1e-12, atol=1e-14, err_msg=name)
        np.testing.assert_allclose(next(found), x.grad, rtol=1e-12, atol=1e-14, err_msg=name)


def test_before_training_weights_spread_as_python_draws_them(pages):
    small = [name for name in SHAPES if name not in PRESETS]
    for name, answer in zip(small, node(*[dict(what="untrained", page=pages[name]) for name in small])):
        tg.manual_seed(1)
        model = Decoder(DecoderConfig(vocab=len(ALPHABET), **SHAPES[name] | dict(std=0.15)))
        for weight, x in model.named_tensors():
            spread, same = answer[weight]
            assert same == (weight in fixed(model))
            if not same:
                assert spread == pytest.approx(np.sqrt((x.data ** 2).mean()), rel=8 / math.sqrt(x.size), abs=1e-12)


def test_a_character_more_costs_one_row(pages):
    found, = node(dict(what="rows", page=pages["nanogpt-cpu"]))
    assert found == [PRESETS["nanogpt-cpu"][0]["context"] - 1, 1]

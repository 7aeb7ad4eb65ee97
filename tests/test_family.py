"""Pairs, mixtures, series and graphs: each of these models sees what it should, and nothing else.

What they learn is in `test_tasks.py`.
"""

import math

import numpy as np
import pytest
import standin
from drawn import lively

import tinygrad_tfm as tg
import tinygrad_tfm.functional as F
from tinygrad_tfm import data, nn
from tinygrad_tfm.models import (
    Classifier,
    ContrastivePair,
    Encoder,
    Forecaster,
    GraphTransformer,
    ImageQuestion,
    TokenEncoder,
    VisionTransformer,
    contrastive_loss,
    frames,
    spectrogram,
)
from tinygrad_tfm.models.contrastive import normalised
from tinygrad_tfm.models.graph import everyone, structure, with_itself

V, D = 11, 8


def everything_learns(model, loss):
    """No parameter is without a gradient; a key's bias moves all scores of a query alike, and softmax forgets it."""
    loss.backward()
    still = [name for name, p in model.named_parameters()
             if p.grad is None or (abs(p.grad).max() < 1e-8 and not name.endswith("key.bias"))]
    return not still


def pair():
    tg.manual_seed(0)
    return lively(ContrastivePair(VisionTransformer(8, 4, 6, 1, 2, D), Classifier(TokenEncoder(V, 8, 1, 2, D), D, 6)))


def answerer():
    tg.manual_seed(0)
    return lively(ImageQuestion(8, 4, V, 6, 3, layers=2, heads=2, width=D))


def forecaster(**settings):
    tg.manual_seed(0)
    return lively(Forecaster(2, 8, layers=2, heads=2, width=D, **settings))


def graph_model(**settings):
    tg.manual_seed(0)
    return lively(GraphTransformer(3, 4, layers=2, heads=2, width=D, steps=4, **settings))


def pictures(n=4):
    return np.random.default_rng(1).random((n, 8, 8))


def texts(lengths=(5, 2, 6, 3)):
    rng = np.random.default_rng(2)
    return [rng.integers(1, V, n) for n in lengths]


def graphs(B=2, N=9, share=0.25):
    """Features (B, N, 3) and edges that go both ways."""
    rng = np.random.default_rng(3)
    upper = np.triu(rng.random((B, N, N)) < share, 1)
    return rng.standard_normal((B, N, 3)), upper | upper.swapaxes(1, 2)


# ---- pairs ----------------------------------------------------------------------------------------------------------

@pytest.mark.formula("F26")
def test_the_contrastive_loss_is_its_formula_both_ways():
    a, b = np.random.default_rng(0).standard_normal((2, 5, 3))
    s = 2.5 * a @ b.T
    rows = [math.log(sum(math.exp(x) for x in s[i])) - s[i, i] for i in range(5)]
    columns = [math.log(sum(math.exp(x) for x in s[:, i])) - s[i, i] for i in range(5)]
    loss = contrastive_loss(tg.Tensor(a), tg.Tensor(b), 2.5).item()
    assert loss == pytest.approx((np.mean(rows) + np.mean(columns)) / 2, rel=1e-12)
    assert abs(np.mean(rows) - np.mean(columns)) > 0.01                     # one way alone would be another number
    assert contrastive_loss(tg.Tensor(b), tg.Tensor(a), 2.5).item() == pytest.approx(loss, rel=1e-12)


def test_pairs_that_all_look_alike_cost_the_logarithm_of_their_number():
    same = tg.Tensor(np.ones((7, 3)))
    assert contrastive_loss(same, same, 9.0).item() == pytest.approx(math.log(7))
    apart = tg.Tensor(np.eye(7))
    assert contrastive_loss(apart, apart, 30.0).item() < 1e-11


def test_vectors_become_one_long():
    x = np.random.default_rng(0).standard_normal((4, 3))
    np.testing.assert_allclose(normalised(tg.Tensor(x)).data, x / np.linalg.norm(x, axis=1, keepdims=True), rtol=1e-10)
    assert not normalised(tg.Tensor(np.zeros((1, 3)))).data.any()


def test_scores_are_cosines_times_the_scale():
    model = pair()
    ids, mask = data.padded(texts())
    a, b = model.image(pictures(3)).data, model.text(ids, mask).data
    cosines = a @ b.T / np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
    scores = model(pictures(3), ids, mask)
    assert scores.shape == (3, 4)
    np.testing.assert_allclose(scores.data, cosines * model.scale().item(), rtol=1e-9)
    one_by_one = [[model(image[None], text[None]).item() for text in texts()] for image in pictures(3)]
    np.testing.assert_allclose(scores.data, one_by_one, rtol=1e-8)


def test_the_scale_begins_at_clips_and_ends_at_a_hundred():
    tg.manual_seed(0)
    model = ContrastivePair(nn.Linear(2, 3), nn.Linear(2, 3))
    assert model.scale().item() == pytest.approx(1 / 0.07, rel=1e-6)
    model.log_scale.data += 5
    assert model.scale().item() == pytest.approx(100, rel=1e-6)


def test_both_encoders_and_the_scale_learn_from_pairs():
    model = pair()
    ids, mask = data.padded(texts())
    model.log_scale.data[...] = 1.0
    assert everything_learns(model, model.loss(pictures(), ids, mask))
    assert model.log_scale.grad.shape == () and model.log_scale.grad != 0
    order = [2, 0, 3, 1]
    assert model.loss(pictures()[order], ids[order], mask[order]).item() == pytest.approx(
        model.loss(pictures(), ids, mask).item(), rel=1e-10)                # pairs have no order


# ---- two kinds in one sequence --------------------------------------------------------------------------------------

def test_image_and_question_are_one_sequence():
    model = answerer()
    ids = np.stack([text[:2] for text in texts()])
    x = model.classifier.encoder.embed((pictures(), ids)).data
    assert x.shape == (4, 1 + 4 + 2, D)
    np.testing.assert_array_equal(x[:, 5:], model.classifier.encoder.embed.text.weight.data[ids])
    np.testing.assert_array_equal(x[:, :5], model.classifier.encoder.embed.image(pictures()).data)
    assert model(pictures(), ids).shape == (4, 3)


def test_an_answer_depends_on_both_and_not_on_padding():
    model = answerer()
    ids, mask = data.padded(texts())
    answers = model(pictures(), ids, mask).data
    alone = [model(image[None], text[None]).data[0] for image, text in zip(pictures(), texts(), strict=True)]
    np.testing.assert_allclose(answers, alone, rtol=1e-8)
    assert np.array_equal(model(pictures(), np.where(mask, ids, 7), mask).data, answers)
    assert (abs(model(pictures()[::-1], ids, mask).data - answers).max(axis=1) > 1e-4).all()
    assert (abs(model(pictures(), np.where(mask, ids % (V - 1) + 1, 0), mask).data - answers).max(axis=1) > 1e-4).all()


def test_image_and_question_learn_from_the_answer():
    model = answerer()
    ids, mask = data.padded(texts())
    assert everything_learns(model, model.loss(pictures(), ids, np.array([0, 2, 1, 1]), mask))


# ---- series ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("positions", [nn.LearnedPositions, nn.SinusoidalPositions])
def test_a_forecast_knows_the_past_alone_and_all_of_it(positions):
    model, x = forecaster(positions=positions), np.random.default_rng(0).standard_normal((1, 8, 2))
    before = model(x).data
    for t in range(8):
        other = x.copy()
        other[:, t] += 1
        after = model(other).data
        assert np.array_equal(after[:, :t], before[:, :t])
        assert (abs(after[:, t:] - before[:, t:]).max(axis=-1) > 1e-4).all()


def test_a_batch_of_series_is_its_series_one_by_one():
    model, x = forecaster(), np.random.default_rng(0).standard_normal((3, 6, 2))
    np.testing.assert_allclose(model(x).data, [model(row[None]).data[0] for row in x], rtol=1e-9, atol=1e-12)


def test_the_loss_compares_each_value_with_the_forecast_before_it():
    model, x = forecaster(), np.random.default_rng(0).standard_normal((3, 8, 2))
    expected = np.mean([(model(x[:, :t]).data[:, -1] - x[:, t]) ** 2 for t in range(1, 8)])
    loss = model.loss(x)
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    assert everything_learns(model, loss)


def test_without_a_change_the_last_value_is_repeated():
    model, x = forecaster(), np.random.default_rng(0).standard_normal((2, 5, 2))
    model.head.weight.data[...] = model.head.bias.data[...] = 0
    assert np.array_equal(model(x).data, x)
    assert np.array_equal(model.forecast(x, 3), np.repeat(x[:, -1:], 3, axis=1))


def test_forecasts_are_fed_back_and_the_oldest_values_forgotten():
    model, x = forecaster(), np.random.default_rng(0).standard_normal((2, 7, 2))
    ahead = model.forecast(x, 3)
    assert ahead.shape == (2, 3, 2)
    known = np.concatenate([x, ahead], axis=1)
    for i in range(3):
        seen = known[:, max(0, 7 + i - 8):7 + i]
        np.testing.assert_allclose(ahead[:, i], model(seen).data[:, -1], rtol=1e-12)


def test_frames_overlap_and_the_rest_is_dropped():
    assert frames(np.arange(8), 4, 3).tolist() == [[0, 1, 2, 3], [3, 4, 5, 6]]
    assert frames(np.zeros((2, 3, 9)), 9, 1).shape == (2, 3, 1, 9)


def test_a_spectrogram_is_the_transform_of_each_frame():
    x = np.random.default_rng(0).standard_normal((2, 21))
    found = spectrogram(x, 8, 4)
    assert found.shape == (2, 4, 5) and found.dtype == np.float32
    t = np.arange(8)
    for i in range(4):
        frame = x[:, 4 * i:4 * i + 8] * (1 - np.cos(2 * np.pi * t / 8)) / 2
        for k in range(5):
            np.testing.assert_allclose(found[:, i, k], np.log1p(abs((frame * np.exp(-2j * np.pi * k * t / 8)).sum(1))),
                                       rtol=1e-5, atol=1e-7)


def test_a_pure_tone_stands_out_at_its_frequency():
    tone = np.sin(2 * np.pi * 440 * np.arange(2000) / 4000)
    assert (spectrogram(tone, 500, 250).argmax(axis=-1) == 440 * 500 / 4000).all()


def test_sounds_are_read_by_the_classifier_of_texts():
    tg.manual_seed(0)
    sounds, names = data.tones(3, length=1000)
    x = spectrogram(sounds, 256, 128)
    encoder = Encoder(nn.Linear(x.shape[-1], D), nn.LearnedPositions(x.shape[1], D), [nn.EncoderBlock(D, 2)])
    assert Classifier(encoder, D, 12)(tg.Tensor(x)).shape == (3, 12)


# ---- graphs ---------------------------------------------------------------------------------------------------------

def reached(edges, steps):
    """[i, j]: whether j is at most so many edges from i, edge by edge."""
    near = np.eye(len(edges), dtype=bool)
    for _ in range(steps):
        near = near | (near.astype(int) @ edges > 0)
    return near


@pytest.mark.formula("F9")
def test_a_node_sees_its_neighbours_and_no_stranger():
    model, (x, edges) = graph_model(), graphs()
    before, near = model(x, edges).data, [reached(e, 2) for e in edges]     # two blocks, two steps
    strangers = 0
    for j in range(x.shape[1]):
        other = x.copy()
        other[:, j] += 1
        after = model(other, edges).data
        for b in range(len(x)):
            sees = near[b][:, j]
            strangers += (~sees).sum()
            assert np.array_equal(after[b, ~sees], before[b, ~sees])
            assert (abs(after[b, sees] - before[b, sees]).max(axis=-1) > 1e-6).all()
    assert strangers > 20


def test_an_edge_may_lead_one_way():
    model, (x, edges) = graph_model(), graphs(1)
    edges[:] = False
    edges[0, 2, 5] = True                                                   # 2 looks at 5
    other = x.copy()
    other[:, [2, 5]] += [[1], [0]]
    assert np.array_equal(model(other, edges).data[0, 5], model(x, edges).data[0, 5])
    other = x + np.eye(9)[5][:, None]
    assert not np.allclose(model(other, edges).data[0, 2], model(x, edges).data[0, 2])


def test_with_another_mask_everyone_sees_everyone():
    model, (x, edges) = graph_model(sees=everyone), graphs()
    before = model(x, edges).data
    x[:, 4] += 1
    assert (abs(model(x, edges).data - before).max(axis=-1) > 1e-6).all()


@pytest.mark.formula("C2")
def test_nodes_have_no_order():
    model, (x, edges) = graph_model(), graphs()
    order = np.random.default_rng(0).permutation(9)
    turned = model(x[:, order], edges[:, order][:, :, order]).data
    np.testing.assert_allclose(turned, model(x, edges).data[:, order], rtol=1e-8, atol=1e-12)
    assert not np.allclose(model(x[:, order], edges).data, model(x, edges).data[:, order])   # edges do matter


def test_a_batch_is_its_graphs_one_by_one_and_padding_is_nodes_without_edges():
    model, (x, edges) = graph_model(), graphs()
    together = model(np.pad(x, [(0, 0), (0, 3), (0, 0)], constant_values=5.0),
                     np.pad(edges, [(0, 0), (0, 3), (0, 3)])).data
    alone = [model(x[i:i + 1], edges[i:i + 1]).data[0] for i in range(2)]
    np.testing.assert_allclose(together[:, :9], alone, rtol=1e-9, atol=1e-12)


def test_structure_tells_how_often_a_walk_returns():
    edges = np.zeros((1, 5, 5), bool)
    for i, j in [(0, 1), (1, 2), (2, 0), (2, 3)]:                           # a triangle with a tail, and a hermit
        edges[0, i, j] = edges[0, j, i] = True
    found = structure(edges, 2)[0]
    assert found.shape == (5, 3) and found.dtype == np.float32
    np.testing.assert_allclose(found[:, 0], np.log1p([2, 2, 3, 1, 0]), rtol=1e-6)
    np.testing.assert_allclose(found[:, 1], [1 / 4 + 1 / 6, 1 / 4 + 1 / 6, 1 / 6 + 1 / 6 + 1 / 3, 1 / 3, 0], rtol=1e-6)
    np.testing.assert_allclose(found[:, 2], [2 / 12, 2 / 12, 2 / 12, 0, 0], rtol=1e-6, atol=1e-8)


def test_a_node_sees_itself():
    _, edges = graphs()
    assert with_itself(edges).diagonal(axis1=1, axis2=2).all()
    assert (with_itself(edges) & ~np.eye(9, dtype=bool) == edges).all()


def test_a_graph_model_learns_from_the_nodes_that_are_known():
    model, (x, edges) = graph_model(), graphs()
    targets = np.full((2, 9), -100)
    targets[0, :5], targets[1, 3:] = [0, 1, 2, 3, 0], [1, 3, 2, 0, 1, 2]
    logp = F.log_softmax(model(x, edges)).data
    known = np.argwhere(targets != -100)
    loss = model.loss(x, edges, targets)
    assert loss.item() == pytest.approx(-np.mean([logp[b, i, targets[b, i]] for b, i in known]), rel=1e-10)
    assert everything_learns(model, loss)


# ---- all of them ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("wrong, error, words", [
    (lambda: contrastive_loss(tg.Tensor(np.ones((3, 2))), tg.Tensor(np.ones((4, 2)))), ValueError,
     r"row i of b, but they are \(3, 2\) and \(4, 2\)"),
    (lambda: pair().loss(pictures(3), np.ones((4, 2), int)), ValueError, r"\(3, 6\) and \(4, 6\)"),
    (lambda: answerer()(pictures(3), np.ones((2, 4), int)), ValueError, "here are 3 images and 2 texts"),
    (lambda: answerer()(pictures(2), np.ones((2, 4), int), np.ones((2, 3), bool)), ValueError,
     r"\(2, 9\) here, not \(2, 8\)"),
    (lambda: answerer()(pictures(1), np.ones((1, 7), int)), ValueError, "the context has 11"),
    (lambda: ImageQuestion(8, 4, V, 0, 3, 1, 2, D), ValueError, "ImageQuestion: context must be a positive integer"),
    (lambda: forecaster()(np.ones((1, 9, 2))), ValueError, "9 values are more than the context of 8"),
    (lambda: Forecaster(1, 8, 0, 2, D), ValueError, "Forecaster: layers must be a positive integer"),
    (lambda: frames(np.ones(3), 4, 1), ValueError, "a series of 3 has no piece of 4"),
    (lambda: frames(np.ones(3), 2, 0), ValueError, "frames: hop must be a positive integer"),
    (lambda: graph_model()(np.ones((2, 5, 3)), np.ones((2, 5, 5))), TypeError, "an adjacency is boolean"),
    (lambda: graph_model()(np.ones((2, 5, 3)), np.ones((5, 5), bool)), ValueError,
     r"2 graphs of 5 nodes is \(2, 5, 5\), not \(5, 5\)"),
    (lambda: GraphTransformer(3, 2, 1, 2, D, steps=0), ValueError, "steps must be a positive integer"),
])
def test_what_cannot_be_is_refused_by_name(wrong, error, words):
    with pytest.raises(error, match=words):
        wrong()


def test_on_the_device_the_numbers_are_the_hosts_and_nobody_waits():
    ids, mask = data.padded(texts())
    features, edges = graphs()
    series = np.random.default_rng(0).standard_normal((2, 8, 2))
    calls = [(pair, (pictures(), ids, mask)), (answerer, (pictures(), ids, np.array([0, 2, 1, 1]), mask)),
             (forecaster, (series,)), (graph_model, (features, edges, np.ones((2, 9), int)))]

    def run(device):
        prepared = [(make().to(device), [tg.backend.to_device(a, device) for a in given]) for make, given in calls]
        with standin.count_syncs() as counter:
            losses = [model.loss(*given) for model, given in prepared]
            for loss in losses:
                loss.backward()
            ahead = prepared[2][0].forecast(prepared[2][1][0], 2)
            cut = frames(prepared[2][1][0][:, :, 0], 4, 2)
        assert counter.value == 0, counter.where
        assert tg.backend.to_numpy(cut).tolist() == frames(series[:, :, 0], 4, 2).tolist()
        return [*(loss.item() for loss in losses), *tg.backend.to_numpy(ahead).ravel()]
    host = run("cpu")
    with standin.install(), tg.fused(False):
        np.testing.assert_allclose(run("cuda"), host, rtol=1e-10)

"""The encoder–decoder: no future, no padding, PyTorch's numbers; and what it writes is the likeliest there is."""

from itertools import product

import numpy as np
import pytest
import standin
from test_encoder import LENGTHS, copied, gradients, lively, pre_and_post, sentences

import tinygrad_tfm as tg
from tinygrad_tfm import data, decoding, nn
from tinygrad_tfm.data import PAD, START, STOP
from tinygrad_tfm.decoding import beam_search, greedy
from tinygrad_tfm.models import Transformer, VisionTransformer
from tinygrad_tfm.models.seq2seq import EncoderDecoder

V, D, LIMIT = 11, 8, 6


def transformer(seed=0, vocab=V, **settings):
    tg.manual_seed(seed)
    return lively(Transformer(vocab, layers=2, heads=2, width=D, hidden=12, **settings))


def batch():
    """Sources and targets of different lengths: source, mask, target."""
    source, mask = data.padded(sentences())
    target, _ = data.padded([[START, *sentence[::-1], STOP] for sentence in sentences((3, 1, 6, 2))])
    return source, mask, target


# ---- the model ------------------------------------------------------------------------------------------------------

@pre_and_post
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_padded_batch_is_its_pairs_one_by_one(pre_norm, smoothing):
    model, (source, mask, target) = transformer(pre_norm=pre_norm), batch()
    counts = (target[:, 1:] != PAD).sum(axis=1)
    whole = model.loss(source, mask, target, label_smoothing=smoothing) * counts.sum()       # summed over tokens
    whole.backward()
    found = gradients(model)
    model.zero_grad()
    total = 0
    for row, n in enumerate(counts):
        length = mask[row].sum()
        alone = model.loss(source[row:row + 1, :length], None, target[row:row + 1, :n + 1], smoothing) * n
        alone.backward()
        total += alone.item()
    assert whole.item() == pytest.approx(total, rel=1e-11)
    for name, g in gradients(model).items():
        np.testing.assert_allclose(found[name], g, rtol=1e-8, atol=1e-11, err_msg=name)


def test_every_weight_is_trained():
    for settings in ({}, dict(target_vocab=V)):
        model = transformer(**settings)
        model.loss(*batch()).backward()
        assert all(abs(p.grad).max() > 1e-8 or name.endswith("key.bias") for name, p in model.named_parameters())


@pytest.mark.formula("F9")
@pre_and_post
def test_no_token_is_predicted_from_itself_or_later_ones(pre_norm):
    model, (source, mask, target) = transformer(pre_norm=pre_norm), batch()
    before = model(source, mask, target).data
    for t in range(target.shape[1]):
        other = target.copy()
        other[:, t] = (other[:, t] + 1) % V
        after = model(source, mask, other).data
        np.testing.assert_allclose(after[:, :t], before[:, :t], rtol=0, atol=1e-12)
        assert (abs(after - before)[:, t:].max(axis=-1) > 1e-5).all()


def test_every_token_is_predicted_from_the_whole_source_but_its_padding():
    model, (source, mask, target) = transformer(), batch()
    before = model(source, mask, target).data
    for s in range(source.shape[1]):
        other = source.copy()
        other[:, s] = (other[:, s] + 1) % V
        changed = (abs(model(other, mask, target).data - before).max(axis=-1) > 1e-6)
        assert changed[mask[:, s]].all() and not changed[~mask[:, s]].any()


def test_a_permuted_batch_gives_the_permuted_result():
    model, (source, mask, target), order = transformer(), batch(), [3, 1, 0, 2]
    np.testing.assert_allclose(model(source[order], mask[order], target[order]).data,
                               model(source, mask, target).data[order], rtol=1e-11)


def test_one_table_serves_three_ends_or_each_has_its_own():
    shared, own = transformer(), transformer(target_vocab=7)
    tables = lambda model: sorted(name for name, x in model.named_parameters() if "embed" in name)
    assert tables(shared) == ["encoder.embed.weight"]
    assert tables(own) == ["decoder.embed.weight", "decoder.unembed.bias", "decoder.unembed.weight",
                           "encoder.embed.weight"]
    assert own(*batch()[:2], np.ones((4, 3), int)).shape == (4, 3, 7)


def test_the_number_of_weights_is_the_formulas():
    D, F, L = 16, 64, 3
    attention, feed_forward, norm = 4 * (D * D + D), 2 * D * F + F + D, 2 * D
    reader, writer = attention + feed_forward + 2 * norm, 2 * attention + feed_forward + 3 * norm
    assert Transformer(V, L, 4, D).size() == V * D + L * (reader + writer)
    assert Transformer(V, L, 4, D, pre_norm=True).size() == V * D + L * (reader + writer) + 2 * norm
    assert Transformer(V, L, 4, D, target_vocab=7).size() == V * D + 7 * D + (D * 7 + 7) + L * (reader + writer)


def test_an_image_may_be_what_is_read():
    tg.manual_seed(0)
    model = EncoderDecoder(VisionTransformer(8, 4, 10, 1, 2, D).encoder, Transformer(V, 1, 2, D).decoder)
    images, target = np.random.default_rng(0).random((4, 8, 8)).astype(np.float32), batch()[2]
    model.loss(images, None, target).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert len(greedy(model, images, limit=3)) == 4


@pytest.mark.oracle
@pre_and_post
def test_a_whole_encoder_decoder_is_pytorchs(torch, pre_norm):
    model, (source, mask, target) = transformer(pre_norm=pre_norm), batch()
    settings = dict(dropout=0.0, activation="relu", norm_first=pre_norm, batch_first=True, dtype=torch.float64)
    norms = [torch.nn.LayerNorm(D, dtype=torch.float64) if pre_norm else None for _ in range(2)]
    reader = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(D, 2, 12, **settings), 2, norm=norms[0],
                                         enable_nested_tensor=False)
    writer = torch.nn.TransformerDecoder(torch.nn.TransformerDecoderLayer(D, 2, 12, **settings), 2, norm=norms[1])
    for theirs, mine in ((reader, model.encoder), (writer, model.decoder)):
        for a, b in zip(theirs.layers, mine.blocks, strict=True):
            copied(torch, a, b)
        if pre_norm:
            theirs.norm.load_state_dict({"weight": torch.tensor(mine.norm.gain.data),
                                         "bias": torch.tensor(mine.norm.bias.data)})
    table = torch.tensor(model.encoder.embed.weight.data, requires_grad=True)
    positions = model.encoder.positions(8).data
    placed = lambda ids: table[torch.tensor(ids)] * D ** 0.5 + torch.tensor(positions[:ids.shape[1]].astype(float))
    hidden, T = torch.tensor(~mask), target.shape[1] - 1
    late = torch.triu(torch.ones(T, T, dtype=torch.bool), 1)
    memory = reader(placed(source), src_key_padding_mask=hidden)
    logits = writer(placed(target[:, :-1]), memory, tgt_mask=late, memory_key_padding_mask=hidden) @ table.T
    expected = torch.nn.functional.cross_entropy(logits.reshape(-1, V), torch.tensor(target[:, 1:]).reshape(-1),
                                                 ignore_index=PAD, label_smoothing=0.1)
    loss = model.loss(source, mask, target, label_smoothing=0.1)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-11)
    loss.backward()
    expected.backward()
    np.testing.assert_allclose(model.encoder.embed.weight.grad, table.grad, rtol=1e-8, atol=1e-11)
    for theirs, mine in ((reader, model.encoder), (writer, model.decoder)):
        for a, b in zip(theirs.layers, mine.blocks, strict=True):
            np.testing.assert_allclose(b.feed_forward.up.weight.grad.T, a.linear1.weight.grad, rtol=1e-8, atol=1e-11)


# ---- the cache ------------------------------------------------------------------------------------------------------

@pre_and_post
@pytest.mark.parametrize("pieces", [[1] * 8, [3, 1, 4]], ids=str)
def test_cached_logits_equal_uncached_ones(pre_norm, pieces):
    model, (source, mask, target) = transformer(pre_norm=pre_norm), batch()
    with tg.no_grad():
        memory = model.encoder(source, mask)
        cache, found, start = model.decoder.new_cache(8, source.shape[1]), [], 0
        for n in pieces:
            found.append(model.decoder(target[:, start:start + n], memory, mask, cache).data)
            start += n
    np.testing.assert_allclose(np.concatenate(found, axis=1), model(source, mask, target).data, rtol=1e-9, atol=1e-12)


def test_the_memory_is_projected_once():
    model, (source, mask, _) = transformer(), batch()
    seen = []

    class Counting(nn.Linear):
        def forward(self, x):
            seen.append(x.shape)
            return super().forward(x)
    model.decoder.blocks[0].cross.key = lively(Counting(D, D))
    greedy(model, source, mask, limit=4, stop=-1)
    assert seen == [(4, 8, D)] + [(4, 0, D)] * 3


def test_rows_of_a_cache_are_kept_in_the_order_asked_for():
    cache, rng = nn.KVCache(4), np.random.default_rng(0)
    k, v = rng.standard_normal((2, 3, 2, 2, 5))
    cache.append(k, v)
    cache.keep(np.array([2, 0, 0]))
    keys, values = cache.append(k[:, :, :1], v[:, :, :1])
    assert np.array_equal(keys[:, :, :2], k[[2, 0, 0]]) and np.array_equal(values[:, :, :2], v[[2, 0, 0]])
    assert np.array_equal(keys[:, :, 2:], k[:, :, :1]) and cache.length == 3


# ---- decoding -------------------------------------------------------------------------------------------------------

def log_probability(model, source, ids):
    """ln P(ids | source), by the whole model at once: no cache, no batch."""
    with tg.no_grad():
        logits = model(source[None], None, np.array([[START, *ids[:-1]]])).data[0]
    logp = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return logp[np.arange(len(ids)), list(ids)].sum()


def test_greedy_takes_the_likeliest_token_each_time():
    model, (source, mask, _) = transformer(), batch()
    lengths = set()
    for row, found in enumerate(greedy(model, source, mask, limit=LIMIT)):
        ids = [START]
        while len(ids) <= LIMIT and ids[-1] != STOP:
            ids.append(int(model(source[row:row + 1, :LENGTHS[row]], None, np.array([ids])).data[0, -1].argmax()))
        assert found == [i for i in ids[1:] if i != STOP]
        lengths.add(len(found))
    assert len(lengths) > 1                                             # some end by themselves, and not together


def test_a_beam_of_one_is_greedy():
    for seed in range(5):
        model, (source, mask, _) = transformer(seed), batch()
        expected = [[ids] for ids in greedy(model, source, mask, limit=LIMIT)]
        found = beam_search(model, source, mask, limit=LIMIT, beam=1)
        assert [[hypothesis.ids for hypothesis in row] for row in found] == expected


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_a_beam_of_everything_finds_the_best_of_all_sequences(alpha):
    """Against brute force: every sequence of 4 tokens that ends with the stop, or has 3 of them."""
    V, T, differ = 4, 3, 0
    everything = [ids for n in range(1, T + 1) for ids in product(range(V), repeat=n)
                  if STOP not in ids[:-1] and (ids[-1] == STOP or n == T)]
    assert len(everything) == 1 + 3 + 9 * 4
    for seed in range(10):
        model = transformer(seed, vocab=V)
        source = np.random.default_rng(seed).integers(1, V, 5)
        score = {ids: log_probability(model, source, ids) / ((5 + len(ids)) / 6) ** alpha for ids in everything}
        bare = {ids: [i for i in ids if i != STOP] for ids in everything}
        best = max(score, key=score.get)
        [found] = beam_search(model, source[None], limit=T, beam=V ** T, alpha=alpha)
        assert found[0].ids == bare[best] and found[0].score == pytest.approx(score[best], rel=1e-9)
        by_ids = {tuple(bare[ids]): score[ids] for ids in everything if ids[-1] == STOP or len(bare[ids]) == T}
        for hypothesis in found:
            assert hypothesis.score == pytest.approx(by_ids[tuple(hypothesis.ids)], rel=1e-9)
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
        differ += greedy(model, source[None], limit=T) != [bare[best]]
    assert differ                                                       # greedy does not find them all


def test_a_beam_of_two_finds_what_greedy_misses():
    better = 0
    for seed in range(10):
        model, (source, mask, _) = transformer(seed), batch()
        for row, ids in enumerate(greedy(model, source, mask, limit=LIMIT)):
            whole = [*ids, STOP] if len(ids) < LIMIT else ids
            alone = source[row, :LENGTHS[row]]
            [found] = beam_search(model, alone[None], limit=LIMIT, beam=2, alpha=0)
            assert found[0].score == pytest.approx(log_probability(model, alone, [*found[0].ids, STOP][:LIMIT]))
            better += found[0].score > log_probability(model, alone, whole) + 1e-6
    assert better


@pytest.mark.parametrize("beam", [1, 3])
def test_a_batch_is_decoded_as_its_sources_one_by_one(beam):
    for seed in range(3):
        model, (source, mask, _) = transformer(seed), batch()
        together = beam_search(model, source, mask, limit=LIMIT, beam=beam)
        likeliest = greedy(model, source, mask, limit=LIMIT)
        for row, n in enumerate(LENGTHS):
            [alone] = beam_search(model, source[row:row + 1, :n], limit=LIMIT, beam=beam)
            assert [h.ids for h in alone] == [h.ids for h in together[row]]
            np.testing.assert_allclose([h.score for h in alone], [h.score for h in together[row]], rtol=1e-9)
            assert greedy(model, source[row:row + 1, :n], limit=LIMIT) == [likeliest[row]]


def test_the_penalty_prefers_longer_targets():
    assert decoding.length_penalty(1, 0.6) == 1 and decoding.length_penalty(7, 1.0) == 2
    longer = 0
    for seed in range(5):
        model, (source, mask, _) = transformer(seed), batch()
        short, long = (beam_search(model, source, mask, limit=LIMIT, beam=4, alpha=alpha) for alpha in (0.0, 5.0))
        lengths = [[len(row[0].ids) for row in found] for found in (short, long)]
        assert all(a <= b for a, b in zip(*lengths))
        longer += lengths[0] != lengths[1]
    assert longer


@pytest.mark.parametrize("alpha, ids, score, steps", [
    (0.0, [], np.log(0.6), 1), (8.0, [3, 3], (2 * np.log(0.4) + np.log(0.6)) / (8 / 6) ** 8, 3)])
def test_a_search_ends_when_nothing_can_overtake_and_not_before(monkeypatch, alpha, ids, score, steps):
    """A model that always says 60 % stop, 40 % token 3: which target is best depends on the penalty alone."""
    model, asked, ask = transformer(target_vocab=4), [], decoding.Writer.log_probabilities
    model.decoder.unembed.weight.data[:] = 0
    model.decoder.unembed.bias.data[:] = [-99, -99, np.log(0.6), np.log(0.4)]
    monkeypatch.setattr(decoding.Writer, "log_probabilities", lambda *a: asked.append(a) or ask(*a))
    [found] = beam_search(model, [[5, 6]], limit=3, beam=2, alpha=alpha)
    assert found[0].ids == ids and found[0].score == pytest.approx(score) and len(asked) == steps


def test_decoding_leaves_the_model_as_it_was():
    tg.manual_seed(0)
    model, (source, mask, _) = Transformer(V, 1, 2, D, dropout=0.5), batch()
    assert greedy(model, source, mask, limit=LIMIT) == greedy(model, source, mask, limit=LIMIT)      # dropout is off
    assert all(module.training for _, module in model.named_modules())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("wrong, error, words", [
    (lambda model: greedy(model, [[3]], limit=0), ValueError, "greedy: limit must be a positive integer"),
    (lambda model: beam_search(model, [[3]], limit=3, beam=0), ValueError, "beam must be a positive integer"),
    (lambda model: beam_search(model, [[3]], limit=3, alpha=-1.0), ValueError, "alpha must be a finite number"),
    (lambda model: model.loss([[3, 4]], [[True]], [[1, 3, 2]]), ValueError, r"\(1, 2\) here, not \(1, 1\)"),
    (lambda model: Transformer(V, 0, 2, D), ValueError, "Transformer: layers must be a positive integer"),
    (lambda model: greedy(Transformer(V, 1, 2, D, positions=nn.LearnedPositions, context=4), [[3]], limit=9, stop=-1),
     ValueError, "positions 4 to 4 were asked for, the context has 4"),
])
def test_what_cannot_be_is_refused_by_name(wrong, error, words):
    with pytest.raises(error, match=words):
        wrong(transformer())


def test_weights_that_are_no_numbers_write_nothing():
    model = transformer()
    model.decoder.blocks[0].cross.out.weight.data[0, 0] = np.nan
    with pytest.raises(ValueError, match="its weights have diverged"):
        greedy(model, batch()[0], limit=2)


def test_on_the_device_the_numbers_are_the_hosts():
    source, mask, target = batch()

    def run(device):
        model = transformer().to(device)
        arguments = [tg.backend.to_device(a, device) for a in (source, mask, target)]
        with standin.count_syncs() as counter:
            loss = model.loss(*arguments)
            loss.backward()
        assert counter.value == 0, counter.where
        return (loss.item(), greedy(model, *arguments[:2], limit=LIMIT),
                beam_search(model, *arguments[:2], limit=LIMIT, beam=3))
    loss, ids, found = run("cpu")
    with standin.install(), tg.fused(False):
        its_loss, its_ids, its_found = run("cuda")
    assert its_loss == pytest.approx(loss, rel=1e-12) and its_ids == ids
    assert [[h.ids for h in row] for row in its_found] == [[h.ids for h in row] for row in found]

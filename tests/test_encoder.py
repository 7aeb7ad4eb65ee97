"""Encoders: padding has no influence, order has only through positions, and the numbers are PyTorch's."""

import numpy as np
import pytest
import standin
from drawn import lively

import tinygrad_tfm as tg
import tinygrad_tfm.functional as F
from tinygrad_tfm import data, nn
from tinygrad_tfm.models import Classifier, Encoder, MaskedLM, TokenEncoder, VisionTransformer
from tinygrad_tfm.models.encoder import first_token, masked, mean_of_tokens
from tinygrad_tfm.models.vision import Patches, patches
from tinygrad_tfm.optim import AdamW

V, T, D = 11, 8, 8
LENGTHS = (5, 8, 1, 3)
pre_and_post = pytest.mark.parametrize("pre_norm", [True, False], ids=["pre-norm", "post-norm"])


def encoder(seed=0, **settings):
    tg.manual_seed(seed)
    return lively(TokenEncoder(V, T, layers=2, heads=2, width=D, hidden=12, **settings))


def sentences(lengths=LENGTHS):
    rng = np.random.default_rng(1)
    return [rng.integers(1, V, n) for n in lengths]


def gradients(module):
    return {name: p.grad for name, p in module.named_parameters()}


# ---- the encoder ----------------------------------------------------------------------------------------------------

@pre_and_post
def test_a_padded_batch_is_its_sentences_one_by_one(pre_norm):
    model, rng = encoder(pre_norm=pre_norm), np.random.default_rng(2)
    ids, mask = data.padded(sentences())
    weight = rng.standard_normal((*ids.shape, D)) * mask[..., None]         # of what stands on padding nothing is asked
    h = model(ids, mask)
    (h * weight).sum().backward()
    found = gradients(model)
    model.zero_grad()
    for row, sentence in enumerate(sentences()):
        alone = model(sentence[None])
        np.testing.assert_allclose(h.data[row, :len(sentence)], alone.data[0], rtol=1e-10, atol=1e-13)
        (alone * weight[row:row + 1, :len(sentence)]).sum().backward()
    for name, g in gradients(model).items():
        np.testing.assert_allclose(found[name], g, rtol=1e-9, atol=1e-12, err_msg=name)


def test_every_position_looks_at_every_other():
    model = encoder()
    ids = sentences([T])[0][None]
    before = model(ids).data
    for t in range(T):
        other = ids.copy()
        other[0, t] = ids[0, t] % (V - 1) + 1
        assert (abs(model(other).data - before).max(axis=-1) > 1e-4).all()


@pytest.mark.formula("F9")
def test_what_stands_on_padding_has_no_influence():
    model = encoder()
    ids, mask = data.padded(sentences())
    other = np.where(mask, ids, 7)
    assert np.array_equal(model(ids, mask).data[mask], model(other, mask).data[mask])
    assert not np.allclose(model(ids).data[mask], model(other).data[mask])


def test_a_permuted_batch_gives_the_permuted_result():
    model, order = encoder(), [2, 0, 3, 1]
    ids, mask = data.padded(sentences())
    np.testing.assert_allclose(model(ids[order], mask[order]).data[mask[order]],
                               model(ids, mask).data[order][mask[order]], rtol=1e-12)


class Nowhere(nn.Module):
    """Positions that say nothing."""

    def forward(self, T, start=0):
        return tg.Tensor(np.zeros((T, 1)))


def test_only_positions_know_the_order():
    model, ids = encoder(), sentences([T])[0]
    order = np.random.default_rng(0).permutation(T)
    assert not np.allclose(model(ids[None, order]).data, model(ids[None]).data[:, order])
    model.positions = Nowhere()
    np.testing.assert_allclose(model(ids[None, order]).data, model(ids[None]).data[:, order], rtol=1e-10)


def test_parts_may_be_others():
    model = TokenEncoder(V, T, 1, 2, D, positions=nn.SinusoidalPositions, norm=nn.RMSNorm, activation=F.silu,
                         bias=False)
    assert type(model.blocks[0].norms[0]) is nn.RMSNorm and model(np.ones((2, 3), int)).shape == (2, 3, D)
    whole = Encoder(nn.Linear(3, D), nn.LearnedPositions(T, D), [nn.EncoderBlock(D, 2)])    # of numbers, not tokens
    assert whole(tg.Tensor(np.ones((2, 5, 3), np.float32))).shape == (2, 5, D)


def test_dropout_acts_while_training_only():
    tg.manual_seed(0)
    model, ids = TokenEncoder(V, T, 1, 2, D, dropout=0.5), sentences([T])[0][None]
    assert not np.array_equal(model(ids).data, model(ids).data)
    model.eval()
    assert np.array_equal(model(ids).data, model(ids).data)


@pytest.mark.parametrize("wrong, error, words", [
    (lambda: encoder()(np.ones((2, 3), int), np.ones((2, 4), bool)), ValueError, r"\(2, 3\) here, not \(2, 4\)"),
    (lambda: encoder()(np.ones((2, 3), int), np.ones((2, 3))), TypeError, "a mask is boolean"),
    (lambda: encoder()(np.ones((1, 9), int)), ValueError, "positions 0 to 8 were asked for, the context has 8"),
    (lambda: TokenEncoder(V, T, 0, 2, D), ValueError, "TokenEncoder: layers must be a positive integer"),
    (lambda: TokenEncoder(V, T, 1, 3, D), ValueError, "width 8 is not divisible by 3 heads; 6 or 9"),
    (lambda: MaskedLM(Encoder(nn.Linear(3, D), nn.LearnedPositions(T, D), [])), TypeError, "this encoder reads Linear"),
    (lambda: masked(np.ones((1, 3), int), np.random.default_rng(0), vocab=V, substitute=1, share=1.5), ValueError,
     "share must be in"),
    (lambda: patches(tg.Tensor(np.ones((1, 8, 9))), 4), ValueError, "8 × 9 cannot be cut into squares of 4"),
    (lambda: VisionTransformer(8, 0, 10, 1, 2, D), ValueError, "patch must be a positive integer"),
])
def test_what_cannot_be_is_refused_by_name(wrong, error, words):
    with pytest.raises(error, match=words):
        wrong()


def copied(torch, theirs, block):
    """A block's weights written into PyTorch's layer of the same kind."""
    norms = [theirs.norm1, theirs.norm2, *([theirs.norm3] if hasattr(theirs, "norm3") else [])]
    attentions = [(theirs.self_attn, block.attention)]
    attentions += [(theirs.multihead_attn, block.cross)] if block.cross else []
    linears = [(theirs.linear1, block.feed_forward.up), (theirs.linear2, block.feed_forward.down)]
    with torch.no_grad():
        for a, b in attentions:
            parts = [b.query, b.key, b.value]
            a.in_proj_weight.copy_(torch.tensor(np.concatenate([p.weight.data.T for p in parts])))
            a.in_proj_bias.copy_(torch.tensor(np.concatenate([p.bias.data for p in parts])))
            linears.append((a.out_proj, b.out))
        for a, b in linears:
            a.weight.copy_(torch.tensor(b.weight.data.T.copy()))
            a.bias.copy_(torch.tensor(b.bias.data))
        for a, b in zip(norms, block.norms, strict=True):
            a.weight.copy_(torch.tensor(b.gain.data))
            a.bias.copy_(torch.tensor(b.bias.data))


@pytest.mark.oracle
@pre_and_post
def test_a_whole_encoder_is_pytorchs(torch, pre_norm):
    model = encoder(pre_norm=pre_norm)
    settings = dict(dropout=0.0, activation="gelu", norm_first=pre_norm, batch_first=True, dtype=torch.float64)
    layer = torch.nn.TransformerEncoderLayer(D, 2, 12, **settings)
    last = torch.nn.LayerNorm(D, dtype=torch.float64) if pre_norm else None
    theirs = torch.nn.TransformerEncoder(layer, 2, norm=last, enable_nested_tensor=False)
    for a, b in zip(theirs.layers, model.blocks, strict=True):
        copied(torch, a, b)
    if pre_norm:
        last.load_state_dict({"weight": torch.tensor(model.norm.gain.data), "bias": torch.tensor(model.norm.bias.data)})
    ids, mask = data.padded(sentences())
    table = torch.tensor(model.embed.weight.data, requires_grad=True)
    x = table[torch.tensor(ids)] + torch.tensor(model.positions.weight.data)
    expected, h = theirs(x, src_key_padding_mask=torch.tensor(~mask)), model(ids, mask)
    np.testing.assert_allclose(h.data[mask], expected.detach().numpy()[mask], rtol=1e-9)
    weight = np.random.default_rng(0).standard_normal(h.shape) * mask[..., None]
    (h * weight).sum().backward()
    (expected * torch.tensor(weight)).sum().backward()
    np.testing.assert_allclose(model.embed.weight.grad, table.grad, rtol=1e-8, atol=1e-11)
    np.testing.assert_allclose(model.blocks[0].feed_forward.up.weight.grad.T, theirs.layers[0].linear1.weight.grad,
                               rtol=1e-8, atol=1e-11)


# ---- filling gaps ---------------------------------------------------------------------------------------------------

@pytest.mark.formula("F26")
def test_gaps_are_made_in_berts_proportions():
    rng = np.random.default_rng(0)
    ids, mask = rng.integers(3, 50, (200, 500)), rng.random((200, 500)) < 0.7
    inputs, targets = masked(ids, np.random.default_rng(1), vocab=50, substitute=60, mask=mask)
    chosen = targets != -100
    assert np.array_equal(targets[chosen], ids[chosen]) and not chosen[~mask].any()
    assert np.array_equal(inputs[~chosen], ids[~chosen])

    def near(count, n, p):
        return abs(count - n * p) < 4 * (n * p * (1 - p)) ** 0.5
    n, new = chosen.sum(), inputs[chosen]
    assert near(n, mask.sum(), 0.15)
    assert near((new == 60).sum(), n, 0.8)
    assert near((new == ids[chosen]).sum(), n, 0.1 + 0.1 / 50)          # a random token may be the one that was there
    other = new[(new != 60) & (new != ids[chosen])]
    assert near(len(other), n, 0.1 * 49 / 50) and set(other.tolist()) == set(range(50))


def test_gaps_are_the_seeds_and_the_text_is_left_alone():
    ids = np.random.default_rng(0).integers(0, V, (4, T))
    before, run = ids.copy(), lambda seed: masked(ids, np.random.default_rng(seed), vocab=V, substitute=0, share=0.5)
    assert all(map(np.array_equal, run(1), run(1))) and not np.array_equal(run(1)[1], run(2)[1])
    assert np.array_equal(ids, before)


@pytest.mark.formula("F26")
def test_the_loss_is_that_of_the_gaps_alone():
    model = lively(MaskedLM(encoder()))
    ids, mask = data.padded(sentences())
    inputs, targets = masked(ids, np.random.default_rng(0), vocab=V, substitute=0, mask=mask, share=0.4)
    logits = model(inputs, mask)
    logp = logits.data - np.log(np.exp(logits.data).sum(axis=-1, keepdims=True))
    gaps = np.argwhere(targets != -100)
    assert 0 < len(gaps) < mask.sum()
    expected = -np.mean([logp[b, t, targets[b, t]] for b, t in gaps])
    assert model.loss(inputs, targets, mask).item() == pytest.approx(expected, rel=1e-12)


def test_the_output_shares_the_encoders_table():
    model = MaskedLM(encoder())
    assert model.size() == model.encoder.size() + V and model(np.ones((2, 3), int)).shape == (2, 3, V)


def test_gaps_are_filled_by_what_stands_on_both_sides():
    """In a text where each token is the mean of its neighbours, one side alone leaves several possible."""
    tg.manual_seed(0)
    model, rng = MaskedLM(TokenEncoder(V, 3, 1, 2, 32)), np.random.default_rng(0)
    optimizer = AdamW(model.parameters(), lr=1e-2, decay=0.0)
    for _ in range(150):
        ends = rng.integers(0, 5, (64, 2)) * 2
        ids = np.stack([ends[:, 0], np.full(64, 10), ends[:, 1]], axis=1)
        targets = np.full((64, 3), -100)
        targets[:, 1] = ends.mean(axis=1)
        loss = model.loss(ids, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.05                                           # from one side at best ln 5 = 1.6


# ---- one answer for a sequence --------------------------------------------------------------------------------------

@pytest.mark.parametrize("pool", [mean_of_tokens, first_token])
def test_a_classifier_ignores_padding(pool):
    model = lively(Classifier(encoder(), D, 3, pool=pool))
    ids, mask = data.padded(sentences())
    targets = np.array([0, 2, 1, 1])
    logits = model(ids, mask)
    model.loss(ids, targets, mask).backward()
    found = gradients(model)
    model.zero_grad()
    for row, sentence in enumerate(sentences()):
        np.testing.assert_allclose(logits.data[row], model(sentence[None]).data[0], rtol=1e-9)
        (model.loss(sentence[None], targets[row:row + 1]) * (1 / 4)).backward()
    for name, g in gradients(model).items():
        np.testing.assert_allclose(found[name], g, rtol=1e-8, atol=1e-12, err_msg=name)


def test_the_mean_is_of_tokens_and_not_of_padding():
    h = np.arange(12.0).reshape(2, 3, 2)
    h[1, 1:] = np.nan                                                   # would spread if it were multiplied by 0
    mask = np.array([[True] * 3, [True, False, False]])
    assert mean_of_tokens(tg.Tensor(h), mask).data.tolist() == [[2, 3], [6, 7]]
    assert mean_of_tokens(tg.Tensor(h[:1])).data.tolist() == [[2, 3]]
    assert mean_of_tokens(tg.Tensor(h[:1]), np.zeros((1, 3), bool)).data.tolist() == [[0, 0]]
    assert first_token(tg.Tensor(h)).data.tolist() == [[0, 1], [6, 7]]


# ---- images ---------------------------------------------------------------------------------------------------------

def test_patches_are_the_squares_of_the_image_in_reading_order():
    images = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3).astype(float)
    rows = patches(tg.Tensor(images), 2).data
    assert rows.shape == (2, 6, 12)
    for n, (y, x) in enumerate([(0, 0), (0, 2), (0, 4), (2, 0), (2, 2), (2, 4)]):
        assert np.array_equal(rows[:, n], images[:, y:y + 2, x:x + 2].reshape(2, -1))
    assert np.array_equal(patches(tg.Tensor(images[..., 0]), 2).data, patches(tg.Tensor(images[..., :1]), 2).data)


def test_an_image_becomes_a_trained_vector_and_its_patches():
    part, images = lively(Patches(4, D)), np.random.default_rng(0).random((3, 8, 8))
    x = part(images).data
    assert x.shape == (3, 5, D) and (x[:, 0] == part.cls.data[0, 0]).all()
    np.testing.assert_allclose(x[:, 1:], part.project(patches(tg.Tensor(images), 4)).data)


def test_a_vision_transformer_answers_from_its_first_position():
    tg.manual_seed(0)
    model = lively(VisionTransformer(8, 4, 10, 2, 2, D))
    images, targets = np.random.default_rng(0).random((3, 8, 8)), np.array([1, 9, 4])
    h = model.encoder(images)
    np.testing.assert_allclose(model(images).data, model.head(h[:, 0]).data)
    model.loss(images, targets).backward()
    assert all(abs(p.grad).max() > 1e-8 or name.endswith("key.bias") for name, p in model.named_parameters())
    other = VisionTransformer(8, 4, 10, 1, 2, D, channels=3, positions=nn.SinusoidalPositions(5, D))
    assert other(np.ones((2, 8, 8, 3), np.float32)).shape == (2, 10)
    assert not any("positions" in name for name, _ in other.named_parameters())


def test_on_the_device_the_numbers_are_the_hosts_and_nobody_waits():
    ids, mask = data.padded(sentences())
    images, classes = np.random.default_rng(0).random((3, 8, 8)), np.array([1, 0, 2])
    gaps = masked(ids, np.random.default_rng(0), vocab=V, substitute=0, mask=mask)

    def run(device):
        to = lambda *arrays: [tg.backend.to_device(a, device) for a in arrays]
        tg.manual_seed(0)
        filler, viewer = lively(MaskedLM(encoder())).to(device), lively(VisionTransformer(8, 4, 3, 1, 2, D)).to(device)
        made = masked(to(ids)[0], np.random.default_rng(0), vocab=V, substitute=0, mask=to(mask)[0])
        assert all(np.array_equal(tg.backend.to_numpy(a), b) for a, b in zip(made, gaps, strict=True))
        arguments = [*made, *to(mask)], to(images, classes)
        with standin.count_syncs() as counter:
            losses = [model.loss(*given) for model, given in zip((filler, viewer), arguments, strict=True)]
            for loss in losses:
                loss.backward()
        assert counter.value == 0, counter.where
        return [loss.item() for loss in losses]
    host = run("cpu")
    with standin.install(), tg.fused(False):
        np.testing.assert_allclose(run("cuda"), host, rtol=1e-12)

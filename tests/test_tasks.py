"""What the family's models learn in a minute or two each, on data to test that they never saw. Marked slow.

Settings were tried on these very tasks, up to three times each; seeds were not chosen.
"""

import itertools

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import tinygrad_tfm as tg
from tinygrad_tfm import data, functional as F, nn
from tinygrad_tfm.data import START, STOP
from tinygrad_tfm.decoding import beam_search, greedy
from tinygrad_tfm.generate import evaluating
from tinygrad_tfm.models import Transformer, VisionTransformer
from tinygrad_tfm.optim import AdamW, clip_factor, global_norm, warmup_cosine

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def one_thread():
    """These products are too small to be shared."""
    with threadpool_limits(limits=1, user_api="blas"):
        yield


def train(model, loss, batches, steps, peak, decay=0.01):
    """AdamW over a warm-up of 100 steps and a cosine, the gradient's norm clipped at 1."""
    optimizer = AdamW(model.parameters(), betas=(0.9, 0.98), decay=decay)
    for step, batch in enumerate(itertools.islice(batches, steps)):
        optimizer.lr = warmup_cosine(step, peak, peak / 20, 100, steps)
        loss(*batch).backward()
        optimizer.step(clip_factor(global_norm(optimizer.parameters), 1.0))
        optimizer.zero_grad()


# ---- pairs of texts -------------------------------------------------------------------------------------------------

def pair_batches(pairs, tokenizer, batch):
    """Pass after pass over the pairs, in batches of near-equal length."""
    lengths = [(len(tokenizer.encode(a)), len(tokenizer.encode(b))) for a, b in pairs]
    while True:
        for part in data.buckets(lengths, batch):
            yield data.pair_batch([pairs[i] for i in part], tokenizer)


def wrong(model, pairs, tokenizer, write):
    """The pairs that are not translated to the letter, each with what was written."""
    found = []
    for start in range(0, len(pairs), 200):
        part = pairs[start:start + 200]
        source, mask, _ = data.pair_batch(part, tokenizer)
        written = (tokenizer.decode(ids) for ids in write(model, source, mask, limit=12))
        found += [(*pair, text) for pair, text in zip(part, written, strict=True) if text != pair[1]]
    return found


def best_of_four(model, source, mask, limit):
    return [row[0].ids for row in beam_search(model, source, mask, limit=limit, beam=4)]


@pytest.mark.formula("S2")
@pytest.mark.parametrize("package, texts, vocabulary, steps, batch, peak", [
    ("num2words", data.numbers_in_words, data.WordTokenizer.from_texts, 800, 128, 3e-3),
    ("babel", lambda: data.dates(20_000), data.characters, 2500, 64, 2e-3)], ids=["numbers", "dates"])
def test_texts_are_translated_to_the_letter(package, texts, vocabulary, steps, batch, peak, capsys):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install 'tinygrad_tfm[demos]'")
    train_pairs, test_pairs = texts()
    tokenizer = vocabulary(itertools.chain(*train_pairs, *test_pairs))
    tg.manual_seed(0)
    model = Transformer(tokenizer.size, layers=2, heads=4, width=64, pre_norm=True)
    train(model, model.loss, pair_batches(train_pairs, tokenizer, batch), steps, peak)
    errors = {write.__name__: wrong(model, test_pairs, tokenizer, write) for write in (greedy, best_of_four)}
    with capsys.disabled():
        print(f"\n{package}: {len(test_pairs):,} held out", {way: len(found) for way, found in errors.items()})
    for way, found in errors.items():
        assert len(found) <= 0.01 * len(test_pairs), (way, found[:10])


@pytest.mark.formula("S2")
def test_a_sequence_is_copied():
    """The first task of "The Annotated Transformer" (Rush 2018): ten tokens of ten, random, and the same again."""
    tg.manual_seed(0)
    model, rng = Transformer(13, layers=2, heads=4, width=64), np.random.default_rng(0)

    def framed(ids):
        ends = np.ones((len(ids), 1), int)
        return np.concatenate([START * ends, ids, STOP * ends], axis=1)
    drawn = (rng.integers(3, 13, (80, 10)) for _ in itertools.count())
    batches = ((ids, None, framed(ids)) for ids in drawn)
    train(model, model.loss, batches, 600, 2e-3)
    new = np.concatenate([np.arange(3, 13)[None], rng.integers(3, 13, (500, 10))])
    assert greedy(model, new, limit=12) == new.tolist()
    assert best_of_four(model, new, None, limit=12) == new.tolist()


# ---- images ---------------------------------------------------------------------------------------------------------

@pytest.mark.formula("S7")
def test_handwriting_is_read_by_a_transformer_and_by_a_plain_network_of_its_size(capsys):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'tinygrad_tfm[demos]'")
    (images, labels), (test_images, test_labels) = data.digits()
    right = {}
    for seed in (0, 1, 2):
        tg.manual_seed(seed)
        plain = nn.Sequential(lambda x: tg.Tensor(x.reshape(-1, 64)), nn.Linear(64, 190), F.gelu, nn.Linear(190, 190),
                              F.gelu, nn.Linear(190, 50), F.gelu, nn.Linear(50, 10))
        for model in (VisionTransformer(8, 2, 10, layers=2, heads=4, width=48, dropout=0.1), plain):
            batches = ((images[part], labels[part]) for _ in itertools.count()
                       for part in data.buckets([1] * len(images), 64))
            loss = lambda x, targets, model=model: F.cross_entropy(model(x), targets=targets)
            train(model, loss, batches, 1200, 3e-3 if model is not plain else 1e-3, decay=0.1)
            with evaluating(model), tg.no_grad():
                hits = (model(test_images).data.argmax(axis=1) == test_labels).mean()
            right.setdefault((type(model).__name__, model.size()), []).append(float(hits))
    with capsys.disabled():
        print("\ndigits:", right)
    (_, size), (_, plain_size) = right
    assert abs(size / plain_size - 1) < 0.02
    assert np.mean(right["Classifier", size]) >= 0.97, right

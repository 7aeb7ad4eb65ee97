"""What an encoder–decoder learns in a minute or two, tested on data that it never saw. Marked slow.

Other systems of the lectures show their results in a demo, and are tested there (`test_demos.py`). Settings were
tried on these very tasks, up to three times each; seeds were not chosen.
"""

import itertools

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import tinygrad_tfm as tg
from tinygrad_tfm import data
from tinygrad_tfm.data import START, STOP
from tinygrad_tfm.decoding import beam_search, greedy
from tinygrad_tfm.models import Transformer
from tinygrad_tfm.optim import AdamW, clip_factor, global_norm, warmup_cosine

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def one_thread():
    """These products are too small to be shared."""
    with threadpool_limits(limits=1, user_api="blas"):
        yield


def train(model, batches, steps, peak):
    """AdamW over a warm-up of 100 steps and a cosine, the gradient's norm clipped at 1."""
    optimizer = AdamW(model.parameters(), betas=(0.9, 0.98), decay=0.01)
    for step, batch in enumerate(itertools.islice(batches, steps)):
        optimizer.lr = warmup_cosine(step, peak, peak / 20, 100, steps)
        model.loss(*batch).backward()
        optimizer.step(clip_factor(global_norm(optimizer.parameters), 1.0))
        optimizer.zero_grad()


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
def test_dates_of_twenty_places_are_read(capsys):
    pytest.importorskip("babel", reason="babel is not installed: pip install 'tinygrad_tfm[demos]'")
    train_pairs, test_pairs = data.dates(20_000)
    tokenizer = data.characters(itertools.chain(*train_pairs, *test_pairs))
    tg.manual_seed(0)
    model = Transformer(tokenizer.size, layers=2, heads=4, width=64, pre_norm=True)
    train(model, pair_batches(train_pairs, tokenizer, 64), 2500, 2e-3)
    errors = {write.__name__: wrong(model, test_pairs, tokenizer, write) for write in (greedy, best_of_four)}
    with capsys.disabled():
        print(f"\ndates: {len(test_pairs):,} held out", {way: len(found) for way, found in errors.items()})
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
    train(model, batches, 600, 2e-3)
    new = np.concatenate([np.arange(3, 13)[None], rng.integers(3, 13, (500, 10))])
    assert greedy(model, new, limit=12) == new.tolist()
    assert best_of_four(model, new, None, limit=12) == new.tolist()

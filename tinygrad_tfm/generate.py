"""Text from a trained decoder: one token at a time, each drawn from what the model says comes next.

Beyond the context: when a window of `context` tokens is full, its older half is dropped and the rest is run once
more, so a token costs two at most and the model always sees between half a context and a whole one. With a cache or
without, the window is the same, and so are the numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .backend import to_device, to_numpy
from .errors import positive
from .models.decoder import Decoder
from .models.recurrent import RecurrentLM
from .models.without_engine import without_engine
from .nn import KVCache, Module
from .tensor import no_grad
from .text import CharTokenizer


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen from logits. Raises ValueError for settings out of range.

    temperature τ divides the logits: 0 always takes the likeliest, below 1 sharpens, above 1 flattens. top_k keeps
    the k likeliest; top_p the fewest whose probabilities reach p (Holtzman et al. 2019, arXiv:1904.09751, §3.1).
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be a finite number of at least 0, not {self.temperature!r}")
        if self.top_k is not None:
            positive("Sampling", top_k=self.top_k)
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in 0 < top_p ≤ 1, not {self.top_p!r}")

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """The distribution a token is drawn from.     (V,) → (V,), sums to 1"""
        best = logits[logits.argmax()]                             # a NaN, if there is one
        if not np.isfinite(best):
            raise ValueError("the model's logits are not numbers: its weights have diverged, or its input has")
        if self.temperature == 0:
            return np.eye(len(logits))[logits.argmax()]
        p = np.exp((logits - best).astype(np.float64) / self.temperature)
        if self.top_k or self.top_p:
            order = np.argsort(-logits, kind="stable")             # likeliest first, ties by number
            p[order[self.top_k or len(p):]] = 0
            if self.top_p:
                reached = np.cumsum(p[order])                      # with each token and all that are likelier
                p[order[1:][reached[:-1] >= self.top_p * reached[-1]]] = 0
        return p / p.sum()

    def choose(self, logits: np.ndarray, rng: np.random.Generator) -> int:
        """One token drawn from the logits.     (V,) → an id"""
        if self.temperature == 0 and np.isfinite(logits[best := int(logits.argmax())]):
            return best                                            # no dice, and no distribution of one
        total = np.cumsum(self.probabilities(logits))
        return int(np.searchsorted(total, rng.random() * total[-1], side="right"))


class evaluating:
    """Inside `with evaluating(model):` dropout is off; afterwards each module is as it was. May be entered again."""

    def __init__(self, model: Module):
        self.modules = [module for _, module in model.named_modules() if module.training]

    def __enter__(self) -> None:
        for module in self.modules:
            module.training = False

    def __exit__(self, *exception: Any) -> None:
        for module in self.modules:
            module.training = True


def window_start(count: int, context: int) -> int:
    """Where the window begins once there are `count` tokens: 0 while they fit, then in steps of half a context."""
    half = max(1, context // 2)
    return max(0, -(-(count - context) // half) * half)


def generate(model: Decoder, ids: Iterable[int], count: int, sampling: Sampling | None = None,
             rng: np.random.Generator | None = None, cached: bool = True) -> Iterator[int]:
    """Yield `count` tokens that continue `ids`, as they are made. The same `rng` seed gives the same tokens.

    Dropout is off while this runs. The weights are those the model has when the second token is asked for; whoever
    changes them starts again. Raises ValueError without a token to start from.
    """
    ids, context = [int(i) for i in ids], model.config.context
    if not ids:
        raise ValueError("generation needs at least one token to start from")
    sampling, rng = sampling or Sampling(), rng or np.random.default_rng()
    dropout_off, step = evaluating(model), None
    start = seen = window_start(len(ids), context)
    cache = model.new_cache() if cached else None
    for i in range(count):
        if not cached or window_start(len(ids), context) != start:
            start = seen = window_start(len(ids), context)
            for part in cache or ():
                part.length = 0
        if cache and i == 1:                                       # the model itself has read and checked the prompt
            step = without_engine(model)
        if step and cache:
            logits = step(ids[seen:], cache)
        else:
            with dropout_off:                                      # not around the yield: there the caller is at work
                logits = last_logits(model, ids[seen:], cache)
        seen = len(ids)
        ids.append(sampling.choose(logits, rng))
        yield ids[-1]


def last_logits(model: Decoder, ids: Sequence[int], cache: list[KVCache] | None = None) -> np.ndarray:
    """The logits after the last of these tokens, in host memory.     T ids → (V,)"""
    with no_grad():
        return to_numpy(model(to_device(np.asarray([ids]), model.embed.weight.device), cache).data[0, -1])


def carry_on(model: RecurrentLM, ids: Iterable[int], count: int, sampling: Sampling | None = None,
             rng: np.random.Generator | None = None) -> Iterator[int]:
    """Yield `count` tokens that continue `ids`, as `generate` does, from a model that carries a state.

    There is no window that could be full, and each token costs the same. Raises ValueError without a token to start
    from.
    """
    ids, states = [int(i) for i in ids], None
    if not ids:
        raise ValueError("generation needs at least one token to start from")
    sampling, rng, dropout_off = sampling or Sampling(), rng or np.random.default_rng(), evaluating(model)
    for _ in range(count):
        with dropout_off, no_grad():
            logits, states = model.advance(to_device(np.asarray([ids]), model.embed.weight.device), states)
        ids = [sampling.choose(to_numpy(logits.data[0, -1]), rng)]
        yield ids[0]


def generate_text(model: Decoder | RecurrentLM, tokenizer: CharTokenizer, prompt: str, count: int,
                  sampling: Sampling | None = None, seed: int | None = None,
                  stop: str | None = None) -> Iterator[str]:
    """Yield the continuation of a prompt, piece by piece, at most `count` characters and up to `stop`.

    The stop string itself is not given out. An empty prompt counts as a line break. Raises ValueError for characters
    the model was not trained on.
    """
    ids = tokenizer.encode(prompt or ("\n" if "\n" in tokenizer.characters else tokenizer.characters[0]))
    held, rng = "", np.random.default_rng(seed)                    # held: might be the beginning of the stop string
    for token in (carry_on(model, ids, count, sampling, rng) if isinstance(model, RecurrentLM) else
                  generate(model, ids, count, sampling, rng)):
        held += tokenizer.decode([token])
        if stop and stop in held:
            held = held[:held.index(stop)]
            break
        longest = next((n for n in range(min(len(stop) - 1, len(held)), 0, -1) if held.endswith(stop[:n])), 0) \
            if stop else 0
        yield held[:len(held) - longest]
        held = held[len(held) - longest:]
    yield held

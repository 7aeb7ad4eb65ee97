"""Floor 0: random numbers. One seed rules them all: weights, batches, dropout masks, samples.

NumPy's generator on the host; where masks are needed, a hash of position and key, which is the same on every device.
"""

from __future__ import annotations  # naming np.random in a type would import it

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import numpy as np

from .backend import Array

_stream: ContextVar[np.random.Generator | None] = ContextVar("stream", default=None)
_keys: ContextVar[Iterator | None] = ContextVar("keys", default=None)


@cache
def _default() -> np.random.Generator:
    return np.random.default_rng()


def rng() -> np.random.Generator:
    """The generator in force: weights, dropout keys and samples are all drawn from it."""
    return _stream.get() or _default()


def manual_seed(seed: int) -> None:
    """Start the generator in force afresh: the same seed gives the same weights, masks and samples, on any device."""
    rng().bit_generator.state = np.random.default_rng(seed).bit_generator.state


@contextmanager
def random_stream(generator: np.random.Generator) -> Iterator[None]:
    """Draw from this generator inside the block, in this thread only."""
    token = _stream.set(generator)
    try:
        yield
    finally:
        _stream.reset(token)


def new_key() -> Any:
    """63 random bits from which `random_bits` and `random_mask` unfold a whole array: an int, or what `keys_from` gives
    in its place."""
    keys = _keys.get()
    key = draw_key() if keys is None else next(keys, None)
    if key is None:
        raise RuntimeError("this step asks for more keys of dropout than it did when its recording was prepared: make "
                           "the steps anew after dropout has been changed")
    return key


def draw_key() -> int:
    """63 bits of the generator in force."""
    return int(rng().integers(1 << 63))


@contextmanager
def keys_from(keys: Iterator) -> Iterator[None]:
    """Inside the block keys are not drawn but taken from here. They may be arrays of one number on a GPU: a step that
    was recorded is replayed with the keys that lie there by then."""
    token = _keys.set(keys)
    try:
        yield
    finally:
        _keys.reset(token)


def random_bits(count: int, key: Any, xp: Any) -> Array:
    """`count` random 32-bit numbers that depend on nothing but their position and the key.

    A counter scrambled by two rounds of multiply and shift (the finaliser of MurmurHash3, with the constants of
    Wellons, "Prospecting for Hash Functions", 2018), half of the key before each round. There is no state to
    save: a mask can be drawn again instead of kept, and NumPy and CuPy draw the same one.
    """
    low, high = (np.uint32(half) if isinstance(half, int) else half.astype(np.uint32)
                 for half in (key & 0xFFFFFFFF, key >> 32 & 0xFFFFFFFF))
    bits = xp.arange(count, dtype=np.uint32)
    bits += low
    for multiplier, half in ((0x7FEB352D, high), (0x846CA68B, np.uint32(0))):
        bits ^= bits >> np.uint32(16)
        bits *= np.uint32(multiplier)
        bits ^= bits >> np.uint32(15)
        bits += half
    return bits


def random_mask(count: int, p: float, key: Any, xp: Any) -> Array:
    """`count` booleans, each True with probability 1 − p (to 16 bits): one hash decides about two of them.

    They depend on the key and on their position alone.
    """
    halves = random_bits(count // 2 + 1, key, xp).view("uint16")[:count]
    return halves >= drop_below(p)


def drop_below(p: float) -> int:
    """The threshold for p: who has 16 random bits below it is dropped. 2¹⁶ would not fit into them, so that at p
    near 1 one in 65,536 stays."""
    return min(round(p * 2**16), 2**16 - 1)

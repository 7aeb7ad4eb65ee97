"""Floor 0: which array library, which device, which random numbers.

NumPy or CuPy is decided by the array in hand, never by a global setting: code that must work on both asks
`namespace(x)` and calls what it gets. Random numbers start here too, so that one seed rules them all.
Nothing here knows tensors or gradients. Read next: `ops/`, the operations.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

Array = Any                       # numpy.ndarray or cupy.ndarray
DEFAULT_DTYPE = np.float32        # of Python numbers and lists that become tensors, and of new weights


def namespace(*arrays: Any) -> Any:
    """The library that owns the first array among the arguments: `numpy`, `cupy`, or `functional` for Tensors.

    Python numbers belong to nobody and are passed over.
    """
    for x in arrays:
        if type(x) is np.ndarray:
            return np
        cupy = sys.modules.get("cupy")
        if cupy is not None and isinstance(x, cupy.ndarray):
            return cupy
        if hasattr(x, "__array_namespace__"):
            return x.__array_namespace__()
    return np


def device_of(x: Any) -> str:
    """"cuda" for a CuPy array, "cpu" for everything else."""
    return "cuda" if namespace(x).__name__ == "cupy" else "cpu"


def cuda() -> Any:
    """The CuPy module, once it has been seen to find a GPU.

    Raises ImportError without CuPy, RuntimeError without a device; both say what to do.
    """
    try:
        import cupy
    except ImportError as error:
        raise ImportError("device 'cuda' needs CuPy, which is not installed: "
                          "pip install 'tinygrad_tfm[cuda13]' (or [cuda12] for an older driver)") from error
    try:
        devices = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:                         # CuPy's own error type cannot be named without CuPy
        raise RuntimeError(f"device 'cuda': CuPy is installed but finds no usable GPU ({error}); "
                           "run `python -m tinygrad_tfm doctor`, or use --device cpu") from error
    if not devices:
        raise RuntimeError("device 'cuda': CuPy is installed but there is no GPU; use --device cpu")
    return cupy


def resolve_device(name: str) -> str:
    """"cpu", "cuda", or for "auto" the better of the two that works here. Raises ValueError for other names."""
    if name == "auto":
        try:
            cuda()
        except (ImportError, RuntimeError):
            return "cpu"
        return "cuda"
    if name == "cuda":
        cuda()
    elif name != "cpu":
        raise ValueError(f"unknown device {name!r}: use 'cpu', 'cuda' or 'auto'")
    return name


def to_device(x: Array, device: str) -> Array:
    """The array on that device; itself when it is there already."""
    if device == device_of(x):
        return x
    return cuda().asarray(x) if resolve_device(device) == "cuda" else to_numpy(x)


def to_numpy(x: Array) -> np.ndarray:
    """The array in host memory. From a GPU this waits until the value is computed."""
    return x.get() if device_of(x) == "cuda" else np.asarray(x)


# ---- random numbers: NumPy's generator on the host, a hash of position and key where the masks are needed ----------

_default: np.random.Generator | None = None
_stream: ContextVar[np.random.Generator | None] = ContextVar("stream", default=None)


def rng() -> np.random.Generator:
    """The generator in force: weights, dropout keys and samples are all drawn from it."""
    global _default
    stream = _stream.get()
    if stream is not None:
        return stream
    if _default is None:
        _default = np.random.default_rng()
    return _default


def manual_seed(seed: int) -> None:
    """Start the default generator afresh: the same seed gives the same weights, masks and samples, on any device."""
    global _default
    _default = np.random.default_rng(seed)


@contextmanager
def random_stream(generator: np.random.Generator) -> Iterator[None]:
    """Draw from this generator inside the block, in this thread only."""
    token = _stream.set(generator)
    try:
        yield
    finally:
        _stream.reset(token)


def new_key() -> int:
    """64 random bits from which `random_bits` unfolds a whole array."""
    return int(rng().integers(1 << 63))


def random_bits(count: int, key: int, xp: Any) -> Array:
    """`count` random 32-bit numbers that depend on nothing but their position and the key.

    A counter scrambled by two rounds of multiply and shift (the finaliser of MurmurHash3, with the constants of
    Wellons, "Prospecting for Hash Functions", 2018), half of the key before each round. There is no state to
    save: a mask can be drawn again instead of kept, and NumPy and CuPy draw the same one.
    """
    bits = xp.arange(count, dtype=np.uint32)
    bits += np.uint32(key & 0xFFFFFFFF)
    for multiplier, half in ((0x7FEB352D, key >> 32 & 0xFFFFFFFF), (0x846CA68B, 0)):
        bits ^= bits >> np.uint32(16)
        bits *= np.uint32(multiplier)
        bits ^= bits >> np.uint32(15)
        bits += np.uint32(half)
    return bits


# ---- the one function that NumPy lacks ------------------------------------------------------------------------------

_erf_exactly = np.frompyfunc(math.erf, 1, 1)
ERF = (0.7978849414901634, 0.0363330844072795, -3.259474278717814e-05, -5.53063175934764e-05,
       3.964773319163086e-06, -1.322662935191142e-07, 1.7562778892830122e-09)


def erf(x: Array) -> Array:
    """2/√π ∫₀ˣ exp(−t²) dt of a float array.

    float64 asks the C library number by number. float32 uses erf(z/√2) = tanh(z·P(z²)), where P, of degree 6, was
    fitted so that the largest error on the line is 6e-8, which float32 cannot tell from 0.
    """
    if device_of(x) == "cuda":
        from cupyx.scipy.special import erf as erf_on_gpu
        return erf_on_gpu(x)
    if x.dtype != np.float32:
        return np.asarray(_erf_exactly(x)).astype(x.dtype)
    z = x * math.sqrt(2)
    return np.tanh(z * horner(ERF, np.minimum(z * z, 64)))         # beyond |z| = 8 tanh is 1 in float32


def horner(coefficients: tuple[float, ...], x: Array) -> Array:
    """The polynomial with these coefficients, that of the constant first."""
    total = x * coefficients[-1]
    for c in coefficients[-2:0:-1]:
        total += c
        total *= x
    return total + coefficients[0]

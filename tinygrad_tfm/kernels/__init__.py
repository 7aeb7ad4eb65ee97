"""Floor 1: faster twins of some rules. Under `tg.fused(False)` none of them runs, and everything still works.

A twin has the name, the signature and the return of the plain rule in `ops/`, which stays the specification; a test
walks over all pairs and compares values and gradients. Beside each twin stands a function that looks at the arrays
and settings of a call and says whether the twin is for it; if not, the plain rule serves.
Read next: `cpu.py`, then `precision.py` and `cuda.py`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..backend import device_of
from . import cpu, cuda, cuda_attention
from .precision import current

PLAIN = tuple(__name__.replace("kernels", place) for place in ("ops", "optim"))
MOVES = {"reshape", "transpose", "swapaxes", "expand_dims", "squeeze", "broadcast_to"}     # rules that compute nothing
Twins = dict[str, tuple[Callable, Callable[..., bool]]]              # by device: the twin, and which calls it is for


def twins_of(rule: Callable) -> Twins:
    """The faster twins of one of this package's own rules, by device; a rule of the same name elsewhere has none."""
    if not rule.__module__.startswith(PLAIN):
        return {}
    tables = ("cpu", cpu.TWINS), ("cuda", cuda.TWINS)
    return {device: table[rule.__name__] for device, table in tables if rule.__name__ in table}


def choose(twins: Twins, arrays: Sequence[Any], settings: dict[str, Any]) -> Callable | None:
    """The twin for the device these arrays are on, if there is one and the call is a case for it."""
    first = arrays[0]
    twin, fits = twins.get("cpu" if type(first) is np.ndarray else device_of(first), (None, None))
    return twin if fits and fits(*arrays, **settings) else None


def text_for(rule: Callable, twins: Twins, arrays: Sequence[Any], settings: dict[str, Any]) -> Callable:
    """What computes a rule on these arrays: a twin that is for the call, or the rule. What has no twin for arrays in
    bf16 is computed in float32, and its value stays so until a product or a sum comes."""
    twin = choose(twins, arrays, settings) if arrays else None
    if twin or current() != "bf16" or rule.__name__ in MOVES or not any(map(cuda.is_bf16, arrays)):
        return twin or rule

    def in_float32(*arrays, **settings):
        arrays = tuple(x.astype(np.float32) if cuda.is_bf16(x) else x for x in arrays)
        return (choose(twins, arrays, settings) or rule)(*arrays, **settings)
    return in_float32

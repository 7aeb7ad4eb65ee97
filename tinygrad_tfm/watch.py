"""Floor 4: three watchers that stand at the engine's gate: a timer, a finder of NaNs, a ledger of saved memory.

    with tg.watch.timed() as timer:
        model.loss(x, y).backward()
    print(timer)

Each is a callable `watcher(name, step)` that calls `step()` and returns what it returned; yours can be too.
Nothing here changes what is computed.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from .backend import device_of, namespace
from .tensor import place_of, scope, watching


class Timer:
    """Seconds and calls by op; the way back of an op has its name with a prime. On a GPU it waits for each step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)

    def __call__(self, name: str, step: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = step()
        for array in arrays_in(result):
            if device_of(array) == "cuda":
                namespace(array).cuda.Device().synchronize()
            break
        self.seconds[name] += time.perf_counter() - start
        self.calls[name] += 1
        return result

    def __str__(self) -> str:
        total = sum(self.seconds.values()) or 1.0
        rows = sorted(self.seconds.items(), key=lambda item: -item[1])
        return "\n".join([f"{'op':<22}{'calls':>8}{'ms':>10}{'share':>8}"]
                         + [f"{name:<22}{self.calls[name]:>8}{1e3 * s:>10.2f}{s / total:>8.1%}" for name, s in rows])


class NaNFound(FloatingPointError):
    """A step gave NaN or infinity; the message says which and where."""


class NaNFinder:
    """Raises NaNFound at the first step whose result holds NaN or infinity, naming the op and the module.

    −∞ as a masked score is made and used up inside the rules, so it does not count against them.
    """

    def __call__(self, name: str, step: Callable[[], Any]) -> Any:
        result = step()
        for array in arrays_in(result):
            if array.dtype.kind in "fV" and not namespace(array).isfinite(array).all():
                what = "NaN" if namespace(array).isnan(array).any() else "infinity"
                where = place_of(scope.get())
                doing = f"the gradient of {name[:-1]}" if name.endswith("'") else name
                raise NaNFound(f"{what} in {doing}, shape {array.shape}"
                               + (f", in the module {where}" if where else ""))
        return result


class Ledger:
    """Bytes that the ways back keep alive, by op: what a training step must remember between forward and backward.

    An array that several ways back hold, and a view of one, is counted once, at the op that kept it first. Weights
    that a way back holds are counted too.
    """

    def __init__(self) -> None:
        self.bytes: dict[str, int] = defaultdict(int)
        self._seen: dict[int, Any] = {}                            # holds the arrays, so that no id is used again

    def __call__(self, name: str, step: Callable[[], Any]) -> Any:
        result = step()
        if not name.endswith("'"):
            for array in kept_alive(result[1]):
                if id(array) not in self._seen:
                    self._seen[id(array)] = array
                    self.bytes[name] += array.nbytes
        return result

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        return sum(self.bytes.values())

    def __str__(self) -> str:
        rows = sorted(self.bytes.items(), key=lambda item: -item[1])
        return "\n".join([f"{'op':<22}{'kept (KiB)':>12}"] + [f"{name:<22}{n / 1024:>12,.1f}" for name, n in rows]
                         + [f"{'total':<22}{self.total / 1024:>12,.1f}"])


@contextmanager
def timed() -> Iterator[Timer]:
    """Time every op inside the block."""
    timer = Timer()
    with watching(timer):
        yield timer


@contextmanager
def find_nan() -> Iterator[None]:
    """Stop inside the block at the first op that gives NaN or infinity."""
    with watching(NaNFinder()):
        yield


@contextmanager
def saved_memory() -> Iterator[Ledger]:
    """Count inside the block what each op keeps for its way back."""
    ledger = Ledger()
    with watching(ledger):
        yield ledger


def arrays_in(result: Any) -> Iterator[Any]:
    """The arrays of a step's result: a value with its way back, or a tuple of gradients."""
    for part in result if isinstance(result, tuple) else (result,):
        if hasattr(part, "dtype") and hasattr(part, "shape"):
            yield part


def kept_alive(back: Any) -> Iterator[Any]:
    """The arrays a way back closes over, found in the cells of its functions; the base in place of a view."""
    todo, seen = [back], set()
    while todo:
        x = todo.pop()
        if id(x) in seen:
            continue
        seen.add(id(x))
        if isinstance(x, tuple | list):
            todo.extend(x)
        elif hasattr(x, "dtype") and hasattr(x, "nbytes"):
            yield x if getattr(x, "base", None) is None or not hasattr(x.base, "nbytes") else x.base
        else:
            for cell in getattr(x, "__closure__", None) or ():
                with suppress(ValueError):                         # a name the function never came to set
                    todo.append(cell.cell_contents)

"""Each side of a comparison in a process of its own, as its users would run it.

Otherwise they would change each other: we set the memory allocator for the whole process (PyTorch gets faster by
that), and limit BLAS's threads. One process waits while the other works.

A side is made by a maker: a context manager that yields actions by name.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import active_children, get_context
from typing import Any

try:
    import resource
except ImportError:                                                # Windows
    resource = None                                                # type: ignore[assignment]

Actions = dict[str, Callable[..., Any]]
Maker = Callable[..., AbstractContextManager[Actions]]


class Side:
    """A process with the actions that `maker(*arguments)` yields. A context: the process ends with it.

    An error in there is raised here.
    """

    def __init__(self, maker: Maker, *arguments: Any):
        self._process = _process()
        try:
            self._process.submit(_enter, maker, arguments).result()
        except BaseException:
            self._process.shutdown()
            raise

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._process.shutdown()

    def ask(self, action: str, *arguments: Any) -> Any:
        """What the action returns."""
        return self._process.submit(_ask, action, arguments).result()

    def seconds(self, action: str, calls: int = 1, warm: int = 1) -> float:
        """Seconds a call takes, the mean of so many in a row after `warm` that do not count: they wake threads and
        fill caches."""
        return self._process.submit(_seconds, action, calls, warm).result()

    def turn(self, action: str, calls: int = 1) -> Callable[[], float]:
        """`seconds`, to be called later."""
        return partial(self.seconds, action, calls)


def in_a_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns there."""
    with _process() as process:
        return process.submit(function, *arguments).result()


def installed(*modules: str) -> bool:
    """Whether all of them could be imported; none is."""
    return all(find_spec(name) for name in modules)


def peak_mib(imports: Sequence[str], maker: Maker, small: Sequence[Any], arguments: Sequence[Any], action: str,
             calls: int = 10) -> float | None:
    """MiB that this process holds at most during so many calls of an action, beyond the imports; None on Windows.

    What libraries bring in with their first call is no part of it: `small` are the arguments of a maker whose call
    comes first. To be called in a fresh process.
    """
    for name in imports:
        import_module(name)
    with maker(*small) as actions:
        actions[action]()
    before = peak_bytes()
    with maker(*arguments) as actions:
        for _ in range(calls):
            actions[action]()
        helpers = sum(private_bytes(child.pid) for child in active_children())
    after = peak_bytes()
    return None if before is None or after is None else (after + helpers - before) / 2**20


def private_bytes(pid: int | None) -> int:
    """What a process that was forked from this one holds for itself alone; freed memory is kept, so it is its peak."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return sum(1024 * int(line.split()[1]) for line in file if line.startswith("Private_"))


def peak_bytes() -> int | None:
    """The most memory this process has held so far."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:  # on Linux getrusage also counts what the process
            return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM"))      # was forked from
    except (OSError, StopIteration):
        if resource is None:
            return None
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# ---- in the other process -------------------------------------------------------------------------------------------

_open = ExitStack()
_actions: Actions = {}


def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, get_context("spawn"), initializer=_leave_quietly)


def _leave_quietly() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)                   # Ctrl-C: the word about it is the parent's


def _enter(maker: Maker, arguments: Sequence[Any]) -> None:
    _actions.update(_open.enter_context(maker(*arguments)))


def _ask(action: str, arguments: Sequence[Any]) -> Any:
    return _actions[action](*arguments)


def _seconds(action: str, calls: int, warm: int) -> float:
    run = _actions[action]
    for _ in range(warm):
        run()
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls

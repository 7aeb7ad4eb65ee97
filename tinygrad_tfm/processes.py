"""Processes that work beside this one, each on its own replica of the model: forked, so that nothing has to be sent
but the batch, and every weight and gradient lies in memory that all of them see.

Threads would do the same with less (`parallel.py` has them, for where there is no fork). But NumPy asks for the
interpreter again after every operation, and threads of short operations wait for each other a good part of the time.
"""

from __future__ import annotations

import mmap
import multiprocessing
import pickle
import signal
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import numpy as np

from .tensor import Tensor, _fused, fused


def shared_copy(arrays: Iterable[np.ndarray]) -> list[np.ndarray]:
    """The same arrays in memory that processes forked later share."""
    arrays = list(arrays)
    sizes = [-(-a.nbytes // 64) * 64 for a in arrays]              # each begins where a cache line does
    block = mmap.mmap(-1, max(1, sum(sizes)))
    copies = [np.frombuffer(block, a.dtype, a.size, start).reshape(a.shape)
              for a, start in zip(arrays, np.cumsum([0, *sizes]).tolist())]
    for copy, a in zip(copies, arrays):
        copy[...] = a
    return copies


class Process:
    """A forked process that does jobs on a replica whose weights are shared with the model's.

    `submit(job, *arguments)` starts `job(replica, *arguments)`; `result()` waits for it and gives what it returned,
    the gradients standing at the replica's parameters here. An error there is raised here.
    """

    def __init__(self, replica: Any):
        self.parameters = replica.parameters
        self.gradients = shared_copy(p.data for p in self.parameters)
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(replica, self.gradients, theirs, self.pipe), daemon=True)
        with warnings.catch_warnings():                            # Python warns of threads, which BLAS has, asleep
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process.start()
        theirs.close()

    def submit(self, job: Callable[..., Any], *arguments: Any) -> Process:
        """Start job(replica, *arguments)."""
        with suppress(ConnectionError):                            # `result` finds that too
            self.pipe.send((job, arguments, _fused.get()))
        return self

    def result(self) -> Any:
        """What the job returned; raises what it raised, RuntimeError if the process is gone."""
        try:
            value, error, filled = self.pipe.recv()
        except (EOFError, ConnectionError) as gone:
            raise RuntimeError("a process of this training run has died, perhaps for lack of memory: --workers 1 "
                               "needs less") from gone
        if error is not None:
            raise error
        for p, g, here in zip(self.parameters, self.gradients, filled):
            p.node.grad = g if here else None                      # type: ignore[union-attr]
        return value

    def close(self) -> None:
        """End the process; the youngest first, since it has inherited the pipes of the others."""
        self.pipe.close()
        self.process.join(timeout=5)
        self.process.kill()
        self.process.join()


def serve(replica: Any, gradients: list[np.ndarray], pipe: Any, other_end: Any) -> None:
    """The other side: do one job after the other until nobody asks any more, because the asking end is closed."""
    other_end.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)                   # Ctrl-C is for the process that asks
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while True:
        try:
            job, arguments, twins = pipe.recv()
        except (EOFError, ConnectionError):
            return
        value, error, filled = None, None, []
        try:
            with fused(twins):
                value = job(replica, *arguments)
            filled = [deliver(p, g) for p, g in zip(replica.parameters, gradients)]
        except Exception as caught:
            error = portable(caught)
        replica.zero_grad()
        pipe.send((value, error, filled))


def portable(error: Exception) -> Exception:
    """The error if it survives the way through a pipe, else one that says the same."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        said = RuntimeError(f"{type(error).__name__}: {error}")
        said.__notes__ = getattr(error, "__notes__", [])           # type: ignore[attr-defined]
        return said


def deliver(p: Tensor, place: np.ndarray) -> bool:
    """Put a parameter's gradient into its place; whether it has one."""
    if p.grad is not None:
        place[...] = p.grad
    return p.grad is not None

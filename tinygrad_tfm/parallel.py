"""One training step on several cores: each takes a share of the batch, the gradients are summed.

NumPy lets go of the interpreter inside every operation, so threads are enough, and no rule knows of them. Each thread
has its own replica of the model: tensors of its own on the very same arrays. Between machines it would be the same,
with a network in place of the sum.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext
from contextvars import copy_context
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from .backend import Array, device_of
from .kernels.cpu import keep_freed_memory
from .nn import Module
from .optim import one_by_one
from .random import new_key, random_stream
from .tensor import Tensor, no_grad


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def suggested_workers(batch: int, context: int, device: str) -> int:
    """As many as there are cores while each has a few hundred tokens to do; one on a GPU, or if NumPy's own threads
    cannot be held back (that takes threadpoolctl: the two kinds of threads must not both fan out)."""
    if device == "cuda" or not find_spec("threadpoolctl"):
        return 1
    return max(1, min(cores(), batch, batch * context // 256))


def one_blas_thread() -> Any:
    """A context in which a matrix product uses one thread; None without threadpoolctl."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return None
    return threadpool_limits(limits=1, user_api="blas")


def replica(model: Module) -> Module:
    """A copy whose tensors are its own leaves on the model's arrays: weights are shared, gradients are not."""
    own = {id(x): Tensor(x.data, x.requires_grad) for _, x in model.named_tensors()}
    return copy.deepcopy(model, own)


class DataParallel:
    """Losses and gradients of `model.loss(x, y)` over a batch, by `workers` threads.

    Use it as a context: `with DataParallel(model, 2) as parallel: loss = parallel.backward(x, y)`. With one worker
    it is just the model.
    """

    def __init__(self, model: Any, workers: int = 1):
        self.model, self.workers = model, workers
        self.replicas = [model] + [replica(model) for _ in range(workers - 1)]
        self._modules = [[module for _, module in m.named_modules()] for m in self.replicas]

    def __enter__(self) -> DataParallel:
        keep_freed_memory()
        self._pool = ThreadPoolExecutor(self.workers - 1) if self.workers > 1 else None
        self._blas = (one_blas_thread() if self._pool else None) or nullcontext()
        self._blas.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._blas.__exit__(*exception)
        if self._pool:
            self._pool.shutdown()

    def backward(self, x: Array, y: Array) -> Array:
        """The mean loss over the batch, a 0-d array; its gradients are added to the model's parameters."""
        def work(model: Any, x: Array, y: Array, share: float) -> Array:
            loss = model.loss(x, y)
            loss.backward(share)
            return loss.data * share
        try:
            total = sum(self._shares(work, x, y))
        except BaseException:
            for model in self.replicas:                            # a half of a gradient is none
                model.zero_grad()
            raise
        self.spread(_add_up, list(zip(*(m.parameters() for m in self.replicas), strict=True)))
        return total

    def loss(self, x: Array, y: Array) -> Array:
        """The mean loss over the batch, without a graph."""
        def work(model: Any, x: Array, y: Array, share: float) -> Array:
            with no_grad():
                return model.loss(x, y).data * share
        return sum(self._shares(work, x, y))

    def spread(self, work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """work(item) of every item, which are dealt out to the threads like cards; the results in order."""
        hands = [items[i::self.workers] for i in range(self.workers)]
        results: list[Any] = [None] * len(items)
        for i, part in enumerate(self._together([partial(one_by_one, work, hand) for hand in hands])):
            results[i::self.workers] = part
        return results

    def _shares(self, work: Callable[..., Array], x: Array, y: Array) -> list[Array]:
        """work(model, x, y, share) by each replica on its share of the rows."""
        if self.workers == 1:
            return [work(self.model, x, y, 1.0)]
        jobs = []
        for model, modules, rows in zip(self.replicas, self._modules,
                                        np.array_split(np.arange(len(x)), self.workers)):
            if len(rows):
                for own, copied in zip(self._modules[0], modules):
                    copied.training = own.training
                part = slice(rows[0], rows[-1] + 1)
                seed = new_key() if model.training else 0          # evaluating must not move the random numbers
                stream = random_stream(np.random.default_rng(seed))
                jobs.append(partial(_with, stream, work, model, x[part], y[part], len(rows) / len(x)))
        return self._together(jobs)

    def _together(self, jobs: Sequence[Callable[[], Any]]) -> list[Any]:
        """Run them side by side, the first in this thread; when this returns or raises, all have ended."""
        others = [self._pool.submit(copy_context().run, job) for job in jobs[1:]] if self._pool else []
        try:
            first = jobs[0]()
        finally:
            wait(others)
        return [first, *(job.result() for job in others)]


def _add_up(same: tuple[Tensor, ...]) -> None:
    """Add the gradients of a parameter's replicas to its own."""
    p, *others = same
    for other in others:
        if other.grad is not None:                                 # in a batch smaller than the workers some have none
            p.node.grad = p.grad + other.grad                      # type: ignore[union-attr]
            other.zero_grad()


def _with(context: Any, work: Callable[..., Array], *args: Any) -> Array:
    with context:
        return work(*args)


def synchronize(x: Array) -> None:
    """Wait until a GPU has done what it was asked; for clocks."""
    if device_of(x) == "cuda":
        import cupy
        cupy.cuda.Device().synchronize()

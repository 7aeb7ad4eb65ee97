"""One training step on several cores: each takes a share of the batch, the gradients are summed.

Each worker has its own replica of the model: tensors of its own on the very same arrays. No rule knows of them.
Between machines it would be the same, with a network in place of the sum. Workers are processes where a process can be
forked (`processes.py`), elsewhere threads: NumPy lets go of the interpreter inside every operation.
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from .backend import Array, device_of
from .kernels.cpu import keep_freed_memory
from .nn import Module
from .processes import Process, shared_copy
from .random import draw_key, random_stream
from .tensor import Tensor, _watchers, no_grad


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def suggested_workers(batch: int, context: int, device: str) -> int:
    """As many as there are cores while each has a few hundred tokens to do; one on a GPU, or if BLAS's own threads
    cannot be held back (that takes threadpoolctl: workers and threads of BLAS must not both fan out)."""
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


def copied(model: Module) -> Module:
    """A copy whose tensors are its own leaves on the model's arrays: weights are shared, gradients are not."""
    own = {id(x): Tensor(x.data, x.requires_grad) for _, x in model.named_tensors()}
    return copy.deepcopy(model, own)


class Replica:
    """A model with its parts listed once: to look for them again in every step would take a millisecond."""

    def __init__(self, model: Any):
        self.model, self.parameters = model, model.parameters()
        self.tensors = [x for _, x in model.named_tensors()]
        self.modules = [module for _, module in model.named_modules()]

    def check(self) -> None:
        """Raise RuntimeError if tensors were frozen or thawed since: the other replicas would not know."""
        if [id(x) for x in self.tensors if x.requires_grad] != [id(p) for p in self.parameters]:
            raise RuntimeError("parameters were frozen or thawed since the workers were made, who do not know of it: "
                               "leave DataParallel, and enter it again")

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for p in self.parameters:
            p.zero_grad()


class DataParallel:
    """Losses and gradients of `model.loss(x, y)` over a batch, by `workers` processes, or threads.

    Use it as a context: `with DataParallel(model, 2) as parallel: loss = parallel.backward(x, y)`. With one worker
    it is just the model. For processes the weights move to memory that all of them share. Inside, weights are changed
    in place only (as optimisers do), so that all workers see it, and the model keeps its modules and parameters.
    """

    def __init__(self, model: Any, workers: int = 1, processes: bool = sys.platform == "linux"):
        self.model, self.workers, self.processes = model, workers, processes

    def __enter__(self) -> DataParallel:
        keep_freed_memory()
        more = self.workers - 1
        self._blas = (one_blas_thread() if more else None) or nullcontext()
        self._blas.__enter__()
        tensors = [x for _, x in self.model.named_tensors()]
        processes = self.processes and all(x.device == "cpu" for x in tensors)
        if more and processes:
            for x, shared in zip(tensors, shared_copy(x.data for x in tensors)):
                x.data = shared
        self.replicas = [Replica(self.model), *(Replica(copied(self.model)) for _ in range(more))]
        self._others = [Process(r) if processes else Thread(r) for r in self.replicas[1:]]
        return self

    def __exit__(self, *exception: Any) -> None:
        for other in reversed(self._others):
            other.close()
        self._blas.__exit__(*exception)

    def backward(self, x: Array, y: Array) -> Array:
        """The mean loss over the batch, a 0-d array; its gradients are added to the model's parameters."""
        try:
            total = sum(self._shares(_gradients, x, y))
        except BaseException:
            for replica in self.replicas:                          # a half of a gradient is none
                replica.zero_grad()
            raise
        for p, *others in zip(*(replica.parameters for replica in self.replicas), strict=True):
            for other in others:
                if other.grad is not None:                         # in a batch smaller than the workers some have none
                    p.node.grad = other.grad.copy() if p.grad is None else p.grad + other.grad
                    other.zero_grad()
        return total

    def loss(self, x: Array, y: Array) -> Array:
        """The mean loss over the batch, without a graph."""
        return sum(self._shares(_loss, x, y))

    def _shares(self, job: Callable[..., Array], x: Array, y: Array) -> list[Array]:
        """job(replica, flags, seed, x, y, share) by each worker on its share of the rows."""
        if self.workers > 1:
            self.replicas[0].check()
        flags = [module.training for module in self.replicas[0].modules]
        parts = [rows for rows in np.array_split(np.arange(len(x)), self.workers) if len(rows)]
        seeds = [draw_key() if self.workers > 1 and self.model.training else None for _ in parts]
        shares = [(flags, seed, x[rows[0]:rows[-1] + 1], y[rows[0]:rows[-1] + 1], len(rows) / len(x))
                  for rows, seed in zip(parts, seeds)]
        if _watchers.get():                                        # they stand here, so everything is done here
            return [job(replica, *share) for replica, share in zip(self.replicas, shares)]
        others = [other.submit(job, *share) for other, share in zip(self._others, shares[1:])]
        try:
            first = job(self.replicas[0], *shares[0])
        finally:                                                   # nobody is left behind at work
            results = [settled(other) for other in others]
        return [first, *(value() for value in results)]


class Thread:
    """A thread that does jobs on a replica: what `Process` is elsewhere."""

    def __init__(self, replica: Replica):
        self.replica, self.pool = replica, ThreadPoolExecutor(1)

    def submit(self, job: Callable[..., Any], *arguments: Any) -> Thread:
        """Start job(replica, *arguments)."""
        self.job = self.pool.submit(copy_context().run, job, self.replica, *arguments)
        return self

    def result(self) -> Any:
        """What the job returned; raises what it raised."""
        return self.job.result()

    def close(self) -> None:
        """End the thread."""
        self.pool.shutdown()


def settled(worker: Thread | Process) -> Callable[[], Any]:
    """Wait until a worker has ended its job; its result, or its error, by calling what this returns."""
    try:
        value = worker.result()
    except Exception as error:
        return partial(_raise, error)
    return lambda: value


def _raise(error: Exception) -> None:
    raise error


def _gradients(replica: Replica, flags: list[bool], seed: int | None, x: Array, y: Array, share: float) -> Array:
    with _as_the_model(replica, flags, seed):
        loss = replica.model.loss(x, y)
        loss.backward(share)
        return loss.data * share


def _loss(replica: Replica, flags: list[bool], seed: int | None, x: Array, y: Array, share: float) -> Array:
    with _as_the_model(replica, flags, seed), no_grad():
        return replica.model.loss(x, y).data * share


def _as_the_model(replica: Replica, flags: list[bool], seed: int | None) -> AbstractContextManager[None]:
    """Training or evaluation, module by module, as in the model; random numbers from a seed of one's own."""
    for module, flag in zip(replica.modules, flags, strict=True):
        module.training = flag
    return nullcontext() if seed is None else random_stream(np.random.default_rng(seed))


def synchronize(x: Array) -> None:
    """Wait until a GPU has done what it was asked; for clocks."""
    if device_of(x) == "cuda":
        import cupy
        cupy.cuda.Device().synchronize()

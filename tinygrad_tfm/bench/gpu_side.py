"""Our side of suite `gpu`: the step of `train`, recorded and replayed or computed every time, timed by CUDA's events.

Every maker is entered in a process of its own. Kernels one by one: `gpu_kernels.py`. PyTorch's side: `torch_gpu.py`.
Read next: `gpu.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ..backend import to_device, to_numpy
from ..gpu import cuda
from ..kernels.precision import precision as in_precision
from ..optim import AdamW, warmup_cosine
from ..parallel import DataParallel
from ..random import manual_seed
from ..steps import Recorded, Steps
from ..text import random_starts
from ..train import PRESETS, TrainConfig, evaluate
from .our_side import BETAS, CLIP, DECAY, LR, Job
from .sides import Actions

SEED = 1                            # of batches and dropout
LENGTH = 1_000_000                  # characters of the text that batches are cut from
WARM = 5                            # steps before the clock starts: the second is recorded
READ = 50                           # steps after which a loss is read, as `train` does it
ENOUGH = 256                        # windows of an evaluation on the way to a loss, as in `train`
LOOK = 250                          # steps between two of them


def text(job: Job) -> np.ndarray:
    """A text in which there is something to learn: each id is one of three that may follow the last.     (LENGTH,)"""
    return np.random.default_rng(0).integers(1, 4, LENGTH).cumsum() % job.config.vocab


def first_starts(job: Job, count: int) -> np.ndarray:
    """Where the windows of the first so many batches begin, without dropout: as our side draws them.  (count, B)"""
    rng, ids = np.random.default_rng(SEED), text(job)
    return np.array([random_starts(ids, job.batch, job.config.context, rng) for _ in range(count)])


def undropped(job: Job) -> Job:
    """The same job without dropout, so that both sides compute the same numbers."""
    return replace(job, config=replace(job.config, dropout=0.0))


@contextmanager
def stepping(job: Job, precision: str, how: str, ids: np.ndarray | None = None,
             rate: Callable[[int], float] = lambda step: LR) -> Iterator[Steps]:
    """Steps of this job on the GPU, "recorded" or "computed", over a text. Raises RuntimeError, with the reason, if
    they cannot be recorded."""
    def refuse(reason: str) -> None:
        raise RuntimeError(reason)
    model = job.model().to("cuda")
    optimizer = AdamW(model.parameters(), LR, betas=BETAS, decay=DECAY)
    manual_seed(SEED)
    kind = partial(Recorded, say=refuse) if how == "recorded" else Steps
    with in_precision(precision), DataParallel(model) as parallel:
        yield kind(parallel, optimizer, to_device(text(job) if ids is None else ids, "cuda"), batch=job.batch,
                   clip=CLIP, rate=rate)


def taken(steps: Steps, count: int) -> np.ndarray:
    """The loss and the gradients' norm of each of the first so many steps.     (count, 2)"""
    found = []
    for step in range(count):
        loss, norm = steps.gradients(step, count - step)
        found.append([float(loss), float(norm)])
        steps.update()
    return np.array(found)


# ---- is it right ----------------------------------------------------------------------------------------------------

@contextmanager
def checking(job: Job) -> Iterator[Actions]:
    """`losses(precision, count)`: of the first steps without dropout. `differs(precision, count)`: what differs between
    steps replayed and steps computed, in words; nothing if nothing does."""
    cuda()

    def losses(precision: str, count: int) -> list[float]:
        with stepping(undropped(job), precision, "computed") as steps:
            return taken(steps, count)[:, 0].tolist()
    yield {"losses": losses, "differs": partial(differs, job)}


def differs(job: Job, precision: str, count: int = 20) -> str:
    """What differs, to the bit, after so many steps from the same seed; "" if nothing does."""
    found = {}
    for how in ("computed", "recorded"):
        with stepping(job, precision, how) as steps:
            numbers = taken(steps, count)
            weights = [to_numpy(p.data) for p in steps.optimizer.parameters]
        found[how] = {"losses": numbers[:, 0], "norms": numbers[:, 1]} | {
            f"weight {i}": w for i, w in enumerate(weights)}
    wrong = [name for name, values in found["computed"].items()
             if not np.array_equal(values, found["recorded"][name])]
    return ", ".join(wrong)


# ---- how fast it is -------------------------------------------------------------------------------------------------

@contextmanager
def training(job: Job, precision: str, how: str) -> Iterator[Actions]:
    """`run(count)`: seconds a step takes, by the GPU's clock, over so many. `facts()`: seconds until the first steps
    were done, and the memory that this process took, by the driver's count and by that of CuPy's pools."""
    cupy = cuda()
    cupy.zeros(1)                                                  # what every process with a GPU takes is not counted
    before = driver_bytes(cupy)
    start, done = time.perf_counter(), 0
    with stepping(job, precision, how) as steps:
        def take(count: int) -> None:
            nonlocal done
            for left in range(count, 0, -1):
                loss, _ = steps.gradients(done, left)
                steps.update()
                done += 1
                if done % READ == 0:
                    float(loss)

        def facts() -> dict[str, float]:
            cupy.get_default_memory_pool().free_all_blocks()       # left over from the first steps
            take(WARM)
            pools = [cupy.get_default_memory_pool(), *([steps.pool] if isinstance(steps, Recorded) else [])]
            return {"setup_s": setup, "driver_bytes": driver_bytes(cupy) - before,
                    "pool_bytes": sum(pool.total_bytes() for pool in pools)}
        take(WARM)
        cupy.cuda.Device().synchronize()
        setup = time.perf_counter() - start
        stream = steps.stream if isinstance(steps, Recorded) else None

        def run(count: int) -> float:
            take(WARM)
            return seconds(cupy, lambda: take(count), stream) / count
        yield {"run": run, "facts": facts}


def seconds(cupy: Any, action: Callable[[], Any], stream: Any = None) -> float:
    """From when the GPU is asked for an action until it is through with it, on a stream or on the current one."""
    cupy.cuda.Device().synchronize()
    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    start.record(stream)
    action()
    end.record(stream)
    end.synchronize()
    return cupy.cuda.get_elapsed_time(start, end) / 1e3


def driver_bytes(cupy: Any) -> int:
    """What is taken of the GPU's memory, by whom ever."""
    free, total = cupy.cuda.runtime.memGetInfo()
    return total - free


# ---- time to a loss -------------------------------------------------------------------------------------------------

def schedule() -> tuple[Callable[[int], float], int]:
    """The learning rate of preset nanogpt-gpu, and its number of steps."""
    c = TrainConfig(**PRESETS["nanogpt-gpu"][1], device="cuda")
    return partial(warmup_cosine, peak=c.lr, floor=c.lr_floor, warmup=c.warmup, total=c.steps), c.steps


@contextmanager
def learning(job: Job, precision: str, ids: np.ndarray, held_out: np.ndarray) -> Iterator[Actions]:
    """`until(loss)`: the seconds and steps it takes until the loss on the text held out is no more than this, by a look
    every LOOK steps, and apart from it the seconds of the first WARM steps with a look."""
    rate, most = schedule()
    held_out = to_device(held_out, "cuda")

    def until(wanted: float) -> dict[str, Any]:
        with stepping(job, precision, "recorded", ids, rate) as steps:
            def take(step: int, certain: int) -> None:
                steps.gradients(step, certain)
                steps.update()
            return seconds_until(wanted, take, lambda: evaluate(steps.parallel, held_out, job.batch, ENOUGH), most)
    yield {"until": until}


def seconds_until(wanted: float, take: Callable[[int, int], Any], look: Callable[[], float],
                  most: int) -> dict[str, Any]:
    """Take steps and look until a loss is reached, or so many steps were taken: `take(step, certain)`, `look()`."""
    start = time.perf_counter()
    for step in range(WARM):
        take(step, WARM - step)
    loss = look()
    setup, start, step = time.perf_counter() - start, time.perf_counter(), WARM
    while loss > wanted and step < most:
        take(step, LOOK - step % LOOK)
        step += 1
        if step % LOOK == 0:
            loss = look()
    return {"seconds": time.perf_counter() - start, "setup_s": setup, "steps": step, "val_loss": loss,
            "reached": loss <= wanted}

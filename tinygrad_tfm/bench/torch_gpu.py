"""PyTorch's side of suite `gpu`: the decoder of `torch_side.py` on a GPU, trained as nanoGPT trains it.

bf16 by autocast, attention by `scaled_dot_product_attention`, fused AdamW, TF32 where anything is left in float32;
batches are cut from a text on the GPU, at places that are drawn there. Nothing of PyTorch is imported before a function
here is called.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from .gpu_side import ENOUGH, READ, SEED, WARM, schedule, seconds_until, text, undropped
from .our_side import BETAS, CLIP, DECAY, LR, Job
from .sides import Actions
from .torch_side import Weights, loaded

DEVICE = "cuda"
HOW: dict[str, dict[str, Any] | None] = {                          # by name: what torch.compile is given
    "eager": None, "compiled": {}, "compiled, CUDA graphs": {"mode": "reduce-overhead"}}


def found() -> Any:
    """The module torch, once it has been seen to find a GPU. Raises RuntimeError without one."""
    import torch
    if not torch.cuda.is_available():
        raise RuntimeError(f"PyTorch {torch.__version__} finds no GPU: it may be a build for the CPU alone")
    return torch


def missing() -> str:
    """Why PyTorch has no side here; "" if it has."""
    try:
        found()
    except RuntimeError as error:
        return str(error)
    return ""


class Trainer:
    """A decoder on the GPU with all that a step needs; `weights` are ours, or there are fresh ones.

    `precision` is "float32", "tf32" or "bf16", `how` one of HOW.
    """

    def __init__(self, job: Job, ids: np.ndarray, weights: Weights | None = None, precision: str = "bf16",
                 how: str = "eager"):
        self.torch = torch = found()
        torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
        torch.manual_seed(SEED)
        self.job, self.precision = job, precision
        self.ids = torch.from_numpy(ids).to(DEVICE)
        self.model = loaded(job.config, weights).to(DEVICE)
        self.parameters = list(self.model.parameters())
        groups = [{"params": [p for p in self.parameters if p.dim() > 1], "weight_decay": DECAY},
                  {"params": [p for p in self.parameters if p.dim() < 2], "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, LR, betas=BETAS, fused=True)
        self.places = torch.arange(job.config.context, device=DEVICE)
        self.options = HOW[how]
        self.forward = self.model if self.options is None else torch.compile(self.model, **self.options)

    def batch(self, starts: Any = None) -> tuple[Any, Any]:
        """The windows that begin there, or at places drawn at random, and what follows each token: (B, T) each."""
        if starts is None:
            last = len(self.ids) - self.job.config.context
            starts = self.torch.randint(last, (self.job.batch,), device=DEVICE)
        rows = starts[:, None] + self.places
        return self.ids[rows], self.ids[rows + 1]

    def loss(self, x: Any, y: Any) -> Any:
        """The mean loss of a batch, a tensor; with CUDA graphs the next one overwrites it."""
        if self.options:
            self.torch.compiler.cudagraph_mark_step_begin()
        with self.torch.autocast(DEVICE, self.torch.bfloat16) if self.precision == "bf16" else nullcontext():
            return self.forward(x, y)

    def step(self, starts: Any = None) -> Any:
        """The loss before the step."""
        loss = self.loss(*self.batch(starts))
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def warm(self) -> float:
        """Seconds that the first steps take: compiling too. Raises RuntimeError, with the reason, if it fails."""
        start = time.perf_counter()
        try:
            for _ in range(WARM):
                self.step().item()
        except Exception as error:                                 # whatever it is, it is why there is no figure
            raise RuntimeError(next(line for line in f"{error}\n{type(error).__name__}".splitlines() if line)) from None
        return time.perf_counter() - start


@contextmanager
def checking(job: Job, weights: Weights) -> Iterator[Actions]:
    """`losses(precision, starts)`: of the first steps without dropout, over the windows of our side."""
    found()

    def losses(precision: str, starts: np.ndarray) -> list[float]:
        trainer = Trainer(undropped(job), text(job), weights, precision)
        return [trainer.step(s).item() for s in trainer.torch.from_numpy(starts).to(DEVICE)]
    yield {"losses": losses}


@contextmanager
def training(job: Job, how: str) -> Iterator[Actions]:
    """`run(count)` and `facts()`, as on our side; memory is also given by the count of PyTorch's allocator."""
    cuda = found().cuda
    found().zeros(1, device=DEVICE)                                # what every process with a GPU takes is not counted
    before, done = driver_bytes(cuda), 0
    trainer = Trainer(job, text(job), how=how)
    setup = trainer.warm()

    def take(count: int) -> None:
        nonlocal done
        for _ in range(count):
            loss = trainer.step()
            done += 1
            if done % READ == 0:
                loss.item()

    def facts() -> dict[str, float]:
        cuda.empty_cache()                                         # left over from compiling
        cuda.reset_peak_memory_stats()
        take(WARM)
        return {"setup_s": setup, "driver_bytes": driver_bytes(cuda) - before,
                "pool_bytes": cuda.max_memory_reserved()}

    def run(count: int) -> float:
        take(WARM)
        return seconds(cuda, lambda: take(count)) / count
    yield {"run": run, "facts": facts}


def seconds(cuda: Any, action: Callable[[], Any]) -> float:
    """From when the GPU is asked for an action until it is through with it."""
    cuda.synchronize()
    start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
    start.record()
    action()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def driver_bytes(cuda: Any) -> int:
    """What is taken of the GPU's memory, by whom ever."""
    free, total = cuda.mem_get_info()
    return total - free


@contextmanager
def learning(job: Job, how: str, ids: np.ndarray, held_out: np.ndarray) -> Iterator[Actions]:
    """`until(loss)`, as on our side."""
    trainer, (rate, most) = Trainer(job, ids, how=how), schedule()
    torch, T, B = trainer.torch, job.config.context, job.batch
    tokens = torch.from_numpy(held_out).to(DEVICE)
    whole = (len(held_out) - 1) // T
    windows = np.linspace(0, whole - 1, min(ENOUGH, whole)).round().astype(np.int64) * T
    parts = torch.from_numpy(windows).to(DEVICE).split(B)

    def look() -> float:
        trainer.model.eval()
        total = 0.0
        with torch.no_grad():
            for starts in parts:
                rows = starts[:, None] + trainer.places
                total += trainer.loss(tokens[rows], tokens[rows + 1]).item() * len(starts)
        trainer.model.train()
        return total / len(windows)

    def take(step: int, certain: int) -> None:
        for group in trainer.optimizer.param_groups:
            group["lr"] = rate(step)
        trainer.step()
    yield {"until": lambda wanted: seconds_until(wanted, take, look, most)}

"""Our side of every comparison: what is timed, written as `train.py` and `generate.py` use the package."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import functional as F
from ..generate import Sampling, evaluating, generate
from ..kernels.cpu import keep_freed_memory
from ..models.decoder import Decoder, DecoderConfig
from ..optim import AdamW, clip_factor, global_norm
from ..parallel import DataParallel, cores, one_blas_thread, suggested_workers
from ..random import manual_seed, new_key
from ..tensor import Tensor, fused
from .sides import Actions

LR, BETAS, DECAY, CLIP = 1e-3, (0.9, 0.99), 0.1, 1.0               # of both sides
RULES = ("gelu", "softmax", "layer_norm", "cross_entropy", "dropout", "matmul")
RULE_SHAPES = ((384, 512), (768, 128))                             # half the rows of a baby step, and of nanogpt-cpu's
ATTENTION_SHAPE = (6, 4, 64, 32)                                   # (B, H, T, K): half of nanogpt-cpu's batch
CHAIN = 100                                                        # links of a chain of two small operations each
P = 0.2                                                            # what dropout drops


@dataclass(frozen=True)
class Job:
    """A training step to be timed: the model's shape and how many windows a batch has."""

    config: DecoderConfig
    batch: int

    @property
    def workers(self) -> int:
        """Workers on our side, as `train` would choose."""
        return suggested_workers(self.batch, self.config.context, "cpu")

    def model(self) -> Decoder:
        """The decoder, with the same weights every time."""
        manual_seed(0)
        return Decoder(self.config)

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """A batch of random ids and targets, the same every time: (B, T) each."""
        x, y = np.random.default_rng(0).integers(0, self.config.vocab, (2, self.batch, self.config.context))
        return x, y


@contextmanager
def training(job: Job) -> Iterator[Actions]:
    """`step`: loss, gradients, clipping, AdamW; gives the loss. `losses`: of some steps without dropout."""
    model, (x, y) = job.model(), job.data()
    optimizer = AdamW(model.parameters(), LR, betas=BETAS, decay=DECAY)
    with DataParallel(model, job.workers) as parallel:
        def step() -> float:
            loss = parallel.backward(x, y)
            optimizer.step(clip_factor(global_norm(optimizer.parameters), CLIP))
            optimizer.zero_grad()
            return float(loss)

        def losses(steps: int) -> list[float]:
            with evaluating(model):
                return [step() for _ in range(steps)]
        yield {"step": step, "losses": losses}


@contextmanager
def writing(config: DecoderConfig) -> Iterator[Actions]:
    """`write(prompt, count)`: the tokens, each the likeliest, and for each the seconds since the beginning."""
    model = Job(config, 1).model()

    def write(prompt: list[int], count: int) -> tuple[list[int], list[float]]:
        tokens, times, start = [], [], time.perf_counter()
        for token in generate(model, prompt, count, Sampling(temperature=0)):
            tokens.append(token)
            times.append(time.perf_counter() - start)
        return tokens, times
    yield {"write": write}


def chained(w: Any) -> Any:
    """CHAIN links of two operations, in whichever engine w belongs to."""
    z = w
    for _ in range(CHAIN):
        z = z * 1.01 + w
    return z


@contextmanager
def chain() -> Iterator[Actions]:
    """`chain`: 2·CHAIN operations on a 4×4 array, and back: what the engine costs."""
    w = Tensor(np.ones((4, 4), np.float32), requires_grad=True)

    def run() -> None:
        chained(w).sum().backward()
        w.zero_grad()
    yield {"chain": run}


def rule_arrays(rows: int, columns: int) -> dict[str, Any]:
    """The inputs x, weight w, gain, bias, targets t and incoming gradient g of the small table of rules."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.standard_normal(shape, dtype=np.float32)
    return {"x": normal(rows, columns), "w": normal(columns, columns), "gain": normal(columns), "bias": normal(columns),
            "t": rng.integers(0, columns, rows), "g": normal(rows, columns)}


@contextmanager
def rules(shapes: Sequence[tuple[int, int]]) -> Iterator[Actions]:
    """Each of RULES and attention forward and backward on one thread, `twin …` and `plain …`; each gives its value.

    One thread: when we train, each of our workers runs rules of its own, never two the same one.
    """
    def forward(name: str, leaves: Sequence[Tensor], t: np.ndarray) -> Tensor:
        x, w, gain, bias = leaves
        match name:
            case "gelu": return F.gelu(x)
            case "softmax": return F.softmax(x)
            case "layer_norm": return F.layer_norm(x, gain, bias)
            case "cross_entropy": return F.cross_entropy(x, targets=t)
            case "dropout": return F.dropout(x, p=P, key=new_key())
            case _: return x @ w

    def action(name: str, arrays: dict[str, Any], twins: bool) -> Callable[[], Tensor]:
        leaves = [Tensor(arrays[k], requires_grad=True) for k in ("x", "w", "gain", "bias")]

        def run() -> Tensor:
            with fused(twins):
                y = forward(name, leaves, arrays["t"])
                y.backward(arrays["g"] if y.ndim else None)
            for leaf in leaves:
                leaf.zero_grad()
            return y
        return run

    def attention(twins: bool) -> Callable[[], Tensor]:
        qkv, g = attention_arrays(*ATTENTION_SHAPE)

        def run() -> Tensor:
            with fused(twins):
                return attend(qkv, g)
        return run
    keep_freed_memory()
    with one_blas_thread() or nullcontext():
        yield {f"{kind} {rule_name(name, shape)}": action(name, rule_arrays(*shape), kind == "twin")
               for kind in ("twin", "plain") for name in RULES for shape in shapes} | {
               f"{kind} attention {ATTENTION_SHAPE}": attention(kind == "twin") for kind in ("twin", "plain")}


def rule_name(name: str, shape: tuple[int, ...]) -> str:
    """How a line of the table of rules is called."""
    return f"{name} {shape}"


def attention_arrays(B: int, H: int, T: int, K: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Queries, keys and values, and an incoming gradient, (B, H, T, K) each, lying in memory as projections do:
    position by position."""
    rng = np.random.default_rng(0)
    *qkv, g = (rng.standard_normal((B, T, H, K), dtype=np.float32).swapaxes(1, 2) for _ in range(4))
    return qkv, g


def attend(qkv: Sequence[np.ndarray], g: np.ndarray) -> Tensor:
    """Causal attention of one thread's share, and back."""
    y = F.attention(*(Tensor(a, requires_grad=True) for a in qkv), causal=True)
    y.backward(g)
    return y


@contextmanager
def attending(lengths: Sequence[int], tokens: int, heads: int, width: int) -> Iterator[Actions]:
    """`T`, for each length: causal attention over `tokens` tokens in windows of T, the windows shared by threads."""
    def action(T: int, each: Callable) -> Callable[[], None]:
        qkv, g = attention_arrays(tokens // T, heads, T, width)
        parts = np.array_split(np.arange(len(g)), min(cores(), len(g)))
        shares = [([a[p[0]:p[-1] + 1] for a in qkv], g[p[0]:p[-1] + 1]) for p in parts]
        return lambda: each(lambda share: attend(*share), shares)
    keep_freed_memory()
    with in_threads(cores()) as each:
        yield {str(T): action(T, each) for T in lengths}


@contextmanager
def in_threads(workers: int) -> Iterator[Callable[[Callable, Sequence[Any]], list[Any]]]:
    """A function that calls another for each of some values, side by side as DataParallel does: BLAS gets one thread
    where there are several of ours. Without threadpoolctl one after the other."""
    blas = one_blas_thread() if workers > 1 else None
    if blas is None:
        yield lambda function, values: [function(value) for value in values]
        return
    with blas, ThreadPoolExecutor(workers) as pool:
        yield lambda function, values: list(pool.map(function, values))

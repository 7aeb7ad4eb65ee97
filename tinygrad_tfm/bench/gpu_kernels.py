"""Suite `gpu`, the parts: what the twins and the products of a step take by themselves, for whoever tunes them.

A kernel of some microseconds is shorter than the time Python takes to ask for it. So the GPU is held up by a long
product first, while calls queue behind it: they are then done without a gap, between two events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from ..backend import to_device
from ..gpu import cuda
from ..kernels.cublaslt import product
from ..kernels.cuda import bfloat16, cross_entropy, dropout, gelu, layer_norm, norm
from ..kernels.cuda_attention import attention
from ..kernels.precision import precision as in_precision
from ..optim import AdamW
from .floor import linear
from .our_side import BETAS, DECAY, LR, Job
from .roofline import TILE, parameters
from .sides import Actions

CALLS = 20                          # of a kernel, behind each other
HOLD = 8192                         # rows and columns of the product that holds the GPU up: about 20 ms
KEY = 0x1234_5678_9ABC


class Kernel(NamedTuple):
    """Something to be timed: a call, the operations it makes and the bytes it moves at least, and how often it is
    called between two events."""

    call: Callable[[], Any]
    operations: float
    bytes: float
    calls: int = CALLS


@contextmanager
def measuring(job: Job) -> Iterator[Actions]:
    """`names(precision)`, and `once(precision, name)`: seconds a call takes, and whether the GPU was held up until all
    were asked for; `work(precision, name)`: its operations and bytes."""
    cupy, made = cuda(), {}
    large = cupy.ones((HOLD, HOLD), np.float32)

    def kernels(precision: str) -> dict[str, Kernel]:
        if precision not in made:
            made[precision] = {**parts(job, precision, cupy), **products(job, precision, cupy)}
        return made[precision]

    def once(precision: str, name: str) -> tuple[float, bool]:
        kernel = kernels(precision)[name]
        with in_precision(precision):
            kernel.call()                                          # compiled, and its memory is there
            cupy.cuda.Device().synchronize()
            start, end = cupy.cuda.Event(), cupy.cuda.Event()
            large @ large
            start.record()
            for _ in range(kernel.calls):
                kernel.call()
            end.record()
            held_up = not start.done
            end.synchronize()
        return cupy.cuda.get_elapsed_time(start, end) / 1e3 / kernel.calls, held_up
    yield {"names": lambda precision: list(kernels(precision)), "once": once,
           "work": lambda precision, name: kernels(precision)[name][1:3]}


def array(cupy: Any, shape: Sequence[int], precision: str) -> Any:
    """Random numbers on the GPU, stored as they flow between layers."""
    x = to_device(np.random.default_rng(0).standard_normal(shape, dtype=np.float32), "cuda")
    return x.astype(bfloat16()) if precision == "bf16" else x


def parts(job: Job, precision: str, cupy: Any) -> dict[str, Kernel]:
    """The twins, forward and back, in the shapes of a step."""
    c, N = job.config, job.batch * job.config.context
    D, F, size = c.width, 4 * c.width if c.hidden is None else c.hidden, 2 if precision == "bf16" else 4
    flow = size * N * D
    x, gain = array(cupy, (N, D), precision), cupy.ones(D, np.float32)
    wide, logits = array(cupy, (N, F), precision), array(cupy, (N, c.vocab), precision)
    targets = to_device(np.arange(N) % c.vocab, "cuda")
    # Heads lie side by side, as products leave them.
    q, k, v = (array(cupy, (job.batch, c.context, c.heads, D // c.heads), precision).swapaxes(1, 2) for _ in range(3))
    scores = 2 * N * c.context * D * (1 + TILE / c.context) / 2
    model, weights = job.model().to("cuda"), parameters(job)
    optimizer = AdamW(model.parameters(), LR, betas=BETAS, decay=DECAY)
    with in_precision(precision):
        model.loss(*(to_device(ids, "cuda") for ids in job.data())).backward()
        grads = [p.grad for p in optimizer.parameters]
        attend = lambda: attention(q, k, v, causal=True, p=c.dropout, key=KEY)
        normed, active = lambda: layer_norm(x, gain), lambda: gelu(wide)
        kernels = {
            "attention": Kernel(attend, 2 * scores, 4 * flow),
            "attention, back": Kernel(back(attend(), q), 5 * scores, 8 * flow),
            "layer norm": Kernel(normed, 0, 2 * flow),
            "layer norm, back": Kernel(back(normed(), x), 0, 3 * flow),
            "GELU": Kernel(active, 0, 2 * size * N * F),
            "GELU, back": Kernel(back(active(), wide), 0, 3 * size * N * F),
            "cross-entropy, with its way back": Kernel(lambda: cross_entropy(logits, targets=targets), 0,
                                                       2 * size * N * c.vocab)}
        if c.dropout:
            kernels["dropout"] = Kernel(lambda: dropout(x, p=c.dropout, key=KEY), 0, 2 * flow)
    # Asked for one weight after the other: more calls would fill the queue, and Python would wait.
    return kernels | {"norm of all gradients": Kernel(lambda: norm(*grads), 2 * weights, 4 * weights, 2),
                      "AdamW of all weights": Kernel(optimizer.step, 12 * weights, 28 * weights, 2)}


def back(forward: tuple[Any, Any], g: Any) -> Callable[[], Any]:
    """The way back of a twin, to be called as often as one likes."""
    return lambda: forward[1](g)


def products(job: Job, precision: str, cupy: Any) -> dict[str, Kernel]:
    """The products of a layer and of the last one, forward, to the input and to the weight."""
    c, N = job.config, job.batch * job.config.context
    F, size = 4 * c.width if c.hidden is None else c.hidden, 2 if precision == "bf16" else 4
    made = {}
    for inputs, outputs in ((c.width, c.width), (c.width, F), (F, c.width), (c.width, c.vocab)):
        for way, wanted in zip(("", ", to the input", ", to the weight"), linear(N, inputs, outputs), strict=True):
            a, b = array(cupy, wanted.a, precision), array(cupy, wanted.b, precision)
            a = a.swapaxes(-1, -2) if wanted.turned == "a" else a
            b = b.swapaxes(-1, -2) if wanted.turned == "b" else b
            dtype = np.float32 if wanted.turned == "a" else a.dtype
            multiply = lambda a=a, b=b, dtype=dtype: product(a, b, dtype=dtype, tf32=precision == "tf32")
            moved = size * (a.size + b.size) + np.dtype(dtype).itemsize * a.shape[0] * b.shape[1]
            made[f"product ({inputs}, {outputs}){way}"] = Kernel(multiply, wanted.operations, moved)
    return made

"""The floor under a step on a GPU: no operation is done before its arithmetic is, nor before its bytes have come.

Here: how fast known GPUs compute and read, and what each operation of a step must compute and move at least. The floor
of the step is the sum over its operations of the larger of the two times, as if every kernel reached the peak it is
bound by: a figure to be measured against, not one to be reached. On the CPU: `floor.py`. Read next: `gpu.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .our_side import Job

TILE = 64                           # attention computes so many queries and keys at once, or skips them all


class Peak(NamedTuple):
    """What a GPU's data sheet promises: operations a second by precision, without sparsity, and bytes a second."""

    bf16: float
    tf32: float
    float32: float
    bandwidth: float


PEAKS = {                           # by the name that CUDA gives; parts of a GPU, and cards not listed, are unknown
    "NVIDIA H200": Peak(989e12, 495e12, 67e12, 4.8e12),
    "NVIDIA H100 80GB HBM3": Peak(989e12, 495e12, 67e12, 3.35e12),
    "NVIDIA A100-SXM4-80GB": Peak(312e12, 156e12, 19.5e12, 2.039e12),
    "NVIDIA A100-SXM4-40GB": Peak(312e12, 156e12, 19.5e12, 1.555e12)}


class Work(NamedTuple):
    """An operation of a step: how many multiplications and additions, how many bytes to and from memory, how often."""

    name: str
    operations: float
    bytes: float
    times: int = 1

    def seconds(self, peak: Peak, precision: str) -> float:
        """The least time for all of them on such a GPU."""
        return self.times * max(self.operations / getattr(peak, precision), self.bytes / peak.bandwidth)


def step(job: Job, precision: str) -> Iterator[Work]:
    """All operations of a step, forward and back, each reading its inputs once and writing its result once.

    Additions and layer norms that follow each other count as one, so do a product and the GELU after it; masks of
    dropout cost nothing, since they need not be stored.
    """
    c, size = job.config, 2 if precision == "bf16" else 4           # size: bytes of a number between layers
    L, D, V, N = c.layers, c.width, c.vocab, job.batch * c.context
    F = 4 * D if c.hidden is None else c.hidden
    flow = size * N * D                                             # the bytes of (B, T, D)

    def product(name: str, m: int, n: int, k: int, times: int = L, more: float = 0) -> Work:
        return Work(name, 2 * m * n * k, size * (m * k + k * n + m * n) + more, times)
    for name, inputs, outputs in (("query, key, value", D, 3 * D), ("out", D, D), ("up", D, F), ("down", F, D)):
        more = size * N * F if name == "up" else 0                  # up's sums are kept for GELU's way back
        yield product(name, N, outputs, inputs, more=more)
        yield product(f"{name}, to the input", N, inputs, outputs, more=size * N * F if name == "down" else 0)
        yield product(f"{name}, to the weight", inputs, outputs, N)
    scores = 2 * N * c.context * D * (1 + TILE / c.context) / 2     # one product of queries with the keys they may see
    yield Work("attention", 2 * scores, 4 * flow, L)
    yield Work("attention, back", 5 * scores, 8 * flow, L)
    yield Work("addition and layer norm", 0, 4 * flow, 2 * L)
    yield Work("addition and layer norm, back", 0, 4 * flow, 2 * L)
    yield product("unembed", N, V, D, 1)
    yield product("unembed, to the input", N, D, V, 1)
    yield product("unembed, to the weight", V, D, N, 1)
    yield Work("cross-entropy, with its way back", 0, 2 * size * N * V)
    yield Work("embedding, with its way back", 0, 3 * flow)
    weights = parameters(job)
    yield Work("norm of the gradients", 2 * weights, 4 * weights)
    yield Work("AdamW", 12 * weights, 28 * weights)                 # weight and two moments to and fro, the gradient


def parameters(job: Job) -> int:
    """Numbers to be trained: of the decoders that the suite measures, whose layers have no bias."""
    c = job.config
    F = 4 * c.width if c.hidden is None else c.hidden
    return (c.vocab + c.context) * c.width + c.layers * (4 * c.width**2 + 2 * c.width * F + 2 * c.width) + c.width


def floor_ms(job: Job, precision: str, gpu: str) -> float | None:
    """Milliseconds that no step of this job takes less than, on a GPU of this name; None if it is not known."""
    peak = PEAKS.get(gpu)
    return None if peak is None else 1e3 * sum(work.seconds(peak, precision) for work in step(job, precision))

"""`bench`: medians of what an op, a training step and the import cost on this machine."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .errors import positive
from .models.decoder import Decoder, DecoderConfig
from .optim import AdamW, clip_factor, global_norm
from .parallel import DataParallel, suggested_workers
from .random import manual_seed
from .tensor import Tensor
from .train import PRESETS


def add_options(parser: argparse.ArgumentParser) -> None:
    """What `bench` takes."""
    parser.add_argument("--suite", choices=SUITES, action="append", help="one or more; all by default")
    parser.add_argument("--repeat", type=int, default=15, help="repetitions of which the median is taken (15)")


def run(options: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    """The command `bench`."""
    positive("bench", repeat=options.repeat)
    results = {}
    for name in options.suite or SUITES:
        results[name] = SUITES[name](options.repeat)
        print(f"{name:<8}" + ", ".join(f"{k} {v:,.2f}" for k, v in results[name].items()))
    return 0, results


def ops(repeat: int) -> dict[str, float]:
    """Microseconds an op costs, forward and backward, on arrays so small that only the engine counts."""
    w = Tensor(np.ones((4, 4), np.float32), requires_grad=True)

    def chain() -> None:
        z = w
        for _ in range(100):
            z = z * 1.01 + w
        z.sum().backward()
        w.zero_grad()
    return {"us_per_op": 1e6 * median_seconds(chain, 5 * repeat) / 201}


def step(repeat: int) -> dict[str, float]:
    """Milliseconds of a training step of preset nanogpt-cpu: loss, gradients, clipping, AdamW."""
    shape, settings = PRESETS["nanogpt-cpu"]
    manual_seed(0)
    model = Decoder(DecoderConfig(vocab=65, **shape))
    optimizer = AdamW(model.parameters(), 1e-3)
    x, y = np.random.default_rng(0).integers(0, 65, (2, settings["batch"], shape["context"]))
    with DataParallel(model, suggested_workers(settings["batch"], shape["context"], "cpu")) as parallel:
        def one() -> None:
            parallel.backward(x, y)
            optimizer.step(clip_factor(global_norm(model.parameters()), 1.0))
            optimizer.zero_grad()
        return {"ms_per_step": 1e3 * median_seconds(one, repeat), "workers": parallel.workers}


def imports(repeat: int) -> dict[str, float]:
    """Milliseconds `import tinygrad_tfm` takes beyond NumPy's own import, in fresh interpreters."""
    def start(code: str) -> float:
        return median_seconds(lambda: subprocess.run([sys.executable, "-c", code], check=True), repeat)
    return {"ms_beyond_numpy": 1e3 * (start("import tinygrad_tfm") - start("import numpy"))}


def median_seconds(action: Callable[[], Any], repeat: int) -> float:
    """The median time of an action, after three that do not count."""
    for _ in range(3):
        action()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


SUITES: dict[str, Callable[[int], dict[str, float]]] = {"ops": ops, "step": step, "import": imports}

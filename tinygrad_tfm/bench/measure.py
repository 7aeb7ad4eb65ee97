"""Clocks and figures: turns that alternate, medians and ratios, exponents, and what machine this is.

What is timed lives elsewhere: `our_side.py`, `torch_side.py`, `peers.py`; in which process, `sides.py`.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ..doctor import blas, version
from ..kernels.cpu import allocator_settings
from ..parallel import cores

# Threads of OpenBLAS and OpenMP spin for a while after work, in case more comes: about 30 ms and a few. Whoever runs
# next on the same cores would pay for that.
REST = 0.05                         # seconds between two turns
TURN = 0.25                         # seconds a turn should last
PATIENCE = 90.0                     # seconds after which a race is over: on a busy machine a turn may take minutes
BUSY = 0.2                          # cores at work for others, above which figures are doubtful


def race(turns: dict[str, Callable[[], float]], rounds: int, rest: float = REST,
         patience: float = PATIENCE) -> dict[str, list[float]]:
    """Seconds by name: in every round each has its turn, every other round in the opposite order.

    Nobody's turn is another's load, and what slows the machine for a minute slows all of them. After so many seconds
    of patience no further round begins.
    """
    times: dict[str, list[float]] = {name: [] for name in turns}
    until = time.monotonic() + patience
    for i in range(rounds):
        if i and time.monotonic() > until:
            break
        for name in list(turns)[::-1 if i % 2 else 1]:
            time.sleep(rest)
            times[name].append(turns[name]())
    return times


def calls_in_a_turn(seconds: float, turn: float = TURN, least: int = 1) -> int:
    """How many calls of so many seconds fill a turn."""
    return max(least, round(turn / seconds))


def compared(times: dict[str, list[float]], ours: str) -> dict[str, dict[str, Any]]:
    """For each name the median in milliseconds and of how many rounds; for all but ours also its time over ours: the
    median of the rounds' ratios, the least and the greatest. Above 1 ours is faster."""
    figures: dict[str, dict[str, Any]] = {}
    for name, seconds in times.items():
        figures[name] = {"ms": 1e3 * statistics.median(seconds), "rounds": len(seconds)}
        if name != ours:
            ratios = [theirs / mine for theirs, mine in zip(seconds, times[ours], strict=True)]
            figures[name] |= {"ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}
    return figures


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The p of values ∝ sizesᵖ: the slope of the straight line of least squares through their logarithms."""
    return float(np.polynomial.polynomial.polyfit(np.log(sizes), np.log(values), 1)[1])


def median_seconds(action: Callable[[], Any], repeat: int) -> float:
    """The median time of an action, after one that does not count."""
    action()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def machine() -> dict[str, Any]:
    """What figures must not be quoted without."""
    return {"processor": processor(), "cores": cores(), "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(), "numpy": np.__version__, "blas": blas(),
            "openblas_coretype": os.environ.get("OPENBLAS_CORETYPE"), "allocator": allocator_settings(),
            "torch": version("torch"), "date": datetime.now(UTC).strftime("%Y-%m-%d")}


def machine_in_words(facts: dict[str, Any]) -> list[str]:
    """The same in lines to print."""
    lines = [f"{facts['date']}, {facts['processor']}, {facts['cores']} cores, {facts['system']}",
             f"Python {facts['python']}, NumPy {facts['numpy']} with {facts['blas']}, PyTorch "
             + (facts["torch"] or "not installed")]
    if facts["openblas_coretype"]:
        lines.append(f"OPENBLAS_CORETYPE={facts['openblas_coretype']} is set: NumPy's products may not be as fast here "
                     "as this processor allows")
    for name, value in facts["allocator"].items():
        lines.append(f"{name}={value} is set: we leave the memory allocator as it is, which is slower")
    return lines


def busy_cores(seconds: float = 0.3) -> float | None:
    """How many cores are at work while we sleep for so long; None where the system does not tell."""
    before = idle_seconds()
    time.sleep(seconds)
    after = idle_seconds()
    if before is None or after is None:
        return None
    return max(0.0, (os.cpu_count() or 1) - (after - before) / seconds)


def idle_seconds() -> float | None:
    """The seconds all cores together have been idle since the machine was started, on Linux."""
    try:
        with open("/proc/uptime", encoding="ascii") as file:
            return float(file.read().split()[1])
    except OSError:
        return None


def processor() -> str:
    """The processor's name, as well as the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()

"""`bench`: what a training step, generation, an operation and the import cost on this machine, beside PyTorch.

Here: the options, the order, what is printed. The suites are `step.py`, `generate.py`, `ops.py` (with `attention`),
`imports.py`, `growth.py`, `gpu.py`; what they time stands in `our_side.py`, `torch_side.py`, `peers.py`, `floor.py` (on
a GPU: `gpu_side.py`, `torch_gpu.py`, `gpu_kernels.py`, `roofline.py`); how, in `sides.py` (processes) and `measure.py`
(clocks); `report.py` makes tables and writes them into a page.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import fraction, positive
from ..gpu import cuda
from ..train import spoken
from . import generate, gpu, growth, imports, ops, step
from .gpu_page import FOLDER, section
from .measure import BUSY, busy_cores, machine, machine_in_words
from .report import ALONE, Report, check_page, write_page
from .sides import installed

SUITES: dict[str, Callable[[argparse.Namespace], Report]] = {
    "step": lambda o: step.suite(step.chosen_jobs(o.shape, o.dropout), o.repeat),
    "generate": lambda o: generate.suite(o.repeat),
    "ops": lambda o: ops.ops(o.repeat),
    "attention": lambda o: ops.attention(o.repeat),
    "import": lambda o: imports.suite(o.repeat),
    "growth": lambda o: growth.suite(o.repeat, picture=o.plot),
    "gpu": lambda o: section(o.results) if o.kept else gpu.suite(o.repeat, o.results, o.time_to_loss),
}
UNASKED = [name for name in SUITES if name not in ("growth", "gpu")]               # what runs if no suite is named
# About, on two cores, gpu on an H100's sixteen: once, and for each round; of step, for each of its jobs.
SECONDS = {"step": (50, 6), "generate": (10, 10), "ops": (10, 2), "attention": (5, 1), "import": (4, 4),
           "growth": (90, 5), "gpu": (150, 4)}


def add_options(parser: argparse.ArgumentParser) -> None:
    """What `bench` takes."""
    parser.add_argument("--suite", choices=SUITES, action="append",
                        help=f"one or more ({', '.join(UNASKED)}); gpu needs a GPU")
    parser.add_argument("--repeat", type=int, default=7, help="rounds of which medians are taken (7)")
    parser.add_argument("--shape", choices=step.JOBS, action="append",
                        help="of suite step: one or more (both; nanogpt-cpu if no suite is named)")
    parser.add_argument("--dropout", type=float, action="append",
                        help="of suite step: one or more (0 and 0.2; baby 0 unless it is named)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw suite growth into this picture")
    parser.add_argument("--results", type=Path, metavar="DIR", default=FOLDER,
                        help=f"where suite gpu leaves its figures ({FOLDER})")
    parser.add_argument("--kept", action="store_true", help="of suite gpu: measure nothing, show the newest figures")
    parser.add_argument("--time-to-loss", action="store_true", help="of suite gpu: also train until a loss is reached")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into this page, between its marks")


def run(options: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    """The command `bench`. What is wrong is said before anything is measured."""
    suites = list(dict.fromkeys(options.suite or UNASKED))
    check(options, suites)
    if not options.suite and not options.shape:
        options.shape = ["nanogpt-cpu"]                            # the large one takes minutes of its own
    facts = machine()
    words = machine_in_words(facts)
    print(*words, f"estimated time: {spoken(estimate(suites, options))}", sep="\n", flush=True)
    if not installed("torch"):
        print(ALONE)
    reports = {}
    for name in suites:
        print(f"\n== {name}", flush=True)
        reports[name] = watched(SUITES[name], options)
        print(*reports[name].lines, sep="\n", flush=True)
    if options.write:
        write_page(options.write, words, reports)
        print(f"\nwritten into {options.write}")
    return 0, {"machine": facts} | {name: report.values for name, report in reports.items()}


def estimate(suites: list[str], options: argparse.Namespace) -> float:
    """Seconds it should take where the machine is quiet and PyTorch installed."""
    jobs = len(step.chosen_jobs(options.shape, options.dropout))
    return sum((jobs if name == "step" else 1) * (SECONDS[name][0] + SECONDS[name][1] * options.repeat)
               for name in suites if name != "gpu" or not options.kept)


def watched(suite: Callable[[argparse.Namespace], Report], options: argparse.Namespace) -> Report:
    """A suite's report, with a word if others were at work on this machine just before or after."""
    before = busy_cores()
    report = suite(options)
    if report.head is not None:                                    # made of figures that say all about themselves
        return report
    busy = max((n for n in (before, busy_cores()) if n is not None), default=None)
    report.values["busy_cores"] = busy
    done = fewest_rounds(report.values)
    if done < options.repeat:
        report.lines += ["", f"NOTE: the slowest of these had {done} of {options.repeat} rounds: more would have taken "
                         "too long"]
    if busy is not None and busy > BUSY:
        report.lines += ["", f"NOTE: other programs kept {busy:.1f} cores busy just before or after: these figures are "
                         "doubtful,", "PyTorch's most, whose threads wait for each other"]
    return report


def fewest_rounds(values: Any) -> float:
    """The least number of rounds behind the figures of a suite."""
    if not isinstance(values, dict):
        return math.inf
    return min([values.get("rounds", math.inf), *map(fewest_rounds, values.values())])


def check(options: argparse.Namespace, suites: list[str]) -> None:
    """Raise ValueError, ImportError or FileNotFoundError for options that cannot be."""
    positive("bench", repeat=options.repeat)
    for p in options.dropout or ():
        fraction("bench", dropout=p)
    if "gpu" in suites and not options.kept:
        cuda()
    if options.plot:
        if "growth" not in suites:
            raise ValueError("--plot draws suite growth: add --suite growth")
        growth.check_picture(options.plot)
    if options.write:
        check_page(options.write, suites)

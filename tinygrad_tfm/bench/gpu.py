"""Suite `gpu`: the training step of preset nanogpt-gpu on a GPU, ours and PyTorch's, in time and memory.

First both must compute the same, then they are timed, each in a process of its own. Every figure goes into a JSON file,
part by part, so that what has been measured stays if a later part fails; the tables are made of the file. What is
timed: `gpu_side.py`, `torch_gpu.py`, `gpu_kernels.py`; the floor: `roofline.py`; file and tables: `gpu_page.py`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..gpu import cuda
from ..kernels.precision import PRECISIONS
from ..models.decoder import DecoderConfig
from ..text import CharTokenizer, corpus, split
from ..train import PRESETS
from . import gpu_kernels, gpu_side, torch_gpu
from .gpu_page import facts, save, tables
from .measure import compared, race
from .our_side import Job
from .report import Report
from .roofline import floor_ms
from .sides import Maker, Side, in_a_fresh_process, installed
from .step import OURS

# Both sides take the 65 characters as they are. nanoGPT pads other alphabets to a multiple of 64, as GPUs like it.
JOB = Job(DecoderConfig(vocab=65, **PRESETS["nanogpt-gpu"][0]), batch=PRESETS["nanogpt-gpu"][1]["batch"])
PYTORCH = "PyTorch"
SIDES: dict[str, tuple[Maker, tuple[str, ...]]] = {                # by name: the maker and what it is given; ours first
    f"{OURS}, bf16": (gpu_side.training, ("bf16", "recorded")),
    f"{OURS}, bf16, not recorded": (gpu_side.training, ("bf16", "computed")),
    f"{OURS}, tf32": (gpu_side.training, ("tf32", "recorded")),
    f"{OURS}, float32": (gpu_side.training, ("float32", "recorded")),
    **{f"{PYTORCH} {how}, bf16": (torch_gpu.training, (how,)) for how in torch_gpu.HOW}}
STEPS = 20                          # in a turn
FIRST = 4                           # steps whose losses must agree
# How far they may be apart from those in float32, in nats. TF32 rounds factors by up to 2⁻¹¹ of themselves: of a first
# loss of ln 65 that is 2e-3. In bf16 it is 2⁻⁹, for factors and once more for what they become: 2⁻⁸ of it is 1.6e-2.
CLOSE = {"float32": 1e-4, "tf32": 2e-3, "bf16": 2e-2}
LOSS = 1.55                         # of time to loss: nanoGPT's way to its best, 1.47, is four fifths overfitting


def suite(repeat: int, folder: Path, time_to_loss: bool = False, job: Job = JOB) -> Report:
    """The tables, and the file they are made of in the folder. Raises ImportError or RuntimeError without a GPU, and
    RuntimeError, without timing anything, where the sides do not compute the same."""
    without = in_a_fresh_process(torch_gpu.missing) if installed("torch") else "it is not installed"
    notes: dict[str, str] = {PYTORCH: f"not measured: {without}"} if without else {}
    values: dict[str, Any] = {"facts": facts(cuda()), "job": asdict(job.config) | {"batch": job.batch}, "notes": notes}
    values["correct"] = correct(job, not without, notes)
    stages: dict[str, Callable[[], Any]] = {
        "step": partial(raced, job, repeat, not without, values["facts"]["gpu"], notes),
        "kernels": partial(kernels, job, repeat)}
    if time_to_loss:
        stages["time to loss"] = partial(times_to_loss, job, not without, notes)
    save(values, folder)
    for name, stage in stages.items():
        try:
            values[name] = stage()
        except Exception as error:                                 # what was measured is not lost with what was not
            notes[name] = why(error)
        save(values, folder)
    return tables(values)


def why(error: Exception) -> str:
    """Why something has no figures, in one line."""
    return " ".join(f"not measured: {type(error).__name__}: {error}".split())


# ---- is it right ----------------------------------------------------------------------------------------------------

def correct(job: Job, torch: bool, notes: dict[str, str]) -> dict[str, Any]:
    """The losses of the first steps by side and precision, and how far they are apart from those in float32."""
    losses: dict[str, list[float]] = {}
    with Side(gpu_side.checking, job) as ours:
        for precision in PRECISIONS:
            losses[f"{OURS}, {precision}"] = ours.ask("losses", precision, FIRST)
            try:
                wrong = ours.ask("differs", precision, STEPS)
            except RuntimeError as error:                          # a step that cannot be recorded can still be timed
                notes[f"replayed, {precision}"] = why(error)
                continue
            if wrong:
                raise RuntimeError(f"in {precision} {STEPS} steps replayed are not those computed: {wrong} differ; "
                                   "nothing was timed")
    if torch:
        with Side(torch_gpu.checking, job, job.model().state_dict()) as theirs:
            starts = gpu_side.first_starts(job, FIRST)
            losses |= {f"{PYTORCH}, {p}": theirs.ask("losses", p, starts) for p in PRECISIONS}
    exact = losses[f"{PYTORCH if torch else OURS}, float32"]
    apart = {name: max(abs(a - b) for a, b in zip(exact, found, strict=True)) for name, found in losses.items()}
    for name, gap in apart.items():
        if not gap <= CLOSE[name.split(", ")[1]]:
            raise RuntimeError(f"{name} does not compute what is computed in float32: its losses are {losses[name]}, "
                               f"those {exact}; nothing was timed")
    return {"losses": losses, "apart": apart, "steps_replayed": STEPS}


# ---- how fast it is -------------------------------------------------------------------------------------------------

def raced(job: Job, repeat: int, torch: bool, gpu: str, notes: dict[str, str]) -> dict[str, dict[str, Any]]:
    """By side: milliseconds a step, of every round and their median, ratios to ours, tokens a second, the share of the
    floor, memory. Why a side is missing is noted."""
    about: dict[str, dict[str, float]] = {}
    running: dict[str, Side] = {}
    with ExitStack() as stack:
        for name, (maker, arguments) in SIDES.items():
            if name.startswith(PYTORCH) and not torch:
                continue
            try:
                side = stack.enter_context(Side(maker, job, *arguments))
                about[name], running[name] = side.ask("facts"), side
            except Exception as error:                             # torch.compile needs what not every machine has
                notes[name] = why(error)
        times = race({name: partial(side.ask, "run", STEPS) for name, side in running.items()}, repeat)
    figures = compared(times, next(iter(times), ""))
    for name, f in figures.items():
        floor = floor_ms(job, precision_of(name), gpu)
        f |= about[name] | {"all_ms": [1e3 * s for s in times[name]], "floor_ms": floor,
                            "tokens_per_s": 1e3 * job.batch * job.config.context / f["ms"],
                            "share_of_floor": None if floor is None else floor / f["ms"]}
    return figures


def precision_of(side: str) -> str:
    """The precision that is part of a side's name."""
    return next(p for p in PRECISIONS if p in side.split(", "))


def kernels(job: Job, repeat: int) -> dict[str, dict[str, Any]]:
    """By precision and kernel: microseconds of every call and their median, TFLOP/s and GB/s, and whether the GPU
    waited for Python, which makes the time no figure of the kernel."""
    found: dict[str, dict[str, Any]] = {}
    with Side(gpu_kernels.measuring, job) as side:
        for precision in ("bf16", "tf32"):
            found[precision] = {}
            for name in side.ask("names", precision):
                runs = [side.ask("once", precision, name) for _ in range(repeat)]
                operations, moved = side.ask("work", precision, name)
                seconds = statistics.median(time for time, _ in runs)
                found[precision][name] = {
                    "us": 1e6 * seconds, "all_us": [1e6 * time for time, _ in runs],
                    "tflop_per_s": operations / seconds / 1e12, "gb_per_s": moved / seconds / 1e9,
                    "waited_for_python": not all(held_up for _, held_up in runs)}
    return found


def times_to_loss(job: Job, torch: bool, notes: dict[str, str]) -> dict[str, Any]:
    """By side: the seconds until the validation loss on Shakespeare is no more than LOSS, and apart from them those
    until the first steps were done. Raises Unavailable without the text."""
    text = corpus("tinyshakespeare").text
    tokenizer = CharTokenizer.from_text(text)
    ids, held_out = split(tokenizer.encode(text), job.config.context)
    job = replace(job, config=replace(job.config, vocab=tokenizer.size))
    sides: dict[str, tuple[Maker, str]] = {f"{OURS}, bf16": (gpu_side.learning, "bf16")}
    if torch:
        sides[f"{PYTORCH} compiled, bf16"] = torch_gpu.learning, "compiled"
    found: dict[str, Any] = {}
    for name, (maker, how) in sides.items():
        try:
            with Side(maker, job, how, ids, held_out) as side:
                found[name] = side.ask("until", LOSS)
        except Exception as error:
            notes[f"{name}, time to loss"] = why(error)
    return found

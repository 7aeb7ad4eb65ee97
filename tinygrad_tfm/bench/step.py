"""Suite `step`: a whole training step, ours and PyTorch's, in time and memory; under it the floor of its products."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from ..models.decoder import DecoderConfig
from ..train import PRESETS
from . import our_side, torch_side
from .floor import multiplying, products
from .measure import calls_in_a_turn, compared, race
from .our_side import Job
from .report import Report, number, ratio, table
from .sides import Maker, Side, in_a_fresh_process, installed, peak_mib

JOBS = {"nanogpt-cpu": Job(DecoderConfig(vocab=65, **PRESETS["nanogpt-cpu"][0]), batch=12),
        "baby": Job(DecoderConfig(vocab=65, context=256, layers=6, heads=6, width=384), batch=8)}
OURS, FLOOR = "tinygrad_tfm", "its matrix products alone"
TORCH = {"PyTorch eager": "eager", "PyTorch eager, freed memory kept": "kept", "PyTorch compiled": "compiled"}
CLOSE = 1e-4                        # how far the losses of two sides may be apart, in nats
TINY = Job(DecoderConfig(vocab=65, context=16, layers=1, heads=2, width=16), batch=2)


def suite(jobs: dict[str, Job], repeat: int, sides: Sequence[str] = tuple(TORCH)) -> Report:
    """Each job by name: milliseconds, ratios, the floor and the peak of memory."""
    report = Report()
    for name, job in jobs.items():
        values = measured(job, repeat, sides if installed("torch") else ())
        report.values[name] = values
        report.lines += [*lines(name, job, values), ""]
    report.lines.pop()
    return report


def chosen_jobs(shapes: Sequence[str] | None, dropouts: Sequence[float] | None) -> dict[str, Job]:
    """The jobs asked for: by default both shapes, with dropout 0, the small one also with 0.2."""
    return {f"{shape}, dropout {p:g}": replace(job, config=replace(job.config, dropout=p))
            for shape, job in JOBS.items() if shape in (shapes or JOBS)
            for p in (dropouts or ((0.0, 0.2) if shape == "nanogpt-cpu" or shapes else (0.0,)))}


def measured(job: Job, repeat: int, sides: Sequence[str]) -> dict[str, Any]:
    """Figures by side. Raises RuntimeError, without timing anything, where a side computes another loss."""
    weights, notes = job.model().state_dict(), {}
    with ExitStack() as stack:
        def add(name: str, maker: Maker, *arguments: Any) -> None:
            running[name] = stack.enter_context(Side(maker, *arguments))
        running: dict[str, Side] = {}
        add(OURS, our_side.training, job)
        for name in sides:
            try:
                add(name, torch_side.training, job, weights, TORCH[name])
            except RuntimeError as error:                          # torch.compile needs what not every machine has
                notes[name] = f"not measured: {error}"
        losses = {name: side.ask("losses", 4) for name, side in running.items()}
        apart = {name: max(abs(a - b) for a, b in zip(losses[OURS], theirs, strict=True))
                 for name, theirs in losses.items()}
        for name, gap in apart.items():
            if not gap < CLOSE:
                raise RuntimeError(f"{name} does not compute what we compute: its losses are {losses[name]}, "
                                   f"ours {losses[OURS]}; nothing was timed")
        add(FLOOR, multiplying, job)
        times = race({name: side.turn("step", calls_in_a_turn(side.seconds("step", warm=2)))
                      for name, side in running.items()}, repeat)
    figures = compared(times, OURS)
    for name in figures:
        figures[name]["peak_mib"] = memory(name, job)
    done = sum(product.operations for product in products(job.config, job.batch))
    return {"sides": figures, "workers": job.workers, "notes": notes, "losses": losses[OURS],
            "apart": max(apart.values()), "gflop": done / 1e9, "gflop_per_s": done / figures[FLOOR]["ms"] / 1e6}


def memory(name: str, job: Job) -> float | None:
    """The peak of ten steps in MiB. Not for compiled code: compiling itself takes more."""
    if name == OURS:
        return in_a_fresh_process(peak_mib, (), our_side.training, (TINY,), (job,), "step")
    if TORCH.get(name) == "eager":
        return in_a_fresh_process(peak_mib, ("torch",), torch_side.training, (TINY,), (job,), "step")
    return None


def lines(name: str, job: Job, values: dict[str, Any]) -> list[str]:
    """The figures to be read."""
    c, sides = job.config, values["sides"]
    title = (f"a training step of {name}: {c.layers} layers, {c.heads} heads, width {c.width}, context {c.context}, "
             f"batch {job.batch}; {values['workers']} of our workers")
    rows = [[side, number(f["ms"]), ratio(f) if side != FLOOR else "", number(f["peak_mib"])]
            for side, f in sides.items()]
    text = [title, *table(["", "ms a step", "its time / ours (least–most)", "peak MiB"], rows)]
    text.append(f"products: {values['gflop']:.2f} GFLOP at {values['gflop_per_s']:.0f} GFLOP/s, "
                f"{100 * sides[FLOOR]['ratio']:.0f} % of our step's time")
    if len(sides) > 2:
        text.append(f"losses without dropout: {values['losses'][0]:.4f}, after 3 steps {values['losses'][-1]:.4f}; "
                    f"the sides' are at most {values['apart']:.1e} apart")
    return text + [f"{side}: {note}" for side, note in values["notes"].items()]

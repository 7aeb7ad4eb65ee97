"""Suite `growth`: how time and memory of a step grow with context, width and batch, and with what exponent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..models.decoder import DecoderConfig
from . import our_side, torch_side
from .measure import calls_in_a_turn, exponent, median_seconds
from .our_side import Job
from .report import Report, number, table
from .sides import Maker, in_a_fresh_process, installed, peak_mib
from .step import OURS, TINY

BASE = Job(DecoderConfig(vocab=65, context=64, layers=2, heads=4, width=64), batch=8)
AXES: dict[str, Sequence[int]] = {"context": (64, 128, 256, 512, 1024), "width": (64, 128, 256, 512, 1024),
                                  "batch": (8, 16, 32, 64, 128)}
ENOUGH = 0.5                        # seconds to measure a point at least: small steps are done more often
PYTORCH = "PyTorch eager"
SIDES: dict[str, tuple[tuple[str, ...], Maker]] = {OURS: ((), our_side.training),
                                                   PYTORCH: (("torch",), torch_side.training)}


def suite(repeat: int, base: Job = BASE, axes: dict[str, Sequence[int]] = AXES, picture: Path | None = None) -> Report:
    """By axis: the sizes, by side milliseconds, MiB and the exponents of both, over all sizes and the last three."""
    report = Report()
    for axis, sizes in axes.items():
        report.values[axis] = {"sizes": list(sizes), "sides": {}}
        for side in SIDES if installed("torch") else (OURS,):
            points = [in_a_fresh_process(point, side, job_of_size(base, axis, n), repeat) for n in sizes]
            figures: dict[str, Any] = {"ms": [ms for ms, _ in points], "peak_mib": [mib for _, mib in points]}
            for what, values in list(figures.items()):
                if all(value and value > 0 for value in values):
                    figures[f"{what}_exponent"] = exponent(sizes, values)
                    figures[f"{what}_exponent_last_3"] = exponent(sizes[-3:], values[-3:])
            report.values[axis]["sides"][side] = figures
        report.lines += [*lines(axis, base, report.values[axis]), ""]
    report.lines.append("exponents p of time and memory ∝ sizeᵖ: over all sizes, and over the last three")
    if picture:
        draw(report.values, picture)
    return report


def job_of_size(base: Job, axis: str, n: int) -> Job:
    """The base with one size changed."""
    changed: dict[str, Any] = {axis: n}
    return replace(base, **changed) if axis == "batch" else replace(base, config=replace(base.config, **changed))


def point(side: str, job: Job, repeat: int) -> tuple[float, float | None]:
    """Milliseconds of a step and the peak of its memory in MiB: both of this process, which must be a fresh one."""
    imports, maker = SIDES[side]
    peak = peak_mib(imports, maker, (TINY,), (job,), "step", calls=5)
    with maker(job) as actions:
        steps = calls_in_a_turn(median_seconds(actions["step"], 1), ENOUGH, least=repeat)
        return 1e3 * median_seconds(actions["step"], steps), peak


def lines(axis: str, base: Job, values: dict[str, Any]) -> list[str]:
    """The figures of an axis to be read."""
    c = base.config
    shape = {"layers": c.layers, "heads": c.heads, "width": c.width, "context": c.context, "batch": base.batch}
    rest = ", ".join(f"{name} {n}" for name, n in shape.items() if name != axis)
    rows = []
    for side, figures in values["sides"].items():
        for what, unit in (("ms", "ms a step"), ("peak_mib", "peak MiB")):
            exponents = [figures.get(f"{what}_exponent"), figures.get(f"{what}_exponent_last_3")]
            rows.append([f"{side}, {unit}", *map(number, figures[what]),
                         *("–" if p is None else f"{p:.2f}" for p in exponents)])
    return [f"growth with {axis} ({rest})", *table([axis, *map(str, values["sizes"]), "p", "p last 3"], rows)]


def check_picture(path: Path) -> None:
    """Before anything is measured: raise ImportError, naming the extra, without matplotlib; ValueError or
    FileNotFoundError for a picture that could not be saved."""
    figure_class()
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"--plot draws a .png, .svg or .pdf, not {str(path)!r}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} for the picture")


def figure_class() -> Callable[..., Any]:
    """matplotlib's Figure."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("the picture needs matplotlib: pip install 'tinygrad_tfm[plot]'") from None
    return Figure


def draw(values: dict[str, Any], path: Path) -> None:
    """A panel for each axis, time above and memory below, both scales logarithmic: a power law is a straight line."""
    figure = figure_class()(figsize=(3.2 * len(values), 5.4), dpi=130, layout="constrained")
    panels = figure.subplots(2, len(values), sharex="col", sharey="row", squeeze=False)
    colours = {OURS: "#c2410c", PYTORCH: "#57534e"}
    for row, (what, unit) in zip(panels, (("ms", "ms a step"), ("peak_mib", "peak memory (MiB)"))):
        row[0].set_ylabel(unit)
        for panel, figures in zip(row, values.values()):
            sizes = figures["sizes"]
            for side, f in figures["sides"].items():
                p = f.get(f"{what}_exponent_last_3")
                label = side + ("" if p is None else f": p = {p:.2f}")
                panel.plot(sizes, f[what], color=colours[side], marker="o", markersize=4, label=label)
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.set_xticks(sizes, [str(n) for n in sizes])
            panel.yaxis.set_major_formatter("{x:,g}")
            panel.grid(color="#e7e5e4", linewidth=0.6)
            panel.spines[["top", "right"]].set_visible(False)
            panel.legend(frameon=False, fontsize=8, loc="upper left")
        row[0].set_ylim(top=3 * row[0].get_ylim()[1])              # room for the legends
    for panel, axis in zip(panels[-1], values):
        panel.set_xlabel(axis)
    figure.suptitle("a training step: y ∝ xᵖ, p over the three largest sizes", fontsize=10)
    figure.savefig(path)

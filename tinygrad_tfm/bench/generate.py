"""Suite `generate`: one text written token by token, by us, by nanoGPT's own loop, and by PyTorch with a cache."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from . import our_side, torch_side
from .measure import compared, race
from .our_side import Job
from .report import Report, number, ratio, table
from .sides import Side, installed
from .step import JOBS, OURS

UNCACHED, CACHED = "PyTorch, nanoGPT's loop", "PyTorch with a cache"
PROMPT = [20, 43, 50, 50]                                          # any four tokens
EQUAL = 60                                                         # tokens within the context that must be the same
EDGE = 100                                                         # tokens at either end of a long text

# Untrained, with the usual small weights, a decoder repeats one token for ever; with larger ones it wanders.
CONFIG = replace(JOBS["nanogpt-cpu"].config, std=0.2)


def suite(repeat: int, count: int = 300, context: int = 512) -> Report:
    """Tokens a second: of `count` tokens by a model whose context is 64, which they outgrow, and at the beginning and
    the end of a text that fills a context of 512."""
    report = Report()
    for config, length in ((CONFIG, count), (replace(CONFIG, context=context), context - len(PROMPT))):
        figures = measured(config, length, repeat)
        report.values[f"context {config.context}"] = figures
        rows = [[name, number(f["tokens_per_s"]), number(f["first_per_s"]), number(f["last_per_s"]), ratio(f)]
                for name, f in figures.items()]
        report.lines += [f"{length} tokens after {len(PROMPT)}, context {config.context}, shape of nanogpt-cpu",
                         *table(["", "tokens/s", f"first {EDGE}", f"last {EDGE}", "its time / ours (least–most)"],
                                rows), ""]
    report.lines.append("greedy; within the context " + (f"the first {EQUAL} tokens of all sides are the same"
                                                         if len(rows) > 1 else "there was nobody to compare with"))
    return report


def measured(config: Any, count: int, repeat: int) -> dict[str, dict[str, float]]:
    """Figures by side. Raises RuntimeError, without timing anything, where a side writes another text."""
    weights, edge = Job(config, 1).model().state_dict(), min(EDGE, count // 2)
    times: dict[str, list[list[float]]] = {}
    with ExitStack() as stack:
        sides = {OURS: stack.enter_context(Side(our_side.writing, config))}
        if installed("torch"):
            for name, cached in ((UNCACHED, False), (CACHED, True)):
                sides[name] = stack.enter_context(Side(torch_side.writing, config, weights, cached))
        within = min(EQUAL, count, config.context - len(PROMPT))
        texts = {name: side.ask("write", PROMPT, within)[0] for name, side in sides.items()}
        for name, text in texts.items():
            if text != texts[OURS]:
                raise RuntimeError(f"{name} writes {text}, we write {texts[OURS]}; nothing was timed")

        def turn(name: str, side: Side) -> Callable[[], float]:
            def write() -> float:
                times.setdefault(name, []).append(side.ask("write", PROMPT, count)[1])
                return times[name][-1][-1]
            return write
        totals = race({name: turn(name, side) for name, side in sides.items()}, repeat)
    figures = compared(totals, OURS)
    for name, runs in times.items():
        middle = sorted(runs, key=lambda run: run[-1])[len(runs) // 2]
        figures[name] |= {"tokens_per_s": count / middle[-1], "first_per_s": edge / middle[edge - 1],
                          "last_per_s": edge / (middle[-1] - middle[-1 - edge])}
    return figures

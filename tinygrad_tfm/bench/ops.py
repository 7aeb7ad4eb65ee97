"""Suites `ops` and `attention`: what the engine adds to an operation, and what single rules cost."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from . import our_side, torch_side
from .measure import calls_in_a_turn, compared, race
from .our_side import ATTENTION_SHAPE, CHAIN, RULE_SHAPES, RULES, rule_name
from .peers import PEERS
from .report import Report, number, ratio, table
from .sides import Maker, Side, installed
from .step import OURS

PYTORCH, PLAIN = "PyTorch", "plain"
SHORT = 0.02                        # seconds a turn lasts where a call takes microseconds


def ops(repeat: int, shapes: Sequence[tuple[int, int]] = RULE_SHAPES) -> Report:
    """Microseconds an operation costs on arrays so small that only the engine counts; and a table of rules."""
    report = Report()
    engines, rows = engine_costs(repeat), []
    for name, f in engines.items():
        f["us_per_op"] = 1e3 * f.pop("ms") / (2 * CHAIN + 1)
        rows.append([name, number(f["us_per_op"]), ratio(f)])
    report.values |= {"us_per_op": engines[OURS]["us_per_op"], "engines": engines}
    report.lines += [f"a chain of {2 * CHAIN} operations on a 4×4 array, forward and backward",
                     *table(["", "µs an operation", "its time / ours (least–most)"], rows), ""]
    rules = report.values["rules"] = rule_costs(repeat, shapes)
    report.lines += ["single rules forward and backward, float32, one thread",
                     *table(["", "ours ms", "plain ms", "PyTorch ms", "PyTorch's time / ours (least–most)"],
                            [[name, number(f[OURS]["ms"]), number(f[PLAIN]["ms"]),
                              number(f.get(PYTORCH, {}).get("ms")), ratio(f.get(PYTORCH, {}))]
                             for name, f in rules.items()])]
    return report


def engine_costs(repeat: int) -> dict[str, dict[str, float]]:
    """The chain in every engine that is installed: milliseconds and ratios by name."""
    makers: dict[str, tuple[str, Maker]] = {OURS: ("numpy", our_side.chain), PYTORCH: ("torch", torch_side.chain)}
    with ExitStack() as stack:
        sides = {name: stack.enter_context(Side(maker)) for name, (module, maker) in (makers | PEERS).items()
                 if installed(module)}
        return raced(sides, "chain", repeat)


def rule_costs(repeat: int, shapes: Sequence[tuple[int, int]]) -> dict[str, dict[str, dict[str, float]]]:
    """By rule and shape, by side: milliseconds and ratios. Ours is what the engine chooses, plain without twins."""
    names = [*(rule_name(name, shape) for name in RULES for shape in shapes), f"attention {ATTENTION_SHAPE}"]
    with ExitStack() as stack:
        ours = stack.enter_context(Side(our_side.rules, shapes))
        theirs = stack.enter_context(Side(torch_side.rules, shapes)) if installed("torch") else None
        return {name: raced({OURS: ours, PLAIN: ours} | ({PYTORCH: theirs} if theirs else {}),
                            {OURS: f"twin {name}", PLAIN: f"plain {name}", PYTORCH: name}, repeat) for name in names}


def attention(repeat: int, lengths: Sequence[int] = (64, 128, 256, 512), tokens: int = 4096, heads: int = 4,
              width: int = 32) -> Report:
    """Causal attention forward and backward over as many tokens in windows of each length, on all cores."""
    report, arguments = Report(), (lengths, tokens, heads, width)
    with ExitStack() as stack:
        sides = {OURS: stack.enter_context(Side(our_side.attending, *arguments))}
        if installed("torch"):
            sides[PYTORCH] = stack.enter_context(Side(torch_side.attending, *arguments))
        report.values |= {f"T={T}": raced(sides, str(T), repeat, several_threads=True) for T in lengths}
    report.lines += [f"causal attention forward and backward, {tokens} tokens in windows of T, {heads} heads of width "
                     f"{width}, all cores",
                     *table(["T", "ours ms", "PyTorch ms", "PyTorch's time / ours (least–most)"],
                            [[name[2:], number(f[OURS]["ms"]), number(f.get(PYTORCH, {}).get("ms")),
                              ratio(f.get(PYTORCH, {}))] for name, f in report.values.items()])]
    return report


def raced(sides: dict[str, Side], action: str | dict[str, str], repeat: int,
          several_threads: bool = False) -> dict[str, dict[str, float]]:
    """Figures of an action, called so often that a turn is long enough; after one thread nothing spins on."""
    of: Any = action if isinstance(action, dict) else dict.fromkeys(sides, action)
    turns = {name: side.turn(of[name], calls_in_a_turn(side.seconds(of[name], warm=2), SHORT))
             for name, side in sides.items()}
    return compared(race(turns, repeat, **({} if several_threads else {"rest": 0.0})), OURS)

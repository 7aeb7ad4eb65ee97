"""What a suite comes to: values for programs, tables for people; and the page that is written from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import write_whole

ALONE = "PyTorch is not installed: ours alone (to compare: pip install 'tinygrad_tfm[oracle]')"


@dataclass
class Report:
    """The result of a suite: `values` become JSON, `lines` are printed and written into the page. `head` is the machine
    they come from, if it need not be this one."""

    values: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    head: list[str] | None = None


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their longest cell: the first flush left, numbers flush right."""
    cells = [list(head), *map(list, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return ["  ".join(cell.rjust(width) if i else cell.ljust(width)
                      for i, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip() for row in cells]


def number(x: float | None, digits: int = 3) -> str:
    """A number with so many digits that count; "–" for none."""
    if x is None:
        return "–"
    whole = len(str(int(abs(x)))) if abs(x) >= 1 else 0
    return f"{x:,.{max(0, digits - max(whole, 1))}f}"


def ratio(figures: dict[str, float]) -> str:
    """The ratio of one side with its least and greatest; nothing for ours."""
    if "ratio" not in figures:
        return ""
    return f"{figures['ratio']:.2f} ({figures['ratio_min']:.2f}–{figures['ratio_max']:.2f})"


def marks(suite: str) -> tuple[str, str]:
    """The two lines between which a page holds a suite's tables."""
    return f"<!-- bench {suite} -->", f"<!-- end of {suite} -->"


def check_page(page: Path, suites: Sequence[str]) -> None:
    """Raise FileNotFoundError without the page, ValueError if it lacks a suite's two lines: before anything is
    measured."""
    text = page.read_text(encoding="utf-8")
    for suite in suites:
        begin, end = marks(suite)
        if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
            raise ValueError(f"{page} has no place for suite {suite}: it needs a line {begin} and, further down, {end}")


def body(machine: Sequence[str], report: Report) -> str:
    """What stands between a suite's two lines."""
    head = machine if report.head is None else report.head
    return "\n".join(["```text", *head, *[""][:len(head)], *report.lines, "```"])


def write_page(page: Path, machine: Sequence[str], reports: dict[str, Report]) -> None:
    """Put each suite's tables, and on which machine and day they came about, between its two lines."""
    text = page.read_text(encoding="utf-8")
    for suite, report in reports.items():
        begin, end = marks(suite)
        before, rest = text.split(begin)
        after = rest.split(end)[1]
        text = f"{before}{begin}\n{body(machine, report)}\n{end}{after}"
    write_whole(page, text.encode())

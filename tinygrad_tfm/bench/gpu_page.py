"""Suite `gpu`, its results: a JSON file for each GPU and day, and the tables that are made of the newest.

The page's section is made of the files alone: so it can be written on a machine without a GPU, from what was measured
on another.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..doctor import version
from ..files import write_whole
from .report import Report, number, ratio, table

FOLDER = Path("docs/benchmarks")
MIB = 2**20
YET = ["not measured yet: nobody has run it on a GPU. Where there is one, with CuPy and PyTorch:", "",
       "python -m tinygrad_tfm bench --suite gpu --write docs/performance.md"]


# ---- the file -------------------------------------------------------------------------------------------------------

def facts(cupy: Any) -> dict[str, Any]:
    """What figures of a GPU must not be quoted without."""
    runtime, now = cupy.cuda.runtime, datetime.now(UTC)
    name = runtime.getDeviceProperties(0)["name"]
    return {"gpu": name.decode() if isinstance(name, bytes) else name, **commit(), "cupy": cupy.__version__,
            "numpy": np.__version__, "torch": version("torch"), "python": platform.python_version(),
            "driver": of_cuda(runtime.driverGetVersion()), "runtime": of_cuda(runtime.runtimeGetVersion()),
            "date": now.strftime("%Y-%m-%d"), "time": now.isoformat(timespec="seconds")}


def of_cuda(number: int) -> str:
    """A version as CUDA counts, 13010, as it is spoken: 13.1."""
    return f"{number // 1000}.{number % 1000 // 10}"


def commit() -> dict[str, Any]:
    """The commit of this source, and whether files differ from it; "unknown" where git does not tell."""
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True,
                              check=True).stdout.strip()
    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "unknown", "dirty": None}


def save(values: dict[str, Any], folder: Path) -> Path:
    """Write the values into the file of this GPU and day."""
    folder.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", values["facts"]["gpu"].lower()).strip("-")
    path = folder / f"{slug}-{values['facts']['date']}.json"
    write_whole(path, (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode())
    return path


def newest(folder: Path) -> dict[str, Any] | None:
    """What was measured last, if anything was."""
    found = [json.loads(path.read_text("utf-8")) for path in folder.glob("*.json")]
    return max(found, key=lambda values: values["facts"]["time"], default=None)


# ---- the tables -----------------------------------------------------------------------------------------------------

def section(folder: Path) -> Report:
    """The tables of the newest file in the folder; without one, that nothing is measured yet, and how to."""
    values = newest(folder)
    return Report({}, YET, head=[]) if values is None else tables(values)


def tables(values: dict[str, Any]) -> Report:
    """The figures to be read, and under which circumstances they came about."""
    f = values["facts"]
    state = {True: " with changes", False: "", None: ""}[f["dirty"]]
    head = [f"{f['date']}, {f['gpu']}, CUDA {f['runtime']}, driver for CUDA {f['driver']}",
            f"Python {f['python']}, CuPy {f['cupy']}, NumPy {f['numpy']}, PyTorch {f['torch'] or 'not installed'}; "
            f"commit {f['commit'][:12]}{state}"]
    lines = [*steps(values), *kernels(values.get("kernels", {})), *times(values.get("time to loss", {})),
             *right(values)]
    for name, note in values["notes"].items():
        lines += wrapped(f"{name}: {note}")
    return Report(values, lines, head)


def steps(values: dict[str, Any]) -> list[str]:
    """The step, side by side."""
    j, sides = values["job"], values.get("step", {})
    title = (f"a training step of nanogpt-gpu: {j['layers']} layers, {j['heads']} heads, width {j['width']}, context "
             f"{j['context']}, batch {j['batch']}, dropout {j['dropout']:g}")
    rows = [[name, number(f["ms"]), number(f["tokens_per_s"], 6), percent(f["share_of_floor"]), ratio(f),
             number(f["driver_bytes"] / MIB), number(f["pool_bytes"] / MIB), number(f["setup_s"])]
            for name, f in sides.items()]
    if not rows:
        return []
    rounds = min(f["rounds"] for f in sides.values())
    head = ["", "ms a step", "tokens/s", "floor", "to ours (least–most)", "MiB", "pools", "first s"]
    return [title, *table(head, rows),
            *wrapped(f"medians of {rounds} rounds; floor: the least time that this GPU's peaks allow, as a share of "
                     "the step's; to ours: its time over that of the first line; MiB: by the driver's count, beyond an "
                     "empty process; pools: what CuPy's pools hold of it, or PyTorch's allocator; first: seconds until "
                     "five steps were done"), ""]


def percent(share: float | None) -> str:
    """A share in percent."""
    return "unknown" if share is None else f"{100 * share:.0f} %"


def kernels(found: dict[str, dict[str, Any]]) -> list[str]:
    """Kernels and products by themselves, in two precisions side by side."""
    if not found:
        return []
    head = [f"{column} {precision}" for precision in found for column in ("µs", "TFLOP/s", "GB/s")]
    rows = []
    for name in dict.fromkeys(name for by_name in found.values() for name in by_name):
        cells = []
        for by_name in found.values():
            f = by_name.get(name)
            cells += ["–"] * 3 if f is None else [
                number(f["us"]) + "*" * f["waited_for_python"], number(f["tflop_per_s"] or None), number(f["gb_per_s"])]
        rows.append([name, *cells])
    waited = any("*" in cell for row in rows for cell in row)
    return ["ours by themselves, in the shapes of this step", *table(["", *head], rows),
            *(["* the GPU waited for Python: no figure of the kernel alone"] if waited else []), ""]


def times(found: dict[str, Any]) -> list[str]:
    """How long it takes to learn."""
    if not found:
        return []
    rows = [[name, number(f["seconds"]) if f["reached"] else "not reached", f"{f['steps']:,}", number(f["val_loss"], 4),
             number(f["setup_s"])] for name, f in found.items()]
    return ["until the validation loss on tinyshakespeare is no more than 1.55, looked at every 250 steps",
            *table(["", "seconds", "steps", "loss", "apart from it: first steps s"], rows), ""]


def right(values: dict[str, Any]) -> list[str]:
    """What was compared before anything was timed."""
    found = values["correct"]
    apart = "; ".join(f"{name} {gap:.1e}" for name, gap in found["apart"].items() if gap)
    lines = wrapped(f"first losses without dropout are apart from those in float32 by: {apart or 'nothing'}")
    if not any(name.startswith("replayed") for name in values["notes"]):
        lines.append(f"{found['steps_replayed']} steps with dropout, replayed and computed, are the same to the bit")
    return lines


def wrapped(text: str, width: int = 118) -> list[str]:
    """A text in lines."""
    lines = [""]
    for word in text.split():
        lines[-1:] = [f"{lines[-1]} {word}".strip()] if len(lines[-1]) + len(word) < width else [lines[-1], word]
    return lines

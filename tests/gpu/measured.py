"""What tests/gpu/measure.sh has found, against what is hoped for; and the names of our kernels, for compute-sanitizer.

    python tests/gpu/measured.py summary OUT
    python tests/gpu/measured.py kernels
"""

import json
import re
import sys
from pathlib import Path

from tinygrad_tfm.bench.gpu_page import newest

SOURCES = Path(__file__).parents[2] / "tinygrad_tfm" / "kernels" / "cuda"
OURS, COMPILED = "tinygrad_tfm, bf16", "PyTorch compiled, bf16"


def kernel_names():
    """All kernels of kernels/cuda."""
    return sorted(name for path in SOURCES.glob("*.cu")
                  for name in re.findall(r"__global__ void [^\n]*\n\s*(\w+)\(", path.read_text("utf-8")))


def goals(bench, run):
    """What is hoped for in words, the figure or None, and whether that will do."""
    step = (bench or {}).get("step", {})

    def of(side, figure):
        return step.get(side, {}).get(figure)
    theirs = [f["driver_bytes"] for name, f in step.items() if name.startswith("PyTorch")]
    memory = of(OURS, "driver_bytes") / min(theirs) if theirs and OURS in step else None
    for words, value, good in (
            ("a step in bf16: at most 3.6 ms", of(OURS, "ms"), lambda x: x <= 3.6),
            ("a step in TF32: at most 6.5 ms", of("tinygrad_tfm, tf32", "ms"), lambda x: x <= 6.5),
            ("PyTorch compiled takes at least 1.2 times as long", of(COMPILED, "ratio"), lambda x: x >= 1.2),
            ("compiled, with CUDA graphs, at least 1.2 times",
             of("PyTorch compiled, CUDA graphs, bf16", "ratio"), lambda x: x >= 1.2),
            ("PyTorch eager at least 3 times", of("PyTorch eager, bf16", "ratio"), lambda x: x >= 3),
            ("memory: at most 1 time the least of PyTorch's", memory, lambda x: x <= 1),
            ("best validation loss: at most 1.4697", (run or {}).get("best_val_loss"), lambda x: x <= 1.4697),
            ("seconds of the whole run: at most 30", (run or {}).get("elapsed_s"), lambda x: x <= 30)):
        yield words, value, None if value is None else good(value)


def last_object(path):
    """The JSON object in the last line of what a command has printed; None if it printed none."""
    try:
        found = json.loads(path.read_text("utf-8").splitlines()[-1])
    except (OSError, IndexError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def summary(out):
    """Print both tables. Whether every part passed and everything hoped for is so."""
    parts = [line.split("\t") for line in (out / "parts.tsv").read_text("utf-8").splitlines()]
    for name, code, seconds in parts:
        said = {"0": "passed", "124": "FAILED: out of time"}.get(code, f"FAILED with {code}")
        print(f"{name:<50} {seconds:>6} s  {said}")
    found = list(goals(newest(out / "benchmarks"), last_object(out / "train.txt")))
    for words, value, good in found:
        print(f"{words:<50} {'–' if value is None else format(value, '.4g'):>8}  "
              f"{'not measured' if good is None else 'yes' if good else 'NO'}")
    return all(code == "0" for _, code, _ in parts) and all(good for _, _, good in found)


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")
    if sys.argv[1:] == ["kernels"]:
        print(*kernel_names())
    elif len(sys.argv) == 3 and sys.argv[1] == "summary":
        sys.exit(not summary(Path(sys.argv[2])))
    else:
        sys.exit(__doc__)

"""Suite `import`: how long it takes until the first line of a program runs."""

from __future__ import annotations

import subprocess
import sys

from .measure import median_seconds
from .report import Report, number, table
from .sides import installed


def suite(repeat: int) -> Report:
    """Milliseconds of imports in fresh interpreters, beyond what starting one and NumPy take."""
    def start(code: str) -> float:
        return 1e3 * median_seconds(lambda: subprocess.run([sys.executable, "-c", code], check=True), repeat)
    bare, numpy, ours = start("pass"), start("import numpy"), start("import tinygrad_tfm")
    values = {"ms_beyond_numpy": ours - numpy, "ms_numpy": numpy - bare}
    rows = [["import numpy", number(values["ms_numpy"])],
            ["import tinygrad_tfm, beyond NumPy", number(values["ms_beyond_numpy"])]]
    if installed("torch"):
        values["ms_torch"] = start("import torch") - bare
        rows.append(["import torch", number(values["ms_torch"])])
    return Report(values, table(["in a fresh interpreter", "ms"], rows))

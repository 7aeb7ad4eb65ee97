"""What the demos share: two options, colours all can tell apart, labels that do not meet, and saving a picture."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")                                # pictures go to files: no window, no display

import matplotlib.pyplot as plt

# The palette of Okabe and Ito, made to be told apart by colour-blind eyes as well.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, INK, GREY = "#CC79A7", "#56B4E9", "#222222", "#767676"

plt.rcParams.update({
    "figure.constrained_layout.use": True, "figure.dpi": 110, "savefig.dpi": 150, "font.size": 11,
    "axes.titlesize": 12, "axes.titlelocation": "left", "axes.spines.top": False,
    "axes.spines.right": False, "axes.edgecolor": GREY, "legend.frameon": False,
    "lines.linewidth": 2, "text.color": INK, "axes.labelcolor": INK})


def options(script: str, doc: str) -> argparse.Namespace:
    """`--quick` and `--out` of a demo, by default a folder of its own under runs/demos.

    A gallery that runs the demos hands over an empty docstring.
    """
    name = Path(script).stem.removeprefix("plot_")
    parser = argparse.ArgumentParser(description=doc.strip().partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--out", type=Path, default=Path("runs/demos", name), metavar="DIR",
                        help="folder of the pictures (%(default)s)")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    return chosen


def apart(values: Sequence[float], least: float) -> np.ndarray:
    """Heights for labels beside these values, in the same order and that far apart at least."""
    heights, order = np.array(values, float), np.argsort(values)
    for lower, upper in zip(order, order[1:], strict=False):
        heights[upper] = max(heights[upper], heights[lower] + least)
    return heights


def save(figure: plt.Figure, path: Path) -> None:
    """Write the picture and say where. It stays open, so that a gallery can take it too."""
    figure.savefig(path)
    print(f"picture: {path}")

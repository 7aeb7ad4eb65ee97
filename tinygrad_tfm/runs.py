"""A run directory: everything one training run leaves behind, and what resuming it needs.

    checkpoint.safetensors   the weights with the best validation loss so far, with shape, alphabet and provenance
    resume.safetensors       weights, optimiser and random state of the last save: training goes on from here exactly
    metrics.jsonl            one JSON object a line, by `kind`: baseline, passage (of the validation text), train, eval,
                             sample, final
    samples.txt, loss.png    what it wrote while it learned, and how the loss fell
    step-N.safetensors       early weights, to look back at (`explore` shows them, `sample` lets them write)
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from . import checkpoint
from .files import write_whole
from .models.decoder import Decoder
from .optim import Optimizer
from .random import rng
from .text import CharTokenizer


class Run:
    """The files of a run directory. Making one changes nothing on disk; `create` and `reopen` do."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.weights = self.folder / "checkpoint.safetensors"
        self.state = self.folder / "resume.safetensors"
        self.metrics = self.folder / "metrics.jsonl"
        self.samples = self.folder / "samples.txt"
        self.picture = self.folder / "loss.png"

    def create(self) -> None:
        """Make the directory. Raises FileExistsError if it already holds a run: nothing is ever overwritten."""
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise FileExistsError(f"{self.folder} already exists: choose another --out, continue it with --resume, "
                                  "or remove it")
        self.folder.mkdir(parents=True, exist_ok=True)

    def log(self, kind: str, **values: Any) -> None:
        """Add a line to metrics.jsonl; NaN and infinity, which JSON lacks, become null."""
        values = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **values}, ensure_ascii=False) + "\n")

    def history(self, kind: str) -> list[dict[str, Any]]:
        """The lines of one kind, oldest first. A line that was cut short by a crash is passed over."""
        return [line for line in self._lines() if line.get("kind") == kind]

    def _lines(self) -> list[dict[str, Any]]:
        lines = []
        for text in self.metrics.read_text(encoding="utf-8").split("\n") if self.metrics.exists() else ():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                continue
        return [line for line in lines if isinstance(line, dict)]

    def forget_after(self, step: int) -> None:
        """Drop the metrics, samples and weights of steps that will be done again."""
        lines = [line for line in self._lines() if line.get("step", 0) <= step]
        write_whole(self.metrics, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
        write_whole(self.samples, "".join(map(sample_text, self.history("sample"))).encode())
        for early, path in self.early().items():
            if early > step:
                path.unlink()

    def add_sample(self, step: int, text: str) -> None:
        """Keep a text the model wrote."""
        self.log("sample", step=step, text=text)
        with open(self.samples, "a", encoding="utf-8", newline="\n") as file:
            file.write(sample_text({"step": step, "text": text}))

    def save_weights(self, model: Decoder, tokenizer: CharTokenizer, provenance: dict[str, Any]) -> None:
        """Write checkpoint.safetensors."""
        checkpoint.save_model(self.weights, model, tokenizer, provenance)

    def save_early(self, step: int, model: Decoder, tokenizer: CharTokenizer, provenance: dict[str, Any]) -> None:
        """Write step-N.safetensors: the weights of a step that training will leave far behind."""
        checkpoint.save_model(self.folder / f"step-{step}.safetensors", model, tokenizer, provenance)

    def early(self) -> dict[int, Path]:
        """The files that `save_early` wrote, by step, the first step first."""
        files = {path.stem.removeprefix("step-"): path for path in self.folder.glob("step-*.safetensors")}
        return {step: files[str(step)] for step in sorted(int(step) for step in files if step.isdigit())}

    def save_state(self, model: Decoder, optimizer: Optimizer, progress: dict[str, Any]) -> None:
        """Write resume.safetensors: one file, so that weights, optimiser and random state always belong together."""
        arrays = {f"model.{k}": v for k, v in model.state_dict().items()}
        arrays |= {f"optimizer.{k}": np.asarray(v) for k, v in optimizer.state_dict().items()}
        checkpoint.write(self.state, arrays, {"progress": progress, "random": rng().bit_generator.state})

    def load_progress(self) -> dict[str, Any]:
        """What `save_state` was told. Raises FileNotFoundError or ValueError if there is nothing to resume."""
        if not self.state.exists():
            raise FileNotFoundError(f"there is no run to resume in {self.folder}")
        metadata = checkpoint.read(self.state)[1]
        if "progress" not in metadata:
            raise ValueError(f"{self.state} holds weights only, not the state of a training run")
        return metadata["progress"]

    def load_state(self, model: Decoder, optimizer: Optimizer) -> None:
        """Put weights, optimiser and random state back as they were when `save_state` wrote them."""
        arrays, metadata = checkpoint.read(self.state)
        parts: dict[str, dict[str, Any]] = {"model": {}, "optimizer": {}}
        for name, array in arrays.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = array
        model.load_state_dict(parts["model"])
        optimizer.load_state_dict(parts["optimizer"])
        rng().bit_generator.state = metadata["random"]

    def draw(self) -> Path | None:
        """Draw loss.png from the metrics: train and validation loss over steps, the baselines as lines.

        Returns None without matplotlib (extra `plot`).
        """
        try:
            from matplotlib.figure import Figure
        except ImportError:
            return None
        figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
        axes = figure.subplots()
        trains, evals = self.history("train"), self.history("eval")
        axes.plot([m["step"] for m in trains], [m["train_loss"] or math.nan for m in trains], color="#9ab6d3",
                  linewidth=1, label="training batches")
        axes.plot([m["step"] for m in evals], [m["val_loss"] for m in evals], color="#c2410c", marker="o",
                  markersize=4, label="validation")
        for baseline in self.history("baseline"):
            for name, style in (("uniform", ":"), ("unigram", "-."), ("bigram", "--")):
                axes.axhline(baseline[name], color="#57534e", linestyle=style, linewidth=1)
                axes.annotate(f"{name} {baseline[name]:.2f}", (1, baseline[name]), xycoords=("axes fraction", "data"),
                              xytext=(-4, 3), textcoords="offset points", ha="right", fontsize=8, color="#57534e")
        axes.set(xlabel="step", ylabel="loss (nats per character)")
        axes.set_title(self.folder.name, parse_math=False)         # a dollar in the name is a dollar
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        figure.savefig(self.picture)
        return self.picture


def sample_text(sample: dict[str, Any]) -> str:
    """A sample as it stands in samples.txt."""
    return f"---- step {sample['step']} ----\n{sample['text']}\n\n"

"""Training a decoder: the loop, which can be read aloud, and the settings that are known to work.

What a run leaves on disk is in `runs.py`, batches and baselines in `text.py`, a step in `steps.py`, what several cores
share of it in `parallel.py`. Read next: `generate.py`.
"""

from __future__ import annotations

import math
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from . import checkpoint
from .backend import Array, to_device
from .errors import fraction, nonnegative, positive
from .generate import Sampling, evaluating, generate_text
from .kernels.precision import bfloat16, known, precision
from .models.decoder import Decoder, DecoderConfig
from .optim import AdamW, warmup_cosine
from .parallel import DataParallel, suggested_workers, synchronize
from .random import manual_seed, random_stream
from .runs import Run
from .steps import Recorded, Steps
from .text import CharTokenizer, Corpus, baselines, random_batch, split, windows
from .watch import NaNFound, find_nan


@dataclass(frozen=True)
class TrainConfig:
    """How a decoder is trained. Raises ValueError, naming the field, for a setting that cannot be.

    steps, batch B (windows of the model's context), lr (peak) falling to lr_floor over the steps on a cosine after
    `warmup` steps, AdamW's beta2 and decay, clip (limit of the gradient's norm), eval_every (steps between
    evaluations, saves and samples), eval_windows (how much of the validation text an evaluation looks at; the last
    one looks at all of it), seed, device ("cpu", "cuda"), workers (sharing the batch; None: as the machine suggests),
    precision (of products on a GPU: "float32", "tf32", "bf16").
    """

    steps: int = 2000
    batch: int = 12
    lr: float = 1e-3
    lr_floor: float = 1e-4
    warmup: int = 100
    beta2: float = 0.99
    decay: float = 0.1
    clip: float = 1.0
    eval_every: int = 250
    eval_windows: int = 256
    seed: int = 1337
    device: str = "cpu"
    workers: int | None = None
    precision: str = "float32"

    def __post_init__(self) -> None:
        positive("training", steps=self.steps, batch=self.batch, eval_every=self.eval_every,
                 eval_windows=self.eval_windows, workers=1 if self.workers is None else self.workers)
        nonnegative("training", lr=self.lr, lr_floor=self.lr_floor, warmup=self.warmup, decay=self.decay,
                    seed=self.seed)
        fraction("training", beta2=self.beta2)
        if self.lr_floor > self.lr:
            raise ValueError(f"the learning rate falls from lr to lr_floor, not from {self.lr!r} to {self.lr_floor!r}")
        if not self.clip > 0:
            raise ValueError(f"clip must be positive, not {self.clip!r}")
        if known(self.precision) != "float32" and self.device == "cpu":
            raise ValueError(f"precision {self.precision!r} is for a GPU, a CPU computes in float32: give "
                             "--device cuda, or --precision float32")
        if self.precision == "bf16":
            bfloat16()                                             # raises an error where it is missing
        if self.device == "cuda" and self.workers not in (None, 1):
            raise ValueError(f"workers share the cores of a CPU, and there is one GPU: give --workers 1, not "
                             f"{self.workers}")


# Shapes lack only the vocabulary, which is the text's.
PRESETS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "lecture": (dict(context=64, layers=3, heads=4, width=96, std=0.05),         # small: three minutes fill no more
                dict(steps=6000, batch=12, lr=3e-3, lr_floor=1e-5, warmup=100, eval_every=500)),
    "nanogpt-cpu": (dict(context=64, layers=4, heads=4, width=128),
                    dict(steps=2000, batch=12)),
    "nanogpt-gpu": (dict(context=256, layers=6, heads=6, width=384, dropout=0.2),
                    dict(steps=5000, batch=64, eval_every=500, precision="bf16")),
}


@dataclass
class Result:
    """What a run came to, losses in nats per character: `val_loss` of the last weights, `best_val_loss` of those kept.

    Both over the whole validation text; of an interrupted run, over what its evaluations look at.
    """

    steps: int
    parameters: int
    val_loss: float
    best_val_loss: float
    tokens_per_s: float
    elapsed_s: float
    device: str
    corpus: str
    interrupted: bool = False


EARLY = (0.01, 0.1, 0.3)                 # parts of the way at which weights are kept to look back at
MOST_KEPT = 3_300_000                    # parameters of a model whose early weights are: what `explore` has room for


class Diverged(FloatingPointError):
    """The loss is no number any more; the message says where it went wrong first and what is still good."""


def train(model: Decoder, tokenizer: CharTokenizer, corpus: Corpus, config: TrainConfig, run: Run,
          resume: bool = False, stop_at: int | None = None, say: Callable[[str], None] = print) -> Result:
    """Train a decoder on a text, leaving checkpoints, metrics and samples in the run's directory.

    With `resume`, continues from the run's last save to the very numbers an unbroken run would have given. Ctrl-C, or
    reaching step `stop_at`, saves and returns. Raises Diverged if the loss becomes NaN, OSError if the disk is full:
    the last good checkpoint stays; ValueError where there is nothing left to do.
    """
    c, context = config, model.config.context
    train_ids, val_ids = split(tokenizer.encode(corpus.text), context)
    base = baselines(train_ids, val_ids, tokenizer.size)
    manual_seed(c.seed + 1)                                        # the weights were drawn from the seed itself
    model.train().to(c.device)
    train_ids, val_ids = to_device(train_ids, c.device), to_device(val_ids, c.device)
    optimizer = AdamW(model.parameters(), c.lr, betas=(0.9, c.beta2), decay=c.decay)
    workers = c.workers or suggested_workers(c.batch, context, c.device)
    provenance = {"corpus": corpus.name, "source": corpus.short_source, "digest": corpus.digest,
                  "train": asdict(replace(c, workers=workers))}
    progress: dict[str, Any] = run.load_progress() if resume else {"step": 0, "best": math.inf, "elapsed": 0.0}
    start, best, before = progress["step"], progress["best"], progress["elapsed"]
    last = min(c.steps, stop_at or c.steps)
    if start >= last:
        raise ValueError(f"this run has done {start} steps already, {last} is not beyond that; a longer run: --steps")
    if resume:
        run.load_state(model, optimizer)
        run.forget_after(start)
    else:
        run.log("baseline", **base)
        for text in passages(corpus.text):
            run.log("passage", text=text)
    early = {int(part * c.steps) for part in EARLY if model.size() <= MOST_KEPT} - {0}
    log_every = 1 if c.device == "cpu" else 50                     # reading a loss makes a GPU wait

    kind = partial(Recorded, say=say) if c.device == "cuda" else Steps

    with (DataParallel(model, workers) as parallel, interruptible() as interrupted, precision(c.precision),
          closing(kind(parallel, optimizer, train_ids, batch=c.batch, clip=c.clip, rate=lambda step: warmup_cosine(
              step, c.lr, c.lr_floor, c.warmup, c.steps))) as steps):
        say(f"{tokenizer.size} characters, {len(train_ids):,} to train on, {len(val_ids):,} to validate; "
            f"{model.size():,} parameters; {c.device}, {c.precision}, {workers} worker{'s' * (workers > 1)}")
        say(f"to compare: uniform {base['uniform']:.3f}, unigram {base['unigram']:.3f}, bigram {base['bigram']:.3f} "
            "nats a character")
        if c.device == "cpu":                                      # a GPU compiles in its first steps: said later
            say(f"estimated time: {spoken(estimate(parallel, train_ids, c, last - start))}")
        bar, clock = progress_bar(c.steps, start, say), time.perf_counter()
        pace: list[tuple[int, float]] = []
        step, seen, apart, train_loss = start, 0, 0.0, math.nan     # apart: seconds not spent on training

        def validate(count: int | None) -> float:
            val_loss = evaluate(parallel, val_ids, c.batch, count)
            if not math.isfinite(val_loss):                        # since the last loss that was looked at
                raise Diverged(diagnosis(lambda: evaluate(parallel, val_ids, c.batch, count), step, run))
            return val_loss

        def look() -> float:
            """Evaluate, let the model write, and save everything; what was seen is said last."""
            nonlocal best, apart
            began = time.perf_counter()
            val_loss, elapsed = validate(c.eval_windows), before + began - clock
            text = sample(model, tokenizer, seed=step)
            run.log("eval", step=step, train_loss=train_loss, val_loss=val_loss, elapsed_s=elapsed)
            run.add_sample(step, text)
            if val_loss < best:
                best = val_loss
                run.save_weights(model, tokenizer, provenance | {"step": step, "val_loss": val_loss})
            run.save_state(model, optimizer, {"step": step, "best": best, "elapsed": elapsed, "source": corpus.source,
                                              "config": asdict(model.config), "provenance": provenance,
                                              "characters": tokenizer.characters})
            bar.clear()
            say(f"step {step}: validation {val_loss:.3f}   {text[:60]!r}")
            apart += time.perf_counter() - began
            return val_loss

        while step < last and (steps.ahead or not interrupted()):
            loss, norm = steps.gradients(step, min(last - step, c.eval_every - step % c.eval_every))
            if step % log_every == 0 and not math.isfinite(float(loss) + float(norm)):
                raise Diverged(diagnosis(steps.again, step, run))
            steps.update()
            step, seen = step + 1, seen + c.batch * context
            bar.update()
            if step in early:
                run.save_early(step, model, tokenizer, provenance | {"step": step})

            if step % log_every == 0 or step == last:
                train_loss, grad_norm = float(loss), float(norm)   # read first: until then a GPU is still at it
                speed = seen / (time.perf_counter() - clock - apart)
                run.log("train", step=step, train_loss=train_loss, lr=optimizer.lr, grad_norm=grad_norm,
                        tokens_per_s=round(speed))
                bar.set_postfix_str(f"loss {train_loss:.3f}, {speed:,.0f} tokens/s", refresh=False)
                if c.device != "cpu" and len(pace) < 2:
                    pace.append((step, time.perf_counter()))
                    if len(pace) == 2 and step < last:
                        (a, then), (b, now) = pace
                        say(f"estimated time: {spoken((now - then) / (b - a) * (last - step))}")
            if step % c.eval_every == 0 and step < last:
                look()

        bar.close()
        synchronize(model.embed.weight.data)
        speed = seen / max(time.perf_counter() - clock - apart, 1e-9)
        val_loss, finished = look(), step >= c.steps
        if finished:                                               # now the whole text, of the last and of the kept
            kept = val_loss == best
            val_loss = best = validate(None)
            if not kept:
                last_weights = model.state_dict()
                model.load_state_dict(checkpoint.read(run.weights)[0])
                best = validate(None)
                model.load_state_dict(last_weights)
            run.log("final", step=step, val_loss=val_loss, best_val_loss=best)
    return Result(step, model.size(), val_loss, best, speed, before + time.perf_counter() - clock, c.device,
                  corpus.name, interrupted=not finished)


def evaluate(parallel: DataParallel, ids: Array, batch: int, count: int | None = None) -> float:
    """The mean loss over a text cut into windows, in nats: over all of it, or over `count` windows spread evenly.

    Dropout is off. The same windows every time, so that losses can be compared.
    """
    context = parallel.model.config.context
    whole = (len(ids) - 1) // context
    pairs: Iterable[tuple[Array, Array]]
    if count is not None and count < whole:
        starts = np.linspace(0, whole - 1, count).round().astype(np.int64) * context
        cut = to_device(starts[:, None] + np.arange(context + 1), parallel.model.embed.weight.device)
        pairs = ((ids[rows][:, :-1], ids[rows][:, 1:]) for rows in (cut[i:i + batch] for i in range(0, count, batch)))
    else:
        pairs = windows(ids, context, batch)
    total, seen = 0.0, 0
    with evaluating(parallel.model):
        for x, y in pairs:
            total, seen = total + parallel.loss(x, y) * x.size, seen + x.size
    return float(total) / seen


def passages(text: str, count: int = 3, size: int = 240) -> list[str]:
    """Pieces of the validation text, from all over it and each from the beginning of a line if there is one: a run
    keeps them, so that one can look at what the model makes of words that it has not seen."""
    unseen = text[len(text) * 9 // 10:]
    places = [len(unseen) * i // count for i in range(count)]
    starts = [line + 1 if 0 <= (line := unseen.find("\n", at, at + size)) < len(unseen) - size else at for at in places]
    return [unseen[start:start + size] for start in starts]


def sample(model: Decoder, tokenizer: CharTokenizer, seed: int, count: int = 200) -> str:
    """A text the model writes from a line break; drawing it leaves the training's random numbers alone."""
    return "".join(generate_text(model, tokenizer, "", count, Sampling(temperature=0.8), seed=seed))


def estimate(parallel: DataParallel, ids: Array, config: TrainConfig, steps: int) -> float:
    """Seconds that many steps should take, from four tried with their gradients thrown away."""
    times = []
    with random_stream(np.random.default_rng(0)):
        x, y = random_batch(ids, config.batch, parallel.model.config.context, np.random.default_rng(0))
        for _ in range(4):
            start = time.perf_counter()
            parallel.backward(x, y)
            synchronize(x)
            times.append(time.perf_counter() - start)
    parallel.model.zero_grad()
    return 1.2 * statistics.median(times) * steps                  # the optimiser and evaluations come on top


def spoken(seconds: float) -> str:
    """A duration as one says it."""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    return f"about {round(seconds / 60)} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


def diagnosis(again: Callable[[], Any], step: int, run: Run) -> str:
    """What went wrong where a loss or gradient is no number: it is computed again under watch."""
    try:
        with find_nan():
            again()
        where = "it did not happen again when the step was repeated"
    except NaNFound as error:
        where = str(error)
    kept = "the last good checkpoint is kept" if run.weights.exists() else "no checkpoint had been saved yet"
    return f"training diverged at step {step}: {where}. A lower --lr is the usual cure; {kept} in {run.folder}"


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C, or a request to terminate, inside the block is noted and asked for between steps; a second one
    interrupts at once."""
    noted = threading.Event()

    def note(signum: int, frame: Any) -> None:
        if noted.is_set():
            raise KeyboardInterrupt
        noted.set()
    if threading.current_thread() is not threading.main_thread():
        yield noted.is_set
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def progress_bar(total: int, start: int, say: Callable[[str], None]) -> Any:
    """tqdm's bar, with the time left; into a file, and without tqdm (extra `plot`), a line now and then."""
    if not sys.stderr.isatty():
        return PlainProgress(total, start, say)
    try:
        from tqdm import tqdm
    except ImportError:
        return PlainProgress(total, start, say)
    return tqdm(total=total, initial=start, unit="step", dynamic_ncols=True, smoothing=0.05)


class PlainProgress:
    """What stands in for tqdm: the same four calls, one line for each tenth of the way."""

    def __init__(self, total: int, start: int, say: Callable[[str], None]):
        self.total, self.start, self.done, self.note, self.say = total, start, start, "", say
        self.began = time.perf_counter()

    def update(self) -> None:
        """One step more."""
        self.done += 1
        if self.done % max(1, self.total // 10) == 0:
            left = (time.perf_counter() - self.began) / (self.done - self.start) * (self.total - self.done)
            note = f"{self.note}, " if self.note else ""           # a GPU's loss is not looked at at once
            self.say(f"{self.done}/{self.total} steps, {note}{spoken(left)} left")

    def set_postfix_str(self, note: str, refresh: bool = True) -> None:
        """What to say beside the count."""
        self.note = note

    def clear(self) -> None:
        """Nothing to wipe away."""

    def close(self) -> None:
        """Nothing to put away."""


def new_decoder(shape: dict[str, Any], tokenizer: CharTokenizer, seed: int) -> Decoder:
    """A decoder for this alphabet whose first weights are drawn from the seed."""
    manual_seed(seed)
    return Decoder(DecoderConfig(vocab=tokenizer.size, **shape))

"""The command line: train, sample, explore, doctor, bench. Each says what it will do, does it, and exits honestly.

Exit codes: 0 done, 1 failed on the way (diverged, disk full), 2 wrong input, 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shlex
import sys
import webbrowser
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from . import __version__, bench, checkpoint, doctor
from .errors import nonnegative, positive
from .generate import Sampling, generate_text
from .gpu import resolve_device
from .inspect.explorer import explorable, explore, refuse
from .kernels.precision import PRECISIONS
from .models.decoder import DecoderConfig
from .runs import Run
from .text import CORPORA, CharTokenizer, any_corpus, corpus, split, text_file
from .train import PRESETS, Diverged, TrainConfig, new_decoder, train

SHAPE = ("context", "layers", "heads", "width", "dropout")          # options that a preset fills if they are not given
SETTINGS = ("steps", "batch", "lr", "seed", "workers", "precision")
MAY_CHANGE = ("steps", "workers", "device", "precision")            # when a run is resumed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Wrong input gives one line on stderr."""
    for stream in (sys.stdout, sys.stderr):                        # a terminal that lacks a letter gets its number
        stream.reconfigure(errors="backslashreplace")              # type: ignore[union-attr]
    options = parser().parse_args(arguments)
    try:
        code, result = options.run(options)
        if options.json:
            print(json.dumps(result, ensure_ascii=False))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:                                        # whoever read has seen enough
        hush()
        return 1
    except MemoryError as error:
        print(f"error: there is not enough memory ({error}): a smaller --batch, --context or --width needs less",
              file=sys.stderr)
        return 1
    except (Diverged, OSError, ValueError, ImportError, RuntimeError) as error:
        if options.traceback:
            raise
        print(f"error: {said(error)}", file=sys.stderr)
        wrong_input = isinstance(error, ValueError | ImportError | RuntimeError | FileExistsError | FileNotFoundError
                                 | IsADirectoryError | NotADirectoryError | PermissionError)
        return 2 if wrong_input else 1


def say(line: str) -> None:
    """Say a line; where nobody listens any more (a closed pipe), go on in silence."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        hush()


def hush() -> None:
    """From here on stdout leads nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def said(error: Exception) -> str:
    """An error in one line."""
    if isinstance(error, OSError) and error.errno and error.strerror and not isinstance(error, FileNotFoundError):
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split())


# ---- train ----------------------------------------------------------------------------------------------------------

def run_train(options: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    """The command `train`."""
    checkpoint.library()                                           # better now than after three minutes of training
    if options.stop_at is not None:
        positive("train", stop_at=options.stop_at)
    model, tokenizer, text, config, run = (resumed if options.resume else fresh)(options)
    say(f"training on {text.name}; everything goes to {run.folder}")
    result = train(model, tokenizer, text, config, run, options.resume, options.stop_at, say)
    say(f"validation loss {result.val_loss:.4f} after {result.steps} steps "
        f"({result.elapsed_s:.0f} s, {result.tokens_per_s:,.0f} tokens/s)")
    try:
        if run.draw() is None:
            say("for a picture of it: pip install 'tinygrad_tfm[plot]'")
    except Exception as error:                                     # a picture is not worth a trained model
        warn(f"WARNING: loss.png could not be drawn: {said(error)}")
    folder = shlex.quote(str(run.folder))
    if result.interrupted:
        say(f"stopped early; go on with: python -m tinygrad_tfm train --resume --out {folder}")
        if options.explore:
            say(f"look inside what there is: python -m tinygrad_tfm explore {folder} --open")
    else:
        opening = next(line for line in text.text.splitlines() if line)[:20]
        say(f"try it: python -m tinygrad_tfm sample {folder} --prompt {shlex.quote(opening)}")
        if options.explore:
            look_inside(run.folder)
        elif explorable(model):
            say(f"look inside: python -m tinygrad_tfm explore {folder} --open")
    return (130 if result.interrupted and not options.stop_at else 0), asdict(result) | {"run": str(run.folder)}


def fresh(options: argparse.Namespace) -> tuple:
    """Model, tokenizer, text, settings and directory of a new run; everything is checked before a file is made."""
    preset = options.preset or "lecture"
    shape, settings = (dict(part) for part in PRESETS[preset])
    given = {k: v for k, v in vars(options).items() if v is not None}
    shape |= {k: given[k] for k in SHAPE if k in given}
    if "lr" in given:                                              # the preset's curve, higher or lower
        share = settings.get("lr_floor", TrainConfig.lr_floor) / settings.get("lr", TrainConfig.lr)
        settings["lr_floor"] = share * given["lr"]
    settings |= {k: given[k] for k in SETTINGS if k in given}
    config = TrainConfig(**settings, device=resolve_device(options.device or "cpu"))
    possible = DecoderConfig(vocab=1, **shape)
    if options.explore:
        refuse(possible)
    text = (text_file(options.text) if options.text is not None else
            corpus(options.corpus) if options.corpus is not None else any_corpus(warn))
    tokenizer = CharTokenizer.from_text(text.text)
    split(tokenizer.encode(text.text), shape["context"])
    model = new_decoder(shape, tokenizer, config.seed)
    run = Run(unused_folder(preset) if options.out is None else options.out)
    run.create()
    return model, tokenizer, text, config, run


def resumed(options: argparse.Namespace) -> tuple:
    """The same of a run that was stopped, its settings as they were."""
    if options.out is None:
        raise ValueError("--resume needs --out: the directory of the run to continue")
    fixed = {*SHAPE, *SETTINGS, "corpus", "preset"} - {*MAY_CHANGE}
    given = [f"--{k}" for k in sorted(fixed) if getattr(options, k) is not None]
    if given:
        raise ValueError(f"{', '.join(given)} cannot be changed with --resume: the run goes on with the settings it "
                         f"was started with (only {', '.join('--' + k for k in MAY_CHANGE)} may be given)")
    run = Run(options.out)
    progress = run.load_progress()
    was = progress["provenance"]
    source = progress["source"] if options.text is None else options.text      # the file may have been moved
    text = text_file(source) if was["corpus"] == "file" or options.text is not None else corpus(was["corpus"])
    known = {f.name for f in fields(TrainConfig)}
    settings = {k: v for k, v in was["train"].items() if k in known}
    settings |= {k: getattr(options, k) for k in MAY_CHANGE if getattr(options, k) is not None}
    config = TrainConfig(**settings | {"device": resolve_device(settings["device"])})
    tokenizer = CharTokenizer(progress["characters"])
    if text.digest != was["digest"]:
        raise ValueError(f"this run was trained on another text than what is now in {text.source}")
    if config.steps != was["train"]["steps"]:
        warn(f"NOTE: of {config.steps} steps, not {was['train']['steps']}, the learning rate follows another curve")
    shape = {k: v for k, v in progress["config"].items() if k != "vocab"}
    return new_decoder(shape, tokenizer, config.seed), tokenizer, text, config, run


def warn(line: str) -> None:
    """Say something that must not be overlooked."""
    print(line, file=sys.stderr, flush=True)


def unused_folder(preset: str) -> Path:
    """runs/PRESET, or the first of runs/PRESET-2, -3, … that is free."""
    name, n = Path("runs") / preset, 1
    folder = name
    while folder.exists():
        n += 1
        folder = name.with_name(f"{preset}-{n}")
    return folder


# ---- sample ---------------------------------------------------------------------------------------------------------

def run_sample(options: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    """The command `sample`: the text comes as it is made."""
    model, tokenizer, _ = checkpoint.load_model(options.run_folder, resolve_device(options.device))
    sampling = Sampling(options.temperature, options.top_k, options.top_p)
    positive("sample", count=options.count)
    seed = secrets.randbits(32) if options.seed is None else options.seed
    nonnegative("sample", seed=seed)
    tokenizer.encode(options.prompt)
    print(options.prompt, end="", flush=True)
    pieces = []
    for piece in generate_text(model, tokenizer, options.prompt, options.count, sampling, seed, options.stop):
        print(piece, end="", flush=True)
        pieces.append(piece)
    print()
    return 0, {"prompt": options.prompt, "text": "".join(pieces), "seed": seed}


# ---- explore --------------------------------------------------------------------------------------------------------

def run_explore(options: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    """The command `explore`."""
    made = explore(options.run_folder, options.out, say)
    size = f"{made.bytes / 1e6:.1f} MB"
    say(f"{made.path}: {size}, {made.parameters:,} parameters" + (
        f", and the weights of step {', '.join(map(str, made.steps))}" if made.steps else ""))
    if options.open:
        webbrowser.open(Path(made.path).resolve().as_uri())
    else:
        say("open it in a browser: it needs no network")
    return 0, asdict(made)


def look_inside(folder: Path) -> None:
    """The page of a run that has just ended; a page is not worth a trained model."""
    try:
        say(f"look inside: open {explore(folder, say=say).path} in a browser")
    except (ValueError, OSError) as error:
        warn(f"WARNING: the explorer page could not be made: {said(error)}")


# ---- the words ------------------------------------------------------------------------------------------------------

def parser() -> argparse.ArgumentParser:
    """What may be typed."""
    top = argparse.ArgumentParser(prog="python -m tinygrad_tfm", description="Train and use transformers built on "
                                  "NumPy and CuPy, with source to be read. (Not part of tinygrad.)")
    top.add_argument("--version", action="version", version=f"tinygrad_tfm {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, about: str, example: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about, description=about, epilog=f"example: {example}",
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
        sub.set_defaults(run=run)
        sub.add_argument("--json", action="store_true", help="print one JSON object as the last line")
        sub.add_argument("--traceback", action="store_true", help="on an error, show where in the program it happened")
        return sub

    t = command("train", run_train, "train a character-level decoder on a text",
                "python -m tinygrad_tfm train --preset lecture --corpus tinyshakespeare --out runs/first")
    t.add_argument("--preset", choices=PRESETS, help="shape and settings to start from (lecture)")
    source = t.add_mutually_exclusive_group()
    source.add_argument("--corpus", help=f"one of {', '.join(CORPORA)} (tinyshakespeare)")
    source.add_argument("--text", metavar="FILE", help="a text file of your own, UTF-8")
    t.add_argument("--out", metavar="DIR", help="run directory (runs/PRESET, numbered)")
    t.add_argument("--resume", action="store_true", help="go on with the run in --out, exactly where it was saved")
    t.add_argument("--stop-at", type=int, metavar="STEP", help="save and stop there, as Ctrl-C would")
    t.add_argument("--device", help="cpu, cuda or auto (cpu)")
    t.add_argument("--precision", choices=PRECISIONS, help="of products on a GPU (the preset's)")
    t.add_argument("--explore", action="store_true", help="make the explorer page when training has ended")
    for name, kind, about in (("steps", int, "training steps"), ("batch", int, "windows per step"),
                              ("context", int, "characters the model sees at once"), ("layers", int, "blocks"),
                              ("heads", int, "attention heads per block"), ("width", int, "numbers per position"),
                              ("dropout", float, "probability of dropping a number"),
                              ("lr", float, "peak learning rate"), ("seed", int, "of all random numbers"),
                              ("workers", int, "that share the batch; as many as cores by default")):
        t.add_argument(f"--{name}", type=kind, help=f"{about} (the preset's)" if name != "workers" else about)

    s = command("sample", run_sample, "let a trained decoder write",
                "python -m tinygrad_tfm sample runs/first --prompt 'ROMEO:' --temperature 0.8 --seed 1")
    s.add_argument("run_folder", metavar="RUN", help="the run's directory, or a checkpoint file")
    s.add_argument("--prompt", default="", help="what the text begins with (a line break)")
    s.add_argument("--count", type=int, default=500, help="characters to write (500)")
    s.add_argument("--temperature", type=float, default=0.8, help="0 always takes the likeliest (0.8)")
    s.add_argument("--top-k", type=int, help="choose among the k likeliest")
    s.add_argument("--top-p", type=float, help="choose among the fewest that reach this probability together")
    s.add_argument("--stop", help="end before this string")
    s.add_argument("--seed", type=int, help="the same seed writes the same text")
    s.add_argument("--device", default="cpu", help="cpu, cuda or auto (cpu)")

    e = command("explore", run_explore, "make a page that runs a trained decoder in a browser, forward and backward",
                "python -m tinygrad_tfm explore runs/first --open")
    e.add_argument("run_folder", metavar="RUN", help="the run's directory, or a checkpoint file")
    e.add_argument("--out", metavar="FILE", help="the page (RUN/explorer.html)")
    e.add_argument("--open", action="store_true", help="show it in the browser")

    command("doctor", doctor.run, "look at this machine: versions, cores, BLAS, GPU; say what to install",
            "python -m tinygrad_tfm doctor")
    b = command("bench", bench.run, "measure this machine: a training step, generation, single operations, the import",
                "python -m tinygrad_tfm bench --suite step")
    bench.add_options(b)
    return top

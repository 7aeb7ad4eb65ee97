"""The command line: train, sample, doctor, bench. Each command says what it will do, does it, and exits honestly.

Exit codes: 0 done, 1 failed on the way (diverged, disk full), 2 wrong input, 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from . import __version__, bench, checkpoint, doctor
from .generate import Sampling, generate_text
from .gpu import resolve_device
from .models.decoder import DecoderConfig
from .runs import Run
from .text import CORPORA, CharTokenizer, any_corpus, corpus, split, text_file
from .train import PRESETS, Diverged, TrainConfig, new_decoder, train

SHAPE = ("context", "layers", "heads", "width", "dropout")          # options that a preset fills if they are not given
SETTINGS = ("steps", "batch", "lr", "seed", "workers")
MAY_CHANGE = ("steps", "workers", "device")                         # when a run is resumed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Wrong input gives one line on stderr."""
    options = parser().parse_args(arguments)
    try:
        code, result = options.run(options)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except (Diverged, OSError, ValueError, ImportError, RuntimeError) as error:
        if options.traceback:
            raise
        print(f"error: {said(error)}", file=sys.stderr)
        wrong_input = isinstance(error, ValueError | ImportError | RuntimeError | FileExistsError | FileNotFoundError
                                 | IsADirectoryError | NotADirectoryError | PermissionError)
        return 2 if wrong_input else 1
    if options.json:
        print(json.dumps(result, ensure_ascii=False))
    return code


def said(error: Exception) -> str:
    """An error in one line."""
    if isinstance(error, OSError) and error.errno and error.strerror and not isinstance(error, FileNotFoundError):
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split())


# ---- train ----------------------------------------------------------------------------------------------------------

def run_train(options: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    """The command `train`."""
    checkpoint.library()                                           # better now than after three minutes of training
    model, tokenizer, text, config, run = (resumed if options.resume else fresh)(options)
    print(f"training on {text.name}; everything goes to {run.folder}")
    result = train(model, tokenizer, text, config, run, resume=options.resume, stop_at=options.stop_at)
    drawn = run.draw()
    print(f"validation loss {result.val_loss:.4f} after {result.steps} steps "
          f"({result.elapsed_s:.0f} s, {result.tokens_per_s:,.0f} tokens/s)"
          + ("" if drawn else "; for a picture of it: pip install 'tinygrad_tfm[plot]'"))
    if result.interrupted:
        print(f"stopped early; go on with: python -m tinygrad_tfm train --resume --out {run.folder}")
    else:
        print(f"try it: python -m tinygrad_tfm sample {run.folder} --prompt 'ROMEO:'")
    return (130 if result.interrupted and not options.stop_at else 0), asdict(result) | {"run": str(run.folder)}


def fresh(options: argparse.Namespace) -> tuple:
    """Model, tokenizer, text, settings and directory of a new run; everything is checked before a file is made."""
    shape, settings = (dict(part) for part in PRESETS[options.preset or "lecture"])
    given = {k: v for k, v in vars(options).items() if v is not None}
    shape |= {k: given[k] for k in SHAPE if k in given}
    settings |= {k: given[k] for k in SETTINGS if k in given}
    config = TrainConfig(**settings, device=resolve_device(options.device or "cpu"))
    DecoderConfig(vocab=1, **shape)
    text = text_file(options.text) if options.text else corpus(options.corpus) if options.corpus else any_corpus(warn)
    tokenizer = CharTokenizer.from_text(text.text)
    split(tokenizer.encode(text.text), shape["context"])
    model = new_decoder(shape, tokenizer, config.seed)
    run = Run(options.out or unused_folder(options.preset or "lecture"))
    run.create()
    return model, tokenizer, text, config, run


def resumed(options: argparse.Namespace) -> tuple:
    """The same of a run that was stopped, its settings as they were."""
    if not options.out:
        raise ValueError("--resume needs --out: the directory of the run to continue")
    fixed = {*SHAPE, *SETTINGS, "text", "corpus", "preset"} - {*MAY_CHANGE}
    given = [f"--{k}" for k in sorted(fixed) if getattr(options, k) is not None]
    if given:
        raise ValueError(f"{', '.join(given)} cannot be changed with --resume: the run goes on with the settings it "
                         f"was started with (only {', '.join('--' + k for k in MAY_CHANGE)} may be given)")
    run = Run(options.out)
    progress = run.load_progress()
    was = progress["provenance"]
    text = text_file(was["source"]) if was["corpus"] == "file" else corpus(was["corpus"])
    known = {f.name for f in fields(TrainConfig)}
    settings = {k: v for k, v in was["train"].items() if k in known}
    settings |= {k: getattr(options, k) for k in MAY_CHANGE if getattr(options, k) is not None}
    config = TrainConfig(**settings | {"device": resolve_device(settings["device"])})
    tokenizer = CharTokenizer(progress["characters"])
    if text.digest != was["digest"]:
        raise ValueError(f"this run was trained on {was['corpus']} ({was['source']}), which is not what is there now")
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
    if options.count < 1:
        raise ValueError(f"--count must be at least 1, not {options.count}")
    tokenizer.encode(options.prompt)
    print(options.prompt, end="", flush=True)
    pieces = []
    for piece in generate_text(model, tokenizer, options.prompt, options.count, sampling, options.seed, options.stop):
        print(piece, end="", flush=True)
        pieces.append(piece)
    print()
    return 0, {"prompt": options.prompt, "text": "".join(pieces), "seed": options.seed}


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
    for name, kind, about in (("steps", int, "training steps"), ("batch", int, "windows per step"),
                              ("context", int, "characters the model sees at once"), ("layers", int, "blocks"),
                              ("heads", int, "attention heads per block"), ("width", int, "numbers per position"),
                              ("dropout", float, "probability of dropping a number"),
                              ("lr", float, "peak learning rate"), ("seed", int, "of all random numbers"),
                              ("workers", int, "threads; as many as cores by default")):
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

    command("doctor", doctor.run, "look at this machine: versions, cores, BLAS, GPU; say what to install",
            "python -m tinygrad_tfm doctor")
    b = command("bench", bench.run, "measure this machine: an op, a training step, the import",
                "python -m tinygrad_tfm bench --suite step")
    bench.add_options(b)
    return top

"""The explorer page: a trained decoder in one file, which runs it in a browser, forward and backward, with no network.

What goes into the file and how large it may be is decided here. What the page says at each station is in
`stations.py`, what the browser does in `page/`: `model.js` computes, `views/` draw.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from .. import checkpoint, functional as F
from ..files import write_whole
from ..models.decoder import Decoder, DecoderConfig
from ..nn import LayerNorm
from ..runs import Run
from ..text import CharTokenizer
from ..train import MOST_KEPT
from .stations import stations

FORMAT = "tinygrad_tfm explorer 1"
LARGEST = 5_000_000                      # bytes of a page: more is slow to open and cannot be sent by mail
MOST_VALUES = 8_000_000                  # numbers that a browser keeps of one text; the page has four such texts
WORDS = 250_000                          # bytes of it set aside for all that is not weights and code
SLOW = 100_000_000                       # products of a whole window that take a browser more than 0.1 s
LINES = {"baseline": 1, "passage": 9, "eval": 300, "sample": 40, "final": 1, "train": 600}      # of metrics at most

VIEWS = ("state", "words", "compute", "paint", "update", "dock", "predict", "guess", "heads", "operands", "attend",
         "forward", "backward", "backward_attention", "map", "panel", "weights", "walk", "lens", "blame", "step",
         "training", "selftest", "figure", "start")        # in the order in which they build on each other

SNAPSHOT = '<script type="text/plain" id="snapshot-{}">{}</script>\n'

# What page/model.js computes. A new option of DecoderConfig is refused until it is listed, and computed there.
COMPUTED: dict[str, Any] = {"positions": {"learned", "sinusoidal", "rotary", "relative", "alibi", "none"},
                            "activation": {"gelu", "gelu_tanh", "relu", "silu"}}
OPTIONS = {"vocab", "context", "layers", "heads", "width", "hidden", "dropout", "bias", "tied", "pre_norm", "positions",
           "activation", "scale_embedding", "std"}


@dataclass(frozen=True)
class Explored:
    """A page that was made: its size, the type its weights are kept in, the checks it can make, and the steps of
    training that it can go back to."""

    path: str
    bytes: int
    parameters: int
    checks: int
    val_loss: float | None
    weights: str
    steps: tuple[int, ...]


def explore(run: str | Path, out: str | Path | None = None, say: Callable[[str], None] = print) -> Explored:
    """Write the page of a run, RUN/explorer.html unless `out` says otherwise. The same run gives the same bytes.

    `run` is a run's directory or a checkpoint file. Raises FileNotFoundError without a checkpoint, ValueError for what
    is no character-level decoder, for an option that the page does not compute, for a model too large for it, and for
    an `out` that names no page.
    """
    source = Path(run)
    model, tokenizer, provenance = checkpoint.load_model(source)
    refuse(model.config)
    path = Path(out) if out is not None else \
        source / "explorer.html" if source.is_dir() else source.with_suffix(".html")
    place(path)
    folder, code = Run(source if source.is_dir() else source.parent), template()
    table, weights = fitting(model, LARGEST - WORDS - 55 * model.config.vocab - len(code.encode()), say)
    kept = unpack(table, weights)
    if not all(map(finite, kept.values())):
        raise ValueError(f"{source} holds weights that are no numbers, or too large for 16 bits: training had "
                         "diverged; explore an earlier checkpoint")
    texts = prompts(tokenizer, folder, provenance)
    proofs = checks(model.config, kept, tokenizer, texts)
    meta = {"format": FORMAT, "config": described(model, tokenizer), "run": facts(provenance, folder),
            "tensors": table, "metrics": curve(folder), "checks": proofs, "prompt": texts[0]["text"],
            "target": proofs[0]["target"], "examples": texts, "worker": products(model.config) > SLOW,
            "stations": stations(model.config)}
    room = LARGEST - len(code.encode()) - length(weights) - len(dumps(meta))
    early = snapshots(folder, model, provenance.get("step", math.inf), room, say)
    meta["snapshots"] = [{"step": step, "tensors": table} for step, (table, _) in early.items()]
    page = filled(code, META=dumps(meta), WEIGHTS=encoded(weights), SNAPSHOTS="".join(
        SNAPSHOT.format(step, encoded(data)) for step, (_, data) in early.items())).encode()
    if len(page) > LARGEST:
        raise ValueError(f"the page would have {len(page) / 1e6:.1f} MB, and {LARGEST / 1e6:.0f} are the most: "
                         "explore a run with a smaller --width or fewer --layers")
    write_whole(path, page)
    return Explored(str(path), len(page), model.size(), len(proofs), provenance.get("val_loss"),
                    table[0]["dtype"], tuple(early))


def place(path: Path) -> None:
    """Raise ValueError where a page cannot or should not be written."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out names the page, a file that ends in .html, not {str(path)!r}")
    if path.is_dir():
        raise ValueError(f"{path} is a directory: give the page another name")
    if not path.parent.is_dir():
        raise ValueError(f"there is no directory {path.parent} to write the page into: make it first")


def refuse(config: DecoderConfig) -> None:
    """Raise ValueError, naming the option, for a decoder that the page cannot run."""
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name not in OPTIONS and value != field.default:
            raise ValueError(f"the explorer page cannot run a decoder with {field.name} = {value!r}: page/model.js "
                             "does not compute it")
        if field.name in COMPUTED and value not in COMPUTED[field.name]:
            raise ValueError(f"the explorer page cannot run a decoder with {field.name} = {value!r}: it computes "
                             f"{', '.join(sorted(COMPUTED[field.name]))}")
    T, hidden = config.context, config.hidden or 4 * config.width
    values = config.layers * T * (14 * config.width + 2 * hidden + 2 * config.heads * T)
    if values > MOST_VALUES:
        raise ValueError(f"the explorer page would have to keep {values:,} numbers of each text, and {MOST_VALUES:,} "
                         "are the most: explore a run with a smaller --context or fewer --layers")


def explorable(model: Decoder) -> bool:
    """Whether a page of this model can be made, as far as that can be said without making it."""
    try:
        refuse(model.config)
    except ValueError:
        return False
    return model.size() <= MOST_KEPT


def products(config: DecoderConfig) -> int:
    """How many products a whole window takes."""
    c, hidden = config, config.hidden or 4 * config.width
    return c.context * (c.layers * c.width * (4 * c.width + 2 * hidden + c.context) + c.vocab * c.width)


# ---- weights as text ------------------------------------------------------------------------------------------------

def pack(arrays: dict[str, np.ndarray], kind: str, untrained: set[str]) -> tuple[list[dict[str, Any]], bytes]:
    """A table that says where each array lies, and the bytes: little-endian, row by row, from multiples of 4.

    Matrices are float16, or int8 behind one float32 scale a row; vectors are float16, untrained ones (slopes, rates)
    float32.
    """
    table, data = [], bytearray()
    for name, a in arrays.items():
        data += bytes(-len(data) % 4)
        stored = kind if a.ndim == 2 else "float32" if name in untrained else "float16"
        table.append({"name": name, "shape": list(a.shape), "offset": len(data), "dtype": stored,
                      "trained": name not in untrained})
        if stored == "int8":
            scale = (np.maximum(abs(a).max(axis=1, keepdims=True), 1e-12) / 127).astype("<f4")
            data += scale.tobytes()
            a = np.round(a / scale)
        with np.errstate(over="ignore"):                           # too large for 16 bits is told by who asked
            data += a.astype({"int8": "i1", "float16": "<f2", "float32": "<f4"}[stored]).tobytes()
    return table, bytes(data)


def unpack(table: list[dict[str, Any]], data: bytes) -> dict[str, np.ndarray]:
    """What `pack` wrote, as float64: the very numbers the page computes with."""
    def read(dtype: str, count: int, offset: int) -> np.ndarray:
        return np.frombuffer(data, dtype, count, offset).astype(np.float64)
    arrays = {}
    for entry in table:
        shape, offset, n = entry["shape"], entry["offset"], int(np.prod(entry["shape"]))
        if entry["dtype"] == "int8":
            scale = read("<f4", shape[0], offset)[:, None]
            arrays[entry["name"]] = read("i1", n, offset + 4 * shape[0]).reshape(shape) * scale
        else:
            arrays[entry["name"]] = read({"float16": "<f2", "float32": "<f4"}[entry["dtype"]], n, offset).reshape(shape)
    return arrays


def fitting(model: Decoder, room: int, say: Callable[[str], None]) -> tuple[list[dict[str, Any]], bytes]:
    """The weights in as many bits as there is room for, 16 or 8; fewer is said aloud. Raises ValueError if neither."""
    for kind in ("float16", "int8"):
        table, data = pack(model.state_dict(), kind, fixed(model))
        if length(data) <= room:
            if kind == "int8":
                say(f"WARNING: {model.size():,} parameters do not fit in 16 bits: the page keeps them in 8, and its "
                    "logits may be some tenths away from this model's")
            return table, data
    raise ValueError(f"{model.size():,} parameters do not fit in a page of {LARGEST / 1e6:.0f} MB: explore a smaller "
                     "run, such as train --preset nanogpt-cpu makes, or one with a smaller --width or fewer --layers")


def snapshots(run: Run, model: Decoder, end: float, room: int, say: Callable[[str], None]) -> dict[int, tuple]:
    """The run's weights of before step `end` in 8 bits, by step, as many as there is room for; others are named."""
    found: dict[int, tuple] = {}
    shapes = {name: x.shape for name, x in model.named_tensors()}
    for step, path in run.early().items():
        if step >= end:
            break
        try:
            arrays = checkpoint.read(path)[0]
        except ValueError as error:
            say(f"the weights of step {step} are left out: {error}")
            continue
        if {name: a.shape for name, a in arrays.items()} != shapes or not all(map(finite, arrays.values())):
            continue                                               # another model's, or of one that had diverged
        table, data = pack(arrays, "int8", fixed(model))
        room -= length(data) + len(dumps(table)) + len(SNAPSHOT) + 50
        if room < 0:
            say(f"the weights of step {step} are left out: the page would have more than {LARGEST / 1e6:.0f} MB")
            break
        found[step] = table, data
    return found


def finite(a: np.ndarray) -> bool:
    """Whether all are numbers."""
    return bool(np.isfinite(a).all())


def fixed(model: Decoder) -> set[str]:
    """The names of the tensors that are not trained: tables, rates, slopes."""
    return {name for name, x in model.named_tensors() if not x.requires_grad}


def length(data: bytes) -> int:
    """Characters of these bytes as base64."""
    return -(-len(data) // 3) * 4


def encoded(data: bytes) -> str:
    """Bytes as base64."""
    return base64.b64encode(data).decode()


# ---- what the page is told ------------------------------------------------------------------------------------------

def described(model: Decoder, tokenizer: CharTokenizer) -> dict[str, Any]:
    """The shape by the names of DecoderConfig, with what follows from it and the alphabet; an id is a place in it."""
    config, norm = model.config, next(m for _, m in model.named_modules() if isinstance(m, LayerNorm))
    return asdict(config) | {"hidden": config.hidden or 4 * config.width, "eps": norm.eps, "params": model.size(),
                             "characters": list(tokenizer.characters)}


def facts(provenance: dict[str, Any], run: Run) -> dict[str, Any]:
    """Where the weights come from, without anything that only this machine knows."""
    settings, end = provenance.get("train", {}), provenance.get("step", math.inf)
    evals = [line for line in run.history("eval") if line["step"] <= end]
    name = provenance.get("corpus", "")
    return {"corpus": provenance.get("source", "") if name == "file" else name} | {
        k: settings[k] for k in ("steps", "batch", "lr", "seed") if k in settings} | {
        k: provenance[k] for k in ("step", "val_loss") if k in provenance} | (
        {"seconds": round(evals[-1]["elapsed_s"])} if evals else {})


def curve(run: Run) -> list[dict[str, Any]]:
    """The run's metrics, of each kind as many lines as one can look at, the first and the last among them."""
    def thinned(lines: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
        return lines[:-1][::-(-len(lines) // most) or 1] + lines[-1:]
    return [line for kind, most in LINES.items() for line in thinned(run.history(kind), most)]


SHAKESPEARE = (("Juliet's window", "ROMEO:\nBut soft, what light through yonder window break", "A line the model has "
                "read"),
               ("a speaker's name", "KING HENRY VI:\nThe king is dead.\n\nQUEEN MARGARE", "Names in capitals, then a "
                "colon"),
               ("th th th", "the thing that they thought through th", "One opening, many words"))


def prompts(tokenizer: CharTokenizer, run: Run, provenance: dict[str, Any]) -> list[dict[str, str]]:
    """Texts to begin with, in the model's own alphabet: Shakespeare's for one that read him, else its own last sample;
    nonsense said twice, and a single character."""
    known, found = set(tokenizer.characters), []
    if "shakespeare" in provenance.get("corpus", ""):
        found = [dict(name=name, text=text, why=why) for name, text, why in SHAKESPEARE if set(text) <= known]
    written = [line["text"] for line in run.history("sample")[-1:] if line["text"].strip()]
    found += [dict(name="its own words", text=text.lstrip()[:48], why="What it wrote itself when training ended")
              for text in written]
    letters = [c for c in tokenizer.characters if c.isalpha() and c.islower()] or list(tokenizer.characters)
    nonsense = "".join(letters[(7 * i + 3) % len(letters)] for i in range(9))
    found += [dict(name="a repetition", text=nonsense * 2 + nonsense[:-2],
                   why="Nonsense said twice and more: does a head find where it stood before?"),
              dict(name="one character", text=letters[len(letters) // 2], why="The least there is to go on")]
    return found


def checks(config: DecoderConfig, weights: dict[str, np.ndarray], tokenizer: CharTokenizer,
           texts: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Logits, loss and the norm of every gradient by this library in float64, for texts of 1 to `context` characters.

    From the weights as the page has them: only arithmetic can differ.
    """
    model = Decoder(replace(config, dropout=0.0)).to(dtype=np.float64).eval()
    model.load_state_dict(weights)
    stock = (" ".join(text["text"] for text in texts) + tokenizer.characters * config.context)[:4 * config.context]
    stock = "".join(c for c in stock if c in tokenizer.characters) or tokenizer.characters
    found, T = [], config.context
    for size, start in ((min(T, len(texts[0]["text"])), 0), (1, 2), (max(1, T // 3), 5), (T, 1)):
        text = (stock * 2)[start:start + size]
        model.zero_grad()
        logits = model(tokenizer.encode(text)[None])
        order = np.argsort(-logits.data[0, -1], kind="stable")
        target = int(order[min(1, len(order) - 1)])                # likely, and not what it would say itself
        loss = F.cross_entropy(logits[:, -1], targets=np.array([target]))
        loss.backward()
        norms = {name: np.linalg.norm(x.grad) for name, x in model.named_parameters() if x.grad is not None}
        found.append({"text": text, "target": tokenizer.characters[target], "loss": round(float(loss.data), 9),
                      "logits": [round(float(z), 6) for z in logits.data[0, -1]],
                      "grad_norm": {name: float(f"{norm:.6e}") for name, norm in norms.items()}})
    return found


# ---- the file -------------------------------------------------------------------------------------------------------

def template() -> str:
    """page.html with style and code in place. model.js keeps its last line, which hands out what it offers."""
    page = resources.files(__package__) / "page"
    read = lambda *names: page.joinpath(*names).read_text(encoding="utf-8")
    model = f"const Model = (module => {{\n{read('model.js')}\nreturn module.exports;\n}})({{}});"
    views = "\n".join(read("views", f"{name}.js") for name in VIEWS)
    return filled(read("page.html"), STYLE=read("style.css"), MODEL=model, VIEWS=f"(() => {{\n{views}\n}})();")


def filled(page: str, **parts: str) -> str:
    """The page with {{NAME}} replaced; what is put in is not looked at again, whatever it says."""
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: parts.get(mark[1], mark[0]), page)


def dumps(value: Any) -> str:
    """JSON that can stand in HTML: no character outside ASCII, and none that could end or open a tag."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c").replace("&", "\\u0026")

"""Weights and training states on disk, in safetensors files that other programs can read.

A file is written beside its place and then moved there, so a crash or a full disk leaves the last good one. Everything
needed to use a model is inside: its shape and alphabet stand in the metadata. Nothing here knows how training goes.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .files import write_whole
from .models.decoder import Decoder, DecoderConfig
from .text import CharTokenizer

FORMAT = "tinygrad_tfm 1"


def library() -> Any:
    """The safetensors package, or ImportError naming the extra that brings it."""
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError("checkpoints need safetensors: pip install 'tinygrad_tfm[weights]'") from error
    return safetensors


def write(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, Any]) -> None:
    """Write arrays and JSON-able metadata, all or nothing. Raises OSError, e.g. on a full disk."""
    words = {name: json.dumps(value, default=int) for name, value in metadata.items()}
    data = library().numpy.save({name: np.asarray(a, order="C") for name, a in arrays.items()},
                                metadata={"format": FORMAT} | words)
    write_whole(path, data)


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and metadata of a file that `write` wrote.

    Raises FileNotFoundError if there is none, ValueError if it is cut short, damaged or another program's.
    """
    safetensors = library()
    if not Path(path).is_file():
        raise FileNotFoundError(f"no checkpoint at {path}: train first, `python -m tinygrad_tfm train`")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is no readable checkpoint: it was cut short, damaged, or is another kind of file "
                         f"({error})") from error
    if metadata.pop("format", None) != FORMAT:
        raise ValueError(f"{path} is a safetensors file, but not a checkpoint of this program")
    return arrays, {k: json.loads(v) for k, v in metadata.items()}


def describe(model: Decoder, tokenizer: CharTokenizer, provenance: dict[str, Any]) -> dict[str, Any]:
    """The metadata that make weights usable: the model's shape, its alphabet, and where they come from."""
    return {"config": asdict(model.config), "characters": tokenizer.characters, "provenance": provenance}


def save_model(path: Path, model: Decoder, tokenizer: CharTokenizer, provenance: dict[str, Any]) -> None:
    """Write a decoder's weights with everything needed to use them again."""
    write(path, model.state_dict(), describe(model, tokenizer, provenance))


def load_model(path: Path, device: str = "cpu") -> tuple[Decoder, CharTokenizer, dict[str, Any]]:
    """The decoder, tokenizer and provenance that `save_model` wrote. `path` may be the run directory.

    Raises what `read` raises, and ValueError if weights and shape do not belong together.
    """
    path = Path(path)
    arrays, metadata = read(path / "checkpoint.safetensors" if path.is_dir() else path)
    try:
        config = DecoderConfig(**metadata["config"])
        tokenizer, provenance = CharTokenizer(metadata["characters"]), metadata["provenance"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} lacks what makes its weights usable, or has more than this version knows: "
                         f"{error}") from error
    model = Decoder(config)
    model.load_state_dict(arrays)
    return model.to(device).eval(), tokenizer, provenance

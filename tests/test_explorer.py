"""The explorer page as a file: what is in it, that it is the run's and nothing else, and what is refused.

What it computes is in `test_explorer_model.py`, how it looks and acts in `test_explorer_page.py`.
"""

import base64
import getpass
import json
import re
import time
import tomllib
from html.parser import HTMLParser
from inspect import signature
from pathlib import Path

import numpy as np
import pytest

import tinygrad_tfm as tg
from tinygrad_tfm import checkpoint, cli
from tinygrad_tfm.inspect import explore, explorer, stations
from tinygrad_tfm.models import Decoder, DecoderConfig, decoder
from tinygrad_tfm.ops import elementwise, network
from tinygrad_tfm.runs import Run
from tinygrad_tfm.text import CharTokenizer, Corpus
from tinygrad_tfm.train import MOST_KEPT, TrainConfig, new_decoder, passages, train

PACKAGE = Path(tg.__file__).parent
SHAPE = dict(context=16, layers=2, heads=2, width=16)
EVIL = ("</script><script>alert(1)</script>\n<img src=x onerror=alert(2)>\n"
        "<!-- \u202e evil \u2066 \u200f {{WEIGHTS}} &lt;\n")
LETTERS = "\n abcdefghijklmnopqrstuvwxyz"


def run_of(folder, text, steps=10, **settings):
    """A run trained for a moment."""
    tokenizer, run = CharTokenizer.from_text(text), Run(folder)
    run.create()
    config = TrainConfig(**{"steps": steps, "batch": 4, "warmup": 2, "eval_every": 10, "workers": 1} | settings)
    corpus = Corpus("file", text, "/home/me/secret/toy.txt")
    train(new_decoder(SHAPE, tokenizer, config.seed), tokenizer, corpus, config, run, say=lambda line: None)
    return folder


def saved(path, alphabet=LETTERS, **shape):
    """A checkpoint of a decoder that was never trained."""
    tg.manual_seed(1)
    model = Decoder(DecoderConfig(vocab=len(alphabet), **SHAPE | shape))
    checkpoint.save_model(path, model, CharTokenizer(alphabet), {})
    return model


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A run on a text that tries to be a program, and its page."""
    folder = run_of(tmp_path_factory.mktemp("runs") / "toy", EVIL * 30)
    return folder, Path(explore(folder, say=lambda line: None).path).read_bytes()


class Scripts(HTMLParser):
    """The scripts of a page, as a browser would find them, and the names of all its elements."""

    def __init__(self, page):
        super().__init__()
        self.found, self.tags = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "script":
            self.found.append([dict(attributes), ""])

    def handle_data(self, data):
        if self.cdata_elem == "script":
            self.found[-1][1] += data


def part(page, name):
    """The content of the script with this id."""
    return next(text for attributes, text in Scripts(page.decode()).found if attributes.get("id") == name)


def test_a_page_is_one_small_file_that_asks_for_nothing(toy):
    page = toy[1].decode()
    assert len(toy[1]) < 5_000_000
    frame = page.replace(part(toy[1], "meta"), "")                       # what the model wrote is no markup
    assert "default-src 'none'" in frame
    asks = r"(src|href)\s*=\s*[\"']?(https?:)?//|url\(\s*[\"']?https?:|@import|\bfetch\(|XMLHttpRequest|importScripts"
    assert not re.search(asks, frame), re.search(asks, frame)
    assert not re.search(r"\{\{\w+\}\}", frame)                          # everything has been put in its place


@pytest.mark.parametrize("bad", ['<img src="https://x.y/z.png">', "url( 'http://x.y')", '@import "x.css"', "fetch('x')",
                                 "{{META}}"])
def test_what_would_ask_for_something_is_noticed(bad, toy):
    with pytest.raises(AssertionError):
        test_a_page_is_one_small_file_that_asks_for_nothing((toy[0], toy[1].replace(b"</body>", bad.encode())))


def test_the_weights_are_the_checkpoints_in_sixteen_bits(toy):
    folder, page = toy
    arrays, _ = checkpoint.read(folder / "checkpoint.safetensors")
    meta, data = json.loads(part(page, "meta")), base64.b64decode(part(page, "weights"))
    found = explorer.unpack(meta["tensors"], data)
    assert found.keys() == arrays.keys() and meta["config"]["params"] == sum(a.size for a in arrays.values())
    for name, a in arrays.items():
        np.testing.assert_array_equal(found[name], a.astype(np.float16).astype(np.float64))
    assert all(entry["offset"] % 4 == 0 and entry["trained"] for entry in meta["tensors"])


def test_the_same_run_gives_the_same_bytes_wherever_it_lies(toy, tmp_path):
    folder, page = toy
    moved = folder.rename(tmp_path / "elsewhere")
    same = Path(explore(moved, tmp_path / "again.html", say=lambda line: None).path).read_bytes() == page
    assert same                                                          # pytest would look for hours where they differ
    moved.rename(folder)
    words = re.sub(rb"\s", b"", page)
    for private in (str(folder.parent), "/home/me", getpass.getuser() + "@"):
        assert private.encode() not in words
    assert json.loads(part(page, "meta"))["run"]["corpus"] == "toy.txt"


def test_a_text_that_tries_to_be_a_program_stays_a_text(toy, tmp_path):
    folder, page = toy
    saved(tmp_path / "plain.safetensors")
    plain = Scripts(Path(explore(tmp_path / "plain.safetensors").path).read_text("utf-8"))
    snapshots = len(json.loads(part(page, "meta"))["snapshots"])
    assert [tag for tag in Scripts(page.decode()).tags if tag != "script"] == [t for t in plain.tags if t != "script"]
    assert Scripts(page.decode()).tags.count("script") == plain.tags.count("script") + snapshots
    meta = json.loads(part(page, "meta"))
    assert set(meta["config"]["characters"]) == set(EVIL)
    assert [line["text"] for line in meta["metrics"] if line["kind"] == "passage"] == passages(EVIL * 30)
    assert part(page, "meta").isascii() and not re.search(r"[<>&]", part(page, "meta").replace(">", ""))
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200e\u200f]", page.decode())


def naive(page, **parts):
    """The mistake that `filled` avoids: what has been put in is looked at again."""
    for name, text in parts.items():
        page = page.replace("{{" + name + "}}", text)
    return page


@pytest.mark.parametrize("name, broken, check", [
    ("dumps", lambda value: json.dumps(value), test_a_text_that_tries_to_be_a_program_stays_a_text),
    ("dumps", lambda value: json.dumps(value, ensure_ascii=False).replace("<", "\\u003c").replace("&", "\\u0026"),
     test_a_text_that_tries_to_be_a_program_stays_a_text),
    ("filled", naive, test_a_text_that_tries_to_be_a_program_stays_a_text),
    ("facts", lambda provenance, run: {"corpus": "toy.txt", "folder": str(run.folder)},
     test_the_same_run_gives_the_same_bytes_wherever_it_lies),
    ("facts", lambda provenance, run: {"corpus": "toy.txt", "when": time.perf_counter()},
     test_the_same_run_gives_the_same_bytes_wherever_it_lies),
    ("encoded", lambda data: base64.b64encode(data[::-1]).decode(),
     test_the_weights_are_the_checkpoints_in_sixteen_bits)])
def test_an_exporter_that_is_broken_is_noticed(name, broken, check, toy, tmp_path, monkeypatch):
    monkeypatch.setattr(explorer, name, broken)
    page = Path(explore(toy[0], tmp_path / "page.html", say=lambda line: None).path).read_bytes()
    given = {"tmp_path": tmp_path} if "tmp_path" in signature(check).parameters else {}
    try:
        with pytest.raises((AssertionError, ValueError, StopIteration)):
            check((toy[0], page), **given)
    finally:
        if not toy[0].exists():
            (tmp_path / "elsewhere").rename(toy[0])


def test_meta_tells_all_that_the_page_wants_to_know(toy):
    meta = json.loads(part(toy[1], "meta"))
    assert meta["format"] == "tinygrad_tfm explorer 1" and meta["worker"] is False
    assert meta["config"] | SHAPE == meta["config"] and meta["config"]["hidden"] == 64 and meta["config"]["eps"] == 1e-5
    assert {"steps": 10, "batch": 4, "seed": 1337, "step": 10} == {
        k: meta["run"][k] for k in ("steps", "batch", "seed", "step")}
    kinds = [line["kind"] for line in meta["metrics"]]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == dict(
        baseline=1, passage=3, eval=1, sample=1, final=1, train=10)
    assert len(meta["checks"]) == 4 and {len(check["text"]) for check in meta["checks"]} >= {1, 16}
    known = set(meta["config"]["characters"])
    assert all(set(text["text"]) <= known for text in meta["examples"] + meta["checks"]) and meta["target"] in known


def test_a_long_curve_is_thinned_and_keeps_its_ends(tmp_path):
    run = Run(tmp_path)
    for step in range(2000):
        run.log("train", step=step, train_loss=1.0)
        if step % 10 == 0:
            run.log("eval", step=step, val_loss=1.0)
            run.log("sample", step=step, text="x" * 300)
    steps = {kind: [line["step"] for line in explorer.curve(run) if line["kind"] == kind] for kind in explorer.LINES}
    assert steps["eval"] == list(range(0, 2000, 10))
    for kind, last in (("train", 1999), ("sample", 1990)):
        assert explorer.LINES[kind] * 0.8 <= len(steps[kind]) <= explorer.LINES[kind] + 1
        assert steps[kind] == sorted(steps[kind]) and (steps[kind][0], steps[kind][-1]) == (0, last)
    assert explorer.curve(Run(tmp_path / "none")) == []


@pytest.mark.parametrize("out, words", [
    ("toy.safetensors", "a file that ends in .html, not"), ("there.html", "is a directory: give the page another name"),
    ("nowhere/page.html", "there is no directory .*nowhere to write the page into")])
def test_a_page_is_written_over_nothing_else(out, words, tmp_path):
    saved(tmp_path / "toy.safetensors")
    before = (tmp_path / "toy.safetensors").read_bytes()
    (tmp_path / "there.html").mkdir()
    with pytest.raises(ValueError, match=words):
        explore(tmp_path / "toy.safetensors", tmp_path / out)
    same = (tmp_path / "toy.safetensors").read_bytes() == before
    assert same


def test_an_alphabet_that_fills_the_page_is_refused(tmp_path, monkeypatch):
    saved(tmp_path / "toy.safetensors", alphabet="".join(map(chr, range(0x4e00, 0x4e00 + 2000))), layers=1)
    size = explore(tmp_path / "toy.safetensors").bytes
    monkeypatch.setattr(explorer, "LARGEST", size)
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="do not fit|the page would have"):
        patch.setattr(explorer, "WORDS", -10**6)                                # an estimate that is far too small
        patch.setattr(explorer, "LARGEST", size - 1)
        explore(tmp_path / "toy.safetensors")


# ---- early weights --------------------------------------------------------------------------------------------------

def test_training_keeps_early_weights_and_the_page_can_go_back_to_them(toy):
    folder, page = toy
    assert list(Run(folder).early()) == [1, 3]
    meta = json.loads(part(page, "meta"))
    assert [snapshot["step"] for snapshot in meta["snapshots"]] == [1, 3]
    for snapshot in meta["snapshots"]:
        arrays, told = checkpoint.read(folder / f"step-{snapshot['step']}.safetensors")
        found = explorer.unpack(snapshot["tensors"], base64.b64decode(part(page, f"snapshot-{snapshot['step']}")))
        assert told["provenance"]["step"] == snapshot["step"]
        for name, a in arrays.items():
            rounding = abs(a).max(axis=-1, keepdims=True) / 127 / 2 * 1.001 if a.ndim == 2 else 1e-3
            assert (abs(found[name] - a) <= rounding).all(), name


def test_early_weights_of_steps_done_again_are_forgotten(tmp_path):
    run = Run(tmp_path)
    for step in (2, 20, 200):
        saved(run.folder / f"step-{step}.safetensors")
    run.forget_after(20)
    assert list(run.early()) == [2, 20]


def test_a_page_of_an_early_step_goes_back_to_steps_before_it_alone(tmp_path):
    run, heard = Run(tmp_path), []
    for step in (2, 3, 20):
        model = saved(run.folder / f"step-{step}.safetensors")
    (run.folder / "step-3.safetensors").write_bytes(b"cut short")
    run.metrics.write_text('{"kind": "eval", "step": 2, "elapsed_s": 1, "train_loss": 3, "val_loss": 3}\n"no line"\n'
                           '{"kind": "eval", "step": 99, "elapsed_s": 50, "train_loss": 3, "val_loss": 3}\n')
    checkpoint.save_model(run.weights, model, CharTokenizer(LETTERS), {"step": 20})
    made = explore(tmp_path, say=heard.append)
    assert made.steps == (2,) and "step 3 are left out" in heard[0]
    assert json.loads(part(Path(made.path).read_bytes(), "meta"))["run"]["seconds"] == 1


def test_early_weights_have_a_page_of_their_own(tmp_path):
    saved(tmp_path / "step-2.safetensors")
    assert explore(tmp_path / "step-2.safetensors").path.endswith("step-2.html")


def test_what_there_is_no_room_for_is_left_out_with_a_word(toy, tmp_path, monkeypatch):
    folder, page = toy
    heard = []
    monkeypatch.setattr(explorer, "LARGEST", len(page) - 1)
    monkeypatch.setattr(explorer, "WORDS", 0)
    made = explore(folder, tmp_path / "page.html", heard.append)
    assert made.steps == (1,) and made.bytes < len(page) and len(heard) == 1 and "step 3" in heard[0]


# ---- what is refused ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("option, value", [("positions", "spiral"), ("activation", "tanh")])
def test_an_option_that_the_page_does_not_compute_is_refused_by_name(option, value, tmp_path, monkeypatch):
    table = {"positions": decoder.POSITIONS, "activation": decoder.ACTIVATIONS}[option]
    monkeypatch.setitem(table, value, next(iter(table.values())))
    saved(tmp_path / "model.safetensors", **{option: value})
    with pytest.raises(ValueError, match=f"{option} = '{value}'.*computes .*(learned|gelu)"):
        explore(tmp_path / "model.safetensors")
    assert not (tmp_path / "model.html").exists()


def test_an_option_that_is_new_is_refused_unless_it_is_left_alone(monkeypatch):
    monkeypatch.setattr(explorer, "OPTIONS", explorer.OPTIONS - {"dropout"})
    explorer.refuse(DecoderConfig(vocab=9, **SHAPE))
    with pytest.raises(ValueError, match="dropout = 0.1"):
        explorer.refuse(DecoderConfig(vocab=9, dropout=0.1, **SHAPE))


def test_every_option_there_is_is_known_to_be_computed():
    assert explorer.OPTIONS == DecoderConfig.__dataclass_fields__.keys()
    assert explorer.COMPUTED == {"positions": set(decoder.POSITIONS), "activation": set(decoder.ACTIVATIONS)}


def test_without_a_checkpoint_and_with_anothers_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="train first"):
        explore(tmp_path)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"what is this?")
    with pytest.raises(ValueError, match="no readable checkpoint"):
        explore(tmp_path)
    checkpoint.write(tmp_path / "checkpoint.safetensors", {"w": np.ones(3)}, {"config": {"vocab": 3}})
    with pytest.raises(ValueError, match="lacks what makes its weights usable"):
        explore(tmp_path)


def test_a_model_too_large_is_kept_in_eight_bits_then_refused(tmp_path, monkeypatch):
    model, heard = saved(tmp_path / "model.safetensors", width=128), []
    code = len(explorer.template().encode())
    monkeypatch.setattr(explorer, "WORDS", 20_000)
    monkeypatch.setattr(explorer, "LARGEST", code + 20_000 + 2 * model.size())
    made = explore(tmp_path / "model.safetensors", say=heard.append)
    assert made.weights == "int8" and made.bytes < explorer.LARGEST
    assert heard[0].startswith("WARNING") and "keeps them in 8" in heard[0]
    monkeypatch.setattr(explorer, "LARGEST", code + 20_000 + model.size())
    with pytest.raises(ValueError, match="--width or fewer --layers"):
        explore(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="--context"):
        explorer.refuse(DecoderConfig(vocab=9, **SHAPE | dict(context=4096)))


def test_a_model_that_training_calls_explorable_fits():
    room = explorer.LARGEST - explorer.WORDS - len(explorer.template().encode())
    assert MOST_KEPT * 4 / 3 * 1.01 < room                              # one byte each, as base64, with their scales


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    model = saved(tmp_path / "model.safetensors")
    for bad in (np.nan, 1e6):
        model.embed.weight.data[3, 3] = bad
        checkpoint.save_model(tmp_path / "model.safetensors", model, CharTokenizer(LETTERS), {})
        with pytest.raises(ValueError, match="diverged"):
            explore(tmp_path / "model.safetensors")


@pytest.mark.parametrize("shape, slow", [(dict(context=64, layers=4, width=128), False),
                                         (dict(context=64, layers=6, width=192), True)])
def test_a_model_whose_window_takes_long_works_beside_the_page(shape, slow):
    assert (explorer.products(DecoderConfig(vocab=65, heads=4, **shape)) > explorer.SLOW) == slow


# ---- what stations say ----------------------------------------------------------------------------------------------

CONFIGS = [DecoderConfig(vocab=9, activation=activation, positions=positions, tied=tied, bias=tied, pre_norm=not tied,
                         **SHAPE)
           for activation, positions, tied in [("gelu", "learned", True), ("gelu_tanh", "rotary", False),
                                               ("relu", "alibi", True), ("silu", "relative", False)]]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.activation)
def test_what_a_station_says_stands_in_the_source(config):
    for kind, said in stations.stations(config).items():
        source = (PACKAGE / said["file"]).read_text("utf-8")
        assert re.match(r"\s*(def|class) ", source.splitlines()[said["line"] - 1]), kind
        whole = " ".join(path.read_text("utf-8") for folder in ("ops", "nn", "models") for path in
                         (PACKAGE / folder).glob("*.py"))
        for line in (said["code"] + "\n" + said["back_code"]).splitlines():
            assert line.removeprefix("lambda g: ").removeprefix("return y") in whole, (kind, line)
        assert said["equation"] and said["title"] and said["why"] and said["back_why"], kind
        assert (said["back_equation"] and said["back_code"]) or kind == "rotate"
        assert not re.search(r"\{(?![qkvrfg]:[^{}]+\})", said["why"] + said["back_why"])


def test_a_rule_that_says_something_else_is_noticed(monkeypatch):
    with pytest.raises(ValueError, match="layer_norm no longer says"):
        stations.said(network.layer_norm, "y = x")
    with pytest.raises(ValueError, match="no longer one line that begins 'rstd = 2'"):
        stations.lines(network.layer_norm, "centred =", "rstd = 2")
    with pytest.raises(ValueError, match="one line"):
        stations.lines(network.layer_norm, "return")                     # it has two
    monkeypatch.setattr(elementwise.gelu, "__doc__", "y = x.")
    with pytest.raises(ValueError, match="gelu"):
        stations.stations(CONFIGS[0])


# ---- the command ----------------------------------------------------------------------------------------------------

def test_the_command_makes_the_page_and_says_what_it_is(toy, capsys, monkeypatch):
    folder, page = toy
    opened = []
    monkeypatch.setattr(cli.webbrowser, "open", opened.append)
    assert cli.main(["explore", str(folder), "--open", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result | {"bytes": len(page), "checks": 4, "steps": [1, 3], "weights": "float16"} == result
    assert result["path"] == str(folder / "explorer.html") and opened == [(folder / "explorer.html").as_uri()]
    assert result["val_loss"] > 0 and result["parameters"] > 1000
    assert cli.main(["explore", str(folder / "nowhere")]) == 2
    assert "train first" in capsys.readouterr().err


def test_training_names_the_command_or_makes_the_page_itself(tmp_path, capsys, monkeypatch):
    (tmp_path / "toy.txt").write_text(EVIL * 30, encoding="utf-8")
    monkeypatch.setattr(Run, "draw", lambda run: run.picture)
    tiny = ["--text", str(tmp_path / "toy.txt"), "--steps", "2", "--batch", "2", "--context", "8", "--layers", "1",
            "--heads", "1", "--width", "8", "--workers", "1"]
    assert cli.main(["train", "--out", str(tmp_path / "a"), *tiny]) == 0
    assert f"python -m tinygrad_tfm explore {tmp_path / 'a'} --open" in capsys.readouterr().out
    assert cli.main(["train", "--out", str(tmp_path / "b"), "--explore", *tiny]) == 0
    assert "explore " not in capsys.readouterr().out and (tmp_path / "b/explorer.html").stat().st_size > 100_000
    monkeypatch.setattr(explorer, "MOST_VALUES", 1000)                   # what no page can hold is said before training
    assert cli.main(["train", "--out", str(tmp_path / "c"), "--explore", *tiny]) == 2
    assert "would have to keep" in capsys.readouterr().err and not (tmp_path / "c").exists()
    assert cli.main(["train", "--out", str(tmp_path / "c"), *tiny]) == 0
    assert "explore" not in capsys.readouterr().out                      # and is not recommended after it
    monkeypatch.setattr(explorer, "LARGEST", 1000)
    cli.look_inside(tmp_path / "b")                                      # a page is not worth a trained model
    assert "WARNING: the explorer page could not be made" in capsys.readouterr().err


def test_the_files_of_the_page_are_shipped_and_used():
    settings = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text("utf-8"))
    shipped = {path for pattern in settings["tool"]["setuptools"]["package-data"]["tinygrad_tfm"]
               for path in PACKAGE.glob(pattern)}
    files = {path for path in (PACKAGE / "inspect/page").rglob("*") if path.is_file()}
    assert files <= shipped
    assert {path.stem for path in files if path.parent.name == "views"} == set(explorer.VIEWS)

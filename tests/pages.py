"""Explorer pages to test, and the browser that opens them: headless, offline, and listened to."""

import os
import re
import shutil
import time
from contextlib import contextmanager

import pytest
from test_train import start

from tinygrad_tfm import checkpoint
from tinygrad_tfm.inspect.explorer import explore
from tinygrad_tfm.models.decoder import Decoder, DecoderConfig
from tinygrad_tfm.random import manual_seed
from tinygrad_tfm.text import CharTokenizer
from tinygrad_tfm.train import train

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
             "--disable-sync", "--no-first-run"]
PHONE = dict(viewport=dict(width=390, height=844), device_scale_factor=2, is_mobile=True, has_touch=True)
DESK = dict(viewport=dict(width=1280, height=860))

# A text as bad as texts can be: what ends a script, what would run, what turns the writing around, what has no shape.
TURNED, NOTHING, ACCENT = "\u202e", "\u200b", "\u0301"
AWKWARD = "".join(f"{n} times {n} is {n * n}. </script><img src=x onerror=window.struck=1> {TURNED}{NOTHING}e{ACCENT}\n"
                  for n in range(90))

# Shapes of which each takes another way through model.js and the walks. The last word of a name says what is odd.
SMALL = dict(context=16, layers=2, heads=2, width=16)
SHAPES = {
    "as GPT": SMALL, "with biases": SMALL | dict(bias=True, activation="gelu_tanh"),
    "of one layer and head": SMALL | dict(layers=1, heads=1, hidden=24, activation="silu"),
    "post-norm": SMALL | dict(pre_norm=False, activation="relu", bias=True),
    "untied": SMALL | dict(tied=False, positions="sinusoidal", scale_embedding=True),
    "rotary": SMALL | dict(positions="rotary"), "relative": SMALL | dict(positions="relative"),
    "alibi": SMALL | dict(positions="alibi", pre_norm=False), "without positions": SMALL | dict(positions="none"),
}


def trained_page(folder):
    """The page of a small decoder, trained for seconds on the awkward text."""
    run = start(folder / "run", steps=90, text=AWKWARD, shape=dict(context=32, layers=2, heads=2, width=24),
                lr=1e-2, eval_every=30, eval_windows=32)
    train(*run, say=lambda line: None)
    return explore(folder / "run", folder / "page.html", say=lambda line: None).path


def untrained_page(folder, shape, text="a quick brown fox jumps over lazy dogs.\n"):
    """The page of a decoder of any shape, with first weights made large enough that every part matters."""
    tokenizer = CharTokenizer.from_text(text)
    manual_seed(7)
    model = Decoder(DecoderConfig(**{"vocab": tokenizer.size, "std": 0.15, **shape}))
    for name, x in model.named_parameters():
        if name.endswith(("bias", "positions.weight")):
            x.data += 0.1 * (1 + abs(x.data)) * (-1.0) ** sum(map(ord, name))
    checkpoint.save_model(folder / "weights.safetensors", model, tokenizer, {"corpus": "toy"})
    return explore(folder / "weights.safetensors", folder / "page.html", say=lambda line: None).path


def broken(path, folder, old, new):
    """A copy of a page in which one piece of its program, found once, is another."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    assert text.count(old) == 1, f"{text.count(old)} places have {old!r}"
    copy = folder / "broken.html"
    copy.write_text(text.replace(old, new), encoding="utf-8")
    return copy


@contextmanager
def chromium():
    """A headless Chromium. Where it or Playwright is missing tests are skipped with a word, unless
    TINYGRAD_TFM_BROWSER=required."""
    required = os.environ.get("TINYGRAD_TFM_BROWSER") == "required"
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        if required:
            raise
        pytest.skip("Playwright is not installed: pip install 'tinygrad_tfm[browser]'")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        (pytest.fail if required else pytest.skip)(
            "there is no Chromium on the path: apt install chromium, or what your system calls it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield browser
        browser.close()


def until(page, holds, seconds=20):
    """Wait until an expression is true. (Playwright's own way of waiting is one that the page's policy forbids.)"""
    end = time.monotonic() + seconds
    while not page.evaluate(holds):
        assert time.monotonic() < end, f"never came true: {holds}"
        page.wait_for_timeout(10)


class Listener:
    """Opens pages without a network and keeps what they say, fetch and get wrong."""

    def __init__(self, browser):
        self.browser, self.pages, self.said, self.fetched = browser, [], [], []

    def open(self, path, address="", **options):
        """A page from the disk, drawn."""
        page = self.context(options).new_page()
        self.pages.append(page)
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(error.message))
        page.on("request", lambda request: self.fetched.append(request.url))
        page.goto(f"file://{path}{address}")
        until(page, "window.explorer && document.querySelectorAll('#bars li').length > 0")
        return page

    def context(self, options):
        """What pages share that are opened alike: making one takes longer than opening a page."""
        kept = self.browser.__dict__.setdefault("kept", {})
        key = repr(sorted(options.items()))
        if key not in kept:
            kept[key] = self.browser.new_context(offline=True, **(DESK | options))
        return kept[key]

    def complaints(self):
        """Every word on the console, and every address but the page's own, its pictures and its worker."""
        own = re.compile(r"^(file:///[^?]*/(page|broken|explorer)\.html|data:|blob:)")
        return self.said + [url for url in self.fetched if not own.match(url)]

    def close(self):
        for page in self.pages:
            page.close()


def show(page, section):
    """Scroll to a section and wait until it is drawn; the backward pass takes its time."""
    page.evaluate("id => document.getElementById(id).scrollIntoView({behavior: 'instant'})", section)
    until(page, DRAWN.get(section, "true"))


DRAWN = {"predict": "document.querySelectorAll('#bars li').length > 0",
         "attend": "document.querySelectorAll('#heads button').length > 0 && !!document.querySelector('#arcs text')",
         "forward": "!!document.querySelector('#panel-forward canvas')",
         "lens": "document.querySelectorAll('#lens-table td').length > 0",
         "backward": "!!document.querySelector('#panel-backward canvas') && explorer.G !== null",
         "training": "document.querySelectorAll('#machine button').length > 0"}
SECTIONS = [*DRAWN, "check"]


def photograph(page, selector, path):
    """A picture of the screen, or of an element with some air around it, in few colours: it lies in a repository."""
    from PIL import Image
    clip, air = None, 20
    if selector:
        box = page.locator(selector).bounding_box()
        clip = dict(x=max(0, box["x"] - air), y=max(0, box["y"] + page.evaluate("scrollY") - air),
                    width=box["width"] + 2 * air, height=box["height"] + 2 * air)
    page.screenshot(path=path, full_page=bool(selector), **({"clip": clip} if clip else {}))
    few = Image.open(path).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
    few.save(path, optimize=True)

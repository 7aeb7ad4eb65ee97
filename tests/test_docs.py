"""The pages of docs/: their code runs and prints what they say, and what they quote from the source stands there."""

import contextlib
import importlib.util
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
FENCE = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def fences(page: Path) -> list[tuple[str, str, str]]:
    """The (language, title, text) of every fenced block."""
    return FENCE.findall(page.read_text(encoding="utf-8"))


def run(blocks: list[tuple[str, str, str]]) -> list[tuple[str, str]]:
    """Run the python blocks one after the other; what each promises to print, and what it printed."""
    names: dict = {"__name__": "page"}
    pairs = []
    for i, (language, title, code) in enumerate(blocks):
        if language != "python" or title:
            continue
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, f"<block {i}>", "exec"), names)
        follows = blocks[i + 1] if i + 1 < len(blocks) else ("", "", "")
        pairs.append((follows[2] if follows[0] == "text" else "", out.getvalue()))
    return pairs


def bare_lines(text: str) -> list[str]:
    """Lines without what varies: spaces at their ends and blank ones."""
    return [line.rstrip() for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_prints_what_the_page_says(page):
    for promised, printed in run(fences(page)):
        assert bare_lines(printed) == bare_lines(promised)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_quotations_stand_in_the_source(page):
    gone = [f"{title} no longer has:\n{text}" for _, title, text in fences(page)
            if title and text not in (ROOT / title).read_text(encoding="utf-8")]
    assert not gone, "\n".join(gone)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_named_exist(page):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:tinygrad_tfm|tests|demos|docs|ops|nn|models|kernels)/[\w/.-]+\.\w+)`", text):
        assert (ROOT / name).exists() or (ROOT / "tinygrad_tfm" / name).exists(), f"there is no {name}"


def test_tour_visits_the_reading_core_in_the_order_of_its_floors():
    text = (ROOT / "docs" / "reading-order.md").read_text(encoding="utf-8")
    stops = ["backend", "ops/elementwise", "ops/network", "tensor", "functional", "nn/module", "nn/attention",
             "nn/blocks", "models/decoder"]
    places = [re.search(rf"^## Floor .*`{stop}\.py`", text, re.MULTILINE).start() for stop in stops]
    assert places == sorted(places)
    minutes = [int(row.split("|")[3]) for row in text.splitlines() if row.startswith("| ") and "tinygrad_tfm/" in row]
    assert 140 <= sum(minutes) <= 165                              # "about two and a half hours"


@pytest.mark.slow
def test_site_has_all_pages_and_an_example_of_the_explorer(tmp_path):
    for module in "sphinx", "sphinx_gallery", "myst_parser", "furo":
        if not importlib.util.find_spec(module):
            pytest.skip(f"{module} is not installed: the extra `docs` brings it")
    settings = os.environ | {"TINYGRAD_TFM_EXAMPLE_STEPS": "20", "TINYGRAD_TFM_GALLERY": ""}
    built = subprocess.run([sys.executable, "-m", "sphinx", "-W", "--keep-going", "-b", "html", "docs", str(tmp_path)],
                           cwd=ROOT, env=settings, capture_output=True, text=True, encoding="utf-8", timeout=900)
    assert built.returncode == 0, built.stderr[-3000:]
    demos = [f"gallery/{demo.stem}" for demo in (ROOT / "demos").glob("plot_*.py")]
    missing = {"index", *(page.stem for page in PAGES), "gallery/index", *demos} - {
        page.relative_to(tmp_path).with_suffix("").as_posix() for page in tmp_path.rglob("*.html")}
    assert demos and not missing
    example = (tmp_path / "example.html").read_text(encoding="utf-8")
    assert all(f' id="{part}">' in example for part in ("meta", "weights", "model"))
    assert all('href="example.html"' in (tmp_path / page).read_text(encoding="utf-8")
               for page in ("index.html", "explorer.html"))
    assert "tinygrad_tfm.functional.softmax" in (tmp_path / "api.html").read_text(encoding="utf-8")

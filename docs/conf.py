"""How these pages become a site, the demos its gallery, and a run that is trained for it an explorer page.

    python -m sphinx -W --keep-going -b html docs site

TINYGRAD_TFM_EXAMPLE_STEPS=50 trains the example for 50 steps instead of all. TINYGRAD_TFM_GALLERY=quick, or full, also
runs the demos and shows what they print and draw.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
GALLERY = os.environ.get("TINYGRAD_TFM_GALLERY", "")               # in full they take a quarter of an hour: not unasked
STEPS = os.environ.get("TINYGRAD_TFM_EXAMPLE_STEPS", "")
if GALLERY not in ("", "quick", "full"):
    raise ValueError(f"TINYGRAD_TFM_GALLERY is quick or full, not {GALLERY!r}")

project = "tinygrad_tfm"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_gallery.gen_gallery"]
html_theme = "furo"
html_title = project
html_show_copyright = False
smartquotes = False                                                # the primes of h' and c' are no quotation marks
exclude_patterns = ["_build", "benchmarks"]
myst_enable_extensions = ["html_image"]                            # else <img> would not take its picture along
suppress_warnings = ["config.cache"]                               # a function among the settings (below) is no mistake

# ---- the surface, by its docstrings -------------------------------------------------------------------------------

autodoc_member_order = "bysource"


def as_written(app, what, name, thing, options, lines):
    """Docstrings here are plain text full of formulas: of markup they have only `code` and what is indented."""
    parts = "\n".join(lines).strip().split("\n\n")
    lines.clear()
    for part in parts:
        if part.startswith(" "):
            lines += ["::", "", *part.split("\n"), ""]
        else:
            words = re.split(r"`([^`]+)`", " ".join(part.split("\n")))                  # every other one is code
            words[::2] = [re.sub(r"([\\*_|`])", r"\\\1", word).replace("  ", " \N{EM SPACE}") for word in words[::2]]
            words[1::2] = [rf"\ ``{word}``\ " for word in words[1::2]]
            lines += ["".join(words), ""]


# ---- the demos ----------------------------------------------------------------------------------------------------

os.environ["TQDM_DISABLE"] = "1"                                   # a bar that moves is a hundred lines on a page


def arguments(conf, script):
    """What a demo finds in `sys.argv`; called before each is run, and so the place for what else a script has."""
    script["example_globals"]["__file__"] = script["src_file"]
    sys.modules.pop("picture", None)                               # the gallery resets matplotlib: set our style again
    pictures = f"../docs/_build/demos/{Path(script['src_file']).stem}"                   # seen from the demo's folder
    return ["--out", pictures] + ["--quick"] * (GALLERY == "quick")


sphinx_gallery_conf = {
    "examples_dirs": "../demos", "gallery_dirs": "gallery",
    "plot_gallery": bool(GALLERY), "filename_pattern": "plot_", "ignore_pattern": "picture",
    "run_stale_examples": True,                                    # else full after quick would keep what quick drew
    "reset_argv": arguments, "write_computation_times": False, "show_signature": False, "download_all_examples": False,
}


# ---- the example --------------------------------------------------------------------------------------------------

def make_example(app):
    """Train the run, or take the one that is there. A failure is said and costs the example, not the site."""
    page = example(app)
    if page.exists():
        command = ["explore", str(page.parent)]
    else:
        shutil.rmtree(page.parent, ignore_errors=True)             # what an interrupted build has left
        # No --corpus: then train takes tiny Shakespeare, or says what it takes instead.
        command = ["train", "--preset", "nanogpt-cpu", "--out", str(page.parent), "--explore"]
        command += ["--steps", STEPS] if STEPS else []
    done = subprocess.run([sys.executable, "-m", "tinygrad_tfm", *command], cwd=ROOT)
    if done.returncode or not page.exists():                       # no warning of Sphinx's: -W would make it an error
        page.unlink(missing_ok=True)
        print("WARNING: the site has no example.html: no run could be trained", file=sys.stderr)


def link_example(app, page, source):
    """The pages name the example; where there is one, on the site, the name becomes a link."""
    if example(app).exists():
        source[0] = source[0].replace("`example.html`", '<a href="example.html">example.html</a>')


def copy_example(app, error):
    """Put the example beside the other pages."""
    if not error and app.builder.format == "html" and example(app).exists():
        shutil.copyfile(example(app), app.outdir / "example.html")


def example(app):
    """The explorer page, in the run's folder, which lies beside what else Sphinx keeps from build to build."""
    return Path(app.doctreedir, f"example-{STEPS or 'full'}", "explorer.html")


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", as_written)
    app.connect("builder-inited", make_example)
    app.connect("source-read", link_example)
    app.connect("build-finished", copy_example)

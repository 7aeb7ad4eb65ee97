"""The demos: each runs from anywhere, in seconds with --quick, without a network, and says and draws what it found."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DEMOS = sorted((Path(__file__).parent.parent / "demos").glob("plot_*.py"))

# By demo: the pictures it leaves, and what it must print. The numbers are calculus, the README of micrograd, figures
# of a lecture, what the data are, what rules without learning find in them, sizes of models, and what holds for any
# trained model.
PROMISED = {
    "a_club_divides": (["club", "rings"],
                       [r"34 members, 78 friendships", r"random walk +96\.9% right; wrong: member \[8\]",
                        r"the mask is worth [+-]\d+ points", r"always the usual answer: 54\.6% right",
                        r"two blocks, along edges .*; who knows as much: 100\.0%",
                        r"one block, along edges +more than 1 away 0 of 20,800 answers change",
                        r"two blocks, along edges +more than 2 away 0 of 17,600 answers change"]),
    "a_kernel_thread_by_thread": (["turns"],
                                  [r"by at most \de-0[78]\nby 3 blocks of 256 threads: the very same numbers",
                                   r"= 496; found in all 32 lanes", r"\n  30 +30 +63 +64 ", r"\n  31 +31 +32 +65 ",
                                   r"with the barrier +89,440 +89,440\nwithout it +nan +89,440\n"]),
    "autograd_tour": (["derivatives", "finite_differences", "graph"],
                      [r"by the engine: +f'\(3\) = 7\n", "24.7041.*138.8338.*645.5773", r"f''\(3\) = 2\n",
                       r"10 doublings: 2,047 visits path by path, 11 newest first"]),
    "decoder_from_parts": (["loss"], [r"uniform +\d\.\d+", r"bigram +\d\.\d+", r"decoder +\d\.\d+", r"\nThe .{50}"]),
    "digits_by_name": (["names"],
                       ["1,438 images and 12 languages to learn from, 359 images and 7 more languages to be asked",
                        r"\nheard: \d\d\.\d%(\n  \w+ +\d+\.\d%  \(seeds: .*\)){12}\n\nnever heard, related: ",
                        r"\nnever heard, of a family apart: +\d+\.\d%(\n  \w+ +\d+\.\d%  \(seeds: .*\)){2}\n\nworst ",
                        r"related languages: \d\d names spelt as in a language heard, found \d+%; \d\d names spelt "]),
    "fill_the_gap": (["gaps"],
                     ["20 gaps, 24 letters before and 7 behind each; seeds 0 to 1\n",
                      r"\nencoder +1 reading +\d+\.\d% ±", r"\ndecoder, all letters +\d+ readings +\d+\.\d% ±",
                      r"\ndecoder +1 reading +\d+\.\d% ±",
                      r"is [+-]\d+\.\d ± \d+\.\d points ahead of the decoder; the goal .*: (reached|missed)\n"]),
    "one_head_by_hand": (["one_head", "why_sqrt_k"],
                         [r"gradient of v +differs from ours by at most (0|\d\.\de-1[4-9])",
                          "nn.Attention with one head gives the same output", r"variance 2\d\d"]),
    "questions_about_digits": (["stairs_and_paths"],
                               ["19 questions of at most 6 tokens", r"87,948 parameters(\n  \w.*\? +\d+\.\d% .*){19}\n",
                                r"all questions: \d\d\.\d% right \(goal 95%: \w+\), the usual answers 6\d\.\d%",
                                r"block 1 +in block 2 +in block 3 +in all\n(\w+ ← \w+( +\d+\.\d%){4}\n){6}"]),
    "recurrent_and_not": (["reach"],
                          [r"\nRNN +\d+ wide, +8,\d{3} parameters\n", r"\ndecoder +\d+ wide, +8,\d{3} parameters\n",
                           r"\nRNN( +\S+){3} .* \d\.\de-(0[5-9]|1\d) *\n", r"\nLSTM +\d\.\d{3} ",
                           r"31 steps back the trained decoder has \de\+(0[4-9]|1\d) times the gradient"]),
    "what_attention_costs": (["costs"],
                             [r"dense +2,048 .* 1\.[89]\d +2\n", r"Linformer +2,048 .* (0\.9|1\.0)\d +1\n",
                              r"memory of linear: exponent 0\.9\d, the goal is 1 ± 0\.1: reached",
                              r"memory of blockwise: exponent 0\.9\d, the goal is 1 ± 0\.1: reached"]),
    "where_a_token_stands": (["beyond"],
                             ["learned: 64 tokens are more than the context of 16\n", r"\nlearned +\d\.\d{3} *\n",
                              r"\nalibi( +\d\.\d{3}){5} +[+-]0\.\d{3}\n", "with 4 times the text the loss of"]),
    "read_digits": (["looks_and_positions"],
                    [r"1,438 images to learn from, 359 to be asked", r"transformer +58,234 .*: \d\d\.\d% right",
                     r"plain network +58,700 .*: \d\d\.\d% right", r"squares 36% are empty"]),
    "series_as_tokens": (["sunspots", "tones"],
                         ["214 windows of 34 years to learn from; 62 years to be foretold",
                          r"naive +33\.3\n  line +21\.2\n  model +\d+\.\d \(seeds: ",
                          r"\nas 11 years ago +40\.0 +38\.7 ", r"\nmodel( +\d+\.\d){11}\n",
                          r"noise of 0\.5: model \d+\.\d% right, the loudest frequency 100\.0%",
                          r"\n2f 3f 4f( +\d+%){3}\n"]),
    "the_bottleneck": (["bottleneck"],
                       [r"one vector +132,173 .*\nlooking back +133,745 .*\ntransformer +132,912 ",
                        r"one vector +\d+% +\d+%\nlooking back +\d+% +\d+%\ntransformer +\d+% +\d+%\n",
                        r"at 4 digits looking back is \+\d+ points ahead"]),
    "translate_numbers": (["alignment"],
                          ["9,000 pairs to learn from, 1,000 to be asked", r"six thousand and eight → six mille huit\n",
                           r"greedy, at the end: \d+ of 100 right", r"beam of 4, at the end: \d+ of 100 right",
                           r"by chance: 1\d%\)(\n  block \d, head \d +\d.*){8}\n"]),
    "worked_attention": (["worked_attention"],
                         ["weights +lecture +0.16 +0.23 +0.15 +0.14 +0.16 +0.16",
                          r"exact +0.1637 +0.2277 +0.1481 +0.1409 +0.1637 +0.1557",
                          r"exact +0.2213 +0.1333 +0.2334 +0.5756", r"exact \[0.505, 0.083, 0.038, 0.374\]"]),
    "your_own_op": (["learnt_slope", "swish"],
                    ["are right", "forgetful gives a wrong gradient for input x", r"\[0.25, 0.5, 1.0, 2.0\]",
                     r"\nswish' +200 ", r"loss \d\.\d+ → 0\.\d+, slope"]),
}


# The systems of the lectures whose results a full run holds.
SYSTEMS = {"decoder_from_parts": "S1", "translate_numbers": "S2", "fill_the_gap": "S3", "where_a_token_stands": "S6",
           "read_digits": "S7", "recurrent_and_not": "S8", "the_bottleneck": "S9", "digits_by_name": "S10",
           "a_club_divides": "S11", "series_as_tokens": "S12", "questions_about_digits": "S13",
           "what_attention_costs": "S14"}


def run(demo, folder, *options):
    """The demo in a process and a working directory of its own; bad arithmetic and bad layouts are errors."""
    strict = [word for kind in ("RuntimeWarning", "UserWarning") for word in ("-W", f"error::{kind}")]
    done = subprocess.run([sys.executable, *strict, str(demo), "--out", "pictures", *options], cwd=folder,
                          env=os.environ | {"TINYGRAD_TFM_DATA": os.environ.get("TINYGRAD_TFM_DATA", str(folder))},
                          capture_output=True, text=True, encoding="utf-8", timeout=900)
    if "text.Unavailable: " in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr[-3000:]
    if done.stdout.startswith("skipped: "):
        pytest.skip(done.stdout.strip())
    return done.stdout


def name_of(demo):
    return demo.stem.removeprefix("plot_")


def test_every_demo_has_its_promise_here():
    assert {name_of(demo) for demo in DEMOS} == PROMISED.keys() and SYSTEMS.keys() <= PROMISED.keys()


@pytest.mark.parametrize("demo", DEMOS, ids=name_of)
def test_a_quick_run_says_and_draws_what_it_promises(demo, tmp_path, monkeypatch):
    monkeypatch.setenv("TINYGRAD_TFM_DATA", str(tmp_path))          # nothing is there, and nothing may be needed
    printed = run(demo, tmp_path, "--quick")
    pictures, results = PROMISED[name_of(demo)]
    for result in results:
        assert re.search(result, printed), f"no {result!r} in:\n{printed}"
    check_pictures(tmp_path / "pictures", pictures)
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def check_pictures(folder, names):
    """These pictures and no others are there; each is large enough to read and has something drawn on it."""
    from matplotlib.image import imread
    assert sorted(path.name for path in folder.iterdir()) == [f"{name}.png" for name in names]
    for path in folder.iterdir():
        image = imread(path)[..., :3]
        assert min(image.shape[:2]) >= 500 and (image != image[0, 0]).any(axis=-1).mean() > 0.02


def with_its_system(demo):
    """The demo, marked with the system it shows."""
    system = SYSTEMS.get(name_of(demo))
    return pytest.param(demo, id=name_of(demo), marks=[pytest.mark.formula(system)] if system else [])


@pytest.mark.slow
@pytest.mark.parametrize("demo", [with_its_system(demo) for demo in DEMOS])
def test_a_full_run_holds_what_it_says(demo, tmp_path):
    printed = run(demo, tmp_path)
    check_pictures(tmp_path / "pictures", PROMISED[name_of(demo)][0])
    assert not re.search(r"\bmissed\b", printed), printed
    if name_of(demo) == "decoder_from_parts":
        losses = dict(re.findall(r"^(\w+) +(\d\.\d+) nats", printed, re.MULTILINE))
        assert float(losses["decoder"]) < float(losses["bigram"]) - 0.5
        assert "tinyshakespeare" in printed and "\nROMEO:\n" in printed
    if name_of(demo) == "a_club_divides":
        found = re.findall(r"^([a-z, ]+?) +(\d+\.\d)% right", printed, re.MULTILINE)
        right = {name: float(mean) for name, mean in found}
        assert right["along edges"] > right["at everyone"] + 10
        assert right["two blocks, along edges"] > max(95, right["two blocks, at everyone"] + 10)
        rules = re.findall(r" +(\d+\.\d)% right \(seeds: .*who knows as much: (\d+\.\d)%", printed)
        assert len(rules) == 3 and all(abs(float(mean) - float(rule)) <= 0.5 for mean, rule in rules)
    if name_of(demo) == "recurrent_and_not":
        losses = re.findall(r"^\w+ +(\d\.\d{3}) +\d+\.\d ", printed, re.MULTILINE)
        bigram = float(re.search(r"pairs of characters: (\S+)", printed)[1])
        assert len(losses) == 4 and all(float(loss) < bigram for loss in losses)
    if name_of(demo) == "fill_the_gap":
        right = {name: float(mean) for name, mean in re.findall(r"^(\w.*?) +\d+ readings? +(\S+)% ±", printed, re.M)}
        assert right["encoder"] > right["decoder"] + 5 and right["decoder, all letters"] > right["encoder"] + 10
    if name_of(demo) == "where_a_token_stands":
        rises = {name: float(rise) for name, rise in re.findall(r"^(\w+) .* ([+-]\d\.\d{3})$", printed, re.MULTILINE)}
        assert len(rises) == 5 and rises["alibi"] < 0.1 and min(rises["sinusoidal"], rises["rotary"]) > 0.5
    if name_of(demo) == "digits_by_name":
        heard, related = re.findall(r"((?:  \w+ +\d+\.\d%  \(seeds: .*\)\n)+)", printed)[:2]
        seeds = [[float(share) for share in re.findall(r"[:,] (\d+\.\d)%", line)] for line in heard.splitlines()]
        assert len(seeds) == 12 and all(len(row) == 3 and min(row) >= 90 for row in seeds)
        unheard = re.findall(r" (\d+\.\d)%  ", related)
        assert len(unheard) == 5 and sum(map(float, unheard)) / 5 > 50      # names of a family are alike; by chance 10
        assert int(re.search(r"spelt otherwise, found (\d+)%", printed)[1]) > 50
        assert int(re.search(r"languages apart: .*found (\d+)%", printed)[1]) < 40
    if name_of(demo) == "questions_about_digits":
        assert float(re.search(r"all questions: (\d+\.\d)% right", printed)[1]) >= 95
        whole = float(re.search(r"drawn: (\d+\.\d)% right", printed)[1])
        cut = {path: list(map(float, re.findall(r"(\d+\.\d)%", row)))                  # in block 1, 2, 3, in all
               for path, row in re.findall(r"^(\w+ ← \w+)((?: +\d+\.\d%){4})$", printed, re.MULTILINE)}
        assert cut["answer ← question"][0] < whole - 10 and cut["question ← image"][3] > whole - 6
    if name_of(demo) == "read_digits":
        assert float(re.search(r"transformer .*: (\d+\.\d)% right", printed)[1]) >= 97
    if name_of(demo) == "series_as_tokens":
        seeds = list(map(float, re.search(r"model .* \(seeds: (.*)\)", printed)[1].split(", ")))
        assert len(seeds) >= 3 and max(seeds) < float(re.search(r"naive +(\d+\.\d)", printed)[1])
        assert sum(seeds) / len(seeds) < float(re.search(r"line +(\d+\.\d)", printed)[1])
        assert float(re.search(r"noise of 0.5: model (\S+)%", printed)[1]) >= 95
        noisy = re.search(r"noise of 2.0: model (\S+)% right, the loudest frequency (\S+)%", printed)
        assert float(noisy[1]) < float(noisy[2]) - 5
    if name_of(demo) == "the_bottleneck":
        at = {name: list(map(int, re.findall(r"(\d+)%", line)))                    # of 1, 4, 8, 12 and 16 digits
              for name, line in re.findall(r"^(one vector|looking back|transformer) +(\d+%.*)", printed, re.MULTILINE)}
        assert at["one vector"][1] >= 95 and at["one vector"][3] <= 20 and at["one vector"][4] <= 5
        assert min(at["looking back"]) >= 95 and min(at["transformer"][:4]) >= 90
    if name_of(demo) == "translate_numbers":
        shares = re.findall(r"at the end: .* right, (\d+\.\d)%", printed)
        assert len(shares) == 2 and min(map(float, shares)) >= 99
        assert float(re.search(r"(\d+\.\d)%  the best where it learnt", printed)[1]) >= 50
    if name_of(demo) == "your_own_op":
        assert float(re.search(r"→ (\d\.\d+), slope", printed)[1]) < 0.02


@pytest.mark.parametrize("demo", DEMOS, ids=name_of)
def test_a_gallery_can_show_it(demo):
    source = demo.read_text(encoding="utf-8")
    title, underline, blank, *about = ast.get_docstring(ast.parse(source), clean=False).removeprefix("\n").split("\n")
    assert source.startswith('"""\n') and set(underline) == {"="} and len(underline) == len(title) and not blank
    assert len(" ".join(about)) > 80
    cells = source.split("\n# %%\n")[1:]
    assert len(cells) >= 3 and all(cell.startswith("# ") for cell in cells)           # every cell begins with words
    headings = re.findall(r"^# (.+)\n# (-+)\n", source, re.MULTILINE)
    assert len(headings) >= 3 and all(len(heading) == len(line) for heading, line in headings)


def test_without_a_compiler_the_kernels_say_what_they_take(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    [demo] = [demo for demo in DEMOS if name_of(demo) == "a_kernel_thread_by_thread"]
    with pytest.raises(pytest.skip.Exception, match=r"^skipped: .* takes the compiler g\+\+, on Linux$"):
        run(demo, tmp_path)


def test_without_a_docstring_too_the_options_are_understood(tmp_path, monkeypatch):
    """A gallery takes the docstring away before it runs a demo."""
    monkeypatch.syspath_prepend(DEMOS[0].parent)
    import matplotlib
    with matplotlib.rc_context():
        import picture
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["plot_x.py"])
        chosen = picture.options("somewhere/plot_x.py", "")
    assert not chosen.quick and (tmp_path / chosen.out).is_dir() and chosen.out == Path("runs/demos/x")

"""`bench`: its figures are figures, both sides compute the same, its floor counts right. How fast is no test."""

import argparse
import json
import math
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tinygrad_tfm.bench import (
    SUITES,
    UNASKED,
    add_options,
    fewest_rounds,
    floor,
    generate,
    growth,
    imports,
    measure,
    ops,
    our_side,
    peers,
    report,
    step,
    torch_side,
)
from tinygrad_tfm.bench.our_side import Job
from tinygrad_tfm.bench.sides import Side, in_a_fresh_process, peak_mib
from tinygrad_tfm.cli import main
from tinygrad_tfm.models.decoder import DecoderConfig

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
TINY = Job(DecoderConfig(vocab=11, context=8, layers=1, heads=2, width=8), batch=3)
SMALL = Job(DecoderConfig(vocab=65, context=32, layers=2, heads=4, width=32, std=0.1), batch=4)


@pytest.fixture
def alone(monkeypatch):
    """PyTorch as if it were not installed."""
    monkeypatch.setitem(sys.modules, "torch", None)


def numbers(values):
    """Every number in nested dicts and lists, but the notes and what may be less than zero or missing."""
    if isinstance(values, dict):
        return [n for key, value in values.items() if key not in ("notes", "apart", "peak_mib") for n in numbers(value)]
    return [n for value in values for n in numbers(value)] if isinstance(values, list) else [values]


def assert_figures(made):
    """All are finite and positive, they can be JSON, and there is something to read."""
    found = numbers(made.values)
    assert found and all(math.isfinite(n) and n > 0 for n in found)
    assert json.loads(json.dumps(made.values)) == made.values
    assert made.lines and all(line == line.rstrip() and len(line) <= 120 for line in made.lines)


# ---- figures --------------------------------------------------------------------------------------------------------

def test_a_race_alternates():
    order = []
    times = measure.race({name: lambda name=name: order.append(name) or len(order) for name in "abc"}, 3, rest=0)
    assert "".join(order) == "abccbaabc"
    assert times == {"a": [1, 6, 7], "b": [2, 5, 8], "c": [3, 4, 9]}


def test_a_race_ends_when_patience_does():
    assert measure.race({"a": lambda: 1.0, "b": lambda: 2.0}, 9, rest=0, patience=-1) == {"a": [1.0], "b": [2.0]}
    assert fewest_rounds({"x": {"rounds": 9, "ms": 1.0}, "y": {"z": {"rounds": 2}}, "busy": None}) == 2


def test_ratios_are_of_the_same_round_and_above_one_where_ours_is_faster():
    made = measure.compared({"ours": [1.0, 2.0, 4.0], "theirs": [2.0, 2.0, 12.0]}, "ours")
    assert made == {"ours": {"ms": 2000, "rounds": 3},
                    "theirs": {"ms": 2000, "rounds": 3, "ratio": 2, "ratio_min": 1, "ratio_max": 3}}


@pytest.mark.parametrize("p", [-1.0, 0.0, 0.5, 1.0, 2.0, 3.0])
def test_the_exponent_of_a_power_law_is_exact(p):
    sizes = np.array([8, 16, 32, 64, 1000])
    assert abs(measure.exponent(sizes, 7.5 * sizes ** p) - p) < 1e-12


def test_a_turn_has_at_least_so_many_calls():
    assert measure.calls_in_a_turn(0.01, 0.25) == 25
    assert measure.calls_in_a_turn(9.0, 0.25) == 1 and measure.calls_in_a_turn(9.0, 0.25, least=2) == 2


def test_the_machine_is_named():
    facts = measure.machine()
    assert {"processor", "cores", "python", "numpy", "blas", "openblas_coretype", "torch", "date"} <= facts.keys()
    words = " ".join(measure.machine_in_words(facts | {"openblas_coretype": "Haswell"}))
    assert facts["processor"] in words and "OPENBLAS_CORETYPE=Haswell" in words and np.__version__ in words
    busy = measure.busy_cores(0.05)
    assert busy is None or busy >= 0


def test_numbers_are_short_and_tables_aligned():
    assert [report.number(x) for x in (None, 0.0123, 1.5, 43.21, 987.6, 12345.6)] == [
        "–", "0.01", "1.50", "43.2", "988", "12,346"]
    assert report.table(["", "ms"], [["ours", "1.5"], ["x", "12.25"]]) == ["         ms", "ours    1.5", "x     12.25"]


# ---- processes ------------------------------------------------------------------------------------------------------

def test_a_side_lives_in_a_process_of_its_own_and_its_errors_come_back():
    with Side(our_side.training, TINY) as side:
        first, second = (side.ask("losses", 1)[0] for _ in range(2))
        assert second < first                                           # it is still there, and has learned
        assert side.seconds("step", calls=2) > 0
        with pytest.raises(TypeError, match="losses"):
            side.ask("losses")
    with pytest.raises(ValueError, match="no decoder of this kind"):
        Side(refusing)


@contextmanager
def refusing():
    raise ValueError("no decoder of this kind")
    yield {}


def test_memory_is_that_of_the_steps():
    more, less = (in_a_fresh_process(peak_mib, (), holding, (1,), (mib,), "step", 3) for mib in (48, 16))
    if less is None:
        pytest.skip("this system does not tell how much memory a process has held")
    assert 31 < more - less < 33 and less > 14                          # pages that were free before are not counted


@contextmanager
def holding(mib):
    yield {"step": lambda: np.ones(mib << 20, np.uint8)}


# ---- the floor ------------------------------------------------------------------------------------------------------

def test_the_floor_counts_every_product():
    # query, key, value, out, up, down and unembed: forward, to the input, to the weight; attention: 2 and 4; one-hot
    assert len(floor.products(TINY.config, 3)) == 3 * 7 + 6 + 1
    assert len(floor.products(replace(TINY.config, layers=4), 3)) == 4 * (3 * 6 + 6) + 3 + 1
    assert len(floor.products(replace(TINY.config, context=130), 3)) == 3 * 7 + 6 * 3 + 1     # rows of 64, 64 and 2
    assert len(floor.products(replace(TINY.config, vocab=2000), 3)) == 3 * 7 + 6


def test_the_floor_counts_every_multiplication():
    N, D, F, V, T, B = 24, 8, 32, 11, 8, 3
    weights = 4 * D * D + 2 * D * F + V * D
    attention = 6 * B * T * T * D                                       # H·K = D
    assert sum(p.operations for p in floor.products(TINY.config, B)) == 2 * (3 * N * weights + attention + V * N * D)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_floors_products_can_be_computed(workers, monkeypatch):
    monkeypatch.setattr(our_side, "suggested_workers", lambda *shape: workers)
    with floor.multiplying(TINY) as actions:
        actions["step"]()


# ---- the suites, ours alone -----------------------------------------------------------------------------------------

def test_suite_step(alone):
    made = step.suite({"tiny": TINY}, repeat=1)
    assert_figures(made)
    assert set(made.values["tiny"]["sides"]) == {step.OURS, step.FLOOR}
    assert "1 layers" in made.lines[0] and "GFLOP/s" in made.lines[-1]


def test_suite_generate(alone):
    made = generate.suite(repeat=1, count=12, context=20)
    assert_figures(made)
    assert set(made.values) == {"context 64", "context 20"}
    assert {"tokens_per_s", "first_per_s", "last_per_s"} <= made.values["context 20"][step.OURS].keys()


def test_suite_ops(alone, monkeypatch):
    monkeypatch.setattr(ops, "SHORT", 0.001)
    made = ops.ops(repeat=1, shapes=((4, 6),))
    assert_figures(made)
    assert made.values["us_per_op"] > 0 and len(made.values["rules"]) == len(our_side.RULES) + 1
    assert all(sides.keys() == {step.OURS, ops.PLAIN} for sides in made.values["rules"].values())


def test_suite_attention(alone):
    made = ops.attention(repeat=1, lengths=(4, 8), tokens=16, heads=2, width=3)
    assert_figures(made)
    assert set(made.values) == {"T=4", "T=8"}


def test_suite_import(alone):
    made = imports.suite(repeat=1)
    assert made.values.keys() == {"ms_beyond_numpy", "ms_numpy"} and len(made.lines) == 3
    assert all(map(math.isfinite, made.values.values()))


def test_suite_growth(alone, monkeypatch):
    monkeypatch.setattr(growth, "in_a_fresh_process", lambda point, side, job, repeat: (
        2.0 * job.config.context, 0.5 * job.config.context ** 2))      # the points themselves: the next test
    made = growth.suite(1, TINY, {"context": (4, 8, 16, 32)})
    assert_figures(made)
    figures = made.values["context"]["sides"][step.OURS]
    assert abs(figures["ms_exponent"] - 1) < 1e-9 and abs(figures["peak_mib_exponent_last_3"] - 2) < 1e-9


def test_a_point_of_growth():
    ms, mib = in_a_fresh_process(growth.point, step.OURS, growth.job_of_size(TINY, "batch", 2), 1)
    assert ms > 0 and (mib is None or mib >= 0)


def test_growth_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    figures = {"ms": [1.0, 2.0, 4.0], "peak_mib": [3.0, 6.0, 12.0], "ms_exponent_last_3": 1.0}
    growth.draw({axis: {"sizes": [8, 16, 32], "sides": dict.fromkeys((step.OURS, growth.PYTORCH), figures)}
                 for axis in ("context", "batch")}, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_jobs_are_what_was_asked_for():
    names = lambda shapes, dropouts: list(step.chosen_jobs(shapes, dropouts))
    assert names(None, None) == ["nanogpt-cpu, dropout 0", "nanogpt-cpu, dropout 0.2", "baby, dropout 0"]
    assert names(["baby"], None) == ["baby, dropout 0", "baby, dropout 0.2"]
    assert names(["baby"], [0.1]) == ["baby, dropout 0.1"]
    assert step.chosen_jobs(None, [0.1])["baby, dropout 0.1"].config.dropout == 0.1


def test_without_pytorch_it_says_so_and_measures_ours():
    code = "import sys; sys.modules['torch'] = None; import tinygrad_tfm.cli as c; sys.exit(c.main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, "bench", "--suite", "attention", "--repeat", "1", "--json"],
                          capture_output=True, text=True, encoding="utf-8", timeout=60)
    assert done.returncode == 0, done.stderr
    assert report.ALONE in done.stdout
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["machine"]["cores"] >= 1 and result["attention"]["T=64"].keys() == {step.OURS}


@pytest.mark.parametrize("options, word", [
    (["--repeat", "0"], "repeat"), (["--suite", "step", "--dropout", "1.5"], "dropout"),
    (["--suite", "ops", "--plot", "x.png"], "--suite growth"), (["--write", "nowhere.md"], "nowhere.md"),
    (["--suite", "growth", "--plot", "x.doc"], "x.doc"), (["--suite", "growth", "--plot", "nowhere/x.png"], "nowhere")])
def test_what_cannot_be_is_said_before_anything_is_measured(options, word, capsys):
    if "growth" in options:
        pytest.importorskip("matplotlib")
    assert main(["bench", *options]) == 2
    out, err = capsys.readouterr()
    assert not out and len(err.splitlines()) == 1 and err.startswith("error: ") and word in err


def test_a_picture_without_matplotlib_names_the_extra(capsys, monkeypatch):
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["bench", "--suite", "growth", "--plot", "x.png"]) == 2
    out, err = capsys.readouterr()
    assert not out and "tinygrad_tfm[plot]" in err


# ---- the page -------------------------------------------------------------------------------------------------------

def test_the_page_has_a_place_for_every_suite_and_says_how():
    report.check_page(PAGE, list(SUITES))
    assert all(f"--suite {name}" in PAGE.read_text("utf-8") for name in ("step", "growth", "gpu"))


def test_a_suite_is_written_between_its_marks_and_nowhere_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text("utf-8"), "utf-8")
    for figure in ("41.5", "42.5"):                                     # what was there before goes
        report.write_page(page, ["2026, a machine"], {"step": report.Report({}, ["ours  " + figure])})
    begin, end = report.marks("step")
    before, rest = PAGE.read_text("utf-8").split(begin)
    written = f"{begin}\n```text\n2026, a machine\n\nours  42.5\n```\n{end}"
    assert page.read_text("utf-8") == before + written + rest.split(end)[1]


def test_a_page_without_marks_is_left_alone(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("nothing here\n")
    assert main(["bench", "--suite", "import", "--write", str(page)]) == 2
    assert "<!-- bench import -->" in capsys.readouterr().err and page.read_text() == "nothing here\n"


def test_the_command_writes_the_page(alone, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(SUITES, "import", lambda options: report.Report({"ms": 1.0}, ["so much"]))
    page = tmp_path / "page.md"
    page.write_text("\n".join(report.marks("import")))
    assert main(["bench", "--suite", "import", "--write", str(page)]) == 0
    assert "so much" in page.read_text("utf-8") and "so much" in capsys.readouterr().out


# ---- both sides -----------------------------------------------------------------------------------------------------

@contextmanager
def strange(job, weights, how):
    yield {"step": lambda: 0.0, "losses": lambda steps: [0.0] * steps}


def test_a_side_that_computes_something_else_is_not_timed(monkeypatch):
    monkeypatch.setattr(step.torch_side, "training", strange)
    with pytest.raises(RuntimeError, match="nothing was timed"):
        step.measured(TINY, 1, ["PyTorch eager"])


@pytest.mark.oracle
def test_pytorchs_loss_and_gradients_are_ours(torch):
    model, (x, y) = SMALL.model(), SMALL.data()
    loss = model.loss(x, y)
    loss.backward()
    theirs = torch_side.loaded(SMALL.config, model.state_dict())
    their_loss = theirs(torch.from_numpy(x), torch.from_numpy(y))
    their_loss.backward()
    assert abs(loss.item() - their_loss.item()) < 1e-5
    ours = torch_side.torch_names({name: p.grad for name, p in model.named_parameters()}, SMALL.config.layers)
    assert ours.keys() == dict(theirs.named_parameters()).keys()
    for name, p in theirs.named_parameters():
        np.testing.assert_allclose(ours[name], p.grad, atol=1e-4 * float(p.grad.abs().max()), err_msg=name)


@pytest.mark.oracle
@pytest.mark.parametrize("p", [0.0, 0.2])
def test_pytorchs_training_is_ours_where_nothing_is_dropped(torch, p):
    job = replace(SMALL, config=replace(SMALL.config, dropout=p))
    with our_side.training(job) as ours, torch_side.training(job, job.model().state_dict()) as theirs:
        np.testing.assert_allclose(ours["losses"](4), theirs["losses"](4), atol=1e-4)
        assert all(math.isfinite(side["step"]()) for side in (ours, theirs))


@pytest.mark.oracle
def test_all_loops_write_the_same(torch):
    config = replace(SMALL.config, std=0.3)
    weights = Job(config, 1).model().state_dict()
    with our_side.writing(config) as ours, torch_side.writing(config, weights, True) as cached, \
            torch_side.writing(config, weights, False) as uncached:
        (mine, times), (theirs, _), (slow, _) = (side["write"]([1, 2], 100) for side in (ours, cached, uncached))
    assert mine == theirs and mine[:31] == slow[:31] and len(set(mine)) > 5      # a window that slides by one sees more
    assert times == sorted(times)


@pytest.mark.oracle
def test_single_rules_compute_the_same(torch):
    shapes = ((5, 7),)
    with our_side.rules(shapes) as ours, torch_side.rules(shapes) as theirs:
        for name, action in theirs.items():
            if not name.startswith("dropout"):                          # other random numbers
                value = action().detach().numpy()
                for kind in ("twin", "plain"):
                    np.testing.assert_allclose(ours[f"{kind} {name}"]().data, value, rtol=1e-4, atol=1e-5)
    assert {name.removeprefix("twin ") for name in ours if name.startswith("twin")} == theirs.keys()


@pytest.mark.oracle
def test_attention_and_the_chain_run_on_pytorchs_side(torch):
    with torch_side.attending((4, 8), 16, 2, 3) as actions:
        assert actions["4"]().shape == (4, 2, 4, 3)
    with torch_side.chain() as actions:
        actions["chain"]()


@pytest.mark.oracle
def test_why_it_does_not_compile_is_said(torch, monkeypatch):
    def failing(*arguments):
        raise OSError("\nno C++ compiler\nand more")
    monkeypatch.setattr(torch, "compile", lambda model: failing)
    with pytest.raises(RuntimeError, match="^no C\\+\\+ compiler$"), torch_side.training(TINY, how="compiled"):
        pass


@pytest.mark.oracle
def test_shapes_that_pytorchs_side_does_not_have_are_refused(torch):
    with pytest.raises(ValueError, match="no decoder of this kind"):
        torch_side.gpt(replace(TINY.config, bias=True))


@pytest.mark.parametrize("module", ["mygrad", "autograd", "micrograd"])
def test_other_engines_run_the_chain_where_they_are_installed(module):
    pytest.importorskip(module)
    for name, maker in peers.PEERS.values():
        if name == module:
            with maker() as actions:
                actions["chain"]()


def test_every_suite_can_be_asked_for():
    parser = argparse.ArgumentParser()
    add_options(parser)
    options = parser.parse_args(["--suite", "step", "--suite", "growth"])
    assert options.suite == ["step", "growth"] and options.repeat == 7
    assert set(UNASKED) | {"growth", "gpu"} == set(SUITES)

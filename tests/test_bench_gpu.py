"""Suite `gpu` where there is no GPU: on the stand-in, and with PyTorch on the CPU, everything but its speed is tested.

Sides run in this process instead of one of their own; clocks and the driver's memory are faked.
"""

import json
import math
import pickle
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import standin

from tinygrad_tfm.bench import floor, gpu, gpu_kernels, gpu_page, gpu_side, report, roofline, torch_gpu
from tinygrad_tfm.bench.our_side import Job
from tinygrad_tfm.cli import main
from tinygrad_tfm.kernels.precision import PRECISIONS
from tinygrad_tfm.models.decoder import DecoderConfig
from tinygrad_tfm.steps import Steps
from tinygrad_tfm.text import Corpus

pytest.importorskip("ml_dtypes", reason="NumPy has no bfloat16: pip install 'tinygrad_tfm[test]'")
needs_kernels = pytest.mark.skipif(not standin.emu.COMPILER, reason="kernels run on the CPU only with g++, on Linux")

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
SMALL = Job(DecoderConfig(vocab=13, context=64, layers=1, heads=1, width=32, dropout=0.2), batch=2)
RECORDS = hasattr(standin.cuda, "MemoryPool")                       # whether the stand-in can record a step


class Event:
    """CUDA's, by the clock of the host."""

    def __init__(self, **settings):
        self.done = False

    def record(self, stream=None):
        self.at = time.perf_counter()

    def synchronize(self):
        self.done = True

    def elapsed_time(self, end):
        return 1e3 * (end.at - self.at)


class Replayed(Steps):
    """What stands in for a recorded step where nothing can be recorded."""

    stream, pool = None, SimpleNamespace(total_bytes=lambda: 0)

    def __init__(self, *given, say, **named):
        super().__init__(*given, **named)


@pytest.fixture
def cupy(monkeypatch):
    """The stand-in, with a clock, and texts and kernels of a size for it."""
    with standin.install() as cupy:
        monkeypatch.setattr(standin.cuda, "Event", Event, raising=False)
        monkeypatch.setattr(standin.cuda, "get_elapsed_time", Event.elapsed_time, raising=False)
        monkeypatch.setattr(gpu_side, "LENGTH", 3000)
        monkeypatch.setattr(gpu_kernels, "HOLD", 8)
        if not RECORDS:
            monkeypatch.setattr(gpu_side, "Recorded", Replayed)
        yield cupy


@pytest.fixture
def on_the_cpu(torch, monkeypatch):
    """PyTorch, whose GPU is the CPU; compiling changes nothing. What it was compiled with."""
    compiled = []
    monkeypatch.setattr(torch_gpu, "DEVICE", "cpu")
    monkeypatch.setattr(torch_gpu, "found", lambda: torch)
    monkeypatch.setattr(torch, "compile", lambda model, **options: compiled.append(options) or model)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: None)
    for name, value in {"Event": Event, "mem_get_info": lambda: (1, 3), "synchronize": lambda: None,
                        "max_memory_reserved": lambda: 1, "reset_peak_memory_stats": lambda: None}.items():
        monkeypatch.setattr(torch.cuda, name, value)
    before = torch.get_float32_matmul_precision()
    yield compiled
    torch.set_float32_matmul_precision(before)


class Here:
    """`Side`, in this process."""

    def __init__(self, maker, *arguments):
        self.open = ExitStack()
        self.actions = self.open.enter_context(maker(*arguments))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.open.close()

    def ask(self, action, *arguments):
        return self.actions[action](*arguments)


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(gpu, "Side", Here)
    monkeypatch.setattr(gpu, "in_a_fresh_process", lambda function: function())


# ---- the floor ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("job", [gpu.JOB, SMALL])
def test_the_floor_knows_how_many_weights_there_are(job):
    assert roofline.parameters(job) == job.model().size()


def test_the_floor_counts_every_multiplication():
    """As the floor on the CPU does, but for the embedding's gradient, and attention's products of which one is made
    twice and none above the diagonal."""
    works = {work.name: work for work in roofline.step(gpu.JOB, "bf16")}
    c, N = gpu.JOB.config, gpu.JOB.batch * gpu.JOB.config.context
    products = sum(p.operations for inputs, outputs, times in [
        (c.width, 3 * c.width, c.layers), (c.width, c.width, c.layers), (c.width, 4 * c.width, c.layers),
        (4 * c.width, c.width, c.layers), (c.width, c.vocab, 1)]
        for p in times * floor.linear(N, inputs, outputs))
    rest = ("attention", "attention, back", "norm of the gradients", "AdamW")
    assert sum(w.operations * w.times for w in works.values() if w.name not in rest) == products
    pairs = sum(64 * 64 * (i + 1) for i in range(4)) * gpu.JOB.batch            # four tiles, three, two, one
    assert works["attention"].operations == 2 * 2 * pairs * c.width
    assert works["attention, back"].operations == 5 * 2 * pairs * c.width


def test_the_floor_is_bound_by_one_of_the_two(monkeypatch):
    counted = {p: list(roofline.step(gpu.JOB, p)) for p in PRECISIONS}
    peaks = {"quick to compute": roofline.Peak(1e30, 1e30, 1e30, 1e9),
             "quick to read": roofline.Peak(1e9, 2e9, 4e9, 1e30)}
    monkeypatch.setattr(roofline, "PEAKS", roofline.PEAKS | peaks)
    for precision, rate in (("bf16", 1e9), ("tf32", 2e9), ("float32", 4e9)):
        total = [sum(getattr(w, what) * w.times for w in counted[precision]) for what in ("operations", "bytes")]
        assert roofline.floor_ms(gpu.JOB, precision, "quick to read") == pytest.approx(1e3 * total[0] / rate)
        assert roofline.floor_ms(gpu.JOB, precision, "quick to compute") == pytest.approx(1e3 * total[1] / 1e9)


def test_floors_are_those_of_known_gpus():
    floors = [roofline.floor_ms(gpu.JOB, p, "NVIDIA H200") for p in ("bf16", "tf32", "float32")]
    assert floors == sorted(floors) and 1.5 < floors[0] < 2 and 15 < floors[2] < 20
    assert roofline.floor_ms(gpu.JOB, "bf16", "NVIDIA H100 80GB HBM3 MIG 1g.10gb") is None


# ---- our side -------------------------------------------------------------------------------------------------------

@needs_kernels
def test_both_sides_are_given_the_same_batches(cupy):
    job, drawn = gpu_side.undropped(SMALL), []
    with gpu_side.stepping(job, "float32", "computed") as steps:
        for step in range(3):
            steps.gradients(step)
            steps.update()
            drawn.append(steps.batch[0].get())
    ids = gpu_side.text(job)
    cut = ids[gpu_side.first_starts(job, 3)[..., None] + np.arange(job.config.context)]
    np.testing.assert_array_equal(drawn, cut)
    assert ids.min() == 0 and ids.max() == job.config.vocab - 1 and len(ids) == 3000


@needs_kernels
def test_a_difference_by_one_bit_is_seen(cupy, monkeypatch):
    assert gpu_side.differs(SMALL, "bf16", 4) == ""
    before = gpu_side.taken

    def other(steps, count):
        found = before(steps, count)
        if type(steps) is not Steps:
            weight = steps.optimizer.parameters[2].data
            weight[0] = np.nextafter(weight[0], np.float32(np.inf))
            found[1, 0] = np.nextafter(found[1, 0], 0)
        return found
    monkeypatch.setattr(gpu_side, "taken", other)
    assert gpu_side.differs(SMALL, "bf16", 4) == "losses, weight 2"


def test_a_step_that_cannot_be_recorded_is_not_measured_as_one(cupy, monkeypatch):
    class Unable(Replayed):
        def __init__(self, *given, say, **named):
            super().__init__(*given, say=say, **named)
            self.say = say

        def gradients(self, step, certain=1):
            self.say("cannot be recorded")
    monkeypatch.setattr(gpu_side, "Recorded", Unable)
    with pytest.raises(RuntimeError, match="cannot be recorded"), gpu_side.training(SMALL, "bf16", "recorded"):
        pass


@needs_kernels
@pytest.mark.parametrize("how", ["computed", "recorded"])
def test_our_steps_are_timed(cupy, how):
    with gpu_side.training(SMALL, "tf32", how) as actions:
        about = actions["facts"]()
        assert about["setup_s"] > 0 and about.keys() == {"setup_s", "driver_bytes", "pool_bytes"}
        assert 0 < actions["run"](2) < 5


@needs_kernels
def test_every_kernel_is_timed_with_its_work(cupy):
    with gpu_kernels.measuring(SMALL) as actions:
        for precision in ("bf16", "tf32"):
            with standin.count_launches() as launched:
                names = actions["names"](precision)
                for name in names:
                    seconds, held_up = actions["once"](precision, name)
                    operations, moved = actions["work"](precision, name)
                    assert seconds > 0 and held_up and moved > 0 and operations >= 0
            wanted = {"layer_norm_backward", "gelu_backward", "cross_entropy", "adamw", "gradient_norm", "dropout",
                      *(["attention", "attention_gkv"] if precision == "bf16" else ["softmax", "softmax_backward"])}
            assert wanted <= launched.keys()
    assert sum(name.startswith("product") for name in names) == 12


@pytest.mark.parametrize("wanted, steps", [(2.0, 30), (0.0, 50)])
def test_a_loss_is_looked_for_every_so_many_steps(wanted, steps, monkeypatch):
    monkeypatch.setattr(gpu_side, "LOOK", 10)
    losses, taken = iter([4.0, 3.0, 2.5, 1.9, 1.8, 1.7]), []
    found = gpu_side.seconds_until(wanted, lambda step, certain: taken.append((step, certain)), lambda: next(losses),
                                   50)
    assert found["steps"] == len(taken) == steps and found["reached"] == (wanted == 2.0)
    assert [step for step, _ in taken] == list(range(steps))
    assert all((step + certain) % 10 == 0 for step, certain in taken[gpu_side.WARM:])


# ---- PyTorch's side -------------------------------------------------------------------------------------------------

@needs_kernels
@pytest.mark.oracle
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_first_losses_are_pytorchs(cupy, on_the_cpu, precision):
    starts = gpu_side.first_starts(SMALL, gpu.FIRST)
    with gpu_side.checking(SMALL) as ours, torch_gpu.checking(SMALL, SMALL.model().state_dict()) as theirs:
        mine = ours["losses"](precision, gpu.FIRST)
        exact, other = (theirs["losses"](p, starts) for p in ("float32", precision))
    assert len(set(exact)) == 4 and exact[-1] < exact[0]
    for found in (mine, other):
        assert np.abs(np.subtract(found, exact)).max() <= gpu.CLOSE[precision]


@pytest.mark.oracle
@pytest.mark.parametrize("how, options", [("eager", []), ("compiled", [{}]),
                                          ("compiled, CUDA graphs", [{"mode": "reduce-overhead"}])])
def test_pytorchs_steps_are_timed(on_the_cpu, how, options, monkeypatch):
    monkeypatch.setattr(gpu_side, "LENGTH", 3000)
    with torch_gpu.training(SMALL, how) as actions:
        assert actions["facts"]().keys() == {"setup_s", "driver_bytes", "pool_bytes"}
        assert 0 < actions["run"](2) < 5
    assert on_the_cpu == options


@pytest.mark.oracle
@pytest.mark.parametrize("precision, setting", [("float32", "highest"), ("tf32", "high"), ("bf16", "high")])
def test_pytorch_trains_in_the_precision_asked_for(on_the_cpu, torch, precision, setting):
    trainer, seen = torch_gpu.Trainer(SMALL, np.arange(500) % 13, precision=precision), []
    trainer.model.blocks[0].up.register_forward_hook(lambda module, inputs, y: seen.append(y.dtype))
    trainer.step()
    assert torch.get_float32_matmul_precision() == setting
    assert seen == [torch.bfloat16 if precision == "bf16" else torch.float32]
    assert all(p.dtype == torch.float32 for p in trainer.parameters)


@pytest.mark.oracle
def test_pytorchs_batches_are_windows_and_what_follows(on_the_cpu):
    trainer = torch_gpu.Trainer(SMALL, np.arange(500) % 13)
    x, y = trainer.batch()
    assert x.shape == y.shape == (2, 64) and ((x + 1) % 13 == y).all() and ((x[:, 1:] == y[:, :-1]).all())


@pytest.mark.oracle
def test_why_pytorch_has_no_side_is_said(torch, on_the_cpu, monkeypatch):
    def failing(*arguments, **named):
        raise OSError("\nno C++ compiler\nand more")
    monkeypatch.setattr(torch_gpu.Trainer, "step", failing)
    with pytest.raises(RuntimeError, match="^no C\\+\\+ compiler$"), torch_gpu.training(SMALL, "compiled"):
        pass
    monkeypatch.undo()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "finds no GPU" in torch_gpu.missing()


@needs_kernels
@pytest.mark.oracle
def test_both_look_at_the_same_windows(cupy, on_the_cpu, monkeypatch):
    """A model that learns nothing has one loss, whoever computes it: the rate is 0, and the weights are ours."""
    monkeypatch.setattr(gpu_side, "schedule", lambda: (lambda step: 0.0, 5))
    monkeypatch.setattr(torch_gpu, "schedule", gpu_side.schedule)
    weights, loaded = SMALL.model().state_dict(), torch_gpu.loaded
    monkeypatch.setattr(torch_gpu, "loaded", lambda config, none: loaded(config, weights))
    ids, found = gpu_side.text(SMALL), []
    for count in (300, 2):                                          # more windows than there are, and fewer
        monkeypatch.setattr(gpu_side, "ENOUGH", count)
        monkeypatch.setattr(torch_gpu, "ENOUGH", count)
        with gpu_side.learning(SMALL, "bf16", ids, ids[:705]) as ours, \
                torch_gpu.learning(SMALL, "eager", ids, ids[:705]) as theirs:
            found += [side["until"](0.0) for side in (ours, theirs)]
    assert [f["reached"] for f in found] == [False] * 4 and found[0]["val_loss"] != found[2]["val_loss"]
    for mine, other in (found[:2], found[2:]):
        assert abs(mine["val_loss"] - other["val_loss"]) < 1e-3


def test_makers_can_be_sent_to_another_process():
    makers = [maker for maker, _ in gpu.SIDES.values()]
    makers += [gpu_side.checking, gpu_side.learning, torch_gpu.checking, torch_gpu.learning, gpu_kernels.measuring]
    assert pickle.loads(pickle.dumps((makers, torch_gpu.missing, gpu.JOB))) == (makers, torch_gpu.missing, gpu.JOB)


# ---- the suite ------------------------------------------------------------------------------------------------------

def text_of(name):
    return Corpus(name, "".join(chr(97 + i) for i in gpu_side.text(SMALL)), "nowhere")


@needs_kernels
@pytest.mark.oracle
def test_the_whole_suite_on_the_stand_in(cupy, on_the_cpu, here, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "corpus", text_of)
    monkeypatch.setattr(gpu, "LOSS", 10.0)
    monkeypatch.setattr(gpu, "STEPS", 1)
    monkeypatch.setattr(gpu_kernels, "CALLS", 1)
    for module in (gpu_side, torch_gpu):
        monkeypatch.setattr(module, "WARM", 3)
    made = gpu.suite(2, tmp_path, time_to_loss=True, job=SMALL)
    [path] = tmp_path.iterdir()
    values = json.loads(path.read_text("utf-8"))
    assert path.name == f"stand-in-{values['facts']['date']}.json"
    assert values == made.values and values["notes"] == {}
    assert values["step"].keys() == gpu.SIDES.keys()
    for name, f in values["step"].items():
        assert len(f["all_ms"]) == f["rounds"] == 2 and f["ms"] == pytest.approx(np.median(f["all_ms"]))
        assert f["tokens_per_s"] == pytest.approx(1e3 * 2 * 64 / f["ms"]) and f["share_of_floor"] is None
        assert ("ratio" in f) == (name != f"{gpu.OURS}, bf16")
    assert values["kernels"].keys() == {"bf16", "tf32"}
    assert all(len(f["all_us"]) == 2 for by_name in values["kernels"].values() for f in by_name.values())
    assert all(f["reached"] and f["steps"] == 3 for f in values["time to loss"].values())
    assert len(values["time to loss"]) == 2 and values["correct"]["losses"].keys() == values["correct"]["apart"].keys()
    assert gpu_page.section(tmp_path) == made
    text = "\n".join(made.lines)
    assert all(name in text for name in (*gpu.SIDES, *values["kernels"]["bf16"])) and "the same to the bit" in text
    assert [line for line in made.lines + made.head if line != line.rstrip() or len(line) > 120] == []


@needs_kernels
def test_ours_alone_where_pytorch_has_no_gpu(cupy, here, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "installed", lambda name: False)
    monkeypatch.setattr(gpu, "STEPS", 2)
    monkeypatch.setattr(gpu_side, "differs", lambda job, precision, count: fail())
    monkeypatch.setattr(gpu_kernels, "measuring", lambda job: fail(ValueError))
    made = gpu.suite(1, tmp_path, job=SMALL)
    assert len(made.values["step"]) == 4 and made.values["correct"]["apart"][f"{gpu.OURS}, float32"] == 0
    assert made.values["notes"] == {"PyTorch": "not measured: it is not installed", **{
        f"replayed, {p}": "not measured: RuntimeError: so it is" for p in PRECISIONS},
        "kernels": "not measured: ValueError: so it is"}
    assert "to the bit" not in "\n".join(made.lines) and "kernels" not in made.values


def fail(kind=RuntimeError):
    raise kind("so it is")


@pytest.mark.parametrize("differ, losses, words", [
    ("norms", [4.0] * 4, "replayed are not those computed: norms differ; nothing was timed"),
    ("", [4.0, 4.0, 4.0, 4.1], "does not compute what is computed in float32"),
    ("", [math.nan] * 4, "does not compute what is computed in float32")])
def test_what_is_wrong_is_not_timed(differ, losses, words, monkeypatch, tmp_path, here, cupy):
    @contextmanager
    def strange(job):
        yield {"losses": lambda precision, count: losses if precision == "bf16" else [4.0] * 4,
               "differs": lambda precision, count: differ}
    monkeypatch.setattr(gpu_side, "checking", strange)
    monkeypatch.setattr(gpu, "installed", lambda name: False)
    with pytest.raises(RuntimeError, match=words):
        gpu.suite(1, tmp_path, job=SMALL)
    assert not list(tmp_path.iterdir())


def test_without_a_gpu_it_says_so_in_a_line(capsys):
    assert main(["bench", "--suite", "gpu"]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("error: device 'cuda'") and len(err.splitlines()) == 1


# ---- the page -------------------------------------------------------------------------------------------------------

def made_up(hour=12, gpu_name="NVIDIA H200", **changed):
    """Figures as the suite leaves them."""
    side = dict(ms=3.25, rounds=2, all_ms=[3.0, 3.5], floor_ms=1.6, share_of_floor=0.49, tokens_per_s=5_041_230.8,
                setup_s=4.2, driver_bytes=3 << 30, pool_bytes=2 << 30)
    ratios = dict(ratio=1.5, ratio_min=1.4, ratio_max=1.6)
    kernel = dict(us=25.0, all_us=[25.0, 25.0], tflop_per_s=0.0, gb_per_s=3000.0, waited_for_python=False)
    return {"facts": {"gpu": gpu_name, "commit": "0123456789abcdef", "dirty": True, "cupy": "14.2.0", "numpy": "2.5.2",
                      "torch": "2.11.0", "python": "3.12.3", "driver": "13.0", "runtime": "13.0", "date": "2026-12-01",
                      "time": f"2026-12-01T{hour}:00:00+00:00"},
            "job": {"layers": 6, "heads": 6, "width": 384, "context": 256, "dropout": 0.2, "batch": 64}, "notes": {},
            "correct": {"losses": {}, "apart": {"PyTorch, float32": 0.0, "PyTorch, bf16": 3e-3}, "steps_replayed": 20},
            "step": {"tinygrad_tfm, bf16": side, "PyTorch eager, bf16": side | ratios},
            "kernels": {"bf16": {"layer norm": kernel, "AdamW": kernel | {"waited_for_python": True}},
                        "tf32": {"layer norm": kernel}},
            "time to loss": {"tinygrad_tfm, bf16": {"seconds": 5.5, "setup_s": 1.0, "steps": 1500, "val_loss": 1.5489,
                                                    "reached": True}}} | changed


def test_the_section_is_made_of_the_newest_file(tmp_path):
    for hour, name in ((12, "NVIDIA H200"), (15, "NVIDIA A100-SXM4-80GB"), (11, "NVIDIA H100 80GB HBM3")):
        gpu_page.save(made_up(hour, name), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "nvidia-h200-2026-12-01.json", "nvidia-a100-sxm4-80gb-2026-12-01.json", "nvidia-h100-80gb-hbm3-2026-12-01.json"}
    made = gpu_page.section(tmp_path)
    assert made.head == ["2026-12-01, NVIDIA A100-SXM4-80GB, CUDA 13.0, driver for CUDA 13.0",
                         "Python 3.12.3, CuPy 14.2.0, NumPy 2.5.2, PyTorch 2.11.0; commit 0123456789ab with changes"]
    step, ours, theirs = (made.lines[i].split() for i in (1, 2, 3))
    assert ours[2:] == ["3.25", "5,041,231", "49", "%", "3,072", "2,048", "4.20"]
    assert step[0] == "ms" and "1.50" in theirs
    text = "\n".join(made.lines)
    for words in ("6 layers, 6 heads, width 384", "medians of 2 rounds", "25.0*", "* the GPU waited for Python",
                  "1,500  1.549", "PyTorch, bf16 3.0e-03", "20 steps with dropout, replayed and computed"):
        assert words in text, text
    assert "PyTorch, float32 0" not in text and all(len(line) <= 120 for line in made.lines)


def test_what_is_missing_is_left_out_and_what_is_noted_said(tmp_path):
    values = made_up(notes={"PyTorch": "not measured: it is not installed", "replayed, bf16": "not measured: so"})
    values["step"]["tinygrad_tfm, bf16"] |= {"share_of_floor": None}
    values["facts"] |= {"torch": None, "dirty": None, "commit": "unknown"}
    del values["kernels"], values["time to loss"]
    made = gpu_page.tables(values)
    assert "unknown" in made.lines[2] and made.head[1].endswith("PyTorch not installed; commit unknown")
    assert made.lines[-2:] == ["PyTorch: not measured: it is not installed", "replayed, bf16: not measured: so"]
    assert "to the bit" not in "\n".join(made.lines)
    del values["step"]
    assert gpu_page.tables(values).lines[0].startswith("first losses without dropout")


def test_a_file_of_the_same_gpu_and_day_is_written_over(tmp_path):
    for hour in (12, 13):
        gpu_page.save(made_up(hour), tmp_path / "new")
    assert gpu_page.newest(tmp_path / "new") == made_up(13) and len(list((tmp_path / "new").iterdir())) == 1


def test_the_pages_section_is_what_its_files_say():
    begin, end = report.marks("gpu")
    written = PAGE.read_text("utf-8").split(begin)[1].split(end)[0]
    assert written == f"\n{report.body([], gpu_page.section(PAGE.parent / 'benchmarks'))}\n"


def test_the_command_makes_the_section_anew_without_a_gpu(tmp_path, capsys):
    page, folder = tmp_path / "page.md", tmp_path / "benchmarks"
    page.write_text("\n".join(report.marks("gpu")))
    asked = ["bench", "--suite", "gpu", "--kept", "--results", str(folder), "--write", str(page)]
    assert main(asked) == 0 and "not measured yet" in page.read_text("utf-8")
    gpu_page.save(made_up(), folder)
    assert main(asked) == 0
    text = page.read_text("utf-8")
    assert "not measured yet" not in text and "NVIDIA H200" in text and "tinygrad_tfm, bf16" in text
    assert "NVIDIA H200" not in capsys.readouterr().out.split("== gpu")[0]


def test_facts_name_gpu_versions_and_commit(cupy, monkeypatch):
    found = gpu_page.facts(cupy)
    assert (found["gpu"], found["cupy"], found["driver"]) == ("stand-in", standin.VERSION, "13.0")
    assert gpu_page.of_cuda(12090) == "12.9"
    assert len(found["commit"]) == 40 and isinstance(found["dirty"], bool) or found["commit"] == "unknown"

    def no_git(*arguments, **named):
        raise FileNotFoundError
    monkeypatch.setattr(subprocess, "run", no_git)
    assert gpu_page.commit() == {"commit": "unknown", "dirty": None}

"""Training: it learns, it resumes to the bit, it stops honestly."""

import errno
import json
import math
import signal
import sys

import numpy as np
import pytest

import tinygrad_tfm as tg
from tinygrad_tfm import checkpoint, files, train as training
from tinygrad_tfm.generate import generate
from tinygrad_tfm.parallel import DataParallel, copied
from tinygrad_tfm.runs import Run
from tinygrad_tfm.text import CharTokenizer, Corpus, split
from tinygrad_tfm.train import Diverged, TrainConfig, evaluate, new_decoder, passages, train

TEXT = "".join(f"{n} times {n} is {n * n}.\n" for n in range(400))
FORK = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")
TINY = dict(context=16, layers=2, heads=2, width=16)


def start(folder, steps=20, shape=TINY, text=TEXT, **settings):
    """Everything `train` wants, for a run of seconds."""
    tokenizer = CharTokenizer.from_text(text)
    config = TrainConfig(**{"steps": steps, "batch": 8, "warmup": 5, "eval_every": 10, "workers": 1, **settings})
    run = Run(folder)
    run.create()
    return new_decoder(shape, tokenizer, config.seed), tokenizer, Corpus("toy", text, "made here"), config, run


def test_it_learns_and_leaves_its_files(tmp_path):
    run = start(tmp_path / "run", steps=60, lr=1e-2)
    result = train(*run, say=lambda line: None)
    assert result.val_loss < 2.0 < math.log(run[1].size)
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "checkpoint.safetensors", "resume.safetensors", "metrics.jsonl", "samples.txt", "step-6.safetensors",
        "step-18.safetensors"}
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert kinds[0] == "baseline" and kinds.count("train") == 60 and kinds.count("eval") == kinds.count("sample") == 6
    assert run[-1].draw().stat().st_size > 5000


def test_early_weights_are_those_of_their_step_and_not_kept_of_a_large_model(tmp_path, monkeypatch):
    run = start(tmp_path / "run", steps=30)
    train(*run, say=lambda line: None)
    assert list(run[-1].early()) == [3, 9]                              # a tenth and three tenths of the way
    stopped = start(tmp_path / "stopped", steps=30)
    train(*stopped, stop_at=9, say=lambda line: None)
    for name, a in stopped[0].state_dict().items():
        np.testing.assert_array_equal(checkpoint.read(run[-1].early()[9])[0][name], a)
    monkeypatch.setattr(training, "MOST_KEPT", run[0].size() - 1)
    large = start(tmp_path / "large", steps=30)
    train(*large, say=lambda line: None)
    assert not large[-1].early()


def test_passages_are_lines_of_the_validation_text_from_all_over_it():
    found = passages(TEXT)
    unseen = TEXT[len(TEXT) * 9 // 10:]
    assert len(found) == 3 and all(text in unseen and len(text) == 240 for text in found)
    assert all(TEXT[TEXT.index(text) - 1] == "\n" for text in found)
    assert np.diff([unseen.index(text) for text in found]).min() > 240
    assert passages("x" * 100) == ["x" * 10, "x" * 7, "x" * 4]          # no line begins in it


def test_metrics_have_the_promised_fields(tmp_path):
    run = start(tmp_path / "run")
    train(*run, say=lambda line: None)
    first = {kind: run[-1].history(kind)[0] for kind in ("baseline", "train", "eval", "sample")}
    assert set(first["baseline"]) == {"kind", "uniform", "unigram", "bigram"}
    assert set(first["train"]) == {"kind", "step", "train_loss", "lr", "grad_norm", "tokens_per_s"}
    assert set(first["eval"]) == {"kind", "step", "train_loss", "val_loss", "elapsed_s"}
    assert set(first["sample"]) == {"kind", "step", "text"}


@pytest.mark.parametrize("workers", [1, 2])
def test_ten_and_ten_more_are_twenty_to_the_bit(tmp_path, workers):
    shape = TINY | {"dropout": 0.1}
    whole = start(tmp_path / "whole", shape=shape, workers=workers)
    train(*whole, say=lambda line: None)
    half = start(tmp_path / "half", shape=shape, workers=workers)
    train(*half, stop_at=10, say=lambda line: None)
    fresh = new_decoder(shape, half[1], seed=99)
    train(fresh, *half[1:], resume=True, say=lambda line: None)
    for part in ("checkpoint", "resume"):
        a, meta_a = checkpoint.read(tmp_path / f"whole/{part}.safetensors")
        b, meta_b = checkpoint.read(tmp_path / f"half/{part}.safetensors")
        assert a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)
        assert meta_a.get("random") == meta_b.get("random")
    losses = [[m["train_loss"] for m in run[-1].history("train")] for run in (whole, half)]
    assert losses[0] == losses[1] and len(losses[0]) == 20


def test_the_kept_weights_are_the_best_of_the_evaluations_and_their_loss_is_of_the_whole_text(tmp_path):
    run = start(tmp_path / "run", steps=60, lr=3e-2, eval_every=10, eval_windows=4, seed=3)
    result = train(*run, say=lambda line: None)
    evals = run[-1].history("eval")
    model, _, provenance = checkpoint.load_model(tmp_path / "run")
    assert provenance["val_loss"] == min(m["val_loss"] for m in evals)
    _, ids = split(run[1].encode(TEXT), TINY["context"])
    with DataParallel(model) as parallel:
        assert evaluate(parallel, ids, 8) == pytest.approx(result.best_val_loss, rel=1e-6)
    with DataParallel(run[0]) as parallel:
        assert evaluate(parallel, ids, 8) == pytest.approx(result.val_loss, rel=1e-6)


def test_stopped_before_its_first_step_it_saves_what_there_is(tmp_path, monkeypatch):
    run = start(tmp_path / "run")
    monkeypatch.setattr(training, "estimate", lambda *args: signal.raise_signal(signal.SIGINT) or 1.0)
    result = train(*run, say=lambda line: None)
    assert result.interrupted and result.steps == 0
    monkeypatch.undo()
    assert train(*run, resume=True, say=lambda line: None).steps == 20


def test_modules_that_were_frozen_in_evaluation_stay_so(tmp_path):
    model, tokenizer, *_ = start(tmp_path / "run", shape=TINY | {"dropout": 0.5})
    model.train()
    model.blocks[1].eval()
    flags = {name: module.training for name, module in model.named_modules()}
    ids = np.zeros(60, np.int64)
    with DataParallel(model, 2) as parallel:
        evaluate(parallel, ids, 8)
        parallel.backward(ids[None, :16].repeat(4, 0), ids[None, :16].repeat(4, 0))
        copies = [{name: module.training for name, module in replica.model.named_modules()}
                  for replica in parallel.replicas]
    list(generate(model, [0], 3))
    assert flags == {name: module.training for name, module in model.named_modules()} == copies[0] == copies[1]


@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=FORK)])
def test_an_error_in_one_share_leaves_no_half_gradient(tmp_path, processes):
    model, *_ = start(tmp_path / "run")
    x = np.zeros((4, 16), np.int64)
    bad = x.copy()
    bad[3, 0] = 999
    with DataParallel(model, 2, processes) as parallel:
        with pytest.raises(IndexError, match="targets must lie in") as caught:
            parallel.backward(x, bad)
        assert "cross_entropy" in str(caught.value)
        assert all(p.grad is None for m in parallel.replicas for p in m.parameters)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_know_of_parameters_frozen_since(tmp_path, workers):
    model, *_ = start(tmp_path / "run")
    x = np.zeros((4, 16), np.int64)
    with DataParallel(model, workers, processes=False) as parallel:
        model.norm.gain.requires_grad = False
        if workers == 1:
            parallel.backward(x, x)
        else:
            with pytest.raises(RuntimeError, match="frozen or thawed"):
                parallel.backward(x, x)
        assert model.norm.gain.grad is None
        model.norm.gain.requires_grad = True


def test_resume_drops_the_metrics_of_steps_done_again(tmp_path):
    run = start(tmp_path / "run")
    train(*run, stop_at=10, say=lambda line: None)
    run[-1].log("train", step=13, train_loss=9.9)                       # a crash came after the last save
    run[-1].add_sample(13, "lost")
    run[-1].add_sample(9, "a line\u2028and another")
    train(*run, resume=True, say=lambda line: None)
    assert [m["step"] for m in run[-1].history("train")] == list(range(1, 21))
    samples = (tmp_path / "run/samples.txt").read_text("utf-8")
    assert "lost" not in samples and "a line\u2028and another" in samples and "step 20" in samples


def test_a_nan_names_the_op_the_module_and_the_step_and_keeps_the_checkpoint(tmp_path):
    run = start(tmp_path / "run")
    train(*run, stop_at=10, say=lambda line: None)
    good = (tmp_path / "run/checkpoint.safetensors").read_bytes()
    arrays, metadata = checkpoint.read(run[-1].state)
    arrays["model.blocks.1.attention.key.weight"][0, 0] = np.nan
    checkpoint.write(run[-1].state, arrays, metadata)
    with pytest.raises(Diverged, match=r"step 10: NaN in matmul.*blocks\.1\.attention\.key.*last good checkpoint"):
        train(*run, resume=True, say=lambda line: None)
    assert (tmp_path / "run/checkpoint.safetensors").read_bytes() == good


def test_a_nan_out_of_dropout_or_in_a_share_is_found_again(tmp_path):
    run = start(tmp_path / "run", steps=100, shape=TINY | {"dropout": 0.95}, workers=2)
    train(*run, stop_at=10, say=lambda line: None)
    arrays, metadata = checkpoint.read(run[-1].state)
    arrays["model.positions.weight"][0, 0] = 1e38                        # overflows where it is not dropped: seldom
    checkpoint.write(run[-1].state, arrays, metadata)
    with np.errstate(all="ignore"), pytest.raises(Diverged, match=r"step \d+: infinity in dropout.*module dropout"):
        train(*run, resume=True, say=lambda line: None)


def test_a_learning_rate_that_explodes_is_told(tmp_path):
    with np.errstate(all="ignore"), pytest.raises(Diverged, match="lower --lr"):
        train(*start(tmp_path / "run", steps=50, lr=1e30), say=lambda line: None)


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    run = start(tmp_path / "run")
    train(*run, stop_at=10, say=lambda line: None)
    good = {p.name: p.read_bytes() for p in (tmp_path / "run").glob("*.safetensors")}

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        train(*run, resume=True, say=lambda line: None)
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").glob("*.safetensors*")} == good


def test_a_directory_with_a_run_is_not_touched(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="--resume"):
        start(tmp_path / "run")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("bad", [dict(lr=math.nan), dict(lr=-1.0), dict(steps=0), dict(batch=0), dict(beta2=1.0),
                                 dict(decay=-0.1), dict(clip=0.0), dict(clip=math.nan), dict(warmup=-1),
                                 dict(eval_every=0), dict(seed=-1), dict(lr_floor=1.0)])
def test_settings_that_cannot_be_are_refused_by_name(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        TrainConfig(**bad)


def test_evaluation_over_the_whole_text_is_the_mean_over_every_next_character(tmp_path):
    model, tokenizer, *_ = start(tmp_path / "run")
    _, ids = split(tokenizer.encode(TEXT), TINY["context"])
    with DataParallel(model) as parallel:
        found = evaluate(parallel, ids, batch=7)
    total = 0.0
    for i in range(0, len(ids) - 1, TINY["context"]):
        x, y = ids[i:i + TINY["context"]], ids[i + 1:i + 1 + TINY["context"]]
        total += model.loss(x[None, :len(y)], y[None]).item() * len(y)
    assert found == pytest.approx(total / (len(ids) - 1), rel=1e-5)


@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=FORK)])
def test_two_workers_give_the_gradients_of_one(tmp_path, processes):
    model, tokenizer, *_ = start(tmp_path / "run")
    x, y = np.random.default_rng(0).integers(0, tokenizer.size, (2, 7, 16))        # 7 windows: unequal shares
    found = []
    for workers in (1, 2, 3, 9):                                                   # 9: two have nothing to do
        with DataParallel(model, workers, processes) as parallel:
            loss = parallel.backward(x, y)
        found.append([float(loss), *(p.grad.copy() for p in model.parameters())])
        model.zero_grad()
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


@FORK
def test_processes_and_threads_give_the_same_to_the_bit(tmp_path):
    found = []
    for processes in (True, False):
        model, tokenizer, *_ = start(tmp_path / str(processes), shape=TINY | {"dropout": 0.3})
        x, y = np.random.default_rng(0).integers(0, tokenizer.size, (2, 7, 16))
        with DataParallel(model, 3, processes) as parallel:
            tg.manual_seed(4)
            losses = [float(parallel.backward(x, y)), float(parallel.backward(x[:2], y[:2]))]
            losses.append(float(parallel.loss(x, y)))
        found.append([losses, *(p.grad for p in model.parameters())])
    assert found[0][0] == found[1][0]
    assert all(np.array_equal(a, b) for a, b in zip(found[0][1:], found[1][1:], strict=True))


@FORK
def test_weights_changed_in_place_are_seen_by_every_process_and_stay_when_they_are_gone(tmp_path):
    model, tokenizer, *_ = start(tmp_path / "run")
    x, y = np.random.default_rng(0).integers(0, tokenizer.size, (2, 8, 16))
    with DataParallel(model, 2, processes=True) as parallel:
        for p in model.parameters():
            p.data *= 2
        loss = parallel.loss(x, y)
        processes = [other.process for other in parallel._others]
        assert all(process.is_alive() for process in processes)
    assert not any(process.is_alive() for process in processes)
    assert float(loss) == pytest.approx(model.loss(x, y).item(), rel=1e-5)


@FORK
def test_a_process_that_dies_is_told_and_nothing_hangs(tmp_path):
    model, *_ = start(tmp_path / "run")
    x = np.zeros((4, 16), np.int64)
    with DataParallel(model, 2, processes=True) as parallel:
        parallel._others[0].process.kill()
        parallel._others[0].process.join()
        with pytest.raises(RuntimeError, match="has died.*--workers 1"):
            parallel.backward(x, x)


class Awkward(Exception):
    """Can be pickled, and not be unpickled."""

    def __init__(self, what, where):
        super().__init__(f"{what} at {where}")


@FORK
def test_an_error_that_cannot_travel_is_said_all_the_same(tmp_path):
    model, *_ = start(tmp_path / "run")
    x = np.arange(4)[:, None].repeat(16, 1)

    def loss(ids, targets):
        if ids.max() == 3:                                          # the second share's
            raise Awkward("trouble", 3)
        return type(model).loss(model, ids, targets)
    model.loss = loss
    with DataParallel(model, 2, processes=True) as parallel:
        for _ in range(2):                                          # and the process is there still
            with pytest.raises(RuntimeError, match="Awkward: trouble at 3"):
                parallel.backward(x, x)


def test_watchers_see_the_work_of_every_share(tmp_path):
    model, *_ = start(tmp_path / "run")
    x = np.zeros((4, 16), np.int64)
    counts = []
    for workers in (1, 2):
        with DataParallel(model, workers) as parallel, tg.watch.timed() as timer:
            parallel.backward(x, x)
        counts.append(timer.calls["layer_norm"])
    assert counts[1] == 2 * counts[0] > 0


def test_a_replica_shares_weights_but_not_gradients(tmp_path):
    model, *_ = start(tmp_path / "run")
    twin = copied(model)
    assert [n for n, _ in twin.named_parameters()] == [n for n, _ in model.named_parameters()]
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert a is not b and a.data is b.data and a.node is not b.node


def test_a_gradient_accumulates_over_two_batches_as_over_one_of_both(tmp_path):
    model, tokenizer, *_ = start(tmp_path / "run")
    x, y = np.random.default_rng(0).integers(0, tokenizer.size, (2, 8, 16))
    with DataParallel(model) as parallel:
        parallel.backward(x, y)
        whole = [p.grad for p in model.parameters()]
        model.zero_grad()
        for half in (slice(4), slice(4, 8)):
            model.loss(x[half], y[half]).backward(0.5)
    for p, g in zip(model.parameters(), whole, strict=True):
        np.testing.assert_allclose(p.grad, g, rtol=1e-4, atol=1e-7)


def test_twins_and_plain_rules_learn_the_same(tmp_path):
    losses = []
    for on in (True, False):
        run = start(tmp_path / str(on), steps=50, shape=TINY | {"width": 32})
        with tg.fused(on):
            train(*run, say=lambda line: None)
        losses.append([m["train_loss"] for m in run[-1].history("train")])
    np.testing.assert_allclose(losses[0], losses[1], atol=1e-5)

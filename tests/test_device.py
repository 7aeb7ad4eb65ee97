"""The device path on the stand-in for CuPy: the host's numbers, and nobody waits. On a GPU: tests/gpu.

By the plain rules, whose numbers on the stand-in are the host's almost to the bit. The twins: test_cuda_twins.py.
"""

import json
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import device_checks as checks
import numpy as np
import pytest
import standin
from test_train import TINY, start as start_of

import tinygrad_tfm as tg
from tinygrad_tfm import checkpoint, emulator, functional as F
from tinygrad_tfm.backend import to_device
from tinygrad_tfm.cli import main
from tinygrad_tfm.generate import generate, generate_text
from tinygrad_tfm.gpu import cuda, resolve_device
from tinygrad_tfm.parallel import DataParallel
from tinygrad_tfm.random import random_bits
from tinygrad_tfm.runs import Run
from tinygrad_tfm.text import split
from tinygrad_tfm.train import Diverged, evaluate, new_decoder, sample, train

DROPOUT = TINY | {"layers": 1, "dropout": 0.1}


@pytest.fixture(autouse=True)
def cupy():
    with standin.install() as cupy, tg.fused(False):
        yield cupy


def start(folder, **settings):
    """Everything `train` wants, for a run of a second."""
    return start_of(folder, shape=DROPOUT, **settings)


@pytest.fixture(autouse=True, scope="module")
def short_samples():
    """A run writes 20 characters now and then, not 200."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tinygrad_tfm.train.sample", partial(sample, count=20))
        yield


def say(line):
    """Nothing: a run's words are not what is tested here."""


# ---- rules ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", checks.RULES)
def test_a_rule_gives_the_hosts_numbers(name, dtype):
    checks.rule_gives_the_hosts_numbers(name, dtype)


@pytest.mark.parametrize("name", checks.RULES)
def test_a_rule_gives_the_hosts_second_derivatives(name):
    checks.rule_gives_the_hosts_second_derivatives(name)


@pytest.mark.parametrize("name", checks.RULES)
def test_a_rule_does_not_wait(name):
    for call in checks.RULES[name]:
        op, inputs, settings = checks.prepared(call, "cuda", "float32")
        with standin.count_syncs() as counter:
            y = op(*inputs, **settings)
            y.backward(y.data)
        # How many numbers a boolean mask chooses, only the GPU knows: asked twice, forward and backward.
        index = settings.get("index")
        parts = index if isinstance(index, tuple) else (index,)
        chosen = any(getattr(part, "dtype", None) == "bool" for part in parts)
        assert counter.value == (2 if chosen else 0), counter.where


@pytest.mark.parametrize("name", checks.COMPOSED)
def test_a_composition_gives_the_hosts_numbers(name):
    with standin.count_syncs() as counter:
        checks.composition_gives_the_hosts_numbers(name)
    assert counter.value == 2, counter.where                            # value and gradient are read, at the end


def test_every_rule_has_a_row():
    assert checks.rules_without_a_row() == set()


def test_random_bits_are_the_hosts(cupy):
    assert np.array_equal(random_bits(999, 2**61 + 5, cupy).get(), random_bits(999, 2**61 + 5, np))


# ---- training -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("optimizer", checks.OPTIMIZERS)
@pytest.mark.parametrize("shape", checks.SHAPES)
def test_a_training_step_never_waits(shape, optimizer):
    training = checks.Training("cuda", optimizer, **checks.SHAPES[shape])
    with standin.count_syncs() as counter:
        found = [training.step() for _ in range(4)]
    assert counter.value == 0, counter.where
    assert all(math.isfinite(float(loss) + float(norm)) for loss, norm in found)


def test_a_step_that_looks_at_its_loss_is_found_out():
    training = checks.Training("cuda")
    with standin.count_syncs() as counter:
        for _ in range(3):
            loss, _ = training.step()
            float(loss)
    assert counter.value == 3


@pytest.mark.parametrize("shape", checks.SHAPES)
def test_training_gives_the_hosts_losses(shape):
    host, device = checks.training_gives_the_hosts_losses(shape)
    for a, b in zip(host.model.parameters(), device.model.parameters(), strict=True):
        assert b.device == "cuda"
        np.testing.assert_allclose(b.numpy(), a.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", checks.OPTIMIZERS)
def test_every_optimizer_goes_the_hosts_way(optimizer):
    checks.training_gives_the_hosts_losses("dropout", optimizer)
    checks.twenty_steps_lower_the_loss(optimizer)


def test_nothing_is_float64():
    checks.nothing_is_float64()


def test_what_an_optimizer_keeps_lies_on_the_device_and_its_state_in_host_memory(cupy):
    training = checks.Training("cuda")
    training.step()
    assert {type(a) for arrays in training.optimizer.state.values() for a in arrays} == {cupy.ndarray}
    state = training.optimizer.state_dict()
    assert state["steps"] == 1 and all(type(a) is np.ndarray for name, a in state.items() if name != "steps")
    fresh = checks.Training("cuda")
    fresh.optimizer.load_state_dict(state)
    again = fresh.optimizer.state_dict()
    assert again.keys() == state.keys() and all(np.array_equal(a, again[name]) for name, a in state.items())
    assert {type(a) for arrays in fresh.optimizer.state.values() for a in arrays} == {cupy.ndarray}


def test_evaluation_waits_once_and_gives_the_hosts_loss(tmp_path):
    model, tokenizer, corpus, *_ = start(tmp_path / "run")
    _, ids = split(tokenizer.encode(corpus.text), TINY["context"])
    for count in (None, 9):
        with DataParallel(model.to("cpu")) as parallel, tg.fused(False):
            expected = evaluate(parallel, ids, 7, count)
        with DataParallel(model.to("cuda")) as parallel, standin.count_syncs() as counter:
            found = evaluate(parallel, to_device(ids, "cuda"), 7, count)
        assert found == pytest.approx(expected, rel=1e-6) and counter.value == 1, counter.where


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same training of 20 steps on both devices: whole, and in two halves."""
    folder = tmp_path_factory.mktemp("runs")
    made = {}
    with standin.install(), tg.fused(False):
        for device in ("cpu", "cuda"):
            whole = start(folder / device, device=device)
            half = start(folder / f"{device}, resumed", device=device)
            made[device] = train(*whole, say=say)
            train(*half, stop_at=10, say=say)
            train(new_decoder(DROPOUT, half[1], seed=99), *half[1:], resume=True, say=say)
    return folder, made


def test_a_run_on_the_device_leaves_what_a_run_on_the_host_leaves(runs):
    folder, results = runs
    assert results["cuda"].device == "cuda"
    assert results["cuda"].val_loss == pytest.approx(results["cpu"].val_loss, rel=1e-6)
    names = [sorted(p.name for p in (folder / device).iterdir()) for device in ("cpu", "cuda")]
    assert names[0] == names[1] and len(names[0]) == 6
    assert (folder / "cpu/samples.txt").read_text() == (folder / "cuda/samples.txt").read_text()
    for part in ("checkpoint", "resume", "step-2", "step-6"):
        same_states(folder / f"cpu/{part}.safetensors", folder / f"cuda/{part}.safetensors", atol=1e-5)


def test_ten_and_ten_more_are_twenty_to_the_bit(runs):
    folder, _ = runs
    for part in ("checkpoint", "resume", "step-2", "step-6"):
        same_states(folder / f"cuda/{part}.safetensors", folder / f"cuda, resumed/{part}.safetensors", atol=0)


@pytest.mark.parametrize("first, then", [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_run_goes_on_on_the_other_device(tmp_path, runs, first, then):
    half = start(tmp_path / "run", device=first)
    train(*half, stop_at=10, say=say)
    model, tokenizer, corpus, config, run = start(tmp_path / "unused", device=then)
    train(model, tokenizer, corpus, config, half[-1], resume=True, say=say)
    same_states(half[-1].state, runs[0] / "cpu/resume.safetensors", atol=1e-5)


def same_states(a, b, atol):
    (arrays, meta), (others, other_meta) = checkpoint.read(a), checkpoint.read(b)
    assert arrays.keys() == others.keys() and meta.get("random") == other_meta.get("random")
    for name in arrays:
        np.testing.assert_allclose(arrays[name], others[name], rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("trained, used", [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_run_of_one_device_writes_on_the_other(runs, trained, used):
    texts = []
    for device in (trained, used):
        model, tokenizer, provenance = checkpoint.load_model(runs[0] / trained, device)
        assert {x.device for _, x in model.named_tensors()} == {device}
        assert provenance["train"]["device"] == trained
        texts.append("".join(generate_text(model, tokenizer, "7", 50, seed=3)))
    assert texts[0] == texts[1]


def test_the_number_of_steps_does_not_change_how_often_training_waits(tmp_path):
    """It waits for the estimate, the first and the last loss, the evaluation, the sample and, twice, for early weights
    to be kept; never in between."""
    waited = []
    for steps in (10, 20):
        run = start(tmp_path / str(steps), steps=steps, eval_every=1000, device="cuda")
        with standin.count_syncs() as counter:
            train(*run, say=say)
        waited.append(counter.value)
    assert waited[0] == waited[1]


def test_a_loss_that_explodes_between_two_looks_is_told_and_nothing_is_saved_over(tmp_path):
    run = start(tmp_path / "run", device="cuda")
    train(*run, stop_at=10, say=say)
    good = {p.name: p.read_bytes() for p in (tmp_path / "run").glob("*.safetensors")}
    wild = start(tmp_path / "unused", lr=1e30, device="cuda")[3]
    with np.errstate(all="ignore"), pytest.raises(Diverged, match="step 20: NaN in .*last good checkpoint is kept"):
        train(*run[:3], wild, run[-1], resume=True, say=say)
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").glob("*.safetensors")} == good


# ---- generation -----------------------------------------------------------------------------------------------------

def test_generation_gives_the_hosts_tokens():
    assert (checks.generation_gives_the_hosts_tokens(cached=True)
            == checks.generation_gives_the_hosts_tokens(cached=False))


@pytest.mark.parametrize("cached", [True, False])
def test_a_token_is_waited_for_once(cached):
    with standin.count_syncs() as counter:
        list(generate(checks.decoder("cuda"), [1], 20, cached=cached))
    assert counter.value == 20, counter.where


# ---- tensors and modules --------------------------------------------------------------------------------------------

def test_a_tensor_goes_there_and_back(cupy):
    h = np.array([[1.0, 2.0]], np.float32)
    x = tg.Tensor(h, requires_grad=True, device="cuda")
    assert x.device == "cuda" and type(x.data) is cupy.ndarray and x.to("cuda") is x
    assert type(x.numpy()) is np.ndarray and np.array_equal(x.numpy(), h)
    back = x.to("cpu")
    assert back.device == "cpu" and back.requires_grad and type(back.data) is np.ndarray
    assert tg.Tensor([1, 2], device="cuda").dtype == np.int64 and tg.Tensor([1.0], device="cuda").dtype == np.float32
    assert tg.Tensor(cupy.ones(2)).device == tg.Tensor(x).device == x.detach().device == "cuda"
    assert np.array_equal(np.asarray(x), h) and (x.sum().item(), float(x.sum()), int(x.sum())) == (3, 3, 3)
    assert bool(x.any()) and [row.device for row in x] == ["cuda"]


@pytest.mark.parametrize("device, other", [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_value_with_a_history_stays_where_it_is(device, other):
    x = tg.Tensor([1.0, 2.0], requires_grad=True, device=device)
    y = x * 2
    with pytest.raises(RuntimeError, match=r"of mul cannot change device.*\.detach\(\)"):
        y.to(other)
    with pytest.raises(ValueError, match="unknown device 'tpu'"):
        y.to("tpu")
    assert y.to(device) is y and y.detach().to(other).device == x.to(other).device == other
    with tg.no_grad():
        assert (x * 2).to(other).device == other


def test_lists_as_settings_and_indices_are_taken_to_the_device():
    x = tg.Tensor(checks.cases.A, True, "float32", "cuda")
    for y in (F.cross_entropy(x, targets=[0, 3, 1]), F.embedding(x, ids=[2, 0]), x[[1, 0]], x[:, [0, 2]], x[[]],
              F.where([True, False, True, False], x, 0.0)):
        assert y.device == "cuda"
        y.sum().backward()
    assert tg.Tensor(x.grad).device == "cuda"


def test_a_tensor_in_an_index_is_not_waited_for():
    x, columns = tg.Tensor(checks.cases.A, True, "float32", "cuda"), tg.Tensor([2, 2], device="cuda")
    with standin.count_syncs() as counter:
        x[1:, columns].sum().backward()
    assert counter.value == 0 and x.grad.tolist() == [[0, 0, 0, 0], [0, 0, 2, 0], [0, 0, 2, 0]]


def test_integers_give_float32_there_too():
    ids = tg.Tensor([1, 2], device="cuda")
    assert (ids / 2).dtype == ids.mean().dtype == (ids * 1.0).dtype == np.float32
    assert f"{ids.mean():.2f}" == "1.50"


def test_its_repr_says_where_it_is():
    x = tg.Tensor([[1.0, 2.0]], requires_grad=True, device="cuda")
    assert repr(x) == "Tensor([[1., 2.]], device=cuda, requires_grad=True)"
    assert repr(x.sum()) == "Tensor(3., device=cuda, from reduce_sum)"
    assert repr(tg.Tensor([1, 2], device="cuda")) == "Tensor([1, 2], dtype=int64, device=cuda)"


def test_a_gradient_given_by_the_host_is_taken_to_the_device(cupy):
    x = tg.Tensor([1.0, 2.0], requires_grad=True, device="cuda")
    (x * x).backward(np.array([1.0, 10.0]))
    assert type(x.grad) is cupy.ndarray and x.grad.tolist() == [2, 40]
    (x * x).backward([1.0, 1.0])
    assert x.grad.tolist() == [4, 44]


def test_derivatives_of_any_order():
    cube = lambda x: (x * x * x).sum()
    second = tg.grad(lambda x: tg.grad(cube)(x).sum())(tg.Tensor([2.0, -1.0], device="cuda"))
    assert second.device == "cuda" and second.numpy().tolist() == [12, -6]
    third = tg.grad(tg.grad(tg.grad(cube)))(tg.Tensor([2.0], device="cuda"))
    assert third.device == "cuda" and third.numpy().tolist() == [6]


def test_a_module_moves_with_all_its_tensors_and_back():
    model = checks.decoder("cpu", **checks.SHAPES["original"])
    before = model.state_dict()
    assert {x.device for _, x in model.to("cuda").named_tensors()} == {"cuda"}
    state = model.state_dict()
    assert all(type(a) is np.ndarray and np.array_equal(a, before[name]) for name, a in state.items())
    for _, x in model.named_tensors():
        x.data *= 0
    model.load_state_dict(state)
    assert {x.device for _, x in model.named_tensors()} == {"cuda"}
    assert all(np.array_equal(a, before[name]) for name, a in model.to("cpu").state_dict().items())


def test_positions_beyond_the_table_are_made_on_the_device():
    positions = tg.nn.SinusoidalPositions(4, 6).to("cuda")
    assert positions(3, start=5).device == "cuda"
    assert np.array_equal(positions(3, start=5).numpy(), tg.nn.SinusoidalPositions(4, 6)(3, start=5).numpy())


def test_the_weights_of_attention_can_be_looked_at():
    layer, x = tg.nn.Attention(8, 2), tg.Tensor(checks.normal(2, 3, 8), dtype="float32")
    expected = layer.pattern(x, causal=True)
    found = layer.to("cuda").pattern(x.to("cuda"), causal=True)
    np.testing.assert_allclose(found.get(), expected, atol=1e-6)


# ---- watchers -------------------------------------------------------------------------------------------------------

def test_the_timer_waits_for_every_step():
    x = tg.Tensor(checks.cases.A, True, "float32", "cuda")
    with standin.count_syncs() as counter, tg.watch.timed() as timer:
        F.softmax(x * x).sum().backward()
    assert timer.calls == dict.fromkeys(["mul", "softmax", "reduce_sum", "reduce_sum'", "softmax'", "mul'"], 1)
    assert counter.value == 6 and "softmax'" in str(timer)


def test_the_finder_of_nans_names_op_and_module():
    model = checks.decoder("cuda")
    ids = tg.Tensor(np.array([[1, 2, 3]]), device="cuda")
    with tg.watch.find_nan():
        model.loss(ids, ids).backward()
    model.blocks[1].attention.key.weight.data[0, 0] = np.nan
    with pytest.raises(tg.watch.NaNFound, match=r"NaN in matmul.*blocks\.1\.attention\.key"), tg.watch.find_nan():
        model.loss(ids, ids)


def test_the_ledger_counts_the_hosts_bytes():
    bytes = {}
    for device in ("cpu", "cuda"):
        x = tg.Tensor(checks.cases.A, True, "float32", device)
        with tg.fused(False), tg.watch.saved_memory() as ledger:
            F.softmax(F.exp(x) * 2).sum()
        bytes[device] = dict(ledger.bytes)
    assert bytes["cuda"] == bytes["cpu"] and sum(bytes["cpu"].values()) > 0


# ---- what cannot be -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", checks.MIXED)
def test_mixing_names_the_op_the_devices_and_the_cure(name):
    checks.mixing_names_the_op_the_devices_and_the_cure(name)


@pytest.mark.parametrize("name", checks.MIXED_SETTINGS)
def test_mixing_ids_targets_masks_and_indices_too(name):
    checks.mixing_names_the_op_the_devices_and_the_cure(name, checks.MIXED_SETTINGS)


def no_cupy(monkeypatch, cupy):
    monkeypatch.setitem(sys.modules, "cupy", None)


def no_gpu(monkeypatch, cupy):
    monkeypatch.setattr(cupy.cuda, "runtime", SimpleNamespace(getDeviceCount=lambda: 0))


def no_driver(monkeypatch, cupy):
    def fail():
        raise OSError("cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version")
    monkeypatch.setattr(cupy.cuda, "runtime", SimpleNamespace(getDeviceCount=fail))


LACKING = {no_cupy: "pip install 'tinygrad_tfm[cuda13]'", no_gpu: "there is no GPU; use --device cpu",
           no_driver: "finds no usable GPU (cudaErrorInsufficientDriver"}


@pytest.mark.parametrize("lacking", LACKING)
@pytest.mark.parametrize("command", ["train", "sample"])
def test_a_device_that_is_not_there_is_one_clear_line(tmp_path, monkeypatch, capsys, cupy, runs, lacking, command):
    lacking(monkeypatch, cupy)
    out = tmp_path / "run"
    arguments = {"train": ["train", "--corpus", "python-docs", "--out", str(out)],
                 "sample": ["sample", str(runs[0] / "cpu")]}
    assert main([*arguments[command], "--device", "cuda"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("error: device 'cuda'") and LACKING[lacking] in said[0]
    assert not out.exists()


@pytest.mark.parametrize("lacking", LACKING)
def test_auto_takes_the_host_where_there_is_no_device(monkeypatch, cupy, lacking):
    assert resolve_device("auto") == "cuda" and cuda() is cupy
    lacking(monkeypatch, cupy)
    assert resolve_device("auto") == "cpu"
    with pytest.raises((ImportError, RuntimeError), match="device 'cuda'"):
        tg.Tensor([1.0], device="cuda")
    with pytest.raises((ImportError, RuntimeError), match="device 'cuda'"):
        tg.nn.Linear(2, 2).to("cuda")


def test_the_command_line_trains_and_samples_on_the_device(tmp_path, capsys):
    text, out = tmp_path / "toy.txt", tmp_path / "run"
    text.write_text(checks.TEXT, encoding="utf-8")
    tiny = ["--steps", "4", "--batch", "4", "--context", "16", "--layers", "1", "--heads", "2", "--width", "16"]
    assert main(["train", "--text", str(text), "--out", str(out), "--device", "cuda", "--json", *tiny]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["device"] == "cuda" and result["steps"] == 4
    assert [m["step"] for m in Run(out).history("train")] == [4]         # so that a short run has something to draw
    assert (out / "loss.png").stat().st_size > 5000
    texts = []
    for device in ("cpu", "cuda", "auto"):
        assert main(["sample", str(out), "--count", "20", "--seed", "1", "--device", device]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] == texts[2]


# ---- the tests for a GPU --------------------------------------------------------------------------------------------

@pytest.mark.skipif(not emulator.COMPILER, reason="kernels run on the CPU only with g++, on Linux")
def test_the_tests_for_a_gpu_work():
    """They pass on the stand-in; one of each kind will do here."""
    kinds = "softmax or operators or bits or float64 or gpt or momentum or True or matmul or doctor or come"
    done = subprocess.run([sys.executable, "-m", "pytest", "-n", "0", "-m", "gpu", "-k", kinds,
                           "-p", "no:cacheprovider", str(Path(__file__).parent / "gpu")],
                          env=os.environ | {"TINYGRAD_TFM_GPU": "stand-in"}, capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0 and " passed" in done.stdout and "skipped" not in done.stdout, done.stdout

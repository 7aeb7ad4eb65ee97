"""Steps that are recorded, and steps by hand: the numbers of steps as the engine computes them, and nobody waits.

On the stand-in, which records what CuPy can record and refuses what it cannot; kernels run on the emulator.
"""

from contextlib import contextmanager
from functools import partial

import device_checks as checks
import numpy as np
import pytest
import standin
from test_train import start as start_of

import tinygrad_tfm as tg
from tinygrad_tfm import checkpoint, optim
from tinygrad_tfm.backend import to_device
from tinygrad_tfm.emulator import COMPILER
from tinygrad_tfm.flat import Flat, by_hand
from tinygrad_tfm.models.on_gpu import goes_by_hand
from tinygrad_tfm.parallel import DataParallel
from tinygrad_tfm.random import random_stream
from tinygrad_tfm.steps import MOST_AHEAD, Recorded, Steps
from tinygrad_tfm.train import Diverged, TrainConfig, sample, train

pytest.importorskip("ml_dtypes", reason="NumPy has no bfloat16: pip install 'tinygrad_tfm[test]'")
pytestmark = pytest.mark.skipif(not COMPILER, reason="kernels run on the CPU only with g++, on Linux")
SHAPE = dict(layers=2, heads=2, width=16, context=16, dropout=0.2)
TILES = dict(layers=1, heads=2, width=64, context=64, dropout=0.1)                    # attention goes by tiles in bf16


@pytest.fixture(autouse=True)
def cupy():
    with standin.install() as cupy:
        yield cupy


@pytest.fixture(autouse=True, scope="module")
def short_samples():
    """A run writes 20 characters now and then, not 200."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tinygrad_tfm.train.sample", partial(sample, count=20))
        yield


def taken(kind, steps, precision="float32", hand=False, model=None, certain=lambda step: 1, batch=3, clip=0.5, **shape):
    """Losses and norms of so many steps, the weights after them, and what was said and launched."""
    model = model or checks.decoder("cuda", **SHAPE | shape)
    optimizer = optim.AdamW(model.parameters(), 1e-2, betas=(0.9, 0.99), decay=0.1)
    ids, said = to_device(checks.TOKENIZER.encode(checks.TEXT), "cuda"), []
    more = dict(say=said.append) if kind is Recorded else {}
    found = []
    with DataParallel(model) as parallel, tg.precision(precision), random_stream(np.random.default_rng(7)):
        made = kind(parallel, optimizer, ids, batch=batch, rate=lambda step: 1e-2 / (step + 1), clip=clip, hand=hand,
                    **more)
        with standin.count_launches() as launched:
            for step in range(steps):
                found.append([a.copy() for a in made.gradients(step, certain(step))])
                made.update()
    return (np.array([[a.get() for a in pair] for pair in found]), model.state_dict(), optimizer.state_dict(), said,
            launched)


def same(a, b):
    """To the bit, losses, weights and what the optimiser keeps."""
    np.testing.assert_array_equal(a[0], b[0])
    for mine, other in zip(a[1:3], b[1:3]):
        assert mine.keys() == other.keys() and all(np.array_equal(mine[name], other[name]) for name in mine)


@pytest.mark.parametrize("hand", [False, True])
@pytest.mark.parametrize("precision, shape", [
    ("float32", {}), ("tf32", {}), ("bf16", TILES), ("float32", {"dropout": 0})])
def test_a_replayed_step_is_a_computed_one_to_the_bit(precision, shape, hand):
    computed = taken(Steps, 6, precision, hand, **shape)
    recorded = taken(Recorded, 6, precision, hand, certain=lambda step: 6 - step, **shape)
    assert not recorded[3] and recorded[4]["graph"] == 5
    same(computed, recorded)
    assert len({*computed[0][:, 0]}) == 6 and (computed[0][:, 1] > 0.5).any()         # it moved, and was clipped


def test_how_far_ahead_is_drawn_changes_nothing():
    found = [taken(Recorded, 7, certain=certain, layers=1)
             for certain in (lambda step: 1, lambda step: 7 - step, lambda step: 3 - step % 3)]
    same(found[0], found[1])
    same(found[0], found[2])


def test_the_tables_may_be_used_up(monkeypatch):
    monkeypatch.setattr("tinygrad_tfm.steps.MOST_AHEAD", 2)
    same(taken(Steps, 5, layers=1), taken(Recorded, 5, layers=1, certain=lambda step: 5 - step))
    assert MOST_AHEAD > 50


# ---- by hand --------------------------------------------------------------------------------------------------------

def gradients(hand, precision="float32", training=True, change=lambda model: model, **shape):
    model = change(checks.decoder("cuda", **SHAPE | shape).train(training))
    optimizer = optim.AdamW(model.parameters(), 1e-2)
    x, y = (to_device(np.random.default_rng(i).integers(0, checks.TOKENIZER.size, (3, model.config.context)), "cuda")
            for i in range(2))
    with tg.precision(precision), random_stream(np.random.default_rng(3)):
        if hand:
            work = by_hand(model, optimizer)
            loss = work.backward(x, y)
            return loss.get(), {name: work.flat.of(work.flat.gradients, p).get()
                                for name, p in model.named_parameters()}
        loss = model.loss(x, y)
        loss.backward()
        return loss.data.get(), {name: p.grad.get() for name, p in model.named_parameters()}


def varied(model):
    """Each dropout with a probability of its own, and norms with an epsilon of their own."""
    model.dropout.p = 0.1
    for i, block in enumerate(model.blocks):
        block.attention.dropout, block.dropout.p, block.feed_forward.dropout.p = 0.2 + i / 10, 0.4, 0.5
        block.norms[1].eps = 0.01 * (i + 1)
    return model


@pytest.mark.parametrize("precision", ["float32", "tf32"])
@pytest.mark.parametrize("shape", [{}, {"dropout": 0}, {"layers": 1, "heads": 1, "hidden": 10}, {"training": False},
                                   {"width": 6, "hidden": 7, "change": varied}])
def test_loss_and_gradients_by_hand_are_the_engines(shape, precision):
    (loss, found), (expected, grads) = gradients(True, precision, **shape), gradients(False, precision, **shape)
    assert loss == pytest.approx(expected, rel=1e-6) and found.keys() == grads.keys()
    for name, g in grads.items():
        np.testing.assert_allclose(found[name], g, rtol=2e-5, atol=2e-6 * np.abs(g).max(), err_msg=name)


def test_by_hand_in_bf16_is_as_near_to_float32_as_the_engine_in_bf16():
    exact, grads = gradients(False, **TILES)
    far = {}
    for hand in (True, False):
        loss, found = gradients(hand, "bf16", **TILES)
        assert loss == pytest.approx(exact, rel=2**-8)
        far[hand] = max(np.linalg.norm(found[name] - g) / np.linalg.norm(g) for name, g in grads.items())
    assert far[True] < 1.5 * far[False] < 0.1


def test_twenty_steps_by_hand_are_twenty_of_the_engine():
    hand, engine = (taken(Steps, 20, hand=hand) for hand in (True, False))
    np.testing.assert_allclose(hand[0], engine[0], rtol=1e-4)
    assert engine[0][-5:, 0].mean() < engine[0][:5, 0].mean() - 0.05
    assert hand[4]["adamw"] == 2 * 20 and hand[4]["sum_of_squares"] == 20              # matrices, and gains
    assert hand[4]["dropout"] == engine[4]["dropout"] - 20 * 2 * 4                 # in two places of a block, and back


def test_a_step_by_hand_never_waits_and_keeps_no_graph():
    model = checks.decoder("cuda", **SHAPE)
    work = by_hand(model, optim.AdamW(model.parameters(), 1e-2))
    x = to_device(np.zeros((3, 16), int), "cuda")
    with standin.count_syncs() as waited:
        work.backward(x, x)
        work.update(optim.clip_factor(work.norm(), 1.0))
    assert waited.value == 0, waited.where
    assert all(p.grad is None for p in model.parameters())


NOT_BY_HAND = {"bias": dict(bias=True), "relu": dict(activation="relu"), "gelu_tanh": dict(activation="gelu_tanh"),
               "untied": dict(tied=False), "post-norm": dict(pre_norm=False),
               "sinusoidal": dict(positions="sinusoidal"), "scaled": dict(scale_embedding=True),
               "odd": dict(width=15, heads=3)}


@pytest.mark.parametrize("name", NOT_BY_HAND)
def test_another_shape_is_the_engines(name):
    assert not goes_by_hand(checks.decoder("cuda", **SHAPE | NOT_BY_HAND[name]))
    found = taken(Recorded, 4, **SHAPE | NOT_BY_HAND[name] | {"layers": 1})
    assert found[4]["graph"] == 3 and not found[3]


def test_parts_of_ones_own_frozen_weights_and_the_cpu_are_the_engines():
    own, frozen, host = (checks.decoder("cuda", **SHAPE) for _ in range(3))
    assert goes_by_hand(own)
    with tg.fused(False):
        assert not goes_by_hand(own)
    with tg.watching(lambda name, step: step()):
        assert not goes_by_hand(own)
    for name, change in {
            "a bias": lambda m: setattr(m.norm, "bias", tg.Tensor(np.zeros(16), True, np.float32, "cuda")),
            "one norm in two places": lambda m: setattr(m, "norm", m.blocks[0].norms[0]),
            "an output": lambda m: setattr(m, "unembed", tg.nn.Linear(16, 9, bias=False).to("cuda")),
            "an activation": lambda m: setattr(m.blocks[1].feed_forward, "activation", tg.F.relu),
            "double precision": lambda m: m.to("cuda", dtype=np.float64)}.items():
        changed = checks.decoder("cuda", **SHAPE)
        change(changed)
        assert not goes_by_hand(changed), name
    own.blocks[0].attention = tg.nn.Sequential()
    frozen.embed.weight.requires_grad = False
    with tg.precision("bf16"):                                     # heads of 8, and a context of 16
        assert not goes_by_hand(checks.decoder("cuda", **SHAPE)) and goes_by_hand(checks.decoder("cuda", **TILES))
    assert not any(map(goes_by_hand, (own, frozen, host.to("cpu"), host.blocks[0], None)))
    model = checks.decoder("cuda", **SHAPE)
    assert by_hand(model, optim.SGD(model.parameters(), 1e-2)) is None
    assert by_hand(model, optim.AdamW(model.parameters()[1:], 1e-2)) is None


def test_laid_end_to_end_nothing_changes_and_checkpoints_fit():
    model, other = (checks.decoder("cuda", **SHAPE | {"width": 6, "hidden": 7}) for _ in range(2))
    some = {id(x) for m in (model, other) for x in (m.norm.gain, m.blocks[0].feed_forward.up.weight)}
    optimizers = [optim.AdamW(m.parameters(), 1e-2, decay=0.1, decays=lambda p: id(p) in some) for m in (model, other)]
    for optimizer in optimizers:                                   # and they remember something already
        for p in optimizer.parameters:
            p.node.grad = to_device(np.random.default_rng(p.size).standard_normal(p.shape).astype(np.float32), "cuda")
        optimizer.step()
    before, memory = model.state_dict(), optimizers[0].state_dict()
    flat = Flat(optimizers[0])
    assert all(np.array_equal(a, before[name]) for name, a in model.state_dict().items())
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        q.node.grad = to_device(np.random.default_rng(p.size).standard_normal(p.shape).astype(np.float32), "cuda")
        flat.of(flat.gradients, p)[...] = q.grad
    for _ in range(3):
        flat.step(0.5)
        optimizers[1].step(0.5)
    states = [o.state_dict() for o in optimizers]
    assert states[0].keys() == states[1].keys() == memory.keys() and states[0]["steps"] == 4
    for mine, theirs in (states, (model.state_dict(), other.state_dict())):
        assert all(np.array_equal(mine[name], theirs[name]) for name in mine)
    optimizers[0].load_state_dict(memory)
    model.load_state_dict(before)
    table = flat.of(flat.weights, model.embed.weight)
    assert flat.mean.any() and np.array_equal(table.get(), before["embed.weight"])
    assert all(np.array_equal(a, memory[name]) for name, a in optimizers[0].state_dict().items() if name != "steps")
    starts = [place.start for place in flat.places.values()]
    assert all(start % 4 == 0 for start in starts) and flat.decayed < flat.weights.size


def frozen(model):
    model.norm.gain.requires_grad = False


def replaced(model):
    model.embed.weight.data = model.embed.weight.data * 1.0


CHANGES = {"frozen": frozen, "replaced": replaced,
           "another optimiser's": lambda model: by_hand(model, optim.AdamW(model.parameters(), 1e-2)),
           "a part of one's own": lambda model: setattr(model.blocks[0], "attention", tg.nn.Sequential())}


@pytest.mark.parametrize("name", CHANGES)
def test_a_model_that_changed_under_its_steps_is_told(name):
    model = checks.decoder("cuda", **SHAPE)
    work = by_hand(model, optim.AdamW(model.parameters(), 1e-2))
    x = to_device(np.zeros((3, 16), int), "cuda")
    work.backward(x, x)
    CHANGES[name](model)
    with pytest.raises(RuntimeError, match="has changed since its steps were made"):
        work.backward(x, x)


def test_watched_or_by_the_plain_rules_steps_by_hand_are_not_taken():
    model = checks.decoder("cuda", **SHAPE)
    work = by_hand(model, optim.AdamW(model.parameters(), 1e-2))
    x = to_device(np.zeros((3, 16), int), "cuda")
    for block in (tg.fused(False), tg.watching(lambda name, step: step())):
        with block, pytest.raises(RuntimeError, match="make the steps anew"):
            work.backward(x, x)
    work.backward(x, x)


# ---- what cannot be recorded ----------------------------------------------------------------------------------------

def test_what_cannot_be_recorded_is_told_and_computed_all_the_same():
    with tg.fused(False):                                          # by the plain rules, CuPy multiplies
        recorded, computed = taken(Recorded, 4, layers=1), taken(Steps, 4, layers=1)
    [said] = recorded[3]
    assert "cannot be recorded as a CUDA graph" in said and "cuBLAS" in said and not recorded[4]["graph"]
    np.testing.assert_allclose(recorded[0], computed[0], rtol=1e-5)


def test_a_loss_that_draws_for_itself_begins_with_the_same_batches():
    class Drawing(tg.models.Decoder):
        def loss(self, ids, targets):
            tg.random.rng().random()
            return super().loss(ids, targets)

    def model():
        tg.manual_seed(1)
        config = tg.models.DecoderConfig(vocab=checks.TOKENIZER.size, **SHAPE | {"dropout": 0})
        return Drawing(config).to("cuda")
    found = [taken(kind, 1, model=model()) for kind in (Steps, Recorded)]
    np.testing.assert_array_equal(found[0][0], found[1][0])


def test_dropout_that_is_turned_on_afterwards_is_told():
    model = checks.decoder("cuda", **SHAPE | {"bias": True, "dropout": 0})
    steps, _ = recorded(model)
    model.dropout.p = 0.5
    with pytest.raises(RuntimeError, match="asks for more keys of dropout"):
        steps.gradients(0)


def test_a_step_that_looks_at_a_number_cannot_be_recorded():
    class Curious(tg.models.Decoder):
        def loss(self, ids, targets):
            loss = super().loss(ids, targets)
            return loss * 2 if float(loss.data) < 0 else loss
    tg.manual_seed(1)
    config = tg.models.DecoderConfig(vocab=checks.TOKENIZER.size, **SHAPE)
    found = taken(Recorded, 4, model=Curious(config).to("cuda"))
    assert "capturing" in found[3][0] and not found[4]["graph"]
    same(found, taken(Steps, 4, hand=False))


def test_no_number_of_the_hosts_is_written_while_recording():
    """It would be kept for others in the graph's memory, and hold nothing before the graph has run."""
    from tinygrad_tfm.kernels.cuda import _written
    model = checks.decoder("cuda", **SHAPE)
    optimizer = optim.AdamW(model.parameters(), 1e-2)
    ids = to_device(checks.TOKENIZER.encode(checks.TEXT), "cuda")
    for hand in (True, False):
        with DataParallel(model) as parallel, random_stream(np.random.default_rng(7)):
            steps = Recorded(parallel, optimizer, ids, batch=2, rate=lambda step: 1e-3, clip=1.0, say=print, hand=hand)
            steps.gradients(0)
            before = _written.cache_info()
            steps.gradients(1)
            assert steps.graph is not None and _written.cache_info() == before


def recorded(model, **more):
    """Steps on a model, and what they say."""
    said = []
    ids = to_device(checks.TOKENIZER.encode(checks.TEXT), "cuda")
    return Recorded(DataParallel(model).__enter__(), optim.AdamW(model.parameters(), 1e-2), ids, batch=2,
                    rate=lambda step: 1e-3, clip=1.0, say=said.append, **more), said


def test_memory_that_is_given_back_while_recording_is_the_end_of_it(monkeypatch):
    steps, said = recorded(checks.decoder("cuda", **SHAPE))
    steps.gradients(0)
    left = iter([100])                                             # before, and 50 after
    monkeypatch.setattr(type(steps.pool), "total_bytes", lambda pool: next(left, 50))
    steps.gradients(1)
    assert steps.graph is None and "the GPU's memory is used up" in said[0]
    steps.gradients(2)
    assert len(said) == 1 and steps.optimizer.steps == 3


def test_the_reason_is_the_first_error_and_not_that_of_ending_the_recording(monkeypatch):
    steps, said = recorded(checks.decoder("cuda", **SHAPE))
    steps.gradients(0)
    end = type(steps.stream).end_capture

    def fails(stream):
        end(stream)
        raise RuntimeError("cudaErrorStreamCaptureInvalidated")
    monkeypatch.setattr(type(steps.stream), "end_capture", fails)
    monkeypatch.setattr("tinygrad_tfm.steps.clip_factor", lambda norm, clip: 1 / 0)
    with pytest.raises(ZeroDivisionError):                         # computed, it fails once more, and that is told
        steps.gradients(1)
    assert said[0].endswith("division by zero")


def test_closed_steps_give_their_memory_back():
    steps, _ = recorded(checks.decoder("cuda", **SHAPE))
    for step in range(3):
        steps.gradients(step)
    assert steps.pool.total_bytes() > 0
    steps.close()
    assert steps.graph is None and steps.pool.total_bytes() == 0


# ---- runs -----------------------------------------------------------------------------------------------------------

def run(folder, said, stop_at=None, resume=None, **settings):
    """A run of 20 steps on the device; with `resume`, the second half of that one."""
    start = start_of(folder, shape=SHAPE | {"layers": 1}, device="cuda", **settings)
    train(*start[:4], resume or start[4], resume=resume is not None, stop_at=stop_at, say=said.append)
    return start[4]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_ten_recorded_steps_and_ten_more_are_twenty_to_the_bit(tmp_path, precision):
    said = []
    with standin.count_launches() as launched:
        whole = run(tmp_path / "whole", said, precision=precision)
    assert launched["graph"] == 19 and not [line for line in said if "cannot be recorded" in line]
    half = run(tmp_path / "half", said, stop_at=10, precision=precision)
    run(tmp_path / "unused", said, resume=half, precision=precision)
    for part in ("weights", "state"):
        (arrays, _), (others, _) = (checkpoint.read(getattr(r, part)) for r in (whole, half))
        assert arrays.keys() == others.keys() and all(np.array_equal(arrays[name], others[name]) for name in arrays)


def test_who_interrupts_waits_for_the_steps_that_were_drawn(tmp_path, monkeypatch):
    """Else the random numbers that are saved would be those of steps that were never taken."""
    asked = []

    @contextmanager
    def at_once():
        yield lambda: bool(asked.append(1)) or len(asked) > 1
    whole = run(tmp_path / "whole", [])
    with monkeypatch.context() as patch:
        patch.setattr("tinygrad_tfm.train.interruptible", at_once)
        half = run(tmp_path / "half", [])
    assert half.load_progress()["step"] == 10 and len(asked) == 2                     # eval_every is 10
    run(tmp_path / "unused", [], resume=half)
    (arrays, _), (others, _) = (checkpoint.read(r.state) for r in (whole, half))
    assert all(np.array_equal(arrays[name], others[name]) for name in arrays)


def test_a_recorded_run_gives_the_losses_of_a_run_on_the_host(tmp_path):
    device = run(tmp_path / "device", [])
    model, tokenizer, corpus, config, host = start_of(tmp_path / "host", shape=SHAPE | {"layers": 1})
    train(model, tokenizer, corpus, config, host, say=lambda line: None)
    losses = [[line["val_loss"] for line in r.history("eval")] for r in (device, host)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and len(losses[0]) == 2


def test_a_gpu_has_one_worker():
    with pytest.raises(ValueError, match="there is one GPU: give --workers 1, not 2"):
        TrainConfig(device="cuda", workers=2)


def test_how_long_it_will_take_is_said_once_the_kernels_are_compiled(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("tinygrad_tfm.train.estimate", None)
    run(tmp_path / "run", said, steps=150, eval_every=1000, batch=1)
    [place] = [i for i, line in enumerate(said) if line.startswith("estimated time: about ")]
    assert any("/150 steps" in line for line in said[:place])


def test_a_loss_that_explodes_in_a_recorded_step_is_told(tmp_path):
    with np.errstate(all="ignore"), pytest.raises(Diverged, match="diverged at step 10: NaN in embedding"):
        run(tmp_path / "run", [], lr=1e30)

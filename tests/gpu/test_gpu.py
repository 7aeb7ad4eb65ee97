"""On a real CuPy with a real GPU: what tests/test_device.py holds on the stand-in, by the very same checks.

    pytest -m gpu tests/gpu

And what only a GPU can show: every twin beside the plain rule, attention by tiles at full length, precisions beside
each other, a step replayed beside one computed.
"""

import contextlib
from types import SimpleNamespace

import device_checks as checks
import numpy as np
import pytest
import standin
import test_cuda_twins as twins
import test_precision as precisions
from measured import kernel_names
from test_twins import calls, heads, normal

import tinygrad_tfm as tg
from tinygrad_tfm import doctor, ops, optim
from tinygrad_tfm.backend import to_device
from tinygrad_tfm.bench import gpu_side
from tinygrad_tfm.bench.our_side import Job
from tinygrad_tfm.kernels import cuda, cuda_attention
from tinygrad_tfm.kernels.precision import PRECISIONS
from tinygrad_tfm.parallel import synchronize
from tinygrad_tfm.random import random_bits

# What CuPy has to say, as of a driver, is shown and is no failure.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]


def test_the_doctor_finds_it_well(cupy):
    found = doctor.gpu()
    if not hasattr(cupy.cuda, "MemoryPool"):           # a stand-in that records nothing
        del found["a recorded step"]
    assert set(found.values()) == {"ok"}, found
    assert "compute capability" in doctor.device()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", checks.RULES)
def test_a_rule_gives_the_hosts_numbers(name, dtype):
    checks.rule_gives_the_hosts_numbers(name, dtype)


@pytest.mark.parametrize("name", checks.RULES)
def test_a_rule_gives_the_hosts_second_derivatives(name):
    checks.rule_gives_the_hosts_second_derivatives(name)


@pytest.mark.parametrize("name", checks.COMPOSED)
def test_a_composition_gives_the_hosts_numbers(name):
    checks.composition_gives_the_hosts_numbers(name)


def test_random_bits_are_the_hosts(cupy):
    assert np.array_equal(random_bits(10_000, 2**61 + 5, cupy).get(), random_bits(10_000, 2**61 + 5, np))


@pytest.mark.parametrize("shape", checks.SHAPES)
def test_training_in_double_precision_gives_the_hosts_losses(shape):
    checks.training_gives_the_hosts_losses(shape, dtype=np.float64, rel=1e-9)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("optimizer", checks.OPTIMIZERS)
def test_training_gives_the_hosts_losses(optimizer, fused):
    """In single precision: additions are made in another order, and eight steps carry the difference on."""
    with tg.fused(fused):
        checks.training_gives_the_hosts_losses("dropout", optimizer, rel=1e-3)


@pytest.mark.parametrize("optimizer", checks.OPTIMIZERS)
def test_twenty_steps_lower_the_loss(optimizer):
    checks.twenty_steps_lower_the_loss(optimizer)


def test_nothing_is_float64():
    checks.nothing_is_float64()


@pytest.mark.parametrize("cached", [True, False])
def test_generation_gives_the_hosts_tokens(cached):
    checks.generation_gives_the_hosts_tokens(cached)


@pytest.mark.parametrize("name", ["add", "add, host first", "mul", "matmul", "layer_norm"])
def test_mixing_names_the_op_the_devices_and_the_cure(name):
    checks.mixing_names_the_op_the_devices_and_the_cure(name)


def test_a_step_does_not_wait_for_the_gpu(cupy):
    """Steps asked for while the GPU is held up by a long product are all accepted before it is through."""
    if cupy.cuda.runtime.getDeviceProperties(0)["name"] == b"stand-in":
        pytest.skip("the stand-in does all work at once")
    training = checks.Training("cuda", total=5)
    for _ in range(3):                                 # kernels are compiled and memory is found at first use
        training.step()
    large = cupy.ones((8192, 8192), np.float32)
    synchronize(large)
    held_up, done = large, cupy.cuda.Event()
    for _ in range(200):
        held_up = large @ large
    for _ in range(2):
        loss, _ = training.step()
    done.record()
    waiting = not done.done
    synchronize(held_up)
    assert waiting and done.done and float(loss) > 0


def test_tensors_come_and_go(cupy):
    x = tg.Tensor([[1.0, 2.0]], device="cuda")
    assert type(x.data) is cupy.ndarray and type(x.numpy()) is np.ndarray and x.to("cpu").device == "cpu"
    assert repr(x) == "Tensor([[1., 2.]], device=cuda)"


# ---- twins ----------------------------------------------------------------------------------------------------------

UNCOUNTED = SimpleNamespace(value=0)                   # on a GPU nobody counts how often the host waits


@calls(twins.FITS, twins.RULES)
def test_a_twin_is_as_exact_as_the_plain_rule(name, inputs, settings):
    twins.compare(name, inputs, settings, UNCOUNTED)


@calls(twins.FITS, ["norm"])
def test_the_norm_of_all_gradients(name, inputs, settings):
    found = cuda.norm(*map(twins.there, inputs))
    np.testing.assert_allclose(found.get(), optim.norm(*(a.astype(np.float64) for a in inputs)), rtol=1e-6)


@calls(twins.FITS, ["adamw"])
def test_the_twin_of_adamw_writes_the_same_numbers(name, inputs, settings):
    plain, twin, _ = twins.PAIRS[name]
    for a, b in zip(twins.stepped(twin, inputs, settings), twins.stepped(plain, inputs, settings)):
        np.testing.assert_allclose(a.get(), b.get(), rtol=1e-5, atol=1e-7)


@precisions.CASES
def test_values_and_gradients_are_off_by_what_bf16_is_off_by(name, inputs, settings, stored):
    precisions.off_by_what_bf16_is_off_by(name, inputs, settings, stored)


@pytest.mark.parametrize("K", cuda_attention.HEADS)
@pytest.mark.parametrize("p", [0.0, 0.2])
def test_attention_by_tiles_at_full_length(K, p):
    """Of 256 positions, beside the plain rule in float32 on the same rounded numbers. Weights and their gradients are
    rounded to bf16 before they are multiplied, and so is each result."""
    *arrays, g = (a.astype(precisions.BF16) for a in (*heads(256, 256, K), normal(2, 2, 256, K, seed=9)))
    settings = {"causal": True, "p": p, "key": twins.KEY}
    y, back = cuda_attention.attention(*(to_device(a, "cuda") for a in arrays), **settings)
    found = [y, *back(to_device(g, "cuda"))[:3]]
    exact, plainly_back = ops.attention(*(a.astype(np.float32) for a in arrays), **settings)
    for a, b in zip(found, [exact, *plainly_back(g.astype(np.float32))[:3]], strict=True):
        assert np.abs(a.get().astype(np.float32) - b).max() <= 4 * precisions.U * np.abs(b).max()


def test_every_kernel_runs(cupy):
    """In two steps, which is all that compute-sanitizer is given to look at."""
    counted = standin.count_launches() if is_the_stand_in(cupy) else contextlib.nullcontext(kernel_names())
    with counted as launched:
        for precision in ("float32", "bf16"):
            with tg.precision(precision):
                training = checks.Training("cuda", total=1, batch=2, **precisions.SHAPE)
                assert np.isfinite(training.run()).all()
    assert set(kernel_names()) <= set(launched)


def is_the_stand_in(cupy):
    return cupy.cuda.runtime.getDeviceProperties(0)["name"] == b"stand-in"


# ---- precisions, and steps replayed ---------------------------------------------------------------------------------

def test_the_loss_curves_agree():
    precisions.curves_agree({name: precisions.losses(name)[1][:, 0] for name in PRECISIONS})


@pytest.mark.parametrize("precision", PRECISIONS)
def test_replayed_steps_are_those_computed_to_the_bit(precision, cupy):
    if not hasattr(cupy.cuda, "MemoryPool"):
        pytest.skip("this stand-in cannot record a step")
    config = tg.models.DecoderConfig(vocab=13, **precisions.SHAPE)
    assert gpu_side.differs(Job(config, batch=2), precision, 6) == ""

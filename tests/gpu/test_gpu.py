"""On a real CuPy with a real GPU: what tests/test_device.py holds on the stand-in, by the very same checks.

    pytest -m gpu tests/gpu
"""

import device_checks as checks
import numpy as np
import pytest

import tinygrad_tfm as tg
from tinygrad_tfm import doctor
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

"""The doctor on machines of every kind: what it finds on each, the line that repairs it, and that nothing upsets it."""

import json
import shlex
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import standin

from tinygrad_tfm import doctor, emulator
from tinygrad_tfm.cli import main

PIP = f"{shlex.quote(sys.executable)} -m pip"
BOTH = [("cupy-cuda12x", "14.2.0"), ("cupy_cuda13x", "14.2.0"), ("cupy-cuda13x", "14.2.0"), ("cupyish", "1.0")]
WORK = list(doctor.WORK)


@pytest.fixture
def machine(monkeypatch):
    """machine(driver, wheels): a machine without CuPy that has this driver, and these packages by their metadata."""
    monkeypatch.setitem(sys.modules, "cupy", None)

    def make(driver, wheels=()):
        packages = [SimpleNamespace(name=name, version=version) for name, version in (*wheels, ("numpy", "2"))]
        monkeypatch.setattr(doctor, "driver", lambda: driver)
        monkeypatch.setattr(doctor.metadata, "distributions", lambda: packages)
    return make


@pytest.fixture
def cupy():
    with standin.install() as module:
        yield module


def findings():
    found = doctor.gpu()
    return found, doctor.repair(found)


def test_where_there_is_no_gpu_nothing_has_to_be_repaired(machine, capsys):
    machine(driver=0)
    assert findings() == ({"driver": "no NVIDIA driver found", "CuPy": "not installed"}, "")
    assert main(["doctor", "--json"]) == 0
    out = capsys.readouterr().out
    assert "GPU: none that could be used\n  driver                no NVIDIA driver found\n" in out
    assert "repair:" not in out and json.loads(out.splitlines()[-1])["gpu"]["CuPy"] == "not installed"


@pytest.mark.parametrize("driver, extra", [(12000, "cuda12"), (12040, "cuda12"), (13000, "cuda13"), (13010, "cuda13")])
def test_without_cupy_the_driver_says_which_to_install(machine, driver, extra):
    machine(driver)
    assert findings() == ({"driver": "ok", "CuPy": "not installed"}, f"{PIP} install 'tinygrad_tfm[{extra}]'")


def test_a_driver_that_is_too_old_is_told_and_no_package_would_help(machine):
    machine(11080)
    found, repair = findings()
    assert found["driver"].startswith("of CUDA 11.8; CuPy 14 needs 12.0 or later") and not repair


def test_of_several_packages_all_are_removed_and_one_is_installed(machine, capsys):
    machine(13000, BOTH)
    found, repair = findings()
    assert found["CuPy"] == "cupy-cuda12x==14.2.0, cupy-cuda13x==14.2.0 disturb each other: keep one"
    assert repair == (f"{PIP} uninstall -y cupy-cuda12x cupy-cuda13x && {PIP} install 'tinygrad_tfm[cuda13]'")
    assert main(["doctor", "--json"]) == 0
    out = capsys.readouterr().out
    assert f"\nTo repair:\n  {repair}\n" in out
    report = json.loads(out.splitlines()[-1])
    assert report["gpu"] == found and report["repair"] == repair and report["driver"] == 13000
    assert report["cupy"] == ["cupy-cuda12x==14.2.0", "cupy-cuda13x==14.2.0"]
    machine(0, BOTH)                                               # and without a driver none of them is of use
    assert findings()[1] == f"{PIP} uninstall -y cupy-cuda12x cupy-cuda13x"


def test_a_package_that_cannot_be_imported_is_put_in_again(machine):
    machine(12020, [("cupy-cuda12x", "14.2.0")])
    found, repair = findings()
    assert found["CuPy"].startswith("cupy-cuda12x==14.2.0 cannot be imported: ")
    assert repair == f"{PIP} uninstall -y cupy-cuda12x && {PIP} install 'tinygrad_tfm[cuda12]'"


def test_a_cupy_that_is_ahead_of_the_driver_is_changed_for_the_older(machine, cupy):
    machine(12040, [("cupy-cuda13x", "14.2.0")])
    found, repair = findings()
    assert found == {"driver": "ok", "CuPy": "made for CUDA 13.0, but the driver knows 12.4 only"}
    assert repair == f"{PIP} uninstall -y cupy-cuda13x && {PIP} install 'tinygrad_tfm[cuda12]'"
    machine(14000, [("cupy-cuda13x", "14.2.0")])                   # a driver runs what was made for older ones
    assert doctor._cupy_fits() == ""


def test_a_cupy_that_finds_no_gpu_is_told_in_its_words(machine, cupy, monkeypatch):
    machine(13000)
    monkeypatch.setattr(standin.runtime, "getDeviceCount", lambda: 0)
    found, repair = findings()
    assert found == {"driver": "ok", "CuPy": "ok", "a GPU": "CuPy finds none"} and not repair
    assert doctor.device() == "none that could be used"

    def fail():
        raise RuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
    monkeypatch.setattr(standin.runtime, "getDeviceCount", fail)
    assert doctor.gpu()["a GPU"] == "RuntimeError: cudaErrorNoDevice: no CUDA-capable device is detected"


def test_the_driver_is_asked_without_cupy(monkeypatch):
    def answer(number):
        number._obj.value = 12080
        return 0

    def no_library(name):
        raise OSError(f"{name}: cannot open shared object file")
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(doctor.ctypes, "CDLL", lambda name: SimpleNamespace(cuDriverGetVersion=answer))
    assert doctor.driver() == 12080
    monkeypatch.setattr(doctor.ctypes, "CDLL", no_library)
    assert doctor.driver() == 0
    with standin.install():                                        # where the library has another name CuPy knows
        assert doctor.driver() == 13000


needs_compiler = pytest.mark.skipif(not emulator.COMPILER, reason="kernels run on the CPU only with g++, on Linux")


@needs_compiler
def test_on_a_gpu_that_is_well_every_check_says_so(machine, cupy):
    machine(13000, BOTH[:1])
    found, repair = findings()
    assert found == dict.fromkeys(["driver", "CuPy", "a GPU", *WORK], "ok") and not repair
    assert doctor.device() == ("stand-in, compute capability 9.0, 1.0 of 1.0 GiB free; CUDA 13.0 of the driver, "
                               "13.0 of CuPy")


@needs_compiler
@pytest.mark.parametrize("fault, words", [(0.5, "wrong numbers, off by up to 0.5"),
                                          (np.nan, "wrong numbers, off by up to nan")])
def test_a_kernel_that_gives_wrong_numbers_is_told_and_the_others_are_asked_all_the_same(machine, cupy, monkeypatch,
                                                                                         fault, words):
    machine(13000)
    right = doctor.twins.gelu
    monkeypatch.setattr(doctor.twins, "gelu", lambda x: (right(x)[0] + np.float32(fault), None))
    found = doctor.gpu()
    assert found["a kernel of ours"] == words and {found[name] for name in WORK[1:]} == {"ok"}


def test_a_product_that_is_wrong_or_fails_is_told(machine, cupy, monkeypatch):
    machine(13000)
    monkeypatch.setattr(doctor.cublaslt, "product", lambda a, b: a)
    monkeypatch.setattr(doctor.twins, "gelu", lambda x: 1 / 0)
    found = doctor.gpu()
    assert found["a float32 product"].startswith("wrong numbers, off by up to ")
    assert found["a bfloat16 product"].startswith("wrong numbers, off by up to ")
    assert found["a kernel of ours"] == "ZeroDivisionError: division by zero"


def test_without_cublaslt_the_right_cupy_is_installed_with_it(machine, cupy, monkeypatch):
    machine(13000, BOTH[:1])
    monkeypatch.setattr(doctor.cublaslt, "library", lambda: "cuBLASLt cannot be used: no such file")
    with pytest.warns(RuntimeWarning, match="CuPy multiplies instead"):
        found, repair = findings()
    assert found["products by cuBLASLt"] == "cuBLASLt cannot be used: no such file"
    assert repair == f"{PIP} uninstall -y cupy-cuda12x && {PIP} install 'tinygrad_tfm[cuda13]'"


def test_a_recorded_step_that_is_not_done_again_is_told(machine, cupy, monkeypatch):
    """Here recording does the work, and launching does nothing."""
    stream, graph = standin.Stream, SimpleNamespace(launch=lambda stream: None)
    monkeypatch.setattr(standin.cuda, "MemoryPool", lambda: SimpleNamespace(malloc=None, free_all_blocks=int))
    monkeypatch.setattr(standin.cuda, "using_allocator", lambda malloc: nullcontext(), raising=False)
    monkeypatch.setattr(stream, "begin_capture", lambda self: None, raising=False)
    monkeypatch.setattr(stream, "end_capture", lambda self: graph, raising=False)
    assert doctor._recorded() == "wrong numbers, off by up to 1"
    monkeypatch.setattr(stream, "begin_capture", lambda self: 1 / 0)
    machine(13000)
    assert doctor.gpu()["a recorded step"] == "ZeroDivisionError: division by zero"

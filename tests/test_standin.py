"""The stand-in refuses what CuPy refuses and counts what makes the host wait."""

import copy
import operator
import pickle
import sys

import numpy as np
import pytest
import standin
from emulator import emu

from tinygrad_tfm.kernels.cuda_source import source

HOST = np.ones((2, 3), np.float32)
HOST_0D = np.ones((), np.float32)
HOST_INDEX = np.array([0, 1])


@pytest.fixture
def cp():
    with standin.install() as cupy:
        yield cupy


@pytest.fixture
def x(cp):
    return cp.arange(6, dtype=np.float32).reshape(2, 3)


REFUSED = {
    "device + host": lambda cp, x: x + HOST,
    "host + device": lambda cp, x: HOST + x,
    "device * 0-d host": lambda cp, x: x * HOST_0D,
    "0-d host * device": lambda cp, x: HOST_0D * x,
    "device + list": lambda cp, x: x + [1.0, 2.0, 3.0],
    "device @ host": lambda cp, x: x @ HOST.T,
    "host @ device": lambda cp, x: HOST @ x.T,
    "comparison": lambda cp, x: x < HOST,
    "device += host": lambda cp, x: operator.iadd(x, HOST),
    "host += device": lambda cp, x: operator.iadd(HOST.copy(), x),
    "np ufunc": lambda cp, x: np.maximum(x, HOST),
    "np ufunc, host out": lambda cp, x: np.exp(x, out=HOST.copy()),
    "cupy ufunc of host only": lambda cp, x: cp.exp(HOST),
    "cupy ufunc's method, host only": lambda cp, x: cp.add.reduce(HOST),
    "set of another shape": lambda cp, x: x.set(HOST[0]),
    "cupy ufunc, host out": lambda cp, x: cp.exp(x, out=HOST.copy()),
    "cupy ufunc of a list": lambda cp, x: cp.exp([1.0]),
    "cupy function": lambda cp, x: cp.sum(HOST),
    "np function": lambda cp, x: np.dot(x, HOST.T),
    "method": lambda cp, x: x.dot(HOST.T),
    "method, host out": lambda cp, x: x.sum(axis=0, out=np.ones(3, np.float32)),
    "concatenate": lambda cp, x: cp.concatenate([x, HOST]),
    "np.concatenate": lambda cp, x: np.concatenate([x, HOST]),
    "stack": lambda cp, x: cp.stack((x, HOST)),
    "where, host condition": lambda cp, x: cp.where(HOST > 0, x, 0),
    "where, host choice": lambda cp, x: cp.where(x > 0, x, HOST),
    "where, 0-d choice": lambda cp, x: cp.where(x > 0, x, HOST_0D),
    "np.where": lambda cp, x: np.where(x > 0, x, HOST),
    "einsum": lambda cp, x: cp.einsum("ij,ij->i", x, HOST),
    "take_along_axis": lambda cp, x: cp.take_along_axis(x, HOST_INDEX[None], 1),
    "take": lambda cp, x: x.take(HOST_INDEX),
    "index": lambda cp, x: x[HOST_INDEX],
    "index in a tuple": lambda cp, x: x[:, HOST_INDEX],
    "host mask": lambda cp, x: x[HOST > 0],
    "assignment through a host index": lambda cp, x: operator.setitem(x, HOST_INDEX, 0),
    "assignment of a host array": lambda cp, x: operator.setitem(x, ..., HOST),
    "assignment of a 0-d host array": lambda cp, x: operator.setitem(x, 0, HOST_0D),
    "assignment of a list": lambda cp, x: operator.setitem(x, 0, [1, 2, 3]),
    "add.at, host index": lambda cp, x: cp.add.at(x, HOST_INDEX, 1),
    "add.at, host value": lambda cp, x: cp.add.at(x, cp.array([0, 1]), HOST),
    "add.at on host": lambda cp, x: np.add.at(HOST.copy(), HOST_INDEX, x),
    "erf": lambda cp, x: sys.modules["cupyx.scipy.special"].erf(HOST),
    "host and device in one list": lambda cp, x: cp.asarray([x, HOST]),
    "np.asarray": lambda cp, x: np.asarray(x),
    "np.array of a list": lambda cp, x: np.array([x, x]),
    "buffer": lambda cp, x: memoryview(x),
    "bytes": lambda cp, x: bytes(cp.arange(3)),
    "__index__": lambda cp, x: operator.index(cp.asarray(2)),
    "range": lambda cp, x: range(cp.asarray(2)),
    "slice bound": lambda cp, x: x[:cp.asarray(1)],
    "shape": lambda cp, x: cp.zeros(cp.asarray(2)),
    "shape in a tuple": lambda cp, x: x.reshape((cp.asarray(3), 2)),
    "shape for a function": lambda cp, x: cp.reshape(x, (cp.asarray(3), 2)),
    "iteration over 0-d": lambda cp, x: iter(x.sum()),
    "sum(where=)": lambda cp, x: x.sum(where=x > 0),
    "max(initial=)": lambda cp, x: cp.max(x, initial=0),
    "ufunc(where=)": lambda cp, x: np.exp(x, where=x > 0),
    "take(mode=)": lambda cp, x: x.take(cp.array([0]), mode="clip"),
    "argsort(kind=)": lambda cp, x: x.argsort(kind="quicksort"),
    "add.at of int16": lambda cp, x: cp.add.at(x.astype(np.int16), cp.array([0]), 1),
    "np function that CuPy lacks": lambda cp, x: np.linalg.multi_dot([x, x.T]),
    "np ufunc that CuPy lacks": lambda cp, x: np.vecdot(x, x),
    "ufunc of somebody else": lambda cp, x: np.frompyfunc(abs, 1, 1)(x),
    "condition without astype": lambda cp, x: cp.where(True, x, 0),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(cp, x, name):
    error = {"condition without astype": AttributeError, "set of another shape": ValueError}
    with pytest.raises(error.get(name, TypeError)):
        REFUSED[name](cp, x)


def test_other_errors(cp, x):
    with pytest.raises(NotImplementedError):
        cp.maximum.reduce(x)
    with pytest.raises(NotImplementedError):
        np.multiply.at(x, 0, 2)
    with pytest.raises(ValueError, match="dtype"):
        cp.asarray(["text"])
    with pytest.raises(ValueError):
        cp.broadcast_to(x[0], (4, 3))[0] = 1
    with pytest.raises(IndexError):
        x[cp.array([2])]


COUNTED = {
    "get": lambda cp, x: x.get(),
    "get(out=)": lambda cp, x: x.get(out=HOST.copy()),
    "asnumpy": lambda cp, x: cp.asnumpy(x),
    "item": lambda cp, x: x.sum().item(),
    "tolist": lambda cp, x: x.tolist(),
    "tobytes": lambda cp, x: x.tobytes(),
    "float": lambda cp, x: float(x.sum()),
    "int": lambda cp, x: int(x.sum()),
    "complex": lambda cp, x: complex(x.sum()),
    "bool": lambda cp, x: bool(x.any()),
    "if": lambda cp, x: 1 if x.sum() > 0 else 0,
    "max of two": lambda cp, x: max(x.sum(), 1),
    "in": lambda cp, x: 3.0 in x,
    "iteration": lambda cp, x: list(x[0]),
    "unpacking": lambda cp, x: operator.itemgetter(0)([*x[0]]),
    "repr": lambda cp, x: repr(x),
    "str": lambda cp, x: str(x),
    "format": lambda cp, x: f"{x.sum():.3f}",
    "pickle": lambda cp, x: pickle.dumps(x),
    "mask": lambda cp, x: x[x > 2],
    "mask with others": lambda cp, x: x[0, x[0] > 2],
    "assignment to a mask": lambda cp, x: operator.setitem(x, x > 2, 0),
    "add.at with a mask": lambda cp, x: cp.add.at(x, x > 2, 1),
    "list as an index": lambda cp, x: x[[0, 1]],
    "nonzero": lambda cp, x: x.nonzero(),
    "np.nonzero": lambda cp, x: np.nonzero(x),
    "flatnonzero": lambda cp, x: cp.flatnonzero(x),
    "argwhere": lambda cp, x: cp.argwhere(x),
    "where of a condition": lambda cp, x: cp.where(x > 0),
    "np.where of a condition": lambda cp, x: np.where(x > 0),
    "unique": lambda cp, x: cp.unique(x),
    "unique with counts": lambda cp, x: np.unique_counts(x),
    "bincount": lambda cp, x: cp.bincount(cp.array([0, 2])),
    "argpartition": lambda cp, x: x.argpartition(1),
    "compress": lambda cp, x: x.compress(cp.array([True, False]), axis=0),
    "stream": lambda cp, x: cp.cuda.Stream().synchronize(),
    "device": lambda cp, x: cp.cuda.Device(0).synchronize(),
    "runtime": lambda cp, x: cp.cuda.runtime.deviceSynchronize(),
    "blocking copy": lambda cp, x: cp.asarray(HOST, blocking=True),
}


@pytest.mark.parametrize("name", COUNTED)
def test_counted_once_with_its_place(cp, x, name):
    before = standin.syncs.value
    with standin.count_syncs() as counter:
        COUNTED[name](cp, x)
    assert counter.value == 1
    assert "test_standin.py" in counter.where[0]
    assert standin.syncs.value == before + 1


def test_place_names_the_line_and_the_caller(cp, x):
    def read(y):
        return y.item()                     # this line
    with standin.count_syncs() as counter:
        read(x.sum())
    assert "in read < test_standin.py" in counter.where[0]
    assert "# this line" in counter.where[0]


def test_counters_nest_and_reset(cp, x):
    with standin.count_syncs() as outer:
        x.get()
        with standin.count_syncs() as inner:
            x.get()
        x.get()
    x.get()
    assert (outer.value, inner.value) == (3, 1)
    assert standin.syncs.value >= 4
    standin.syncs.reset()
    assert standin.syncs.value == 0


ARRAYS = {
    name: (lambda cp, x, name=name, args=args: getattr(x, name)(*args))
    for name, args in {
        "sum": (), "mean": (), "max": (), "min": (), "var": (), "std": (), "prod": (), "cumsum": (),
        "argmax": (), "argmin": (), "any": (), "all": (), "reshape": (3, 2), "transpose": (),
        "swapaxes": (0, 1), "astype": (np.float64,), "copy": (), "ravel": (), "flatten": (),
        "repeat": (2,), "squeeze": (), "clip": (0, 1), "conj": (), "argsort": (), "round": (),
        "trace": (), "view": (np.int32,), "diagonal": ()}.items()
} | {
    "T": lambda cp, x: x.T,
    "mT": lambda cp, x: x.mT,
    "real": lambda cp, x: x.real,
    "one number": lambda cp, x: x[0, 0],
    "slice": lambda cp, x: x[:, 1:],
    "new axis": lambda cp, x: x[..., cp.newaxis],
    "device index": lambda cp, x: x[cp.array([1, 0])],
    "take": lambda cp, x: x.take(cp.array([1, 0])),
    "dot": lambda cp, x: x.dot(x.T),
    "vector product": lambda cp, x: x[0] @ x[0],
    "- x": lambda cp, x: -x,
    "number": lambda cp, x: 2 * x,
    "NumPy scalar": lambda cp, x: np.float32(2) * x,
    "comparison": lambda cp, x: x.sum() == 1,
    "np ufunc": lambda cp, x: np.exp(x.sum()),
    "cupy ufunc of a number": lambda cp, x: cp.exp(1.0),
    "reduce": lambda cp, x: cp.add.reduce(x),
    "outer": lambda cp, x: cp.add.outer(x[0], x[1]),
    "np function": lambda cp, x: np.sum(x),
    "allclose": lambda cp, x: cp.allclose(x, x),
    "count_nonzero": lambda cp, x: cp.count_nonzero(x),
    "where": lambda cp, x: cp.where(x > 0, x, -np.inf),
    "einsum": lambda cp, x: cp.einsum("ij,kj->ik", x, x, optimize=True),
    "concat": lambda cp, x: cp.concat([x, x]),
    "tril of a batch": lambda cp, x: cp.tril(cp.ones((2, 3, 3)), -1),
    "norm": lambda cp, x: cp.linalg.norm(x),
    "full": lambda cp, x: cp.full((2,), x.sum()),
    "list of device arrays": lambda cp, x: cp.asarray([x, x]),
    "default_rng": lambda cp, x: cp.random.default_rng(0).random(),
    "erf": lambda cp, x: sys.modules["cupyx.scipy.special"].erf(x),
    "deep copy": lambda cp, x: copy.deepcopy(x),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_results_stay_on_the_device_without_waiting(cp, x, name):
    with standin.count_syncs() as counter:
        y = ARRAYS[name](cp, x)
        assert type(y) is cp.ndarray
        len(x), y.shape, y.dtype
    assert counter.value == 0, counter.where


def test_arrays_inside_results_are_device_arrays(cp, x):
    assert all(type(y) is cp.ndarray for y in (*cp.split(x, 3, axis=1), *divmod(x, 2), *x.nonzero()))
    counts = cp.unique_counts(x)
    assert type(counts.values) is type(counts.counts) is cp.ndarray


def test_values_and_dtypes_are_those_of_numpy(cp, x):
    h = x.get()
    np.testing.assert_array_equal((x @ x.T + 1).get(), h @ h.T + 1)
    assert (x * 2.0).dtype == (x * np.float32(2)).dtype == np.float32
    assert (x * np.float64(2)).dtype == cp.zeros(2).dtype == np.float64
    erf = sys.modules["cupyx.scipy.special"].erf(x)
    assert erf.dtype == np.float32 and erf[0, 1].item() == pytest.approx(0.8427008)
    big = cp.arange(3, dtype=np.uint32)
    big *= np.uint32(0x7FEB352D)
    assert big.tolist() == [i * 0x7FEB352D % 2**32 for i in range(3)]


def test_writing_reaches_the_array_and_nothing_else(cp, x):
    y, before = x[0, 1], x
    y += 5
    x[1] = 7
    x += 1
    assert x is before and x.tolist() == [[1, 7, 3], [8, 8, 8]]
    out = cp.empty((2, 3), np.float32)
    total = cp.empty(3, np.float32)
    assert cp.exp(x, out=out) is out and x.sum(axis=0, out=total) is total
    cp.add.at(x, (cp.array([0, 0]), slice(1)), 1.0)
    assert x[0, 0].item() == 3
    square = keep = cp.ones((2, 2))
    square @= square
    assert square is not keep and keep.tolist() == [[1, 1], [1, 1]]


def test_host_and_device_share_no_memory(cp):
    h = np.zeros(3)
    x = cp.asarray(h)
    h[0] = 1
    x.get()[1] = 1
    assert x.tolist() == [0, 0, 0]
    assert cp.asarray(x) is x and cp.array(x) is not x
    x.set(h)
    assert x.tolist() == [1, 0, 0]
    assert cp.asnumpy(x, out=h) is h
    assert pickle.loads(pickle.dumps(x)).tolist() == [1, 0, 0]


@pytest.mark.parametrize("name", [*standin.LACKS, "char", "no_such_name"])
def test_functions_that_cupy_lacks(cp, name):
    assert not hasattr(cp, name)


def test_other_things_that_cupy_lacks(cp, x):
    for name in ("__array_namespace__", "__array_interface__", "ctypes", "setflags", "to_device"):
        assert not hasattr(x, name)
    assert not hasattr(cp.linalg, "vecdot")
    assert not hasattr(cp.random.default_rng(0), "normal")
    assert not isinstance(x, np.ndarray)
    assert x.__hash__ is None


def test_operators_defer_to_objects_that_opt_out(cp, x):
    class Tensor:
        __array_ufunc__ = None

        def __radd__(self, other):
            return "radd"

        def __gt__(self, other):
            return "gt"

    assert x + Tensor() == "radd" and (x < Tensor()) == "gt"


def test_cuda(cp, x):
    from cupy.cuda import Device, Stream
    assert cp.cuda.is_available() and cp.cuda.runtime.getDeviceCount() == 1
    assert cp.cuda.runtime.getDeviceProperties(0)["name"] == b"stand-in"
    assert len(cp.cuda.runtime.memGetInfo()) == 2 and cp.get_default_memory_pool().used_bytes() == 0
    with Device(0), Stream(non_blocking=True) as stream:
        assert isinstance(stream, Stream)
    with pytest.raises(ValueError):
        Device(1)
    assert x.device.id == 0 and x[1].data.ptr - x.data.ptr == 12
    assert cp.get_array_module(1, x) is cp and cp.get_array_module(HOST) is np


@pytest.mark.skipif(not emu.COMPILER, reason="kernels run on the CPU only with g++, on Linux")
def test_kernels_run_on_the_device_alone_and_are_counted(cp, x):
    kernel, y, n = cp.RawModule(code=source("gelu").text).get_function("gelu"), cp.empty(6, np.float32), np.int32(6)
    with standin.count_launches() as launches, standin.count_syncs() as counter:
        kernel((1,), (32,), (x, y, n))
        kernel((2,), (32,), (x, y, n))
    assert launches == {"gelu": 2} and launches.total() == 2 and counter.value == 0
    np.testing.assert_allclose(y.get()[:2], [0, 0.8413447], rtol=1e-6)
    for wrong in (HOST, HOST_0D):
        with pytest.raises(TypeError, match="host array"):
            kernel((1,), (32,), (wrong, y, n))
    with pytest.raises(AssertionError, match="CuPy would not pass 6 as meant"):
        kernel((1,), (32,), (x, y, 6))


def test_without_a_compiler_a_kernel_skips_the_test_that_asks_for_it(cp, monkeypatch):
    monkeypatch.setattr(emu, "COMPILER", None)
    with pytest.raises(pytest.skip.Exception, match="only with g\\+\\+, on Linux"):
        cp.RawModule(code=source("gelu").text)


def test_install_puts_modules_in_and_takes_them_out(monkeypatch):
    real = type(sys)("cupy")
    monkeypatch.setitem(sys.modules, "cupy", real)
    monkeypatch.delitem(sys.modules, "cupyx", raising=False)
    with standin.install(RawModule=int, ElementwiseKernel=str) as cupy:
        import cupy as imported
        import cupyx.scipy.special
        assert imported is cupy and cupy.__version__ == "14.2.0"
        assert cupy.RawModule is int and cupy.ElementwiseKernel is str
        assert cupyx.scipy.special.erf is standin.erf
    assert sys.modules["cupy"] is real and "cupyx" not in sys.modules
    assert standin.cupy.RawModule is standin.RawModule and not hasattr(standin.cupy, "ElementwiseKernel")

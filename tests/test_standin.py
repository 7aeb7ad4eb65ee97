"""The stand-in refuses what CuPy refuses and counts what makes the host wait."""

import copy
import gc
import operator
import pickle
import sys
import threading

import numpy as np
import pytest
import standin

from tinygrad_tfm import emulator as emu
from tinygrad_tfm.kernels import cuda, cuda_attention
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
    with pytest.raises(TypeError, match="CuPy would not pass 6 as meant"):
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


# ---- recording a graph ----------------------------------------------------------------------------------------------

with_compiler = pytest.mark.skipif(not emu.COMPILER, reason="kernels run on the CPU only with g++, on Linux")


@pytest.fixture
def stream(cp):
    return cp.cuda.Stream(non_blocking=True)


def record(cp, step):
    """What `step` returns when it is recorded, and what launches its graph and keeps the graph's pool."""
    stream, pool = cp.cuda.Stream(non_blocking=True), cp.cuda.MemoryPool()
    with stream, cp.cuda.using_allocator(pool.malloc):
        stream.begin_capture()
        try:
            result = step()
        finally:
            graph = stream.end_capture()
    return result, lambda pool=pool: graph.launch(stream)


def given(cp):
    return cp.arange(6, dtype=np.float32).reshape(2, 3), cp.array([1, 0, 1]), cp.array([True, False, True])


def writing(write):
    """A step that writes into its first array, and returns that."""
    return lambda cp, *arrays: (write(cp, *arrays), arrays[0])[1]


RECORDED = {
    "operators": lambda cp, x, i, m: -x * 2 + x[0] ** 2 - i,
    "comparison": lambda cp, x, i, m: x > 2,
    "functions": lambda cp, x, i, m: cp.maximum(np.exp(x), cp.tanh(x)),
    "two results": lambda cp, x, i, m: divmod(x, 2)[1],
    "out=": lambda cp, x, i, m: np.add(x, 1, out=cp.empty((2, 3), np.float32)),
    "method, out=": lambda cp, x, i, m: x.sum(axis=0, out=cp.zeros(3, np.float32)),
    "sum": lambda cp, x, i, m: x.sum(axis=1),
    "one number": lambda cp, x, i, m: x.max(),
    "two numbers": lambda cp, x, i, m: divmod(x.sum(), 2)[0],
    "argmax": lambda cp, x, i, m: x.argmax(axis=0),
    "where": lambda cp, x, i, m: cp.where(m, x, -np.inf),
    "mask of a product": lambda cp, x, i, m: x * m,
    "device index": lambda cp, x, i, m: x[:, i],
    "take": lambda cp, x, i, m: x.take(i, axis=1),
    "take_along_axis": lambda cp, x, i, m: cp.take_along_axis(x, i[None], 0),
    "an index that is computed": lambda cp, x, i, m: x[x.argmax(axis=0), i],
    "concatenate": lambda cp, x, i, m: cp.concatenate([x, x[:1]]),
    "arrays in a list": lambda cp, x, i, m: cp.asarray([x, x + 1]),
    "astype": lambda cp, x, i, m: x.astype(np.int32),
    "copy": lambda cp, x, i, m: copy.deepcopy(x),
    "reshape that copies": lambda cp, x, i, m: x.T.reshape(6),
    "view": lambda cp, x, i, m: x.T[1:].reshape(2, 2, 1),
    "view of a result": lambda cp, x, i, m: (x + 1).reshape(3, 2)[1],
    "parts": lambda cp, x, i, m: cp.split(x, 3, axis=1)[2],
    "numbers": lambda cp, x, i, m: x + cp.asarray(3.0) + cp.full((), 2, np.float32) + cp.arange(3) + np.float64(1),
    "number stretched": lambda cp, x, i, m: cp.broadcast_to(1.5, (3,)) + x.imag,
    "full of a device number": lambda cp, x, i, m: cp.full((2,), x.sum()),
    "einsum of one": lambda cp, x, i, m: cp.einsum("ij->ji", x) + 0,
    "erf": lambda cp, x, i, m: sys.modules["cupyx.scipy.special"].erf(x),
    "allclose": lambda cp, x, i, m: cp.allclose(x, 0, atol=3),
    "count_nonzero": lambda cp, x, i, m: cp.count_nonzero(x > 1),
    "+=": writing(lambda cp, x, i, m: operator.iadd(x, i)),
    "+= on a view": writing(lambda cp, x, i, m: operator.iadd(x[:, 1], 5)),
    "+= of itself": writing(lambda cp, x, i, m: operator.iadd(x, x[::-1] - x)),
    "assignment": writing(lambda cp, x, i, m: operator.setitem(x, (0, slice(1, None)), x[1, :2] + 7)),
    "assignment through an index": writing(lambda cp, x, i, m: operator.setitem(x, (0, i[:2]), 7)),
    "add.at": writing(lambda cp, x, i, m: cp.add.at(x, (slice(None), i), 1)),
    "copyto": writing(lambda cp, x, i, m: cp.copyto(x, x[1])),
    "fill": writing(lambda cp, x, i, m: x.fill(3)),
    "sort": writing(lambda cp, x, i, m: x.sort(axis=0)),
    "nan_to_num": lambda cp, x, i, m: cp.nan_to_num(x, copy=False, nan=1),
}


@pytest.mark.parametrize("name", RECORDED)
def test_a_graph_does_at_each_launch_what_was_recorded(cp, name):
    step, there, same = RECORDED[name], given(cp), given(cp)
    result, launch = record(cp, lambda: step(cp, *there))
    for a, b in zip(there, same):
        np.testing.assert_array_equal(a.get(), b.get())            # nothing was done
    for round in range(3):
        launch()
        expected = step(cp, *same)
        assert type(result) is cp.ndarray and result.dtype == expected.dtype
        np.testing.assert_array_equal(result.get(), expected.get())
        for x, i, m in (there, same):
            np.testing.assert_array_equal(x.get(), same[0].get())
            x *= -0.5
            i[0], m[round % 3] = round % 2, round == 1


def test_what_a_capture_makes_holds_no_values_before_the_launch(cp, x):
    (y, total, number, again, places, equal, empty, bare), launch = record(cp, lambda: (
        x + 1, x.sum(), cp.asarray(3.0), cp.array(x), x.argmax(axis=1), x == x, cp.empty(2, np.float16),
        cp.ndarray((2, 3), np.float32)))
    assert all(np.isnan(a.get()).all() for a in (y, total, number, again, empty, bare))
    assert places.tolist() == [0, 0] and not equal.any().item()
    launch()
    assert y[1, 2].item() == 6 and total.item() == 15 and places.tolist() == [2, 2] and equal.all().item()
    assert number.item() == 3 and again.tolist() == x.tolist()
    empty[:], bare[:] = 1, 1
    launch()
    assert np.isnan(empty.get()).all() and np.isnan(bare.get()).all()   # nor does memory that nobody writes hold any


def test_a_view_is_no_work(cp, x):
    (row, turned, same), _ = record(cp, lambda: (x[1], x.reshape(3, 2).swapaxes(0, 1), x.astype(x.dtype, copy=False)))
    x += 1
    assert row.tolist() == [4, 5, 6] and turned.tolist() == [[1, 3, 5], [2, 4, 6]] and same is not x
    same[0] = 0
    assert x[0].tolist() == [0, 0, 0]


def test_inputs_are_read_where_they_lie_and_another_array_of_the_same_name_is_not_noticed(cp, x):
    rate, inputs = 2, {"x": x}
    y, launch = record(cp, lambda: inputs["x"] * rate)
    inputs["x"] += 1
    launch()
    assert y[0].tolist() == [2, 4, 6]
    inputs["x"], rate = inputs["x"] * 100, 3
    launch()
    assert y[0].tolist() == [2, 4, 6]


def test_a_launch_goes_on_where_the_last_one_stopped(cp):
    n, w = cp.zeros((), np.int32), cp.ones(2)

    def step():
        nonlocal n
        n += 1
        w[:] = w * n
        return w + 0
    y, launch = record(cp, step)
    assert [(launch(), y.tolist(), n.item())[1:] for _ in range(3)] == [([1, 1], 1), ([2, 2], 2), ([6, 6], 3)]


LIBRARY = NotImplementedError, "calling cuBLAS API during stream capture is currently unsupported"
RANDOM = NotImplementedError, "calling cuRAND API during stream capture is currently unsupported"
SENT = RuntimeError, "the current stream is capturing, so H2D transfers are disallowed"
READ = RuntimeError, "the current stream is capturing, so D2H transfers are disallowed"
NOT_RECORDED = {
    name: (RuntimeError, "the current stream is capturing, so .2. transfers are disallowed", f)
    for name, f in COUNTED.items() if name not in ("stream", "device", "runtime")
} | {
    "@": (*LIBRARY, lambda cp, x: x @ x.T),
    "@=": (*LIBRARY, lambda cp, x: operator.imatmul(x, x.T)),
    "matmul": (*LIBRARY, lambda cp, x: cp.matmul(x, x.T)),
    "np.matmul": (*LIBRARY, lambda cp, x: np.matmul(x, x.T)),
    "dot": (*LIBRARY, lambda cp, x: cp.dot(x, x.T)),
    "method dot": (*LIBRARY, lambda cp, x: x.dot(x.T)),
    "vdot": (*LIBRARY, lambda cp, x: cp.vdot(x, x)),
    "inner": (*LIBRARY, lambda cp, x: cp.inner(x, x)),
    "tensordot": (*LIBRARY, lambda cp, x: cp.tensordot(x, x.T, 1)),
    "einsum": (*LIBRARY, lambda cp, x: cp.einsum("ij,kj->ik", x, x)),
    "solve": (*LIBRARY, lambda cp, x: cp.linalg.inv(x[:, :2])),
    "generator": (*RANDOM, lambda cp, x: cp.random.default_rng(0)),
    "asarray of a host array": (*SENT, lambda cp, x: cp.asarray(HOST)),
    "array of a list": (*SENT, lambda cp, x: cp.array([1, 2])),
    "set": (*SENT, lambda cp, x: x.set(HOST)),
    "list as an index": (*SENT, lambda cp, x: x[[0, 1]]),
    "nine arrays joined": (*SENT, lambda cp, x: cp.concatenate([x] * 9)),
    "nine arrays stacked": (*SENT, lambda cp, x: cp.stack([x] * 9)),
    "nine arrays in a list": (*SENT, lambda cp, x: cp.asarray([x] * 9)),
    "item": (*READ, lambda cp, x: x.sum().item()),
    "assignment to a mask": (*READ, lambda cp, x: operator.setitem(x, x > 2, 0)),
}


@pytest.mark.parametrize("name", NOT_RECORDED)
def test_what_cannot_be_part_of_a_graph_is_refused_and_the_capture_goes_on(cp, x, stream, name):
    error, words, refused = NOT_RECORDED[name]
    pool = cp.cuda.MemoryPool()
    with standin.count_syncs() as counter, stream, cp.cuda.using_allocator(pool.malloc):
        stream.begin_capture()
        with pytest.raises(error, match=words):
            refused(cp, x)
        y = cp.concatenate([x] * 8)
        graph = stream.end_capture()
        assert counter.value == 0, counter.where
        graph.launch()
        refused(cp, x.copy())                                      # the stream works again
    assert y[:2].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_generator_made_before_is_refused_too(cp):
    rng = cp.random.default_rng(0)
    with pytest.raises(RANDOM[0], match=RANDOM[1]):
        record(cp, lambda: rng.random(3))


@pytest.mark.parametrize("wait", [
    lambda cp, stream: stream.synchronize(), lambda cp, stream: cp.cuda.Device(0).synchronize(),
    lambda cp, stream: cp.cuda.runtime.deviceSynchronize()], ids=["stream", "device", "runtime"])
def test_to_synchronise_spoils_a_capture(cp, x, stream, wait):
    error = cp.cuda.runtime.CUDARuntimeError
    with stream:
        stream.begin_capture()
        with pytest.raises(error, match="cudaErrorStreamCaptureUnsupported"):
            wait(cp, stream)
        with pytest.raises(error, match="cudaErrorStreamCaptureInvalidated"):
            x += 1
        with pytest.raises(RuntimeError, match="an error has invalidated the capture sequence"):
            stream.is_capturing()
        with pytest.raises(error, match="cudaErrorStreamCaptureInvalidated"):
            stream.end_capture()
        assert not stream.is_capturing()
        with standin.count_syncs() as counter:
            wait(cp, stream)
        x += 1
    assert counter.value == 1 and x[0].tolist() == [1, 2, 3]


def test_streams(cp, x, stream):
    null, other, current = cp.cuda.Stream.null, cp.cuda.Stream(), cp.cuda.get_current_stream
    assert isinstance(null, cp.cuda.Stream) and null.ptr == 0 and len({null.ptr, stream.ptr, other.ptr}) == 3
    assert current() is null and cp.cuda.Stream(null=True) == null != stream
    with stream, other:
        assert current() is other
        null.use()
        assert current() is null
    assert current() is null
    with stream, standin.count_syncs() as counter:
        stream.begin_capture()
        assert stream.is_capturing() and cp.cuda.runtime.streamIsCapturing(stream.ptr)
        assert not null.is_capturing() and not cp.cuda.runtime.streamIsCapturing(null.ptr)
        other.synchronize()                                        # this one may be waited for
        with null:
            x += 1
            assert x[0, 0].item() == 1                             # and another stream's work is done
        thread = threading.Thread(target=x.__setitem__, args=((0, 1), 9))
        thread.start()
        thread.join()                                              # as is another thread's
        stream.end_capture().upload()
        assert not stream.is_capturing()
    assert x[0].tolist() == [1, 9, 3] and counter.value == 2


def test_a_capture_begins_and_ends_once_and_not_on_the_null_stream(cp, stream):
    with pytest.raises(RuntimeError, match="cannot capture on the default .legacy. stream"):
        cp.cuda.Stream.null.begin_capture()
    error = cp.cuda.runtime.CUDARuntimeError
    with pytest.raises(error, match="cudaErrorIllegalState"):
        stream.end_capture()
    stream.begin_capture()
    with pytest.raises(error, match="cudaErrorIllegalState"):
        stream.begin_capture()
    stream.end_capture().launch()


def test_a_graph_can_be_launched_on_any_stream_and_in_a_capture(cp, x, stream):
    _, once = record(cp, lambda: operator.iadd(x, 1))
    _, twice = record(cp, lambda: operator.imul(x, 2))
    stream.begin_capture()
    with pytest.raises(RuntimeError), stream:
        x.get()
    graph = stream.end_capture()
    with cp.cuda.Stream():
        once(), graph.launch(), twice()
    assert x[0].tolist() == [2, 4, 6]

    pool = cp.cuda.MemoryPool()
    with stream, cp.cuda.using_allocator(pool.malloc):
        stream.begin_capture()
        x += 1
        inner = stream.end_capture()
        stream.begin_capture()
        inner.launch()
        x *= 2
        inner.launch(cp.cuda.Stream.null)                          # that stream does not capture
        outer = stream.end_capture()
    assert x[0].tolist() == [3, 5, 7]
    outer.launch()
    assert x[0].tolist() == [8, 12, 16]


# ---- the memory of a graph ------------------------------------------------------------------------------------------

def test_a_graph_whose_memory_may_be_anyones_is_not_launched(cp, x, stream):
    def graph(step, allocator=None):
        with stream, cp.cuda.using_allocator(allocator):
            stream.begin_capture()
            step()
            return stream.end_capture()

    for step in (lambda: x + 1, lambda: x.sum(axis=0, out=x[0]), lambda: operator.setitem(x, 0, 1)):
        with pytest.raises(RuntimeError, match="memory is not its own.*lie in the default pool.*using_allocator"):
            graph(step).launch()
    graph(lambda: x[0].reshape(3, 1)).launch()                     # takes no memory
    pool, other = cp.cuda.MemoryPool(), cp.cuda.MemoryPool()
    freed = graph(lambda: x + 1, pool.malloc)
    freed.launch()
    other.free_all_blocks()
    freed.launch()
    pool.free_all_blocks()
    with pytest.raises(RuntimeError, match="blocks have been freed since"):
        freed.launch()
    gone = graph(lambda: x + 1, pool.malloc)
    gone.launch()
    del pool
    gc.collect()
    with pytest.raises(RuntimeError, match="lay in a pool that is gone"):
        gone.launch()


def test_the_pool_counts_where_the_memory_was_taken(cp, x, stream):
    private, other = cp.cuda.MemoryPool(), cp.cuda.MemoryPool()
    with stream:
        stream.begin_capture()
        with cp.cuda.using_allocator(other.malloc), cp.cuda.using_allocator(private.malloc):
            y = x + 1
        graph = stream.end_capture()
    del other
    gc.collect()
    graph.launch()
    assert y[0].tolist() == [1, 2, 3] and private.used_bytes() == 512


def test_a_pool_counts_in_blocks(cp):
    pool = cp.cuda.MemoryPool()
    a, b = pool.malloc(1), pool.malloc(1000)
    assert a.ptr != b.ptr and pool.used_bytes() == pool.total_bytes() == 3 * 512
    del b
    assert (pool.used_bytes(), pool.total_bytes()) == (512, 3 * 512)
    pool.free_all_blocks()
    assert pool.used_bytes() == pool.total_bytes() == 512


# ---- kernels in a graph ---------------------------------------------------------------------------------------------

def test_a_step_given_to_the_standin_is_done_or_recorded(cp, x):
    done = []
    assert standin.do(lambda: len(done)) == 0
    _, launch = record(cp, lambda: standin.do(lambda: done.append(x[0, 0].item())))
    assert done == []
    launch()
    x += 1
    launch()
    assert done == [0, 1]


@with_compiler
def test_kernels_are_recorded_with_their_arguments_and_counted_where_they_are_issued(cp, x):
    kernel = cp.RawModule(code=source("gelu").text).get_function("gelu")
    y, rows = cp.zeros(6, np.float32), [np.int32(6), np.int32(2)]
    with standin.count_launches() as launches:
        _, launch = record(cp, lambda: [kernel((1,), (32,), (x, y, n)) for n in rows])
        assert not y.any().item()
        rows[0] = np.int32(1)                                      # numbers are kept by value
        launch()
        first = y.get()
        x -= 1
        launch()
    assert launches == {"gelu": 2, "graph": 2}
    np.testing.assert_allclose(first, [0, 0.8413447, 1.9544997, 2.9959502, 3.9998733, 4.9999986], rtol=1e-6)
    np.testing.assert_allclose(y.get()[:2], [-0.15865526, 0], rtol=1e-6, atol=1e-7)
    assert (y[2:].get() == first[1:5]).all()


def training(cp):
    """A small step of training: its arrays, and the step, which changes them and returns the loss."""
    rng = np.random.default_rng(0)
    x, target, weight = (cp.asarray(rng.standard_normal((5, 8)).astype(np.float32)) for _ in range(3))
    target = cuda_attention.softmax(target)[0]
    gain, bias, t = cp.ones(8, np.float32), cp.zeros(8, np.float32), cp.zeros((), np.int32)
    weights = [weight, gain, bias]
    moments = [(cp.zeros_like(w), cp.zeros_like(w)) for w in weights]
    rates = cp.asarray(np.linspace(0.1, 0.02, 5, dtype=np.float32))

    def step():
        nonlocal t
        t += 1
        h = weight * x
        h, back_norm = cuda.layer_norm(h, gain, bias)
        h, back_gelu = cuda.gelu(h)
        y, back_softmax = cuda_attention.softmax(h)
        g, ggain, gbias = back_norm(back_gelu(back_softmax(-target / y)))
        gradients = [g * x, ggain, gbias]
        norm = cp.sqrt(sum((g * g).sum() for g in gradients))
        for w, g, (mean, square) in zip(weights, gradients, moments):
            cuda.adamw(w, g, mean, square, scale=cp.minimum(1, 1 / norm), lr=rates[t - 1], betas=(0.9, 0.99), eps=1e-8,
                       decay=0.1, step=t)
        return -(target * cp.log(y)).sum()
    return [*weights, *(a for pair in moments for a in pair), t], step


@with_compiler
def test_a_training_step_replayed_gives_the_numbers_of_a_step_done(cp):
    eager, step = training(cp)
    losses = [step().item() for _ in range(5)]
    arrays, again = training(cp)
    begin = [a.get() for a in arrays]
    with standin.count_launches() as launches:
        loss, launch = record(cp, again)
        issued = dict(launches)
        for a, b in zip(arrays, begin, strict=True):
            np.testing.assert_array_equal(a.get(), b)
        replayed = [(launch(), loss.item())[1] for _ in range(5)]
    assert launches == issued | {"graph": 5} and launches["adamw"] == 3
    assert replayed == losses and losses[-1] < losses[0]
    for a, b in zip(arrays, eager, strict=True):
        np.testing.assert_array_equal(a.get(), b.get())

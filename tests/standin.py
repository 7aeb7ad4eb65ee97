"""A stand-in for CuPy, made of NumPy: with it the whole GPU path runs on a machine without a GPU.

    with standin.install():                      # `import cupy` now finds the stand-in
        with standin.count_syncs() as counter:
            train_step()
        assert counter.value == 0, counter.where

The numbers are NumPy's; those of `RawModule`'s kernels come from the emulator (tinygrad_tfm/emulator), which
needs g++. The manners are those of CuPy 14.2, read off its source, so that code which would fail or
crawl on a GPU fails here:

- An array holds its memory out of reach. `np.asarray`, `isinstance(x, np.ndarray)` and the buffer
  protocol do not work on it, exactly as they do not on memory of a GPU. A subclass of
  `np.ndarray` would let all three through.
- A host array, of 0 dimensions too, or a list where an array is wanted, is refused by operators,
  functions, methods, `out=`, indices and assignments. NumPy scalars and Python numbers pass. CuPy
  would copy a host array that serves as an index without a word; such a hidden transfer is
  refused here.
- Whatever makes the host wait for the GPU is counted, with the place: `.get()`, `.item()`,
  `float()`, `if x:`, printing, `nonzero`, `unique`, and boolean masks as an index, also where
  they are assigned to. Two things that CuPy does without waiting are counted because of what they
  lead to: iteration over one axis (a read of each number follows) and a list as an index (it is
  copied to the GPU at each call).
- Reductions and single numbers are arrays of 0 dimensions, never NumPy scalars; x[0] is a view.
- A kernel takes arrays of the device and NumPy scalars. CuPy passes a host array of one number by
  value, for the kernel to take it as an address: that is refused too.
- What CuPy lacks is missing: functions, methods, keywords like `where=` and `initial=`, most of
  `ufunc.at` and `ufunc.reduce`, `__index__`, `__array_namespace__`, most of Generator. `a @= b`
  makes a new array.

- While a stream captures, work is recorded and not done, and what cannot be part of a CUDA graph is
  refused: see `standin_graph.py`, which has streams, graphs and pools.

It is stricter than CuPy where a mistake would be silent: an index out of range raises (CuPy wraps
it around), a broadcast view cannot be written into, and under capture it refuses integer products,
`einsum` of several arrays and `cupy.random` whatever they do. Speed and order of additions are not
imitated.
"""

from __future__ import annotations

import linecache
import math
import operator
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from time import perf_counter
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import standin_cublaslt as lt
import standin_graph as graph
from standin_graph import do, work

from tinygrad_tfm import emulator as emu
from tinygrad_tfm.kernels import cublaslt, cuda_source

VERSION = "14.2.0"
# Read off cupy-cuda13x 14.2.0: the public callables of NumPy 2.4.6 that it lacks.
LACKS = tuple("""
    asmatrix block bmat busday_count busday_offset busdaycalendar bytes_ character clongdouble
    complex256 datetime64 datetime_as_string datetime_data einsum_path errstate flexible float128
    frompyfunc fromregex geomspace get_include getbufsize geterr geterrcall histogram_bin_edges
    info insert is_busday isnat longdouble matrix matvec memmap nanpercentile nanquantile
    ndenumerate nditer nested_iters object_ polyder polydiv polyint recarray record setbufsize
    seterr seterrcall show_runtime spacing str_ test timedelta64 unstack vecdot vecmat
    void""".split())
LINALG_LACKS = tuple("diagonal matrix_norm multi_dot outer svdvals tensordot test trace vecdot "
                     "vector_norm".split())
METHODS_LACKED = ("ctypes", "getfield", "resize", "setfield", "setflags", "to_device",
                  "flat")                   # CuPy has this one, but of a type of its own
GENERATOR_HAS = tuple("""
    beta binomial chisquare dirichlet exponential f gamma geometric hypergeometric integers
    logseries poisson power random standard_exponential standard_gamma standard_normal
    uniform""".split())
KEYWORDS_LACKED = frozenset("where initial correction mean like device".split())
UFUNC_KEYWORDS = frozenset("out dtype casting axes axis keepdims".split())
# For which ufuncs CuPy has which method; for `at` with the codes of the dtypes it takes.
AT = {"add": "ilqILQefd", "subtract": "iI", "maximum": "ilqILQfd", "minimum": "ilqILQfd",
      "bitwise_and": "ilqILQ", "bitwise_or": "ilqILQ", "bitwise_xor": "ilqILQ"}
UFUNC_METHODS = {"at": AT, "reduce": ("add", "multiply"), "accumulate": ("add", "multiply"),
                 "reduceat": ("add",)}
# Their results have sizes that only the GPU knows, or they check values: CuPy waits in each.
SYNCING = frozenset("""
    argpartition argwhere array2string array_repr array_str average bincount compress delete
    digitize extract flatnonzero histogram histogram2d histogramdd interp intersect1d ix_
    mask_indices nanmax nanmin nonzero place ravel_multi_index save savetxt savez
    savez_compressed setdiff1d setxor1d trim_zeros union1d unique unique_all unique_counts
    unique_inverse unique_values unravel_index""".split())
CREATING = frozenset("arange empty eye identity ones tri zeros".split())
NUMBERED = CREATING | frozenset("broadcast_to expand_dims moveaxis reshape squeeze swapaxes "
                                "transpose".split())
# Their work is done by NVIDIA's libraries, which CuPy does not let into a graph.
BY_LIBRARY = frozenset("""
    cholesky cond corrcoef cov det dot eig eigh eigvals eigvalsh einsum inner inv lstsq matmul
    matrix_power matrix_rank pinv polyfit qr slogdet solve svd tensordot tensorinv tensorsolve
    vdot""".split())
JOINING = ("concat", "concatenate", "stack", "vstack", "hstack", "dstack", "column_stack")
COUNTING = ("allclose", "array_equal", "array_equiv", "count_nonzero")


# ---- the record of synchronisations ------------------------------------------------------------

class Counter:
    """How often the host waited, and where: a line for each time, the caller and who called it."""

    def __init__(self):
        self.where: list[str] = []

    value = property(lambda self: len(self.where))

    def reset(self) -> None:
        self.where.clear()


syncs = Counter()                                       # of the whole process
_counters = [syncs]
_OURS = (__file__, os.path.dirname(np.__file__))


def sync(what: str, transfer: str = "D2H") -> None:
    """Note that the host waits here for such a copy, which a capture does not allow."""
    graph.refuse_transfer(transfer)
    note(what)


def note(what: str) -> None:
    """Note that the host waits here."""
    frame, callers, line = sys._getframe(1), [], ""
    while frame and len(callers) < 3:
        code = frame.f_code
        if not code.co_filename.startswith(_OURS):
            line = line or linecache.getline(code.co_filename, frame.f_lineno).strip()
            file = os.path.basename(code.co_filename)
            callers.append(f"{file}:{frame.f_lineno} in {code.co_name}")
        frame = frame.f_back
    for counter in _counters:
        counter.where.append(f"{what} at {' < '.join(callers)}: {line}")


@contextmanager
def count_syncs() -> Iterator[Counter]:
    """A counter of the synchronisations inside the block."""
    counter = Counter()
    _counters.append(counter)
    try:
        yield counter
    finally:
        _counters.remove(counter)


count_launches = graph.count_launches


# ---- across the border between host and device -------------------------------------------------

def host(x):
    """What NumPy is to compute with: the memory of device arrays, also inside lists."""
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {type(x)}: a host array of shape {x.shape} meets the "
                        "device; copy it there first with cupy.asarray")
    if isinstance(x, tuple | list):
        return type(x)(map(host, x))
    return x._host if isinstance(x, ndarray) else x


def device(x):
    """Every array and NumPy scalar in a result, as a device array."""
    if isinstance(x, tuple | list):
        return type(x)(*map(device, x)) if hasattr(x, "_fields") else type(x)(map(device, x))
    if not isinstance(x, np.ndarray | np.generic):
        return x
    if x.dtype.kind in "OSUMm":
        raise ValueError(f"Unsupported dtype {x.dtype}")
    array = ndarray.__new__(ndarray)
    array._host = np.asarray(x)
    return array


def inner(index) -> tuple:
    """The same index for the memory; with `...`, x[0] is a view where NumPy gives a scalar."""
    parts = index if isinstance(index, tuple) else (index,)
    for part in parts:
        if isinstance(part, list):
            sync("list as an index", "H2D")
        elif isinstance(part, ndarray) and part.dtype == bool:
            sync("boolean mask")
    return host(parts) if any(part is ... for part in parts) else (*host(parts), ...)


def call(f, skip: int, *args, **kw):
    """A function or method of NumPy with CuPy's manners.

    Where numbers are wanted (shapes, axes), only the first `skip` arguments may be arrays; the
    others reach NumPy as they are, which asks them for `__index__`.
    """
    name = f.__name__
    if (name != "copyto" and KEYWORDS_LACKED & kw.keys() or name == "take" and "mode" in kw
            or name in ("sort", "argsort") and kw.get("kind") not in (None, "stable")):
        raise TypeError(f"cupy.{name} has no such setting: {sorted(kw)}")
    if name in SYNCING or name == "where" and len(args) == 1:
        sync(name)
    if name in BY_LIBRARY and (name != "einsum" or len(args) > 2):
        graph.refuse_library("cuBLAS")
    if name in JOINING and len(args[0]) > 8:
        graph.refuse_transfer("H2D")        # CuPy sends a list of their addresses, if they are small
    if name in COUNTING:
        f = partial(as_array, f)
    skip = len(args) if name not in NUMBERED else 0 if name in CREATING else skip
    result = work(f, *host(args[:skip]), *args[skip:], **{key: host(x) for key, x in kw.items()})
    return kw["out"] if kw.get("out") is not None else device(result)


def as_array(f, *args, **kw):
    return np.asarray(f(*args, **kw))


def call_ufunc(ufunc, method: str, args, kw):
    """A ufunc, or one of its methods, with CuPy's manners."""
    name, indices = ufunc.__name__, ()
    if method != "outer" and name not in UFUNC_METHODS.get(method, (name,)):
        raise NotImplementedError(f"`cupy.{name}.{method}` is not supported yet")
    bf16 = name == "matmul" and str(getattr(args[0], "dtype", "")) == "bfloat16"
    if bf16 and args[0].ndim > 2:
        raise TypeError("data type 'E' not understood")    # all that CuPy says: it has no such batches
    if method == "at":
        if args[0].dtype.char not in AT[name]:
            raise TypeError(f"cupy.{name}.at does not support {args[0].dtype}")
        args, indices = (args[0], *args[2:]), (inner(args[1]),)
    if kw.keys() - UFUNC_KEYWORDS:
        raise TypeError(f"Wrong arguments {sorted(kw)}")
    if any(isinstance(x, list | tuple) for x in args) and method != "reduceat":
        raise TypeError(f"cupy.{name} takes arrays and numbers, not lists")
    if name in BY_LIBRARY:
        graph.refuse_library("cuBLAS")
    first, *rest = host(tuple(args))
    kwargs = {key: host(x) for key, x in kw.items()}
    result = work(getattr(ufunc, method), first, *indices, *rest, **kwargs)
    out = kw.get("out")
    if out is None:
        return device(result.astype(first.dtype) if bf16 else result)       # NumPy's are float32
    return out[0] if isinstance(out, tuple) and len(out) == 1 else out


class Ufunc:
    """`cupy.add` and its like: takes no host array, even where no device array is in sight."""

    def __init__(self, ufunc):
        self._ufunc = ufunc

    def __call__(self, *args, **kw):
        return call_ufunc(self._ufunc, "__call__", args, kw)

    def __getattr__(self, name):
        if name in ("outer", *UFUNC_METHODS):
            return lambda *args, **kw: call_ufunc(self._ufunc, name, args, kw)
        return getattr(self._ufunc, name)


# ---- the array ---------------------------------------------------------------------------------

class ndarray(np.lib.mixins.NDArrayOperatorsMixin):
    """`cupy.ndarray`. The mixin's operators defer to `__array_ufunc__ = None`, as CuPy's do."""

    __slots__ = ("_host", "__weakref__")

    def __init__(self, shape, dtype=float):
        self._host = work(np.empty, shape, dtype)

    def __getattr__(self, name):
        if name in METHODS_LACKED or name.startswith("_"):
            raise AttributeError(f"'cupy.ndarray' object has no attribute {name!r}")
        value = getattr(self._host, name)
        return partial(call, value, 0) if callable(value) else device(value)

    def __array_ufunc__(self, ufunc, method, *args, **kw):
        known = getattr(np, ufunc.__name__, None) is ufunc and ufunc.__name__ not in LACKS
        return call_ufunc(ufunc, method, args, kw) if known else NotImplemented

    def __array_function__(self, function, types, args, kw):
        try:
            ours = cupy
            for name in (*function.__module__.split(".")[1:], function.__name__):
                ours = getattr(ours, name)
        except AttributeError:
            return NotImplemented                       # NumPy makes it a TypeError
        return ours(*args, **kw)

    def __getitem__(self, index):
        return device(work(operator.getitem, self._host, inner(index)))

    def __setitem__(self, index, value):
        if isinstance(value, list | tuple):
            raise TypeError("a list cannot be assigned: copy it to the device with cupy.asarray")
        work(operator.setitem, self._host, inner(index), host(value))

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        if self.ndim == 1:
            sync("iteration")
        return (self[i] for i in range(len(self)))

    def __imatmul__(self, other):
        return self @ other                 # CuPy has no __imatmul__, so Python does this

    def __index__(self):
        raise TypeError("'ndarray' object cannot be interpreted as an integer")

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. "
                        "Please use `.get()` to construct a NumPy array explicitly.")

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()

    def __reduce__(self):
        return asarray, (self.get(),)

    def get(self, stream=None, order="C", out=None, blocking=True):
        sync("get")
        if out is None:
            return np.array(self._host, order=order)
        np.copyto(out, self._host)
        return out

    def set(self, arr, stream=None):
        if arr.dtype != self.dtype or arr.shape != self.shape:
            raise ValueError("set() takes a host array of the same shape and dtype")
        graph.refuse_transfer("H2D")
        self._host[...] = arr

    device = property(lambda self: Device())
    data = property(lambda self: SimpleNamespace(ptr=self._host.ctypes.data, device_id=0))


def _reading(name: str):
    def read(self, *args):
        sync(name)
        return getattr(self._host, name)(*args)
    return read


for _name in ("item tolist tobytes tofile dump dumps __bool__ __float__ __int__ __complex__ "
              "__repr__ __str__ __format__ __contains__").split():
    setattr(ndarray, _name, _reading(_name))


# ---- the modules -------------------------------------------------------------------------------

def facade(name: str, source, lacks=(), **own) -> ModuleType:
    """A module that has `own`, and with CuPy's manners what `source` has and CuPy does not lack."""
    module = ModuleType(name)

    @cache                                              # cupy.add is cupy.add
    def lookup(attribute):
        hidden = attribute.startswith("_") or attribute in lacks
        value = module if hidden else getattr(source, attribute, module)
        if isinstance(value, ModuleType):
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
        if isinstance(value, np.ufunc):
            return Ufunc(value)
        return partial(call, value, 1) if callable(value) and not isinstance(value, type) else value

    vars(module).update(own, __getattr__=lookup)
    return module


def asarray(a, dtype=None, order="K", *, copy=None, blocking=False):
    """A device array: itself, or a copy of host data, never its memory."""
    if isinstance(a, ndarray):
        x = work(np.array, a._host, dtype, order=order or "K", copy=copy)
        return a if x is a._host else device(x)
    if blocking:
        sync("asarray(blocking=True)", "H2D")
    if _holds_device(a):
        if len(a) > 8:
            graph.refuse_transfer("H2D")
        return device(work(np.array, host(a), dtype, order=order or "K"))
    x = np.array(a, dtype, order=order or "K")
    if x.ndim:
        graph.refuse_transfer("H2D")
        return device(x)
    return device(work(np.array, x))                    # as CuPy does: a number is an argument of a kernel


def array(obj, dtype=None, copy=True, order="K", *, blocking=False):
    return asarray(obj, dtype, order, copy=copy, blocking=blocking)


def _holds_device(x) -> bool:
    return isinstance(x, ndarray) or isinstance(x, list | tuple) and any(map(_holds_device, x))


def asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    return a.get(stream, order, out) if isinstance(a, ndarray) else np.array(a, order=order)


def where(condition, x=None, y=None):
    condition = condition.astype(bool, copy=False)   # as CuPy does: Python's True has no astype
    return call(np.where, 0, condition) if x is None else call(np.where, 0, condition, x, y)


def get_array_module(*args):
    return cupy if any(isinstance(x, ndarray) for x in args) else np


def erf(x):
    return device(work(_erf, host(x)))


def _erf(x):
    return np.asarray(np.frompyfunc(math.erf, 1, 1)(x), dtype=np.result_type(x.dtype, np.float32))


class Generator:
    """CuPy's few distributions. The numbers are not CuPy's."""

    def __init__(self, seed=None):
        graph.refuse_library("cuRAND")
        self._host = np.random.default_rng(seed)

    def __getattr__(self, name):
        if name not in GENERATOR_HAS:
            raise AttributeError(f"'cupy.random.Generator' object has no attribute {name!r}")
        graph.refuse_library("cuRAND")
        draw = getattr(self._host, name)
        return lambda *args, **kw: device(np.asarray(draw(*host(args), **kw)))


class Device:
    """The one device."""

    def __init__(self, device=0):
        if device:
            raise ValueError(f"there is no device {device}")
        self.id = 0

    __enter__ = use = lambda self: self
    def __exit__(self, *error): pass

    def synchronize(self):
        graph.all_awaited()
        note("synchronize")


class Stream(graph.Stream):
    """Any stream: what does not capture works at once, in the order of the program."""

    def synchronize(self):
        self.awaited()
        note("synchronize")


class Event:
    """A moment on a stream, which is the host's."""

    def record(self, stream=None): self.time = perf_counter()
    def synchronize(self): sync("Event.synchronize")


def get_elapsed_time(begin, end):
    return 1000 * (end.time - begin.time)


class Memory:
    """`MemoryPointer`, to memory that lives as long as it does."""

    def __init__(self, size):
        self._bytes = np.empty(size, np.uint8)
        self.ptr = self._bytes.ctypes.data

    def memset_async(self, value, size, stream=None): self._bytes[:size] = value


def multiply(step):
    """A product by cuBLASLt: one launch, or one to come."""
    graph.launched("product")
    do(step)


class RawModule:
    """The kernels of a text, compiled for the CPU."""

    def __init__(self, code, options=()):
        if not emu.COMPILER:
            pytest.skip("kernels run on the stand-in only with g++, on Linux")
        [real] = re.findall("^#define REAL (.*)", code)
        kernels = {kernel.name: kernel for kernel in cuda_source._kernels(code, real)}
        self._module = emu.Module(cuda_source.Source(code, kernels))

    def get_function(self, name):
        function = self._module.get_function(name)

        def launch(grid, block, arguments):
            graph.launched(name)
            do(partial(function, grid, block, host(tuple(arguments))))
        return launch


GB = 1 << 30
runtime = SimpleNamespace(
    getDeviceCount=lambda: 1, getDevice=lambda: 0, memGetInfo=lambda: (GB, GB),
    runtimeGetVersion=lambda: 13000, driverGetVersion=lambda: 13000,
    deviceSynchronize=Device().synchronize,
    streamIsCapturing=graph.stream_is_capturing, CUDARuntimeError=graph.CUDARuntimeError,
    getDeviceProperties=lambda i: {"name": b"stand-in", "totalGlobalMem": GB,
                                   "major": 9, "minor": 0, "multiProcessorCount": 1})
graph.Stream.null = Stream(null=True)
cuda = facade("cupy.cuda", ModuleType("nothing"), Device=Device, Stream=Stream, Graph=graph.Graph,
              MemoryPool=graph.MemoryPool, using_allocator=graph.using_allocator, runtime=runtime,
              is_available=lambda: True, get_current_stream=graph.get_current_stream, Event=Event,
              get_elapsed_time=get_elapsed_time)
pool = SimpleNamespace(used_bytes=lambda: 0, total_bytes=lambda: 0, free_all_blocks=lambda: None, malloc=Memory)
cupy = facade(
    "cupy", np, LACKS, __version__=VERSION, __path__=[], ndarray=ndarray, asarray=asarray,
    array=array, asanyarray=asarray, asnumpy=asnumpy, where=where, cuda=cuda,
    get_array_module=get_array_module, is_available=lambda: True,
    get_default_memory_pool=lambda: pool, RawModule=RawModule, linalg=facade("cupy.linalg", np.linalg, LINALG_LACKS),
    random=SimpleNamespace(default_rng=Generator, Generator=Generator))
special = facade("cupyx.scipy.special", ModuleType("nothing"), erf=erf)
scipy = facade("cupyx.scipy", ModuleType("nothing"), __path__=[], special=special)
cupyx = facade("cupyx", ModuleType("nothing"), __path__=[], scipy=scipy)


@contextmanager
def install(**extra) -> Iterator[ModuleType]:
    """`import cupy` finds the stand-in inside the block; `extra` adds to it, as RawModule=....

    Products by cuBLASLt go to NumPy's imitation. It proposes one algorithm only, so none are timed and nobody waits.
    """
    ours = {m.__name__: m for m in (cupy, cuda, cupy.linalg, cupyx, scipy, special)}
    theirs = {name: m for name, m in sys.modules.items() if name.split(".")[0] in ("cupy", "cupyx")}
    own = dict(vars(cupy))
    for name in theirs:
        del sys.modules[name]
    sys.modules.update(ours)
    vars(cupy).update(extra)
    real, cublaslt.library = cublaslt.library, cache(lambda: cublaslt.Library(lt.CublasLt(1, multiply)))
    try:
        yield cupy
    finally:
        cublaslt.library = real
        for name in ours:
            sys.modules.pop(name, None)
        sys.modules.update(theirs)
        vars(cupy).clear()
        vars(cupy).update(own)

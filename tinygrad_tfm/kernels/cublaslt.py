"""Floor 1: products of matrices on a GPU, in float32, TF32 or bfloat16, by NVIDIA's library cuBLASLt.

CuPy multiplies too, but its `matmul` copies transposed batches, has none in bfloat16, and refuses to be recorded in a
CUDA graph. The library does none of this; it is called by ctypes, and where it is missing CuPy serves. Nothing here
knows tensors or gradients. Read first: `cuda.py`, where kernels of our own are launched.

In memory we write a matrix row by row; cuBLASLt reads column by column, so what it sees is the transpose. For A·B it is
given B and A: it sees B' and A', computes B'·A' = (A·B)' and writes that column by column, which to us is A·B, row by
row. Nothing is moved. A transposed view of ours lies its way round already: it is read as it is, marked as transposed.
"""

import ctypes as C
import math
import warnings
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ..backend import device_of, namespace

# From the library's headers: types, ways to compute, attributes of a product, of a layout and of wishes, statuses.
TYPES = {"float32": 0, "bfloat16": 14}
COMPUTE_32F, COMPUTE_TF32 = 68, 77
TRANSPOSE_FIRST, TRANSPOSE_SECOND = 3, 4
BATCH_COUNT, BATCH_STRIDE = 5, 6
MOST_WORKSPACE, REDUCTION, ALIGNMENTS = 1, 3, (5, 6, 7, 8)
IN_FLOAT32 = 2                                                     # shares of a sum are not rounded to bfloat16 between
STATUS = {1: "it could not be set up: is there a GPU, and a driver for it?", 3: "the GPU's memory is used up",
          7: "it was asked for wrongly, a mistake of this file", 8: "this GPU has no instructions for it",
          13: "it failed on the GPU, or what ran there before did", 14: "the library failed inside",
          15: "the library has no algorithm for these types, sizes and strides"}
POINTER, ATTRIBUTE = C.c_void_p, (C.c_void_p, C.c_int, C.c_void_p, C.c_size_t)
FUNCTIONS = {                                                      # what they take; all of them return a status
    "cublasLtCreate": [POINTER],
    "cublasLtMatmulDescCreate": [POINTER, C.c_int, C.c_int], "cublasLtMatmulDescSetAttribute": ATTRIBUTE,
    "cublasLtMatrixLayoutCreate": [POINTER, C.c_int, C.c_uint64, C.c_uint64, C.c_int64],
    "cublasLtMatrixLayoutSetAttribute": ATTRIBUTE,
    "cublasLtMatmulPreferenceCreate": [POINTER], "cublasLtMatmulPreferenceSetAttribute": ATTRIBUTE,
    "cublasLtMatmulAlgoGetHeuristic": [*[POINTER] * 7, C.c_int, POINTER, POINTER],
    "cublasLtMatmul": [*[POINTER] * 14, C.c_size_t, POINTER]}

CANDIDATES = 8                                                     # algorithms that race for a kind of product
LARGE = 1 << 22                                                    # multiplications from which a race is worth its time
WORKSPACE = 32 << 20                                               # bytes for them to work in: NVIDIA's advice for H100
ALIGNED = 256                                                      # bytes; the library looks no further


class Algorithm(C.Structure):
    """cublasLtMatmulHeuristicResult_t: an algorithm that the library proposes, in a form that only it can read."""

    _fields_ = [("algorithm", C.c_uint64 * 8), ("workspace", C.c_size_t), ("status", C.c_int), ("waves", C.c_float),
                ("reserved", C.c_int * 4)]


class Layout(NamedTuple):
    """How a batch of matrices lies, as cuBLASLt reads it: a column's numbers side by side, columns `ld` apart."""

    dtype: str
    rows: int
    cols: int
    ld: int
    batch: int
    stride: int                                                    # from one matrix to the next; 0: it is the same
    transposed: bool                                               # a transposed view of ours
    alignment: int                                                 # bytes that divide the address


class Plan(NamedTuple):
    """A kind of product, as the library keeps it, and an algorithm for it."""

    description: C.c_void_p
    layouts: list[C.c_void_p]
    algorithm: Algorithm


def product(a, b, *, dtype=None, onto=None, into=None, tf32=False):
    """a·b over the last two axes, (…, m, k)·(…, k, n) → (…, m, n), with leading axes that are equal.

    Both are float32 or both bfloat16; sums are always float32's. The product is a new array of `dtype`, by default a's,
    or is written into the array `into`, or added to the array `onto`, in place: one whose rows are in one piece, and
    which shares no memory with a or b.
    `tf32` lets a GPU round factors in float32 to TF32's 10 bits. A factor is copied only where neither its rows nor
    its columns are in one piece, or its matrices are not evenly spaced.

    Raises TypeError for other types, ValueError for shapes that do not fit, RuntimeError where the library fails.
    """
    place, add = (into, False) if onto is None else (onto, True)
    shape, dtype = _checked(a, b, dtype, place)
    if not math.prod(shape) or not a.shape[-1]:                    # no sums, or sums of nothing
        place = namespace(a).zeros(shape, dtype) if place is None else place
        if not add:
            place.fill(0)
        return place
    lt = library()
    if isinstance(lt, str):
        _warn(lt)
        return _by_cupy(a, b, dtype, place, add)
    (a, first), (b, second) = _readable(a), _readable(b)
    out = namespace(a).empty(shape, dtype) if place is None else place
    result = layout(out)
    if result is None or result.transposed or result.batch > 1 and not result.stride:
        raise ValueError(f"a place of shape {shape} has strides {out.strides}: its rows must be in one piece and its "
                         "matrices evenly spaced, each in a place of its own")
    kind = first, second, result, tf32 and first.dtype == "float32", add
    try:
        if kind not in lt.plans:
            plans = lt.proposals(*kind[:4])
            lt.plans[kind] = lt.fastest(plans, a, b, out, add) if out.size * a.shape[-1] >= LARGE else plans[0]
        lt.multiply(lt.plans[kind], a, b, out, add)
    except RuntimeError as error:
        raise RuntimeError(f"cuBLASLt: {a.dtype} {a.shape} times {b.shape} in {dtype}: {error}") from error
    return out


def layout(x):
    """How x lies, or None where cuBLASLt cannot be told. Steps along an axis of length 1 mean nothing."""
    *lengths, m, n = x.shape
    *steps, down, right = (step // x.itemsize for step in x.strides)
    batch, stride = 1, 0
    for length, step in zip(lengths[::-1], steps[::-1]):           # leading axes are one if they step as one
        if length > 1 and batch > 1 and step != batch * stride:
            return None
        if length > 1:
            batch, stride = batch * length, stride if batch > 1 else step
    for transposed, rows, step, cols, ld in (False, n, right, m, down), (True, m, down, n, right):
        ld = ld if cols > 1 else rows
        if (step == 1 or rows == 1) and ld >= rows and stride >= 0:
            return Layout(x.dtype.name, rows, cols, ld, batch, stride, transposed, math.gcd(x.data.ptr, ALIGNED))
    return None


def _readable(x):
    found = layout(x)
    if found is None:
        x = x.copy()
        found = layout(x)
    return x, found


def _checked(a, b, dtype, place):
    """The product's shape and dtype. Raises TypeError or ValueError."""
    like = a if place is None else place
    name = like.dtype.name if dtype is None else str(np.dtype(dtype))
    if {device_of(x) for x in (a, b, like)} != {"cuda"}:
        raise TypeError("cuBLASLt multiplies arrays on a GPU, and one here is in the host's memory: cupy.asarray")
    if (a.dtype != b.dtype or a.dtype.name not in TYPES or name not in ("float32", a.dtype.name)
            or place is not None and name != place.dtype.name):
        raise TypeError(f"{a.dtype} times {b.dtype} in {name}" + f" onto {like.dtype}" * (place is not None) + " is "
                        "not for cuBLASLt here: float32 gives float32, bfloat16 gives either, and its place has that "
                        "type")
    if min(a.ndim, b.ndim) < 2 or a.shape[:-2] != b.shape[:-2] or a.shape[-1] != b.shape[-2]:
        raise ValueError(f"shapes {a.shape} and {b.shape} do not multiply: (…, m, k) and (…, k, n) do, with equal "
                         "leading axes; broadcast_to repeats a matrix without a copy")
    shape = (*a.shape[:-1], b.shape[-1])
    if place is not None and place.shape != shape:
        raise ValueError(f"a product of shape {shape} has no place in an array of shape {place.shape}")
    return shape, like.dtype if name == like.dtype.name else np.dtype(name)


# ---- the library ----------------------------------------------------------------------------------------------------

@cache
def library() -> Any:
    """The library, set up once in a process; where that fails, why, in words."""
    try:
        return Library(load())
    except (ImportError, OSError, RuntimeError) as error:
        return "cuBLASLt cannot be used: " + str(error).partition("\n")[0]


def missing() -> str:
    """Why `product` has to do without cuBLASLt, in words; "" where it has not."""
    found = library()
    return found if isinstance(found, str) else ""


def load() -> Any:
    """NVIDIA's file, wherever it was installed; what looks for it comes with CuPy. Raises an error where it is not."""
    from cuda.pathfinder import load_nvidia_dynamic_lib
    functions = C.CDLL(load_nvidia_dynamic_lib("cublasLt").abs_path)
    for name, types in FUNCTIONS.items():
        getattr(functions, name).argtypes = types
    return functions


class Library:
    """The functions of cuBLASLt and what they need: a handle, memory to work in, and the plans made so far. The memory
    is one: products run one after the other, on one stream or on streams that wait for each other."""

    def __init__(self, functions: Any) -> None:
        import cupy
        self.functions, self.handle = functions, C.c_void_p()
        self.plans: dict[tuple, Plan] = {}                         # by the layouts and settings of a product
        self.call("cublasLtCreate", C.byref(self.handle))
        # From the default pool by name: the one in use now may be a graph's own, and go with the graph.
        self.workspace = cupy.get_default_memory_pool().malloc(WORKSPACE)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the library. Raises RuntimeError with its status, in words."""
        status = getattr(self.functions, name)(*arguments)
        if status:
            raise RuntimeError(f"{STATUS.get(status, 'no words for this')} (status {status} of {name})")

    def make(self, what: str, *arguments: Any, attributes: Any) -> C.c_void_p:
        """One of the library's objects, with attributes: pairs of a number from its headers and a value."""
        made = C.c_void_p()
        self.call(f"cublasLt{what}Create", C.byref(made), *arguments)
        for number, value in attributes:
            self.call(f"cublasLt{what}SetAttribute", made, number, C.byref(value), C.sizeof(value))
        return made

    def proposals(self, first: Layout, second: Layout, result: Layout, tf32: bool) -> list[Plan]:
        """Plans for this kind of product, the likely best one first."""
        description = self.make("MatmulDesc", COMPUTE_TF32 if tf32 else COMPUTE_32F, TYPES["float32"], attributes=[
            (TRANSPOSE_FIRST, C.c_int32(second.transposed)), (TRANSPOSE_SECOND, C.c_int32(first.transposed))])
        lie = second, first, result, result                        # what is added to, and what is written
        layouts = [self.make("MatrixLayout", TYPES[x.dtype], x.rows, x.cols, x.ld, attributes=[
            (BATCH_COUNT, C.c_int32(x.batch)), (BATCH_STRIDE, C.c_int64(x.stride))]) for x in lie]
        preference = self.make("MatmulPreference", attributes=[
            (MOST_WORKSPACE, C.c_uint64(WORKSPACE)), (REDUCTION, C.c_uint32(IN_FLOAT32)),
            *((number, C.c_uint32(x.alignment)) for number, x in zip(ALIGNMENTS, lie))])
        found, count = (Algorithm * CANDIDATES)(), C.c_int()
        self.call("cublasLtMatmulAlgoGetHeuristic", self.handle, description, *layouts, preference, CANDIDATES,
                  C.byref(found), C.byref(count))
        plans = [Plan(description, layouts, algorithm) for algorithm in found[:count.value] if not algorithm.status]
        if not plans:
            raise RuntimeError(STATUS[15])
        return plans

    def fastest(self, plans: list[Plan], a: Any, b: Any, out: Any, add: bool) -> Plan:
        """The plan that takes the least time on these very arrays; the host waits. While a graph is recorded nothing
        runs that could be timed, and it is the first.

        Each adds up in an order of its own, and chance decides between equals: two processes may differ in the last
        bits, and so may a run on a GPU that is stopped and resumed. Within one process the plan is kept, so a step and
        its recording do not.
        """
        import cupy
        if len(plans) == 1 or cupy.cuda.runtime.streamIsCapturing(cupy.cuda.get_current_stream().ptr):
            return plans[0]
        before = out.copy() if add else None                       # racing adds many times
        times = [self.milliseconds(plan, a, b, out, add) for plan in plans]
        if add:
            out[...] = before
        return plans[times.index(min(times))]

    def milliseconds(self, plan: Plan, a: Any, b: Any, out: Any, add: bool) -> float:
        """How long the GPU multiplies: the median of three times, after one that does not count. Who is refused takes
        for ever."""
        import cupy
        begin, end, times = cupy.cuda.Event(), cupy.cuda.Event(), []
        for _ in range(4):
            for _ in range(8):                                     # keeps the GPU busy until the host has launched the
                self.workspace.memset_async(0, WORKSPACE)          # product, which takes longer than to multiply
            begin.record()
            try:
                self.multiply(plan, a, b, out, add)
            except RuntimeError:
                return math.inf
            end.record()
            end.synchronize()
            times.append(cupy.cuda.get_elapsed_time(begin, end))
        return sorted(times[1:])[1]

    def multiply(self, plan: Plan, a: Any, b: Any, out: Any, add: bool) -> None:
        """out = a·b, or out + a·b, on CuPy's current stream. The host goes on at once."""
        import cupy
        second, first, old, new = plan.layouts
        self.call("cublasLtMatmul", self.handle, plan.description, C.byref(C.c_float(1)), b.data.ptr, second,
                  a.data.ptr, first, C.byref(C.c_float(add)), out.data.ptr, old, out.data.ptr, new,
                  C.byref(plan.algorithm), self.workspace.ptr, WORKSPACE, cupy.cuda.get_current_stream().ptr)


# ---- without the library --------------------------------------------------------------------------------------------

def _by_cupy(a, b, dtype, place, add):
    """The same product by CuPy: in float32 where it would round to bfloat16 too early, or has no batches in it."""
    if a.ndim > 2 or add or dtype != a.dtype:
        a, b = a.astype(np.float32, copy=False), b.astype(np.float32, copy=False)
    y = a @ b
    if place is None:
        return y.astype(dtype, copy=False)
    place[...] = place.astype(np.float32, copy=False) + y if add else y
    return place


@cache
def _warn(why: str) -> None:
    """Once in a process."""
    import cupy
    toolkit = cupy.cuda.runtime.runtimeGetVersion() // 1000
    warnings.warn(f"{why}. CuPy multiplies instead: it copies transposed batches, takes float32 for batches in "
                  "bfloat16, knows no tf32=True, and a step with products cannot be recorded as a graph. What is "
                  f"missing comes with: pip install \"cupy-cuda{toolkit}x[ctk]\"", RuntimeWarning, stacklevel=3)

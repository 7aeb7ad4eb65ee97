"""cuBLASLt made of NumPy: takes the very arguments that the library takes, and multiplies in memory, by address.

    library = cublaslt.Library(lt.CublasLt())

Its numbers depend on the operands' values alone, never on where or how they lie. It reads column by column and writes
nothing outside a result. Where the real library answers with a status, so does this; it refuses more than the real one:
what is no object of its own, an algorithm that was proposed for another kind of product, and addresses that are not
aligned as was said. Only the types that `cublaslt.py` asks for are known.
"""

import ctypes
from typing import NamedTuple

import numpy as np

INVALID_VALUE, NOT_SUPPORTED = 7, 15
DTYPES = {0: "float32", 14: "bfloat16"}                            # NumPy knows the latter once ml_dtypes is imported
MULTIPLIES = {(0, 0, 0), (14, 14, 0), (14, 14, 14)}                # types of both factors, and of C and D
FLOAT32, TF32 = 68, 77
ATTRIBUTES = {                                                     # by object: number, and the type of the value
    "MatmulDesc": {3: ctypes.c_int32, 4: ctypes.c_int32},
    "MatrixLayout": {5: ctypes.c_int32, 6: ctypes.c_int64},
    "MatmulPreference": {1: ctypes.c_uint64, 3: ctypes.c_uint32, **dict.fromkeys((5, 6, 7, 8), ctypes.c_uint32)}}
DEFAULTS = {"MatmulDesc": {3: 0, 4: 0}, "MatrixLayout": {5: 1, 6: 0},
            "MatmulPreference": {1: 0, 3: 7, 5: 256, 6: 256, 7: 256, 8: 256}}


class Call(NamedTuple):
    """A product that was asked for: the number of its algorithm, the addresses of A, B and D, beta, the stream."""

    algorithm: int
    addresses: tuple[int, int, int]
    beta: float
    stream: int


class CublasLt:
    """The library. It proposes so many `algorithms`, all with the same numbers; `calls` are the products done.

    Each product is done by `run`, which is given it as a function without arguments. Whoever keeps that function for
    later has to keep the arrays too, for it knows addresses only.
    """

    def __init__(self, algorithms=3, run=lambda step: step()):
        self.algorithms, self.calls, self.run = algorithms, [], run
        self._objects, self._proposed, self._handle = {}, {}, None

    def cublasLtCreate(self, handle):
        self._handle = handle._obj.value = 0xB1A5
        return 0

    def cublasLtMatmulDescCreate(self, made, compute, scale):
        return self._make("MatmulDesc", made, compute in (FLOAT32, TF32) and scale == 0, compute=compute)

    def cublasLtMatrixLayoutCreate(self, made, dtype, rows, cols, ld):
        fine = dtype in DTYPES and rows > 0 and cols > 0 and ld >= rows
        return self._make("MatrixLayout", made, fine, dtype=dtype, rows=rows, cols=cols, ld=ld)

    def cublasLtMatmulPreferenceCreate(self, made):
        return self._make("MatmulPreference", made, True)

    def cublasLtMatmulDescSetAttribute(self, *arguments):
        return self._set("MatmulDesc", *arguments)

    def cublasLtMatrixLayoutSetAttribute(self, *arguments):
        return self._set("MatrixLayout", *arguments)

    def cublasLtMatmulPreferenceSetAttribute(self, *arguments):
        return self._set("MatmulPreference", *arguments)

    def cublasLtMatmulAlgoGetHeuristic(self, handle, description, a, b, c, d, preference, most, found, count):
        self._know(handle)
        status = self._refused(description, a, b, c, d)
        wishes = self._object("MatmulPreference", preference)
        assert wishes[3] == 2, "shares of a sum may be rounded to the result's type"
        assert len(found._obj) >= most, "proposals would be written beyond the array's end"
        number = 0 if status else min(self.algorithms, most - 1)
        for i in range(number):
            proposed = found._obj[i]
            proposed.algorithm[0], proposed.workspace, proposed.status = len(self._proposed) + 1, wishes[1], 0
            kind = *(x.value for x in (description, a, b, c, d)), [wishes[n] for n in (5, 6, 7, 8)]
            self._proposed[len(self._proposed) + 1] = i + 1, kind
        found._obj[number].status = NOT_SUPPORTED                  # and one that is none
        count._obj.value = number + 1
        return status

    def cublasLtMatmul(self, handle, description, alpha, A, a, B, b, beta, C, c, D, d, algorithm, workspace, size,
                       stream):
        self._know(handle)
        status = self._refused(description, a, b, c, d)
        number, (*kind, alignments) = self._proposed[algorithm._obj.algorithm[0]]
        addresses = A, B, C, D
        assert all(type(address) is int and address for address in (*addresses, workspace)), "a null address"
        assert type(stream) is int, "no stream"
        assert not any(address % n for address, n in zip(addresses, alignments)), "not aligned as was said"
        if status or kind != [x.value for x in (description, a, b, c, d)] or algorithm._obj.workspace > size:
            return status or INVALID_VALUE
        self.calls.append(Call(number, (A, B, D), beta._obj.value, stream))
        how = self._object("MatmulDesc", description)
        layouts = [self._object("MatrixLayout", x) for x in (a, b, c, d)]
        self.run(lambda: multiply(how, layouts, addresses, alpha._obj.value, beta._obj.value))
        return 0

    def _know(self, handle):
        assert self._handle and handle.value == self._handle, "the library was not set up"

    def _make(self, what, made, fine, **given):
        if fine:
            made._obj.value = 0x1000 + len(self._objects)
            self._objects[made._obj.value] = what, DEFAULTS[what] | given
        return 0 if fine else INVALID_VALUE

    def _object(self, what, handle):
        found, attributes = self._objects[handle.value]
        assert found == what, f"a {found} where a {what} is wanted"
        return attributes

    def _set(self, what, handle, number, value, size):
        kind = ATTRIBUTES[what].get(number)
        if kind is None or size != ctypes.sizeof(kind):
            return INVALID_VALUE
        assert type(value._obj) is kind, f"attribute {number} of a {what} is a {kind.__name__}"
        self._object(what, handle)[number] = value._obj.value
        return 0

    def _refused(self, description, *layouts):
        """The status with which the library refuses this product, or 0."""
        how = self._object("MatmulDesc", description)
        a, b, c, d = (self._object("MatrixLayout", x) for x in layouts)
        (m, k), (l, n) = (sizes(x, how[number]) for x, number in ((a, 3), (b, 4)))
        fits = k == l and all(sizes(x, 0) == (m, n) for x in (c, d)) and len({x[5] for x in (a, b, c, d)}) == 1
        apart = c == d and (d[5] == 1 or d[6] > 0)
        if not fits or not apart or min(how[3], how[4]) < 0 or max(how[3], how[4]) > 1:
            return INVALID_VALUE
        known = (a["dtype"], b["dtype"], d["dtype"]) in MULTIPLIES and (how["compute"] == FLOAT32 or not a["dtype"])
        return 0 if known else NOT_SUPPORTED


def sizes(layout, transposed):
    """Rows and columns of a matrix, after it is transposed if it is to be."""
    return (layout["cols"], layout["rows"]) if transposed else (layout["rows"], layout["cols"])


def memory(layout, address):
    """What a layout describes at this address, as (batch, columns, rows): to NumPy the transpose of each matrix."""
    dtype, batch, stride = np.dtype(DTYPES[layout["dtype"]]), layout[5], layout[6]
    size = (batch - 1) * stride + (layout["cols"] - 1) * layout["ld"] + layout["rows"]
    flat = np.frombuffer((ctypes.c_char * (size * dtype.itemsize)).from_address(address), dtype)
    steps = [step * dtype.itemsize for step in (stride, layout["ld"], 1)]
    return np.lib.stride_tricks.as_strided(flat, (batch, layout["cols"], layout["rows"]), steps, writeable=True)


def tf32(x):
    """Float32 rounded to the 10 bits of TF32, halves away from zero, as the GPU's conversion does."""
    return ((x.view(np.uint32) + 0x1000) & 0xFFFF_E000).view(np.float32)


def multiply(how, layouts, addresses, alpha, beta):
    """D = alpha·A·B + beta·C, in float32, rounded to D's type once. C is not read where beta is 0."""
    a, b, c, d = map(memory, layouts, addresses)
    a, b = (x.swapaxes(1, 2) if how[number] else x for x, number in ((a, 3), (b, 4)))
    a, b = (np.array(x, np.float32, order="C") for x in (a, b))
    if how["compute"] == TF32:
        a, b = tf32(a), tf32(b)
    result = np.float32(alpha) * (b @ a)                           # transposed, as `memory` shows all of them
    d[...] = result + np.float32(beta) * c.astype(np.float32) if beta else result

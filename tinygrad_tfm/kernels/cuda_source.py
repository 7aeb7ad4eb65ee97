"""Floor 1: the text of a CUDA file as a compiler wants it, and what each of its kernels takes.

Nothing is compiled or launched here and CuPy is not needed, so all of it can be tested where there is no GPU.
The kernels are in `cuda/`; begin there with `warp.cuh` and `gelu.cu`.
"""

import operator
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FOLDER = Path(__file__).parent / "cuda"
STORED = {"float32": "float", "bfloat16": "bf16"}                  # what `real` may be: NumPy's word, and CUDA's
DTYPES = {"float": "float32", "bf16": "bfloat16", "int": "int32", "i64": "int64", "u32": "uint32", "u64": "uint64",
          "bool": "bool"}
NO_ARRAY = np.uint64(0)                                            # the address that a kernel knows as null

# Patterns, and below tuples for classes: they cost nothing when the package is imported, by most on no GPU.
INCLUDE = r'#include "(.*)"'
CONSTANTS = r"(?m)^constexpr int .*"
CONSTANT = r"= ([A-Z]{2,})\b"                                       # in such a line: WIDTH of `D = WIDTH`
KERNEL = r'(?s)extern "C" __global__ void\s+__launch_bounds__\((\d+)[^)]*\)\s+(\w+)\((.*?)\)\s*\{'
PARAMETER = (r"(const )?(?P<type>\w+)(?P<array>\*( __restrict__)?)? (?P<name>\w+)"
             r"(?P<optional> /\* or null \*/)?")


class Parameter(NamedTuple):
    """One parameter of a kernel: `const real* x` is an array, `int rows` a number; `/* or null */` may be left out."""

    name: str
    dtype: str
    array: bool
    optional: bool

    def convert(self, value: Any, stride: int = 0) -> Any:
        """The value as a kernel may be given it. Raises TypeError or ValueError, with what to do about it.

        An array must have the very type, begin at a multiple of 16 bytes, as all do that are not parts of others, and
        lie in one piece, or in rows `stride` numbers apart. A number becomes a NumPy scalar: CuPy passes a Python
        float as a double and an int as 64 bits, and a kernel with a `float` or `int` parameter would read half of it.
        """
        if self.array:
            return self._array(value, stride)
        if not isinstance(value, int | float | np.generic):
            raise TypeError(f"{self.name} is a number, not a {type(value).__name__}")
        if self.dtype == "float32":
            return np.float32(value)
        if not isinstance(value, int | np.integer):
            raise TypeError(f"{self.name} is a whole number, not {value!r}")
        try:
            return np.dtype(self.dtype).type(int(value))
        except OverflowError:
            raise ValueError(f"{self.name} = {value} does not fit into {self.dtype}") from None

    def _array(self, value: Any, stride: int) -> Any:
        if value is None and self.optional:
            return NO_ARRAY
        if not hasattr(value, "dtype") or not hasattr(value, "strides"):
            raise TypeError(f"{self.name} is an array of {self.dtype}, not {value!r}")
        if value.dtype != self.dtype:
            raise TypeError(f"{self.name} holds {self.dtype}, this {value.dtype}: .astype('{self.dtype}') makes one")
        if not (value.flags.c_contiguous or in_rows(value, stride)):
            raise ValueError(f"{self.name} does not lie in one piece (shape {value.shape}, strides {value.strides}); a "
                             "kernel is told only where it begins: ascontiguousarray makes a copy in one piece")
        if (value.ctypes.data if isinstance(value, np.ndarray) else value.data.ptr) % 16:
            raise ValueError(f"{self.name} does not begin at a multiple of 16 bytes, which a kernel reads at once: "
                             ".copy() does")
        return value


def in_rows(x: Any, stride: int) -> bool:
    """Do the numbers lie without a gap, but for one behind every row, so that rows begin `stride` numbers apart?"""
    step = x.dtype.itemsize
    for n, found in zip(x.shape[::-1], x.strides[::-1]):
        if n > 1 and found == stride * x.dtype.itemsize > step:
            step = found                                           # here the rows are counted
        if n > 1 and found != step:
            return False
        step *= n
    return True


class Kernel(NamedTuple):
    """A kernel's name, its parameters in order, and the most threads that a block of it may have."""

    name: str
    parameters: tuple[Parameter, ...]
    threads: int

    def arguments(self, **given: Any) -> tuple:
        """The arguments in the kernel's order, each of the type it declares. None is an array that is left out.

        Raises TypeError or ValueError that names kernel and parameter: a GPU would compute on without a word.
        """
        names = [p.name for p in self.parameters]
        missing, unknown = [n for n in names if n not in given], [n for n in given if n not in names]
        if missing or unknown:
            raise TypeError(f"{self.name} takes {', '.join(names)}" + "; missing: " * bool(missing) + ", ".join(missing)
                            + "; unknown: " * bool(unknown) + ", ".join(unknown))
        try:
            return tuple(p.convert(given[p.name], given.get("stride", 0)) for p in self.parameters)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{self.name}: {error}") from None


class Source(NamedTuple):
    """The whole text of a file, and its kernels by name."""

    text: str
    kernels: dict[str, Kernel]


def source(name: str, real: str = "float32", **constants: int) -> Source:
    """The file `name`.cu with activations stored as `real` ("float32", "bfloat16"), ready to be compiled.

    What a file knows when it is compiled is given by name: source("layer_norm", WIDTH=384). Files of ours that it
    includes are put in their place, for CuPy keeps compiled kernels by the text it is given and would not notice a
    change in another file. Raises ValueError for a file, a `real` or constants that are not known.
    """
    known = sorted(path.stem for path in FOLDER.glob("*.cu"))
    if name not in known:
        raise ValueError(f"there is no {name}.cu, only {', '.join(known)}")
    body = _joined(f"{name}.cu", (FOLDER / f"{name}.cu").read_text("utf-8"), set())
    wanted = re.findall(CONSTANT, " ".join(re.findall(CONSTANTS, body)))
    if set(wanted) != set(constants):
        example = ", ".join([f'"{name}"', *(f"{c}=…" for c in wanted)])
        raise ValueError(f"{name}.cu is compiled for {', '.join(wanted) or 'no constants'}, "
                         f"not for {', '.join(constants) or 'none'}: source({example})")
    return _defined(body, real, constants)


def source_of(text: str, real: str = "float32") -> Source:
    """A text of your own, ready to be compiled as ours are; it may include ours: #include "warp.cuh".

    Raises ValueError for a `real` that is not known, or a kernel whose signature is not understood.
    """
    return _defined(_joined("yours.cu", text, set()), real, {})


def _defined(body: str, real: str, constants: dict[str, int]) -> Source:
    """The text below lines that say what it is compiled for."""
    if real not in STORED:
        raise ValueError(f"activations are stored as {' or '.join(STORED)}, not as {real}")
    defines = [f"#define REAL {STORED[real]}", *(f"#define {c} {operator.index(n)}" for c, n in constants.items())]
    return Source("\n".join([*defines, body]), {k.name: k for k in _kernels(body, STORED[real])})


def _joined(name: str, text: str, seen: set[str]) -> str:
    """A text and those it includes, each once; `#line` lets the compiler's messages name file and line."""
    seen.add(name)
    lines = [f'#line 1 "{name}"']
    for number, line in enumerate(text.splitlines(), 1):
        included = re.match(INCLUDE, line)
        if included and included[1] not in seen:
            theirs = (FOLDER / included[1]).read_text("utf-8")
            lines += [_joined(included[1], theirs, seen), f'#line {number + 1} "{name}"']
        else:
            lines.append("" if included or line.startswith("#pragma once") else line)
    return "\n".join(lines)


def _kernels(text: str, real: str) -> list[Kernel]:
    """The kernels of a text, by their signatures. One that is not understood is an error, not left out."""
    found = [Kernel(name, tuple(_parameter(p, real) for p in re.split(r",\s*", inside)), int(threads))
             for threads, name, inside in re.findall(KERNEL, text)]
    if len(found) != text.count("__global__"):
        raise ValueError("every kernel begins: extern \"C\" __global__ void __launch_bounds__(threads) name(…) {")
    return found


def _parameter(text: str, real: str) -> Parameter:
    found = re.fullmatch(PARAMETER, " ".join(text.split()))
    kind = found and (real if found["type"] == "real" else found["type"])
    if not found or kind not in DTYPES:
        raise ValueError(f"a kernel's parameter is not understood: {text!r}")
    return Parameter(found["name"], DTYPES[kind], bool(found["array"]), bool(found["optional"]))

"""At the side of the floors: CUDA kernels on the CPU, compiled with g++ against `cpu.h` and called on NumPy arrays.

    gelu = emulator.Module(source("gelu")).get_function("gelu")
    gelu((1,), (32,), gelu.kernel.arguments(x=x, y=y, n=x.size))

`Module` answers as CuPy's RawModule does. Around every array lie guards of NaNs: a kernel that reads beyond one finds
no number, one that writes there is caught. A run can be followed thread by thread, and tried in another order of the
threads or without a barrier: demos/plot_a_kernel_thread_by_thread.py does. What runs the threads is in `cpu.h`.
"""

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..kernels.cuda_source import Kernel, Source

HEADER = Path(__file__).with_name("cpu.h")
COMPILER = shutil.which("g++") if sys.platform == "linux" else None
FLAGS = ["-std=c++20", "-O1", "-w", "-shared", "-fPIC", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE"]
GUARD = 4096                                                       # bytes on either side of an array
BARRIER = re.compile(r"__sync(?:threads|warp)\(\)")
ONE_AT_A_TIME = threading.Lock()                                   # the fibers' scheduler is one for the process
EVENTS = ("begins", "syncthreads", "syncwarp", "shuffle", "goes on", "ends")
TELL = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_int, ctypes.c_int)


class Moment(NamedTuple):
    """What happened to a thread: a lane of a warp of a block "begins", arrives at a "syncthreads", "syncwarp" or
    "shuffle" (a tensor core's instruction is one, too), "goes on" when all are there, "ends"."""

    block: int
    warp: int
    lane: int
    event: str


class Module:
    """The kernels of a text that `source` or `source_of` in kernels/cuda_source.py gave, compiled once for each text.

    Raises RuntimeError where there is no compiler to do it, or with the compiler's words on a text it does not accept.
    """

    def __init__(self, source: Source):
        text, self.kernels = numbered(source.text), source.kernels
        calls = "".join(f"KERNEL({name})\n" for name in self.kernels)
        self.library = ctypes.CDLL(str(compiled(f'#include "cpu.h"\n{text}\n{calls}')))

    def get_function(self, name: str) -> "Function":
        """The kernel of this name."""
        return Function(self.kernels[name], getattr(self.library, f"run_{name}"))


class Function:
    """A kernel, called as CuPy's are: kernel(grid, block, arguments)."""

    def __init__(self, kernel: Kernel, call: Any):
        self.kernel, self.call = kernel, call
        call.restype = ctypes.c_bool

    def __call__(self, grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any], reversed: bool = False,
                 without: int = -1, trace: list[Moment] | None = None) -> None:
        """Run all blocks, one after another, and of each warp after warp, as far as it gets without the others.

        `reversed` takes blocks, warps and lanes from the last to the first; `without` leaves out a barrier, by its
        number in the text; to the list `trace` every moment is added, in order. Raises TypeError or ValueError for
        what a GPU would refuse or misread, RuntimeError for threads that wait in vain or write outside an array.
        """
        name, (grid, block) = self.kernel.name, ((*sizes, 1, 1)[:3] for sizes in (grid, block))
        if np.prod(block) > self.kernel.threads:
            raise ValueError(f"{name} takes {self.kernel.threads} threads a block, not {np.prod(block)}: see its "
                             "__launch_bounds__")
        guarded: dict[int, Guarded] = {}
        places = []
        for parameter, argument in zip(self.kernel.parameters, arguments, strict=True):
            if isinstance(argument, np.ndarray):
                owner = argument
                while isinstance(owner.base, np.ndarray):
                    owner = owner.base
                copy = guarded.setdefault(id(owner), Guarded(owner))
                places.append(np.array(copy.address + argument.ctypes.data - owner.ctypes.data, np.uint64))
            elif isinstance(argument, np.generic):
                places.append(np.array(argument))
            else:
                raise TypeError(f"{name}: {parameter.name}: CuPy would not pass {argument!r} as meant; "
                                "kernel.arguments(…) makes of every value what the kernel declares")
        with ONE_AT_A_TIME:
            done = self.call((ctypes.c_int * 8)(*grid, *block, reversed, without),
                             (ctypes.c_void_p * len(places))(*(p.ctypes.data for p in places)),
                             None if trace is None else teller(trace))
        if not done:
            raise RuntimeError(f"{name}: threads wait for each other in vain; every barrier and shuffle must be "
                               "reached by all threads that it is for")
        for copy in guarded.values():
            copy.back(name)


class Guarded:
    """A copy of an array between two guards, whose bytes are NaNs in every float."""

    def __init__(self, array: np.ndarray):
        if not array.flags.c_contiguous:
            raise ValueError(f"an array of shape {array.shape}, strides {array.strides} does not lie in one piece; "
                             "np.ascontiguousarray makes a copy that does")
        self.array = array
        self.bytes = np.full(array.nbytes + 2 * GUARD + 64, 0xFF, np.uint8)
        self.start = GUARD + -(self.bytes.ctypes.data + GUARD) % 64
        self.address = self.bytes.ctypes.data + self.start
        self.inside[:] = array.reshape(-1).view(np.uint8)

    @property
    def inside(self) -> np.ndarray:
        """The bytes between the guards."""
        return self.bytes[self.start:self.start + self.array.nbytes]

    def back(self, name: str) -> None:
        """Put what the kernel wrote where the array is. Raises RuntimeError if it wrote beside it."""
        before, after = self.bytes[:self.start], self.bytes[self.start + self.array.nbytes:]
        if not (before == 0xFF).all() or not (after == 0xFF).all():
            raise RuntimeError(f"{name} wrote outside an array of shape {self.array.shape}")
        if self.array.flags.writeable:
            self.array.reshape(-1).view(np.uint8)[:] = self.inside


def teller(trace: list[Moment]) -> Callable:
    """What `cpu.h` calls with every moment, when the kernel is through."""
    return TELL(lambda block, thread, event: trace.append(Moment(block, thread // 32, thread % 32, EVENTS[event])))


def numbered(text: str) -> str:
    """The text with its barriers numbered, in order, so that any one of them can be left out of a run."""
    count = iter(range(len(BARRIER.findall(text))))
    return BARRIER.sub(lambda found: f"(gpu::removed == {next(count)} ? void() : {found[0]})", text)


def compiled(text: str) -> Path:
    """A shared library of this text, made once: it is kept in the user's cache directory."""
    if not COMPILER:
        raise RuntimeError("to run CUDA kernels on the CPU takes the compiler g++, on Linux: "
                           "apt install g++, dnf install gcc-c++, or what your Linux calls it")
    name = hashlib.sha256("\0".join([text, HEADER.read_text("utf-8"), *FLAGS]).encode()).hexdigest()[:24]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tinygrad_tfm" / "emulator"
    library = folder / f"{name}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            out = Path(scratch) / "kernels.so"
            done = subprocess.run([COMPILER, *FLAGS, "-I", HEADER.parent, "-x", "c++", "-", "-o", out],
                                  input=text.encode(), capture_output=True)
            if done.returncode:
                raise RuntimeError("g++ does not accept this kernel:\n" + done.stderr.decode(errors="replace"))
            os.replace(out, library)                               # whole or not at all
    return library

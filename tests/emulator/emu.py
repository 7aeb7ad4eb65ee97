"""Kernels on the CPU: a CUDA file is compiled with g++ against `cpu.h`, and its kernels called on NumPy arrays.

`Module(source)` answers as CuPy's RawModule does. Around every array lie guards of NaNs: a kernel that reads beyond
one finds no number, one that writes there is caught. What runs the fibers is in `cpu.h`.
"""

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HEADER = Path(__file__).with_name("cpu.h")
COMPILER = shutil.which("g++") if sys.platform == "linux" else None
FLAGS = ["-std=c++20", "-O1", "-w", "-shared", "-fPIC", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE"]
GUARD = 4096                                                       # bytes on either side of an array
BARRIER = re.compile(r"__sync(?:threads|warp)\(\)")


class Module:
    """The kernels of a source (see `tinygrad_tfm/kernels/cuda_source.py`), compiled once for each text."""

    def __init__(self, source):
        text, self.kernels = numbered(source.text), source.kernels
        calls = "".join(f"KERNEL({name})\n" for name in self.kernels)
        self.library = ctypes.CDLL(str(compiled(f'#include "cpu.h"\n{text}\n{calls}')))

    def get_function(self, name):
        return Function(self.kernels[name], getattr(self.library, f"run_{name}"))


class Function:
    """A kernel, called as CuPy's are: kernel(grid, block, arguments).

    `reversed` runs blocks, warps and lanes from the last to the first; `without` leaves out a barrier, by number.
    """

    def __init__(self, kernel, call):
        self.kernel, self.call = kernel, call
        call.restype = ctypes.c_bool

    def __call__(self, grid, block, arguments, reversed=False, without=-1):
        grid, block = ((*sizes, 1, 1)[:3] for sizes in (grid, block))
        assert np.prod(block) <= self.kernel.threads, f"{self.kernel.name} takes {self.kernel.threads} threads a block"
        guarded, places = {}, []
        for parameter, argument in zip(self.kernel.parameters, arguments, strict=True):
            if isinstance(argument, np.ndarray):
                owner = argument
                while isinstance(owner.base, np.ndarray):
                    owner = owner.base
                copy = guarded.setdefault(id(owner), Guarded(owner))
                places.append(np.uint64(copy.address + argument.ctypes.data - owner.ctypes.data))
            else:
                assert isinstance(argument, np.generic), f"{parameter.name}: CuPy would not pass {argument!r} as meant"
                places.append(argument)
        places = [np.array(p) for p in places]
        numbers = (ctypes.c_int * 8)(*grid, *block, reversed, without)
        if not self.call(numbers, (ctypes.c_void_p * len(places))(*(p.ctypes.data for p in places))):
            raise RuntimeError(f"{self.kernel.name}: threads wait for each other in vain")
        for copy in guarded.values():
            copy.back(self.kernel.name)


class Guarded:
    """A copy of an array between two guards, whose bytes are NaNs in every float."""

    def __init__(self, array):
        assert array.flags.c_contiguous
        self.array = array
        self.bytes = np.full(array.nbytes + 2 * GUARD + 64, 0xFF, np.uint8)
        self.start = GUARD + -(self.bytes.ctypes.data + GUARD) % 64
        self.address = self.bytes.ctypes.data + self.start
        self.inside[:] = array.reshape(-1).view(np.uint8)

    @property
    def inside(self):
        return self.bytes[self.start:self.start + self.array.nbytes]

    def back(self, name):
        before, after = self.bytes[:self.start], self.bytes[self.start + self.array.nbytes:]
        if not (before == 0xFF).all() or not (after == 0xFF).all():
            raise RuntimeError(f"{name} wrote outside an array of shape {self.array.shape}")
        if self.array.flags.writeable:
            self.array.reshape(-1).view(np.uint8)[:] = self.inside


def numbered(text):
    """The text with its barriers numbered, in order, so that any one of them can be left out of a run."""
    count = iter(range(len(BARRIER.findall(text))))
    return BARRIER.sub(lambda found: f"(gpu::removed == {next(count)} ? void() : {found[0]})", text)


def compiled(text):
    """A shared library of this text, made once: it is kept in the user's cache directory."""
    name = hashlib.sha256("\0".join([text, HEADER.read_text(), *FLAGS]).encode()).hexdigest()[:24]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tinygrad_tfm" / "emulator"
    library = folder / f"{name}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            out = Path(scratch) / "kernels.so"
            subprocess.run([COMPILER, *FLAGS, "-I", HEADER.parent, "-x", "c++", "-", "-o", out], check=True,
                           input=text.encode())
            os.replace(out, library)                               # whole or not at all
    return library

"""`doctor`: what this machine has, and the exact line that installs what is missing. Changes nothing.

Importing CuPy proves nothing, so a GPU is tried: a kernel of ours, matrix products, a step that is recorded and
replayed. Every check stands for itself, and whatever it meets is a finding, never a crash. Read next: `gpu.py`.
"""

from __future__ import annotations

import ctypes
import platform
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import metadata
from typing import Any

import numpy as np

from .gpu import cuda
from .kernels import cublaslt, cuda as twins
from .ops import gelu
from .parallel import cores, suggested_workers

EXTRAS = {"safetensors": "weights", "matplotlib": "plot", "tqdm": "plot", "threadpoolctl": "threads",
          "torch": "oracle"}
OLDEST = 12000                                                     # CUDA 12.0: the driver that CuPy 14 needs
CUBLASLT = "products by cuBLASLt"


def run(options: Any) -> tuple[int, dict[str, Any]]:
    """The command `doctor`: a report on stdout; exit code 0 whatever is found, since nothing here is required."""
    found = gpu()
    report: dict[str, Any] = {
        "python": platform.python_version(), "numpy": np.__version__, "blas": blas(), "cores": cores(),
        "packages": {name: version(name) for name in EXTRAS}, "cupy": cupy_wheels(), "driver": driver(),
        "device": device(), "gpu": found, "repair": repair(found)}
    print(f"Python {report['python']} on {platform.system()} {platform.machine()}, {report['cores']} cores; "
          f"NumPy {report['numpy']} with {report['blas']}")
    print(f"training would use {suggested_workers(64, 64, 'cpu')} workers on the CPU")
    for name, installed in report["packages"].items():
        print(f"  {name:<14}" + (installed or f"missing; pip install 'tinygrad_tfm[{EXTRAS[name]}]'"))
    print(f"GPU: {report['device']}")
    for name, words in found.items():
        print(f"  {name:<22}{words}")
    if report["repair"]:
        print(f"To repair:\n  {report['repair']}")
    return 0, report


def version(name: str) -> str | None:
    """The installed version of a package, None without it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def cupy_wheels() -> list[str]:
    """Every installed distribution of CuPy, with its version: more than one is a fault."""
    names = {(d.name.lower().replace("_", "-"), d.version) for d in metadata.distributions() if d.name}
    return sorted(f"{name}=={version}" for name, version in names
                  if name == "cupy" or name.startswith(("cupy-cuda", "cupy-rocm")))


def blas() -> str:
    """The library behind matrix products, its kernel and its threads."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return str(np.show_config(mode="dicts")["Build Dependencies"]["blas"].get("name", "unknown BLAS"))
    return ", ".join(f"{i['internal_api']} {i['version']} ({i.get('architecture', '?')} kernels, {i['num_threads']} "
                     "threads)" for i in threadpool_info() if i["user_api"] == "blas") or "unknown BLAS"


# ---- the GPU --------------------------------------------------------------------------------------------------------

def gpu() -> dict[str, str]:
    """Each check by its name: "ok", or in words what is wrong. The GPU is asked once driver and CuPy are well."""
    found = {"driver": _look(_driver_serves), "CuPy": _look(_cupy_fits)}
    if set(found.values()) == {"ok"}:
        found["a GPU"] = _look(_gpu_found)
    if found.get("a GPU") == "ok":
        found |= {name: _look(check) for name, check in WORK.items()}
    return found


def _look(check: Callable[[], str]) -> str:
    try:
        return check() or "ok"
    except Exception as error:                                     # whatever the driver throws is the finding
        return f"{type(error).__name__}: {error}"


def device() -> str:
    """Name, compute capability and memory of the GPU, and the CUDA of the driver and of CuPy."""
    try:
        runtime = cuda().cuda.runtime
        about, (free, total) = runtime.getDeviceProperties(runtime.getDevice()), runtime.memGetInfo()
        name = about["name"].decode() if isinstance(about["name"], bytes) else about["name"]
        return (f"{name}, compute capability {about['major']}.{about['minor']}, {free / 2**30:.1f} of "
                f"{total / 2**30:.1f} GiB free; CUDA {_dotted(driver())} of the driver, "
                f"{_dotted(runtime.runtimeGetVersion())} of CuPy")
    except Exception:                                              # why not is said by the checks
        return "none that could be used"


def driver() -> int:
    """The newest CUDA that NVIDIA's driver knows, 13000 for 13.0; 0 without a driver. CuPy is not needed to ask."""
    number = ctypes.c_int()
    for library in ("libcuda.so.1", "nvcuda.dll"):
        with suppress(OSError):
            ctypes.CDLL(library).cuDriverGetVersion(ctypes.byref(number))
            return number.value
    with suppress(Exception):
        import cupy
        return int(cupy.cuda.runtime.driverGetVersion())
    return 0


def repair(found: dict[str, str]) -> str:
    """The line that puts the right CuPy in the place of what is there; "" where nothing has to be, or would help."""
    pip, wheels, number = f"{shlex.quote(sys.executable)} -m pip", cupy_wheels(), driver()
    steps = [f"{pip} uninstall -y {' '.join(wheel.partition('==')[0] for wheel in wheels)}"] if wheels else []
    if number >= OLDEST:
        steps.append(f"{pip} install 'tinygrad_tfm[{'cuda13' if number >= 13000 else 'cuda12'}]'")
    broken = found["CuPy"] != "ok" or found.get(CUBLASLT, "ok") != "ok"
    needed = broken and (number >= OLDEST or len(wheels) > 1)
    return " && ".join(steps) if needed else ""


def _dotted(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"               # 12040 is CUDA 12.4


def _driver_serves() -> str:
    number = driver()
    old = f"of CUDA {_dotted(number)}; CuPy 14 needs 12.0 or later: install a newer driver"
    return "no NVIDIA driver found" if not number else old if number < OLDEST else ""


def _cupy_fits() -> str:
    wheels, known = cupy_wheels(), driver()
    if len(wheels) > 1:
        return f"{', '.join(wheels)} disturb each other: keep one"
    try:
        import cupy
    except ImportError as error:
        return f"{wheels[0]} cannot be imported: {error}" if wheels else "not installed"
    built = cupy.cuda.runtime.runtimeGetVersion()
    newer = 0 < known // 1000 < built // 1000
    return f"made for CUDA {_dotted(built)}, but the driver knows {_dotted(known)} only" if newer else ""


def _gpu_found() -> str:
    import cupy
    return "" if cupy.cuda.runtime.getDeviceCount() else "CuPy finds none"


def _kernel() -> str:
    x = np.linspace(-4, 4, 1000, dtype=np.float32)
    return _same(twins.gelu(cuda().asarray(x))[0], gelu(x)[0])


def _product(dtype: str) -> str:
    if dtype == "bfloat16":
        import ml_dtypes  # noqa: F401                             # with it NumPy knows the word
    a = np.arange(256, dtype=np.float32).reshape(16, 16) % 3 - 1   # of −1, 0, 1: exact in every precision
    b = cuda().asarray(a).astype(np.dtype(dtype))
    return _same(cublaslt.product(b, b), a @ a)


def _recorded() -> str:
    cupy = cuda()
    stream, pool = cupy.cuda.Stream(non_blocking=True), cupy.cuda.MemoryPool()
    with stream, cupy.cuda.using_allocator(pool.malloc):           # a graph's memory must be its own
        x = cupy.zeros(4, np.float32)
        count = lambda: cupy.add(x + 1, 0, out=x)
        count()                                                    # compiles what is then only noted down
        stream.begin_capture()
        try:
            count()
        finally:
            graph = stream.end_capture()
        graph.launch(stream)
        graph.launch(stream)
        found = _same(x, np.full(4, 3, np.float32))
        del graph
    pool.free_all_blocks()                                         # CuPy would keep it for a pool that is gone
    return found


def _same(found: Any, exact: np.ndarray) -> str:
    gap = float(abs(found.astype(np.float32).get() - exact).max())
    return "" if gap < 1e-5 else f"wrong numbers, off by up to {gap:.3g}"            # NaN is wrong, too


WORK: dict[str, Callable[[], str]] = {
    "a kernel of ours": _kernel, "a float32 product": partial(_product, "float32"),
    "a bfloat16 product": partial(_product, "bfloat16"), CUBLASLT: lambda: cublaslt.missing(),
    "a recorded step": _recorded}

"""`doctor`: what this machine has, and the exact line that installs what is missing. Changes nothing."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np

from .gpu import cuda
from .parallel import cores, suggested_workers

EXTRAS = {"safetensors": "weights", "matplotlib": "plot", "tqdm": "plot", "threadpoolctl": "threads",
          "torch": "oracle"}


def run(options: Any) -> tuple[int, dict[str, Any]]:
    """The command `doctor`: a report on stdout; exit code 0 whatever is found, since nothing here is required."""
    report: dict[str, Any] = {
        "python": platform.python_version(), "numpy": np.__version__, "blas": blas(), "cores": cores(),
        "packages": {name: version(name) for name in EXTRAS}, "cupy": cupy_wheels(), "gpu": gpu()}
    print(f"Python {report['python']} on {platform.system()} {platform.machine()}, {report['cores']} cores; "
          f"NumPy {report['numpy']} with {report['blas']}")
    print(f"training would use {suggested_workers(64, 64, 'cpu')} workers on the CPU")
    for name, found in report["packages"].items():
        print(f"  {name:<14}" + (found or f"missing; pip install 'tinygrad_tfm[{EXTRAS[name]}]'"))
    if len(report["cupy"]) > 1:
        print("several CuPy packages are installed and will disturb each other; keep one: "
              f"{sys.executable} -m pip uninstall {' '.join(report['cupy'][1:])}")
    print(f"GPU: {report['gpu']}")
    return 0, report


def version(name: str) -> str | None:
    """The installed version of a package, None without it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def cupy_wheels() -> list[str]:
    """Every installed distribution of CuPy, with its version: more than one is a fault."""
    return sorted(f"{d.name}=={d.version}" for d in metadata.distributions()
                  if d.name and d.name.lower().startswith("cupy"))


def blas() -> str:
    """The library behind matrix products, its kernel and its threads."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return str(np.show_config(mode="dicts")["Build Dependencies"]["blas"].get("name", "unknown BLAS"))
    return ", ".join(f"{i['internal_api']} {i['version']} ({i.get('architecture', '?')} kernels, {i['num_threads']} "
                     "threads)" for i in threadpool_info() if i["user_api"] == "blas") or "unknown BLAS"


def gpu() -> str:
    """What a real kernel and a real matrix product say: importing CuPy proves nothing."""
    try:
        cupy = cuda()
        name = cupy.cuda.runtime.getDeviceProperties(0)["name"]
        name = name.decode() if isinstance(name, bytes) else name
        free, total = cupy.cuda.runtime.memGetInfo()
        checks: list[tuple[str, Callable[[], bool]]] = [
            ("a kernel", lambda: float((cupy.arange(10, dtype=np.float32) + 1).sum()) == 55.0),
            ("a matrix product", lambda: float((cupy.ones((8, 8)) @ cupy.ones((8, 8))).sum()) == 512.0)]
        failed = [what for what, check in checks if not check()]
    except (ImportError, RuntimeError) as error:
        return f"none usable: {error}"
    except Exception as error:                                     # whatever the driver throws is the finding
        return f"CuPy is installed but fails: {type(error).__name__}: {error}"
    if failed:
        return f"{name}: {', '.join(failed)} gave a wrong result"
    return f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free; a kernel and a matrix product work"

"""Floor 0: which array library, and which device.

NumPy or CuPy is decided by the array in hand, never by a global setting: code that must work on both asks
`namespace(x)` and calls what it gets. Nothing here knows tensors or gradients. (Beside it on this floor, for later:
`random.py`, so that one seed rules all numbers, `special.py` with the one function NumPy lacks, `errors.py`.)
Read next: `ops/`, the operations.
"""

import sys
from typing import Any

import numpy as np

Array = Any                       # numpy.ndarray or cupy.ndarray
DEFAULT_DTYPE = np.float32        # of Python numbers and lists that become tensors, and of new weights


def namespace(*arrays: Any) -> Any:
    """The library that owns the first array among the arguments: `numpy`, `cupy`, or `functional` for Tensors.

    Python numbers belong to nobody and are passed over.
    """
    for x in arrays:
        if type(x) is np.ndarray:
            return np
        cupy = sys.modules.get("cupy")
        if cupy is not None and isinstance(x, cupy.ndarray):
            return cupy
        if hasattr(x, "__array_namespace__"):
            return x.__array_namespace__()
    return np


def device_of(x: Any) -> str:
    """"cuda" for a CuPy array, "cpu" for everything else."""
    return "cuda" if namespace(x).__name__ == "cupy" else "cpu"


def cuda() -> Any:
    """The CuPy module, once it has been seen to find a GPU.

    Raises ImportError without CuPy, RuntimeError without a device; both say what to do.
    """
    try:
        import cupy
    except ImportError as error:
        raise ImportError("device 'cuda' needs CuPy, which is not installed: "
                          "pip install 'tinygrad_tfm[cuda13]' (or [cuda12] for an older driver)") from error
    try:
        devices = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:                         # CuPy's own error type cannot be named without CuPy
        raise RuntimeError(f"device 'cuda': CuPy is installed but finds no usable GPU ({error}); "
                           "run `python -m tinygrad_tfm doctor`, or use --device cpu") from error
    if not devices:
        raise RuntimeError("device 'cuda': CuPy is installed but there is no GPU; use --device cpu")
    return cupy


def resolve_device(name: str) -> str:
    """"cpu", "cuda", or for "auto" the better of the two that works here. Raises ValueError for other names."""
    if name == "auto":
        try:
            cuda()
        except (ImportError, RuntimeError):
            return "cpu"
        return "cuda"
    if name == "cuda":
        cuda()
    elif name != "cpu":
        raise ValueError(f"unknown device {name!r}: use 'cpu', 'cuda' or 'auto'")
    return name


def to_device(x: Array, device: str) -> Array:
    """The array on that device; itself when it is there already."""
    if device == device_of(x):
        return x
    return cuda().asarray(x) if resolve_device(device) == "cuda" else to_numpy(x)


def to_numpy(x: Array) -> np.ndarray:
    """The array in host memory. From a GPU this waits until the value is computed."""
    return x.get() if device_of(x) == "cuda" else np.asarray(x)

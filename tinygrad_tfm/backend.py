"""Floor 0: which array library, and which device.

NumPy or CuPy is decided by the array in hand, never by a global setting: code that must work on both asks
`namespace(x)` and calls what it gets. Nothing here knows tensors or gradients. (Beside it on this floor, for later:
`gpu.py`, which finds one or says why not, `random.py`, `special.py` with the one function NumPy lacks, `errors.py`.)
Read next: `ops/`, the operations.
"""

import sys
from typing import Any

import numpy as np

from .gpu import cuda, resolve_device

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


def to_device(x: Array, device: str | None) -> Array:
    """The array on that device; itself when it is there already, or where no device is wished for."""
    if device is None or device == device_of(x):
        return x
    return cuda().asarray(x) if resolve_device(device) == "cuda" else to_numpy(x)


def to_numpy(x: Array) -> np.ndarray:
    """The array in host memory. From a GPU this waits until the value is computed."""
    return x.get() if device_of(x) == "cuda" else np.asarray(x)

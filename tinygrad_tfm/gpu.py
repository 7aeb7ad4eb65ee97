"""Floor 0: finding a GPU, or saying why there is none."""

from typing import Any


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

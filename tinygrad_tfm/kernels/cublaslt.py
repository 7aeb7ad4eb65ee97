"""Placeholder until the branch with it is merged."""
import numpy as np
def product(a, b, *, dtype=None, onto=None, tf32=False):
    """."""
    from ..backend import namespace
    y = namespace(a).ascontiguousarray(a.astype("float32") @ b.astype("float32"))
    return y.astype(dtype or a.dtype)

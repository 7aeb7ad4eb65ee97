"""A sequence cut into blocks, each beside its neighbours: how near pairs are multiplied without multiplying far ones.

All of it works on arrays and on Tensors alike.
"""

from typing import Any

from ...backend import namespace


def cut(x: Any, size: int, fill: float = 0) -> Any:
    """(B, H, T, K) → (B, H, n, size, K): blocks of `size` positions, the last one filled up."""
    *lead, T, K = x.shape
    n = -(-T // size)
    x = namespace(x).pad(x, ((0, 0),) * len(lead) + ((0, n * size - T), (0, 0)), constant_values=fill)
    return x.reshape(*lead, n, size, K)


def joined(x: Any, T: int) -> Any:
    """(B, H, n, size, K) → (B, H, T, K): the way back from `cut`."""
    *lead, n, size, K = x.shape
    return x.reshape(*lead, n * size, K)[..., :T, :]


def beside(x: Any, after: int, fill: float = 0) -> Any:
    """(B, H, n, size, K) → (B, H, n, (2 + after)·size, K): each block behind the one before it and, if `after` is 1,
    followed by the next."""
    n = x.shape[-3]
    x = namespace(x).pad(x, ((0, 0),) * (x.ndim - 3) + ((1, after), (0, 0), (0, 0)), constant_values=fill)
    return namespace(x).concatenate([x[..., i:i + n, :, :] for i in range(2 + after)], axis=-2)


def places(T: int, size: int, after: int, xp: Any) -> tuple[Any, Any]:
    """The positions of the queries of each block, (n, size, 1), and of the keys beside it, (n, 1, (2 + after)·size);
    some lie before the beginning or behind the end."""
    start = xp.arange(-(-T // size))[:, None, None] * size
    return start + xp.arange(size)[:, None], start + xp.arange(-size, (1 + after) * size)


def band(T: int, window: int, causal: bool, xp: Any) -> Any:
    """Which keys beside a block of `window` queries exist and are nearer than `window`, and no later if causal:
    booleans (n, window, m)."""
    i, j = places(T, window, 0 if causal else 1, xp)
    near = (i - j < window) & ((j <= i) if causal else (j - i < window))
    return near & (j >= 0) & (j < T)

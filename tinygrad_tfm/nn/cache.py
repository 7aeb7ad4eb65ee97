"""What attention has seen, kept so that it need not be seen again: for generation only."""

from ..backend import Array, namespace
from ..tensor import Tensor


class KVCache:
    """The keys and values one attention layer has seen, so that generating a token costs one token.

    Room for `capacity` of them is taken once, at the first `append`; rows of a batch advance together. `append`
    raises ValueError when the room is used up.
    """

    def __init__(self, capacity: int):
        self.capacity, self.length = capacity, 0
        self.keys: Array = None                                    # (B, H, capacity, K)
        self.values: Array = None

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """`append` for Tensors. Raises RuntimeError where gradients are recorded, since they would end here."""
        if k.requires_grad or v.requires_grad:
            raise RuntimeError("a cache holds numbers, not how they came about: the gradients of keys and values "
                               "would be lost; use it inside `with tg.no_grad():`")
        keys, values = self.append(k.data, v.data)
        return Tensor(keys), Tensor(values)

    def append(self, k: Array, v: Array) -> tuple[Array, Array]:
        """Add T new keys and values (B, H, T, K); returns all so far, as views."""
        if self.keys is None:
            shape = (*k.shape[:2], self.capacity, k.shape[3])
            self.keys, self.values = namespace(k).empty(shape, k.dtype), namespace(k).empty(shape, k.dtype)
        end = self.length + k.shape[2]
        if end > self.capacity:
            raise ValueError(f"this cache has room for {self.capacity} positions, {end} are needed")
        self.keys[:, :, self.length:end], self.values[:, :, self.length:end] = k, v
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def keep(self, rows: Array) -> None:
        """Go on with these rows of the batch, in this order; a row may be taken twice."""
        self.keys, self.values = self.keys[rows], self.values[rows]

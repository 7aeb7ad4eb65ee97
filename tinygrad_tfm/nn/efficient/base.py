"""What the attentions of this folder share: they project as `Attention` does, and say by name what they cannot do.

Cutting a sequence into blocks is in `blocks.py`. Read next: `local.py`.
"""

from copy import copy
from typing import Any

from ...backend import Array, namespace
from ...random import new_key
from ...tensor import Tensor, no_grad
from ..attention import Attention
from ..cache import KVCache
from ..positions import Positions

CANNOT = {"cross": "attend to another sequence", "mask": "take a mask", "causal": "be causal", "cache": "use a cache",
          "dropout": "drop weights", "bias": "add to the scores, as these positions do"}


class EfficientAttention(Attention):
    """Attention with another `attend`.     (B, T, D) → (B, T, D)

    Raises ValueError, with the reason, for what stands in `refuses`.
    """

    refuses: dict[str, str] = {}                                   # what of CANNOT, and why

    def __init__(self, width: int, heads: int, bias: bool = True, dropout: float = 0.0,
                 positions: Positions | None = None):
        super().__init__(width, heads, bias, dropout, positions)
        self.refuse(dropout=dropout > 0, bias=type(self.positions).bias is not Positions.bias)

    def refuse(self, **asked: bool) -> None:
        """Raise ValueError for the first thing asked for that this attention refuses."""
        for what, reason in self.refuses.items():
            if asked.get(what):
                raise ValueError(f"{type(self).__name__} cannot {CANNOT[what]}: {reason}")

    def forward(self, query: Tensor, key: Tensor | None = None, value: Tensor | None = None, *, mask: Any = None,
                causal: bool = False, cache: KVCache | None = None) -> Tensor:
        self.refuse(cross=key is not None or value is not None, mask=mask is not None, causal=causal,
                    cache=cache is not None)
        return super().forward(query, key, value, mask=mask, causal=causal, cache=cache)

    def drop(self) -> dict[str, Any]:
        """Probability and key of the dropout of weights; none in evaluation."""
        p = self.dropout if self.training else 0.0
        return dict(p=p, key=new_key() if p else 0)

    def pattern(self, query: Tensor, key: Tensor | None = None, *, mask: Any = None, causal: bool = False) -> Array:
        """The weight of every key for every query, (B, H, T, S): what is gathered of values that are the identity.
        To look at, without dropout and without a graph; here it does cost T·S."""
        self.refuse(cross=key is not None, mask=mask is not None, causal=causal)
        still = copy(self)
        still.training = False
        with no_grad():
            q, k, _ = self.project(query, key)
            xp, S = namespace(k.data), k.shape[-2]
            identity = Tensor(xp.broadcast_to(xp.eye(S, dtype=k.dtype), (*k.shape[:-1], S)))
            return still.attend(q, k, identity, mask=mask, causal=causal).data

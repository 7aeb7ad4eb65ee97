"""Attention that costs less than every query meeting every key, each behind the signature of `nn.Attention`.

Exact, for all pairs: `blockwise`. Exact, for fewer pairs: `local`, `global_tokens`, `strided`, `topk`. Approximate:
`linear`, `performer`, `linformer`, `reformer`. Each overrides one method, `attend`; `base` says no for what it cannot.
"""

from .base import EfficientAttention
from .blockwise import BlockwiseAttention
from .global_tokens import GlobalAttention
from .linear import LinearAttention
from .linformer import LinformerAttention
from .local import LocalAttention
from .performer import PerformerAttention
from .reformer import ReformerAttention
from .strided import StridedAttention
from .topk import TopKAttention

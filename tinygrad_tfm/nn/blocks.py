"""The transformer block: attention, then a feed-forward network, each added to the stream it reads.

Self-attention, masks and pre- or post-norm are all the same two lines. Read next: `models/decoder.py`.
"""

from collections.abc import Callable
from typing import Any

from .. import functional as F
from ..tensor import Tensor
from .attention import Attention
from .cache import KVCache
from .layers import Dropout, LayerNorm, Linear
from .module import Module


class FeedForward(Module):
    """y = f(x·W₁ + b₁)·W₂ + b₂, the same for every position.     (..., D) → (..., D)

    `hidden` F is 4·D by default, `activation` any function of a tensor: `F.relu` in the original (Vaswani et al.
    2017, eq. 2), GELU since GPT. Dropout acts on the result, while training.
    """

    def __init__(self, width: int, hidden: int | None = None, activation: Callable[[Tensor], Tensor] = F.gelu,
                 bias: bool = True, dropout: float = 0.0):
        hidden = 4 * width if hidden is None else hidden
        self.up = Linear(width, hidden, bias)
        self.down = Linear(hidden, width, bias)
        self.activation = activation
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.down(self.activation(self.up(x))))


class Block(Module):
    """Pre-norm:  x + Attention(norm x), then x + FeedForward(norm x).   Post-norm:  norm(x + Attention x), and so on.

    Built from parts, so that any attention, feed-forward network and norm will do; `norms` are as many as there are
    steps. With `cross` there is a third step between the two: attention from x to `memory`.     (B, T, D) → (B, T, D)

    `cache` keeps what self-attention has seen; `memory_cache` the memory's keys and values.

    Pre-norm keeps the stream free of norms, so that gradients reach every block alike (Xiong et al. 2020,
    arXiv:2002.04745, §3); post-norm is the original (Vaswani et al. 2017, §3.1).
    """

    def __init__(self, attention: Module, feed_forward: Module, norms: list[Module], cross: Module | None = None,
                 pre_norm: bool = True, dropout: float = 0.0):
        if len(norms) != (2 if cross is None else 3):
            raise ValueError(f"Block: {2 if cross is None else 3} steps need as many norms, {len(norms)} were given")
        self.norms = norms
        self.attention = attention
        self.cross = cross
        self.feed_forward = feed_forward
        self.pre_norm = pre_norm
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor | None = None, *, mask: Any = None, causal: bool = False,
                memory_mask: Any = None, cache: KVCache | None = None,
                memory_cache: KVCache | None = None) -> Tensor:
        steps: list[Callable] = [
            lambda y: self.dropout(self.attention(y, mask=mask, causal=causal, cache=cache)),
            self.feed_forward]
        cross = self.cross
        if (cross is None) != (memory is None):
            raise ValueError("a block with cross-attention needs a memory, one without has no use for it")
        if cross is not None:
            steps.insert(1, lambda y: self.dropout(cross(y, memory, mask=memory_mask, cache=memory_cache)))
        for norm, step in zip(self.norms, steps, strict=True):
            x = x + step(norm(x)) if self.pre_norm else norm(x + step(x))
        return x


def EncoderBlock(width: int, heads: int, hidden: int | None = None, *, pre_norm: bool = True, dropout: float = 0.0,
                 bias: bool = True, activation: Callable[[Tensor], Tensor] = F.gelu,
                 norm: Callable[[int], Module] = LayerNorm, attention: Callable[..., Module] = Attention) -> Block:
    """A block of self-attention and a feed-forward network; called with causal=True it is GPT's.

    `attention` makes what attends, from width, heads, bias and dropout: `partial(Attention, positions=Rotary(8))`,
    or one of `nn.efficient`.
    """
    return Block(attention(width, heads, bias, dropout), FeedForward(width, hidden, activation, bias, dropout),
                 [norm(width), norm(width)], pre_norm=pre_norm, dropout=dropout)


def DecoderBlock(width: int, heads: int, hidden: int | None = None, *, pre_norm: bool = True, dropout: float = 0.0,
                 bias: bool = True, activation: Callable[[Tensor], Tensor] = F.gelu,
                 norm: Callable[[int], Module] = LayerNorm, attention: Callable[..., Module] = Attention) -> Block:
    """A block that also looks at an encoder's output: self-attention, cross-attention to `memory`, feed-forward.

    `attention` makes the first, as in EncoderBlock; the other, between two sequences, is dense and without positions.
    """
    return Block(attention(width, heads, bias, dropout), FeedForward(width, hidden, activation, bias, dropout),
                 [norm(width), norm(width), norm(width)], cross=Attention(width, heads, bias, dropout),
                 pre_norm=pre_norm, dropout=dropout)

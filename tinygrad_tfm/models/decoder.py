"""The decoder-only transformer: GPT. Tokens in, for every position the logits of the token that follows.

Training is in `train.py`, generation in `generate.py`: the model only computes.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

from .. import functional as F
from ..errors import divisible, fraction, nonnegative, positive
from ..nn import (
    ALiBi,
    Attention,
    Dropout,
    Embedding,
    EncoderBlock,
    KVCache,
    LayerNorm,
    LearnedPositions,
    Linear,
    Module,
    NoPositions,
    RelativeBias,
    Rotary,
    SinusoidalPositions,
    init,
)
from ..tensor import Tensor, as_array

ACTIVATIONS = {"gelu": F.gelu, "gelu_tanh": F.gelu_tanh, "relu": F.relu, "silu": F.silu}
POSITIONS = {"learned": lambda c: LearnedPositions(c.context, c.width),
             "sinusoidal": lambda c: SinusoidalPositions(c.context, c.width),
             "rotary": lambda c: Rotary(c.width // c.heads),
             "relative": lambda c: RelativeBias(c.heads, both_ways=False),
             "alibi": lambda c: ALiBi(c.heads),
             "none": lambda c: NoPositions()}


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder. Raises ValueError, naming the field, for a shape that cannot be.

    vocab V, context T (tokens it sees at once), layers, heads H, width D, hidden F (4·D if None), dropout p, bias
    (in linear layers and norms), tied (output weights = embedding weights), pre_norm, positions ("learned",
    "sinusoidal", "rotary", "relative", "alibi", "none"), activation ("gelu", "gelu_tanh", "relu", "silu"),
    scale_embedding (by √D), std (of the first weights of linear layers).
    """

    vocab: int
    context: int
    layers: int
    heads: int
    width: int
    hidden: int | None = None
    dropout: float = 0.0
    bias: bool = False
    tied: bool = True
    pre_norm: bool = True
    positions: str = "learned"
    activation: str = "gelu"
    scale_embedding: bool = False
    std: float = 0.02

    def __post_init__(self) -> None:
        positive("DecoderConfig", vocab=self.vocab, context=self.context, layers=self.layers, heads=self.heads,
                 width=self.width, hidden=1 if self.hidden is None else self.hidden)
        fraction("DecoderConfig", dropout=self.dropout)
        nonnegative("DecoderConfig", std=self.std)
        divisible("DecoderConfig", self.width, self.heads)
        for field, known in (("positions", POSITIONS), ("activation", ACTIVATIONS)):
            if getattr(self, field) not in known:
                raise ValueError(f"DecoderConfig: {field} is one of {', '.join(known)}, not {getattr(self, field)!r}")


class Decoder(Module):
    """logits = unembed(norm(blocks(dropout(embed(ids) + positions)))).     ids (B, T) → (B, T, V)

    The weights of linear layers start as GPT-2's: N(0, std²), and the two projections that write into the stream of L
    layers smaller by 1/√(2L), so that its variance does not grow with depth (Radford et al. 2019, §2.3). GPT-2's std
    of 0.02 suits its width of 768; a narrow model starts faster from more, about 1/√D. Embeddings have their own.
    """

    def __init__(self, config: DecoderConfig):
        c = self.config = config
        self.embed = Embedding(c.vocab, c.width, scale=c.scale_embedding)
        self.positions = POSITIONS[c.positions](c)
        self.dropout = Dropout(c.dropout)
        norm, attention = partial(LayerNorm, bias=c.bias), partial(Attention, positions=self.positions)
        self.blocks = [EncoderBlock(c.width, c.heads, c.hidden, pre_norm=c.pre_norm, dropout=c.dropout, bias=c.bias,
                                    activation=ACTIVATIONS[c.activation], norm=norm, attention=attention)
                       for _ in range(c.layers)]
        self.norm = norm(c.width) if c.pre_norm else None            # post-norm blocks end with one already
        self.unembed = None if c.tied else Linear(c.width, c.vocab, bias=False)
        self.start_as_gpt2()

    def start_as_gpt2(self) -> None:
        """Draw every matrix anew from N(0, std²), those that write into the stream from N(0, (std/√(2L))²)."""
        for name, module in self.named_modules():
            if isinstance(module, Linear):
                writes = name.endswith(("attention.out", "feed_forward.down"))
                std = self.config.std / (math.sqrt(2 * self.config.layers) if writes else 1)
                module.weight = init.normal(*module.weight.shape, std=std)

    def forward(self, ids: Any, cache: list[KVCache] | None = None) -> Tensor:
        """Logits (B, T, V) for ids (B, T). With a cache from `new_cache`, ids are the tokens that come next.

        Raises ValueError for more tokens than the context holds.
        """
        ids = as_array(ids)
        T, start = ids.shape[-1], cache[0].length if cache else 0
        if start + T > self.config.context:
            raise ValueError(f"{start + T} tokens are more than the context of {self.config.context}")
        x = self.dropout(self.embed(ids) + self.positions(T, start))
        for i, block in enumerate(self.blocks):
            x = block(x, causal=True, cache=cache and cache[i])
        x = x if self.norm is None else self.norm(x)
        return self.embed.unembed(x) if self.unembed is None else self.unembed(x)

    def loss(self, ids: Any, targets: Any) -> Tensor:
        """Mean cross-entropy in nats of the targets (B, T) given ids (B, T)."""
        return F.cross_entropy(self(ids), targets=targets)

    def new_cache(self) -> list[KVCache]:
        """An empty cache with room for a whole context, one part for each block."""
        return [KVCache(self.config.context) for _ in self.blocks]

"""The original transformer: an encoder reads, a decoder writes, and looks at what was read.

Writing one token after the other is in `decoding.py`, pairs of texts are in `data.py`: the model only computes.
"""

from collections.abc import Callable, Sequence
from typing import Any

from .. import functional as F
from ..errors import positive
from ..nn import (
    DecoderBlock,
    Dropout,
    Embedding,
    EncoderBlock,
    KVCache,
    LayerNorm,
    Linear,
    Module,
    SinusoidalPositions,
)
from ..tensor import Tensor, as_array
from .encoder import Encoder, over_keys

Caches = list[tuple[KVCache, KVCache]]                      # for each block: of what it wrote, of what it looks at


class CrossDecoder(Module):
    """logits = unembed(norm(blocks(dropout(embed(ids) + positions), memory))).  (B, T), (B, S, D) → (B, T, V)

    Position t sees the ids up to t and the whole memory, but for its padding: `memory_mask` (B, S) is True where a
    token stands. Without `unembed` the output's weights are the embedding's.

    With a cache from `new_cache`, ids are the tokens that come next, and the memory is projected the first time only.
    """

    def __init__(self, embed: Embedding, positions: Module, blocks: Sequence[Module], norm: Module | None = None,
                 unembed: Module | None = None, dropout: float = 0.0):
        self.embed = embed
        self.positions = positions
        self.dropout = Dropout(dropout)
        self.blocks = list(blocks)
        self.norm = norm
        self.unembed = unembed

    def forward(self, ids: Any, memory: Tensor, memory_mask: Any = None, cache: Caches | None = None) -> Tensor:
        ids, allowed = as_array(ids), over_keys(memory_mask, memory)
        start = cache[0][0].length if cache else 0
        x = self.dropout(self.embed(ids) + self.positions(ids.shape[1], start))
        if start:
            memory = memory[:, :0]                          # its keys and values are in the cache: none are to be added
        for i, block in enumerate(self.blocks):
            own, seen = cache[i] if cache else (None, None)
            x = block(x, memory, causal=True, memory_mask=allowed, cache=own, memory_cache=seen)
        x = x if self.norm is None else self.norm(x)
        return self.embed.unembed(x) if self.unembed is None else self.unembed(x)

    def new_cache(self, limit: int, memory: int) -> Caches:
        """An empty cache with room for `limit` tokens that look at `memory` positions, a pair for each block."""
        return [(KVCache(limit), KVCache(memory)) for _ in self.blocks]


class EncoderDecoder(Module):
    """P(target | source) = Π P(tokenₜ | tokens before t, source), the decoder's memory being the encoder's output.

    source (B, S), source_mask (B, S) or None, ids (B, T) → logits (B, T, V). A target is padded with the id `pad`.
    (Vaswani et al. 2017, arXiv:1706.03762, §3.1)
    """

    def __init__(self, encoder: Module, decoder: CrossDecoder, pad: int = 0):
        self.encoder = encoder
        self.decoder = decoder
        self.pad = pad

    def forward(self, source: Any, source_mask: Any, ids: Any) -> Tensor:
        return self.decoder(ids, self.encoder(source, source_mask), source_mask)

    def loss(self, source: Any, source_mask: Any, target: Any, label_smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy in nats of a target (B, T) that begins with a start symbol: each token is predicted from
        the true ones before it (teacher forcing, Williams & Zipser 1989), and padding does not count."""
        target = as_array(target)
        return F.cross_entropy(self(source, source_mask, target[:, :-1]), targets=target[:, 1:], ignore_index=self.pad,
                               label_smoothing=label_smoothing)


def Transformer(vocab: int, layers: int, heads: int, width: int, *, target_vocab: int | None = None,
                context: int = 128, dropout: float = 0.0, pre_norm: bool = False, pad: int = 0,
                positions: Callable[[int, int], Module] = SinusoidalPositions,
                activation: Callable[[Tensor], Tensor] = F.relu, **block: Any) -> EncoderDecoder:
    """The original's parts: post-norm, ReLU, sinusoids, and one table for source, target and output.

    With `target_vocab` the languages have tables of their own, and so has the output. `layers` are as many on either
    side; further settings (hidden, bias, norm) are the blocks'. (Vaswani et al. 2017, §3.1, §3.4)
    """
    positive("Transformer", layers=layers)
    block |= dict(width=width, heads=heads, pre_norm=pre_norm, dropout=dropout, activation=activation)
    norm = lambda: LayerNorm(width) if pre_norm else None
    source = Embedding(vocab, width, scale=True)
    target = source if target_vocab is None else Embedding(target_vocab, width, scale=True)
    unembed = None if target_vocab is None else Linear(width, target_vocab)
    readers = [EncoderBlock(**block) for _ in range(layers)]
    writers = [DecoderBlock(**block) for _ in range(layers)]
    return EncoderDecoder(Encoder(source, positions(context, width), readers, norm(), dropout),
                          CrossDecoder(target, positions(context, width), writers, norm(), unembed, dropout), pad)

"""The encoder: every position looks at every other. BERT's training, and classification, stand on it.

The blocks are the decoder's, called without `causal`. Read next: `seq2seq.py`, where a decoder looks at what an encoder
made, and `vision.py`, where the tokens are pieces of an image.
"""

from __future__ import annotations  # naming np.random in a type would import it

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import functional as F
from ..backend import Array, device_of, namespace, to_device
from ..errors import fraction, positive
from ..nn import Dropout, Embedding, EncoderBlock, LayerNorm, LearnedPositions, Linear, Module, init
from ..tensor import Tensor, as_array


class Encoder(Module):
    """h = norm(blocks(dropout(embed(x) + positions))).     ids (B, T) → (B, T, D), or whatever `embed` takes

    Built from parts: `embed` gives (B, T, D), `positions(T)` gives (T, D), and blocks are called with a mask. `mask`
    (B, T) is True where a token stands: nobody looks at padding, and what comes out there means nothing.

    Raises ValueError for a mask of another shape. (Vaswani et al. 2017, arXiv:1706.03762, §3.1)
    """

    def __init__(self, embed: Module, positions: Module, blocks: Sequence[Module], norm: Module | None = None,
                 dropout: float = 0.0):
        self.embed = embed
        self.positions = positions
        self.dropout = Dropout(dropout)
        self.blocks = list(blocks)
        self.norm = norm

    def forward(self, x: Any, mask: Any = None) -> Tensor:
        x = self.embed(x)
        x = self.dropout(x + self.positions(x.shape[1]))
        allowed = over_keys(mask, x)
        for block in self.blocks:
            x = block(x, mask=allowed)
        return x if self.norm is None else self.norm(x)


def TokenEncoder(vocab: int, context: int, layers: int, heads: int, width: int, *, dropout: float = 0.0,
                 pre_norm: bool = True, scale_embedding: bool = False,
                 positions: Callable[[int, int], Module] = LearnedPositions, **block: Any) -> Encoder:
    """An encoder of the usual parts; further settings (hidden, bias, activation, norm) are `EncoderBlock`'s."""
    positive("TokenEncoder", layers=layers)
    return Encoder(Embedding(vocab, width, scale_embedding), positions(context, width),
                   [EncoderBlock(width, heads, pre_norm=pre_norm, dropout=dropout, **block) for _ in range(layers)],
                   LayerNorm(width) if pre_norm else None, dropout)


def over_keys(mask: Any, x: Tensor) -> Array | None:
    """The padding mask (B, S) of x (B, S, D) as attention takes it: (B, 1, 1, S), the same for all heads and queries.

    Without a mask None. Raises ValueError if it is not one boolean a position.
    """
    if mask is None:
        return None
    mask = as_array(mask)
    if mask.shape != x.shape[:2]:
        raise ValueError(f"a padding mask has one boolean for each position, {x.shape[:2]} here, not {mask.shape}")
    return mask[:, None, None]


# ---- filling gaps ---------------------------------------------------------------------------------------------------

class MaskedLM(Module):
    """logits = h·Wᵀ + b, W the encoder's own embedding: for each position, what stood there.     (B, T) → (B, T, V)

    `masked` makes inputs and targets. (Devlin et al. 2018, arXiv:1810.04805, §3.1, task 1; their code has one more
    linear layer before W.)

    Raises TypeError for an encoder that does not read tokens.
    """

    def __init__(self, encoder: Encoder):
        if not isinstance(encoder.embed, Embedding):
            raise TypeError(f"MaskedLM: gaps are filled with tokens, this encoder reads {type(encoder.embed).__name__}")
        self.encoder = encoder
        self.embed = encoder.embed
        self.bias = init.zeros(len(encoder.embed.weight))

    def forward(self, ids: Any, mask: Any = None) -> Tensor:
        return self.embed.unembed(self.encoder(ids, mask)) + self.bias

    def loss(self, ids: Any, targets: Any, mask: Any = None) -> Tensor:
        """Mean cross-entropy in nats over the targets (B, T) that are not −100."""
        return F.cross_entropy(self(ids, mask), targets=targets)


def masked(ids: Array, rng: np.random.Generator, *, vocab: int, substitute: int, mask: Array | None = None,
           share: float = 0.15) -> tuple[Array, Array]:
    """A text with gaps, and what belongs there: inputs and targets, (B, T) each; a target of −100 does not count.

    Each token is chosen with probability `share`, but only where `mask` is True. Of the chosen, 80 % become the id
    `substitute`, 10 % a random id below `vocab`, and 10 % stay, so that the model can trust no token it sees.
    (Devlin et al. 2018, arXiv:1810.04805, §3.1)
    """
    fraction("masked", share=share)
    xp, device = namespace(ids), device_of(ids)
    choice, fate = to_device(rng.random((2, *ids.shape)), device)
    others = to_device(rng.integers(0, vocab, ids.shape), device)
    chosen = choice < share if mask is None else (choice < share) & mask
    filled = xp.where(fate < 0.8, substitute, xp.where(fate < 0.9, others, ids))
    return xp.where(chosen, filled, ids), xp.where(chosen, ids, -100)


# ---- one answer for a sequence --------------------------------------------------------------------------------------

def mean_of_tokens(h: Tensor, mask: Any = None) -> Tensor:
    """The mean over the positions where a token stands.     (B, T, D), (B, T) → (B, D)"""
    if mask is None:
        return h.mean(axis=1)
    weights = as_array(mask).astype(h.dtype)[..., None]
    return F.where(weights > 0, h, 0).sum(axis=1) / namespace(weights).maximum(weights.sum(axis=1), 1)


def first_token(h: Tensor, mask: Any = None) -> Tensor:
    """The first position's vector: it stands for all if the first token is the same everywhere, as BERT's CLS is."""
    return h[:, 0]


class Classifier(Module):
    """logits = pool(encoder(x))·W + b: one answer for a sequence.     (B, T) → (B, classes)

    `pool` is `mean_of_tokens` or `first_token`, or any function of (B, T, D) and the mask. (Devlin et al. 2018, §4.1)
    """

    def __init__(self, encoder: Encoder, width: int, classes: int,
                 pool: Callable[[Tensor, Any], Tensor] = mean_of_tokens):
        self.encoder = encoder
        self.pool = pool
        self.head = Linear(width, classes)

    def forward(self, x: Any, mask: Any = None) -> Tensor:
        return self.head(self.pool(self.encoder(x, mask), mask))

    def loss(self, x: Any, targets: Any, mask: Any = None) -> Tensor:
        """Mean cross-entropy in nats of the classes (B,)."""
        return F.cross_entropy(self(x, mask), targets=targets)

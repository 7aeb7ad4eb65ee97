"""Recurrent models: a language model, and an encoder and decoder with a fixed vector or attention between them.

What came before the transformer, of the same parts: embeddings, layers, logits. How a cell steps is in
`nn/recurrent.py`, how one looks back in `nn/additive.py`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import functional as F
from ..backend import Array, namespace, to_numpy
from ..errors import positive
from ..nn import (
    AdditiveAttention,
    AttendingCell,
    Bidirectional,
    Cell,
    Dropout,
    Embedding,
    GRUCell,
    Linear,
    LSTMCell,
    Memory,
    Module,
    Recurrent,
    State,
)
from ..tensor import Tensor, as_array, no_grad


class RecurrentLM(Module):
    """logits = unembed(layer_L(… layer_1(embed(ids)))), each layer a recurrent network.     ids (B, T) → (B, T, V)

    `cell` is a class of cells (RNNCell, LSTMCell, GRUCell or one's own). Dropout acts between layers, never on what is
    carried from step to step (Zaremba et al. 2014, arXiv:1409.2329, §3.2). Embeddings are scaled to numbers of size 1:
    no norm follows that would do it. Raises ValueError for sizes that are not positive.
    """

    def __init__(self, vocab: int, width: int, layers: int = 1, cell: Callable[[int, int], Cell] = LSTMCell,
                 dropout: float = 0.0, tied: bool = True):
        positive("RecurrentLM", vocab=vocab, width=width, layers=layers)
        self.embed = Embedding(vocab, width, scale=True)
        self.layers = [Recurrent(cell(width, width)) for _ in range(layers)]
        self.dropout = Dropout(dropout)
        self.unembed = None if tied else Linear(width, vocab, bias=False)

    def forward(self, ids: Any) -> Tensor:
        return self.advance(ids)[0]

    def advance(self, ids: Any, states: list[State] | None = None) -> tuple[Tensor, list[State]]:
        """Logits (B, T, V) for ids (B, T) that come next, and the state of each layer after them, to go on from."""
        x, after = self.dropout(self.embed(ids)), []
        for i, layer in enumerate(self.layers):
            y, state = layer(x, states and states[i])
            x = self.dropout(y)
            after.append(state)
        return self.embed.unembed(x) if self.unembed is None else self.unembed(x), after

    def loss(self, ids: Any, targets: Any) -> Tensor:
        """Mean cross-entropy in nats of the targets (B, T) given ids (B, T)."""
        return F.cross_entropy(self(ids), targets=targets)


class RecurrentSeq2Seq(Module):
    """logits_t = unembed(h_t), h the states of a decoder that reads the target so far and starts from the source.

    The encoder reads the source both ways; the decoder's first state is s₀ = tanh([→h_S; ←h_1]·W + b). Without
    `attention` that is all it learns of the source, one vector of fixed size (as in Sutskever et al. 2014,
    arXiv:1409.3215, §2); with AdditiveAttention it looks at the encoder's outputs (B, S, 2F) before each step
    (Bahdanau et al. 2014, arXiv:1409.0473, §3). Source ids (B, S), target (B, T) → (B, T, V).

    A target ends with `stop` and is filled up with `pad`; `start` is what the decoder reads first. Raises ValueError
    for sizes that are not positive.
    """

    def __init__(self, source_vocab: int, target_vocab: int, width: int, cell: Callable[[int, int], Cell] = GRUCell,
                 attention: Callable[[int, int, int], AdditiveAttention] | None = None, pad: int = 0, start: int = 1,
                 stop: int = 2):
        positive("RecurrentSeq2Seq", source_vocab=source_vocab, target_vocab=target_vocab, width=width)
        self.pad, self.start, self.stop = pad, start, stop
        self.embed_source = Embedding(source_vocab, width, scale=True)
        self.embed_target = Embedding(target_vocab, width, scale=True)
        self.encoder = Bidirectional(cell(width, width), cell(width, width))
        self.bridge = Linear(2 * width, width)
        self.attention = None if attention is None else attention(width, 2 * width, width)
        inner = cell(width, width)
        self.decoder = Recurrent(inner if self.attention is None else AttendingCell(inner, self.attention))
        self.unembed = Linear(width, target_vocab)

    def encode(self, source: Any, mask: Any = None) -> tuple[State, Memory | None]:
        """The decoder's first state, and what it may look at. `mask` (B, S) is False where the source is padding."""
        outputs, last = self.encoder(self.embed_source(source), mask=mask)
        first = tuple(F.tanh(self.bridge(part)) for part in last)
        return first, None if self.attention is None else self.attention.remember(outputs, mask)

    def decode(self, ids: Any, state: State, memory: Memory | None) -> tuple[Tensor, State]:
        """Logits (B, T, V) for what follows the target's ids (B, T), and the state after them."""
        h, state = self.decoder(self.embed_target(ids), state, memory=memory)
        return self.unembed(h), state

    def forward(self, source: Any, source_mask: Any, target: Any) -> Tensor:
        return self.decode(self.shifted(target), *self.encode(source, source_mask))[0]

    def loss(self, source: Any, source_mask: Any, target: Any) -> Tensor:
        """Mean cross-entropy in nats of the target's tokens, each given the true ones before it: teacher forcing."""
        return F.cross_entropy(self(source, source_mask, target), targets=as_array(target), ignore_index=self.pad)

    def shifted(self, target: Any) -> Array:
        """What the decoder reads while it is taught: the start, then the target but for its last token.  (B, T)"""
        target = as_array(target)
        first = namespace(target).full((len(target), 1), self.start, dtype=target.dtype)
        return namespace(target).concatenate([first, target[:, :-1]], axis=1)

    def greedy(self, source: Any, mask: Any = None, limit: int = 100) -> list[list[int]]:
        """The likeliest token, again and again, up to `stop` or `limit` tokens: a list of ids for each row."""
        positive("greedy", limit=limit)
        with no_grad():
            state, memory = self.encode(source, mask)
            token = namespace(state[0].data).full((len(state[0]), 1), self.start)
            rows = np.empty((len(token), 0), int)
            while rows.shape[1] < limit and not (rows == self.stop).any(axis=1).all():
                logits, state = self.decode(token, state, memory)
                token = logits.data.argmax(axis=-1)                # (B, 1)
                rows = np.concatenate([rows, to_numpy(token)], axis=1)
        return [row[:row.index(self.stop)] if self.stop in row else row for row in rows.tolist()]

    def alignment(self, source: Any, source_mask: Any, target: Any) -> Array:
        """How much each target token looked at each source token while it was written, (B, T, S), rows sum to 1.

        Raises ValueError without attention.
        """
        with no_grad():
            state, memory = self.encode(source, source_mask)
            if self.attention is None or memory is None:
                raise ValueError("this model has no attention to look at: build it with attention=AdditiveAttention")
            h, _ = self.decoder(self.embed_target(self.shifted(target)), state, memory=memory)
            before = F.concat([F.expand_dims(state[0], axis=1), h[:, :-1]], axis=1)
            return self.attention.pattern(before, memory)

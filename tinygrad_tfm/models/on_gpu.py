"""A decoder's training step on a GPU, by hand: what the engine does, written out.

The twin of `Decoder.loss` and its way back, for GPT's shape, made of the twins of its operations. By hand, neighbours
can be one: an addition to the stream, its dropout and the norm behind it are one kernel; so are, on the way back, the
norm's gradient and its addition to what came past it. And a product can add what it comes to onto a gradient that is
there: to that of a norm whose value went to queries, keys and values, or of a table that was used at both ends. What
the model is stands in `decoder.py`; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .. import functional as F
from ..backend import Array
from ..kernels import precision
from ..kernels.cublaslt import product
from ..kernels.cuda import ONE_HOT_LIMIT, add_layer_norm, cross_entropy, dropped, embedding, float32, gelu
from ..kernels.cuda_attention import HEADS, TILE, attention
from ..nn.layers import LayerNorm, Linear
from ..nn.positions import LearnedPositions
from ..random import new_key
from ..tensor import Tensor, _fused, _watchers
from .decoder import Decoder
from .without_engine import as_built

Place = Callable[[Tensor], Array]


def goes_by_hand(model: Any) -> bool:
    """Whether a model is a decoder that this file knows, as it was built, its float32 weights on a GPU, all trained; in
    bf16 its attention must go by tiles over a whole context."""
    if _watchers.get() or not _fused.get() or type(model) is not Decoder:
        return False
    c = model.config
    modules: list[Any] = [module for _, module in model.named_modules()]
    if not (all(map(as_built, modules)) and c.pre_norm and model.unembed is None and c.activation == "gelu"):
        return False
    heads = {block.attention.heads for block in model.blocks}                            # type: ignore[attr-defined]
    gains = [module.gain for module in modules if type(module) is LayerNorm]
    return (model.embed.factor == 1 and type(model.positions) is LearnedPositions and c.vocab <= ONE_HOT_LIMIT
            and c.width % 2 == 0 and c.width <= 1024 and len({*map(id, gains)}) == 2 * len(model.blocks) + 1
            and all(module.bias is None for module in modules if type(module) in (Linear, LayerNorm))
            and all(getattr(module, "activation", F.gelu) is F.gelu for module in modules)
            and all(float32(x.data) and x.requires_grad for _, x in model.named_tensors())
            and (precision.current() != "bf16"
                 or c.context % TILE == 0 and all(c.width // H in HEADS for H in heads)))


def loss_by_hand(model: Decoder, ids: Array, targets: Array, weight: Place, gradient: Place) -> tuple[Array, Callable]:
    """The loss of ids and targets, (B, T) each, as a 0-d array, and the way back, which takes nothing and writes the
    gradients.

    `weight(p)` is a parameter as products read it, in bf16 or float32; `gradient(p)` the place of its gradient, in
    float32. Keys of dropout are drawn in the order in which the model draws them.
    """
    (B, T), D, drop = ids.shape, model.config.width, _dropout(model.dropout)
    table, positions = model.embed.weight, model.positions.weight                        # type: ignore[attr-defined]
    x, back_to_table = embedding(table.data, ids=ids)
    x += positions.data[:T].astype(x.dtype, copy=False)
    h = (dropped(x, **drop) if drop["p"] else x).reshape(B * T, D)
    norms = [*(block.norms[0] for block in model.blocks), model.norm]
    _, y, back_to_stream = _add_norm(h, None, norms[0], gradient)
    ways = []
    for block, after in zip(model.blocks, norms[1:]):
        h, y, way = _block(block, after, h, y, B, weight, gradient)
        ways.append(way)
    logits = _product(y, weight(table).T)
    loss, back_to_logits = cross_entropy(logits, targets=targets.reshape(-1))

    def back():
        g = back_to_logits()
        _product(g.T, y, into=gradient(table))
        gy, gh = _product(g, weight(table)), None
        while ways:                                                # and what each has kept is let go
            gy, gh = ways.pop()(gy, gh)
        g, _ = back_to_stream(gy, gh)
        g = dropped(g, **drop) if drop["p"] else g
        back_to_table(g, onto=gradient(table))
        gradient(positions)[T:] = 0
        g.reshape(B, T, D).sum(axis=0, dtype=np.float32, out=gradient(positions)[:T])
    return loss, back


def _block(block: Any, after: Any, h: Array, y: Array, B: int, weight: Place, gradient: Place) -> tuple:
    """From the stream h and its norm y, (B·T, D), to the stream and the norm `after` the block. The way back takes the
    gradients of these two; that of the stream is None at the end of the model."""
    part, H = block.attention, block.attention.heads
    linear = partial(_linear, weight=weight, gradient=gradient)
    (q, back_q), (k, back_k), (v, back_v) = (linear(y, layer) for layer in (part.query, part.key, part.value))
    apart = lambda x: x.reshape(B, -1, H, x.shape[-1] // H).swapaxes(1, 2)                   # (B, H, T, K)
    together = lambda x: x.swapaxes(1, 2).reshape(h.shape)
    heads, back_heads = attention(apart(q), apart(k), apart(v), causal=True, **_drop(part, part.dropout))
    o, back_out = linear(together(heads), part.out)
    h, y, back_mid = _add_norm(h, o, block.norms[1], gradient, **_dropout(block.dropout))
    u, back_up = linear(y, block.feed_forward.up)
    z, back_gelu = gelu(u)
    d, back_down = linear(z, block.feed_forward.down)
    h, y, back_end = _add_norm(h, d, after, gradient, **_dropout(block.feed_forward.dropout))

    def back(gy, gh):
        gh, gd = back_end(gy, gh)
        gh, go = back_mid(back_up(back_gelu(back_down(gd))), gh)
        gq, gk, gv = map(together, back_heads(apart(back_out(go)))[:3])
        gy = back_q(gq)
        back_k(gk, onto=gy)
        back_v(gv, onto=gy)
        return gy, gh
    return h, y, back


def _product(a: Array, b: Array, **place: Array | None) -> Array:
    return product(a, b, tf32=precision.current() == "tf32", **place)


def _linear(x: Array, layer: Any, weight: Place, gradient: Place) -> tuple:
    """x·W. The way back writes the weight's gradient, xᵀ·g, and gives g·Wᵀ, added `onto` an array if there is one."""
    w = weight(layer.weight)

    def back(g, onto=None):
        _product(x.T, g, into=gradient(layer.weight))
        return _product(g, w.T, onto=onto)
    return _product(x, w), back


def _add_norm(h: Array, delta: Array | None, norm: Any, gradient: Place, **drop: Any) -> tuple:
    """h + drop(delta), its norm, and the way back to h and delta; the gain's gradient goes to its place."""
    h, y, back = add_layer_norm(h, delta, norm.gain.data, eps=norm.eps, **drop)
    return h, y, lambda gy, gh: back(gy, gh, gradient(norm.gain))[:2]


def _dropout(module: Any) -> dict[str, Any]:
    return _drop(module, module.p)


def _drop(module: Any, p: float) -> dict[str, Any]:
    """Probability and key of a module's dropout: none in evaluation."""
    return dict(p=p, key=new_key()) if p and module.training else dict(p=0.0, key=0)


def rounded(weights: Array) -> Array:
    """Weights as products read them in the precision in force."""
    return weights.astype(precision.bfloat16()) if precision.current() == "bf16" else weights

"""A decoder's next step of generation on the CPU, in plain functions of arrays: no graph, no engine.

The twin of `Decoder.forward` with a cache, for one row of text. With one token, or the half of a window, arrays are so
small that the engine would cost more than the arithmetic; for the same reason products are written `x.dot(w)`, which
NumPy begins in half the time of `x @ w`. What the model is stands in `decoder.py`; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..backend import Array
from ..kernels.cpu import gelu_only
from ..nn import KVCache
from ..nn.attention import Attention
from ..nn.blocks import Block, FeedForward
from ..nn.layers import Dropout, Embedding, LayerNorm, Linear
from ..nn.positions import LearnedPositions, SinusoidalPositions
from ..tensor import _fused, _watchers
from .decoder import ACTIVATIONS, Decoder

KNOWN = {Decoder, Embedding, LearnedPositions, SinusoidalPositions, Block, Attention, FeedForward, LayerNorm, Linear,
         Dropout}
Step = Callable[[Sequence[int], list[KVCache]], Array]


def without_engine(model: Any) -> Step | None:
    """The step for this model as it is now, (n ids, caches) → (V,), the logits after the last of them.

    The caches are those that the model itself has filled; they are filled further. None where only the model will do:
    parts of one's own, post-norm, a GPU, double precision, watchers, or `fused(False)`.
    """
    if _watchers.get() or not _fused.get() or Decoder is not type(model) or not model.config.pre_norm:
        return None
    plain = all(type(module) in KNOWN and "forward" not in vars(module) for _, module in model.named_modules())
    single = all(type(x.data) is np.ndarray and x.dtype == np.float32 for _, x in model.named_tensors())
    blocks: list[Any] = model.blocks
    known = plain and all(block.feed_forward.activation in ACTIVATIONS.values() for block in blocks)
    return step_of(model) if known and single else None


def step_of(model: Any) -> Step:
    """The step made of functions of matrices, (n, D) → (n, D), their weights as they are now."""
    embed, factor, positions = model.embed.weight.data, model.embed.factor, model.positions.weight.data
    blocks: list[tuple] = [(norm_of(block.norms[0]), attention_of(block.attention), norm_of(block.norms[1]),
                            feed_forward_of(block.feed_forward)) for block in model.blocks]
    norm, unembed = norm_of(model.norm), embed.T if model.unembed is None else model.unembed.weight.data

    def step(ids: Sequence[int], caches: list[KVCache]) -> Array:
        start = caches[0].length
        x = embed[ids] * factor + positions[start:start + len(ids)]
        for (norm_a, attention, norm_f, feed_forward), cache in zip(blocks, caches):
            x += attention(norm_a(x), cache)
            x += feed_forward(norm_f(x))
        return norm(x[-1:]).dot(unembed)[0]
    return step


def affine(weight: Array, bias: Array | None) -> Callable[[Array], Array]:
    """x·W + b"""
    return (lambda x: x.dot(weight)) if bias is None else (lambda x: x.dot(weight) + bias)


def bias_of(module: Any) -> Array | None:
    """Its bias, if it has one."""
    return None if module.bias is None else module.bias.data


def linear_of(module: Any) -> Callable[[Array], Array]:
    """What a linear layer does."""
    return affine(module.weight.data, bias_of(module))


def norm_of(module: Any) -> Callable[[Array], Array]:
    """What a layer norm does."""
    gain, bias, eps = module.gain.data, bias_of(module), np.array(module.eps, np.float32)
    share = np.full((len(gain), 1), 1 / len(gain), np.float32)

    def norm(x: Array) -> Array:
        x = x - x.dot(share)
        spread = (x * x).dot(share)
        spread += eps
        x /= np.sqrt(spread, out=spread)
        x *= gain
        return x if bias is None else x + bias
    return norm


def attention_of(module: Any) -> Callable[[Array, KVCache], Array]:
    """The three projections as one, then the new queries against all keys so far."""
    parts, H, D = (module.query, module.key, module.value), module.heads, len(module.out.weight)
    bias = None if module.query.bias is None else np.concatenate([part.bias.data for part in parts])
    project = affine(np.concatenate([part.weight.data for part in parts], axis=1), bias)
    out, scale = linear_of(module.out), np.array((D // H) ** -0.5, np.float32)

    def attention(x: Array, cache: KVCache) -> Array:
        n, start = len(x), cache.length
        end = cache.length = start + n
        q, k, v = project(x).reshape(n, 3, H, -1).transpose(1, 2, 0, 3)          # (H, n, K) each
        cache.keys[0, :, start:end], cache.values[0, :, start:end] = k, v
        e = (q * scale) @ cache.keys[0, :, :end].swapaxes(1, 2)                  # (H, n, end)
        if n > 1:
            e += np.triu(np.full((n, end), -np.inf, np.float32), 1 + start)
        e -= e.max(axis=2, keepdims=True)
        np.exp(e, out=e)
        heads = e @ cache.values[0, :, :end]                                     # (H, n, K)
        heads /= e.sum(axis=2, keepdims=True)
        return out(heads.swapaxes(0, 1).reshape(n, D))
    return attention


def feed_forward_of(module: Any) -> Callable[[Array], Array]:
    """What a feed-forward layer does."""
    up, down, rule = linear_of(module.up), linear_of(module.down), module.activation.rule
    activation = gelu_only if module.activation is ACTIVATIONS["gelu"] else lambda x: rule(x)[0]
    return lambda x: down(activation(up(x)))

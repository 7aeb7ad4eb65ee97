"""A decoder's step of generation on the CPU: one token in, the logits of what follows out, and nothing else is made.

The twin of `Decoder.forward` with a cache, for one row and one token: arrays are so small then that the engine would
cost more than the arithmetic. What the model is stands in `decoder.py`; a test holds the two together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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


def one_token(model: Any) -> Callable[[int, list[KVCache]], Array] | None:
    """The step for this model as it is now, (id, caches) → (V,); None where only the model itself will do.

    That is: parts of one's own, post-norm, a GPU, double precision, watchers, or `fused(False)`. The caches are
    those that the model has filled, and are filled further.
    """
    if _watchers.get() or not _fused.get() or Decoder is not type(model) or not model.config.pre_norm:
        return None
    plain = all(type(module) in KNOWN and "forward" not in vars(module) for _, module in model.named_modules())
    single = all(type(x.data) is np.ndarray and x.dtype == np.float32 for _, x in model.named_tensors())
    blocks: list[Any] = model.blocks
    known = plain and all(block.feed_forward.activation in ACTIVATIONS.values() for block in blocks)
    return step_of(model) if known and single else None


def step_of(model: Any) -> Callable[[int, list[KVCache]], Array]:
    """The step made of functions of vectors, their weights as they are now."""
    embed, factor, positions = model.embed.weight.data, model.embed.factor, model.positions.weight.data
    blocks: list[tuple] = [(norm_of(block.norms[0]), attention_of(block.attention), norm_of(block.norms[1]),
                            feed_forward_of(block.feed_forward)) for block in model.blocks]
    norm, unembed = norm_of(model.norm), embed.T if model.unembed is None else model.unembed.weight.data

    def step(token: int, caches: list[KVCache]) -> Array:
        x = embed[token] * factor + positions[caches[0].length]
        for (norm_a, attention, norm_f, feed_forward), cache in zip(blocks, caches):
            x = x + attention(norm_a(x), cache)
            x += feed_forward(norm_f(x))
        return norm(x) @ unembed
    return step


def bias_of(module: Any, size: int) -> Array:
    """Its bias, or zeros."""
    return np.zeros(size, np.float32) if module.bias is None else module.bias.data


def norm_of(module: Any) -> Callable[[Array], Array]:
    """(D,) → (D,)"""
    gain = module.gain.data
    bias = bias_of(module, len(gain))
    share = np.full(len(gain), 1 / len(gain), np.float32)

    def norm(x: Array) -> Array:
        x = x - x @ share
        x *= 1 / math.sqrt(x @ x / len(x) + module.eps)
        x *= gain
        return x + bias
    return norm


def attention_of(module: Any) -> Callable[[Array, KVCache], Array]:
    """(D,) → (D,): the three projections as one, then the new query against all keys so far."""
    parts, H, D = (module.query, module.key, module.value), module.heads, len(module.out.weight)
    weight = np.concatenate([part.weight.data for part in parts], axis=1)
    bias = np.concatenate([bias_of(part, D) for part in parts])
    out, out_bias, scale = module.out.weight.data, bias_of(module.out, D), (D // H) ** -0.5

    def attention(x: Array, cache: KVCache) -> Array:
        q, k, v = (x @ weight + bias).reshape(3, H, -1)
        n = cache.length
        cache.keys[0, :, n], cache.values[0, :, n] = k, v
        cache.length = n = n + 1
        e = cache.keys[0, :, :n] @ (q * scale)[:, :, None]                       # (H, n, 1)
        e -= e.max(axis=1, keepdims=True)
        np.exp(e, out=e)
        heads = cache.values[0, :, :n].swapaxes(1, 2) @ e                        # (H, K, 1)
        heads /= e.sum(axis=1, keepdims=True)
        return heads.reshape(-1) @ out + out_bias
    return attention


def feed_forward_of(module: Any) -> Callable[[Array], Array]:
    """(D,) → (D,)"""
    up, down, rule = module.up.weight.data, module.down.weight.data, module.activation.rule
    up_bias, down_bias = bias_of(module.up, up.shape[1]), bias_of(module.down, down.shape[1])
    activation = gelu_only if module.activation is ACTIVATIONS["gelu"] else lambda x: rule(x)[0]
    return lambda x: activation(x @ up + up_bias) @ down + down_bias

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
from ..nn import KVCache, Module
from ..nn.attention import Attention
from ..nn.blocks import Block, FeedForward
from ..nn.layers import Dropout, Embedding, LayerNorm, Linear
from ..nn.positions import LearnedPositions, SinusoidalPositions
from ..tensor import _fused, _watchers
from .decoder import ACTIVATIONS, Decoder

KNOWN = {Decoder, Embedding, LearnedPositions, SinusoidalPositions, Block, Attention, FeedForward, LayerNorm, Linear,
         Dropout}
PARTS = {"attention": Attention, "feed_forward": FeedForward, "up": Linear, "down": Linear, "query": Linear,
         "key": Linear, "value": Linear, "out": Linear, "embed": Embedding, "norm": LayerNorm}
Step = Callable[[Sequence[int], list[KVCache]], Array]


def without_engine(model: Any) -> Step | None:
    """The step for this model as it is now, (n ids, caches) → (V,), the logits after the last of them.

    The caches are those that the model itself has filled; they are filled further. None where only the model will do:
    parts of one's own, post-norm, a GPU, double precision, watchers, or `fused(False)`.
    """
    if _watchers.get() or not _fused.get() or type(model) is not Decoder:
        return None
    plain = all(map(as_built, (module for _, module in model.named_modules())))
    single = all(type(x.data) is np.ndarray and x.dtype == np.float32 for _, x in model.named_tensors())
    return step_of(model) if plain and single else None


def as_built(module: Any) -> bool:
    """Whether a module is one that this file knows, with the parts it was built with and no function of its own."""
    own = vars(module)
    return (type(module) in KNOWN and own.get("pre_norm", True) and own.get("cross") is None
            and all(type(own[name]) is kind for name, kind in PARTS.items() if name in own)
            and all(type(norm) is LayerNorm for norm in own.get("norms", ()))
            and all(type(block) is Block for block in own.get("blocks", ()))
            and type(own.get("unembed")) in (Linear, type(None))
            and own.get("activation") in (None, *ACTIVATIONS.values())
            and not any(callable(x) for name, x in own.items() if not isinstance(x, Module) and name != "activation"))


def step_of(model: Any) -> Step:
    """The step made of functions of matrices, (n, D) → (n, D), their weights as they are now."""
    embed, factor, positions = model.embed.weight.data, model.embed.factor, model.positions.weight.data
    blocks: list[tuple] = [(norm_of(block.norms[0]), attention_of(block.attention), norm_of(block.norms[1]),
                            feed_forward_of(block.feed_forward)) for block in model.blocks]
    norm = norm_of(model.norm)
    unembed = affine(embed.T, None) if model.unembed is None else linear_of(model.unembed)

    def step(ids: Sequence[int], caches: list[KVCache]) -> Array:
        start = caches[0].length
        x = embed[ids] * factor + positions[start:start + len(ids)]
        for (norm_a, attention, norm_f, feed_forward), cache in zip(blocks, caches):
            x += attention(norm_a(x), cache)
            x += feed_forward(norm_f(x))
        return unembed(norm(x[-1:]))[0]
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
    biases = [np.zeros(D, np.float32) if part.bias is None else part.bias.data for part in parts]
    project = affine(np.concatenate([part.weight.data for part in parts], axis=1),
                     np.concatenate(biases) if any(map(np.any, biases)) else None)
    out, scale = linear_of(module.out), np.array((D // H) ** -0.5, np.float32)

    def attention(x: Array, cache: KVCache) -> Array:
        n, start = len(x), cache.length
        end = cache.length = start + n
        q, k, v = project(x).reshape(n, 3, H, -1).transpose(1, 2, 0, 3)          # (H, n, K) each
        cache.keys[0, :, start:end], cache.values[0, :, start:end] = k, v
        e = (q * scale) @ cache.keys[0, :, :end].swapaxes(1, 2)                  # (H, n, end)
        if n > 1:
            np.copyto(e, -np.inf, where=np.triu(np.ones((n, end), bool), 1 + start))
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

"""PyTorch's side: the same decoder, step and loops, written as its users write them.

Nothing of PyTorch is imported before a function here is called.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..generate import window_start
from ..kernels.cpu import keep_freed_memory
from ..models.decoder import DecoderConfig
from ..parallel import cores
from .our_side import (
    ATTENTION_SHAPE,
    BETAS,
    CLIP,
    DECAY,
    LR,
    RULES,
    Job,
    P,
    attention_arrays,
    chained,
    rule_arrays,
    rule_name,
)
from .sides import Actions

Weights = dict[str, np.ndarray]


def gpt(config: DecoderConfig) -> Any:
    """The decoder as an nn.Module: nanoGPT's, with one product for queries, keys and values together.

    Called with targets it gives the loss; without, the logits after the last token. For shapes without biases, with
    tied weights, pre-norm, learned positions and exact GELU.
    """
    import torch
    from torch import nn
    from torch.nn import functional as F
    c = config
    if c.bias or not c.tied or not c.pre_norm or c.positions != "learned" or c.activation != "gelu":
        raise ValueError(f"PyTorch's side has no decoder of this kind: {c}")

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            hidden = 4 * c.width if c.hidden is None else c.hidden
            self.norm1 = nn.LayerNorm(c.width, bias=False)
            self.qkv = nn.Linear(c.width, 3 * c.width, bias=False)
            self.out = nn.Linear(c.width, c.width, bias=False)
            self.norm2 = nn.LayerNorm(c.width, bias=False)
            self.up = nn.Linear(c.width, hidden, bias=False)
            self.down = nn.Linear(hidden, c.width, bias=False)
            self.dropout = nn.Dropout(c.dropout)

        def attend(self, x: torch.Tensor, cache: Any) -> torch.Tensor:
            B, T, D = x.shape
            q, k, v = (part.view(B, T, c.heads, D // c.heads).transpose(1, 2) for part in self.qkv(x).split(D, dim=2))
            if cache is not None:
                k, v = cache.append(k, v)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=T > 1,             # one token may look at all
                                               dropout_p=c.dropout if self.training else 0.0)
            return self.out(y.transpose(1, 2).contiguous().view(B, T, D))

        def forward(self, x: torch.Tensor, cache: Any = None) -> torch.Tensor:
            x = x + self.dropout(self.attend(self.norm1(x), cache))
            return x + self.dropout(self.down(F.gelu(self.up(self.norm2(x)))))

    class GPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(c.vocab, c.width)
            self.positions = nn.Embedding(c.context, c.width)
            self.dropout = nn.Dropout(c.dropout)
            self.blocks = nn.ModuleList(Block() for _ in range(c.layers))
            self.norm = nn.LayerNorm(c.width, bias=False)
            for module in self.modules():
                if isinstance(module, nn.Linear | nn.Embedding):
                    nn.init.normal_(module.weight, std=0.02)

        def forward(self, ids: torch.Tensor, targets: torch.Tensor | None = None, cache: Any = None) -> torch.Tensor:
            start = cache[0].length if cache else 0
            places = torch.arange(start, start + ids.shape[1], device=ids.device)
            x = self.dropout(self.embed(ids) + self.positions(places))
            for i, block in enumerate(self.blocks):
                x = block(x, cache and cache[i])
            x = self.norm(x)
            if targets is None:
                return F.linear(x[:, -1], self.embed.weight)
            logits = F.linear(x, self.embed.weight)
            return F.cross_entropy(logits.view(-1, c.vocab), targets.view(-1))
    return GPT()


def torch_names(ours: Weights, layers: int) -> Weights:
    """Our weights, or their gradients, under the names and in the shapes of `gpt`'s: PyTorch keeps the transpose."""
    theirs = {"embed.weight": ours["embed.weight"], "positions.weight": ours["positions.weight"],
              "norm.weight": ours["norm.gain"]}
    for i in range(layers):
        a, b = f"blocks.{i}.", f"blocks.{i}.attention."
        theirs |= {a + "qkv.weight": np.concatenate([ours[f"{b}{x}.weight"].T for x in ("query", "key", "value")]),
                   a + "out.weight": ours[b + "out.weight"].T,
                   a + "up.weight": ours[a + "feed_forward.up.weight"].T,
                   a + "down.weight": ours[a + "feed_forward.down.weight"].T,
                   a + "norm1.weight": ours[a + "norms.0.gain"], a + "norm2.weight": ours[a + "norms.1.gain"]}
    return theirs


def loaded(config: DecoderConfig, weights: Weights | None) -> Any:
    """The decoder with our weights; with first weights of its own if there are none."""
    import torch
    model = gpt(config)
    if weights is not None:
        model.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(a))
                               for name, a in torch_names(weights, config.layers).items()})
    return model


@contextmanager
def all_cores() -> Iterator[None]:
    """As many threads as this process has cores; PyTorch would count the machine's."""
    import torch
    before = torch.get_num_threads()
    torch.set_num_threads(cores())
    yield
    torch.set_num_threads(before)


@contextmanager
def training(job: Job, weights: Weights | None = None, how: str = "eager") -> Iterator[Actions]:
    """`step` and `losses`, as on our side. `how` is "eager", "kept" (eager, with the memory allocator set as on our
    side) or "compiled". Raises RuntimeError, with the reason, where that does not work."""
    import torch
    if how == "kept":
        keep_freed_memory()
    x, y = map(torch.from_numpy, job.data())
    torch.manual_seed(0)
    model = loaded(job.config, weights)
    parameters = list(model.parameters())
    groups = [{"params": [p for p in parameters if p.dim() > 1], "weight_decay": DECAY},
              {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, LR, betas=BETAS, fused=True)
    forward = compiled(model, x, y) if how == "compiled" else model

    def step() -> float:
        loss = forward(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def losses(steps: int) -> list[float]:
        model.train(not job.config.dropout)                        # without dropout it is one, and compiled already
        values = [step() for _ in range(steps)]
        model.train()
        return values
    with all_cores():
        yield {"step": step, "losses": losses}


def compiled(model: Any, x: Any, y: Any) -> Any:
    """The model by torch.compile, after a first call: it needs a C++ compiler, and half a minute or more."""
    import torch
    forward = torch.compile(model)
    try:
        forward(x, y).backward()
    except Exception as error:                                     # whatever it is, it is why there is no figure
        raise RuntimeError(next(line for line in f"{error}\n{type(error).__name__}".splitlines() if line)) from None
    model.zero_grad(set_to_none=True)
    return forward


# ---- writing --------------------------------------------------------------------------------------------------------

@contextmanager
def writing(config: DecoderConfig, weights: Weights, cached: bool) -> Iterator[Actions]:
    """`write(prompt, count)`, as on our side: nanoGPT's own loop, or one with a cache of keys and values."""
    import torch
    model = loaded(config, weights).eval()
    loop = cached_tokens if cached else uncached_tokens

    @torch.no_grad()
    def write(prompt: list[int], count: int) -> tuple[list[int], list[float]]:
        tokens, times, start = [], [], time.perf_counter()
        for token in loop(model, config, prompt, count):
            tokens.append(token)
            times.append(time.perf_counter() - start)
        return tokens, times
    with all_cores():
        yield {"write": write}


def uncached_tokens(model: Any, config: DecoderConfig, prompt: list[int], count: int) -> Iterator[int]:
    """nanoGPT's loop: the last `context` tokens, all of them, once more for each new one."""
    import torch
    ids = torch.tensor([prompt])
    for _ in range(count):
        token = model(ids[:, -config.context:]).argmax(dim=-1, keepdim=True)
        ids = torch.cat([ids, token], dim=1)
        yield token.item()


def cached_tokens(model: Any, config: DecoderConfig, prompt: list[int], count: int) -> Iterator[int]:
    """A token at a time, keys and values kept; at the end of the context the window moves as ours does, by half of
    it: learned positions leave no other way."""
    import torch
    ids, start, seen = list(prompt), 0, 0
    cache = new_cache(config)
    for _ in range(count):
        if window_start(len(ids), config.context) != start:
            start = seen = window_start(len(ids), config.context)
            cache = new_cache(config)
        token = model(torch.tensor([ids[seen:]]), cache=cache).argmax(dim=-1).item()
        seen = len(ids)
        ids.append(token)
        yield token


def new_cache(config: DecoderConfig) -> list[Any]:
    """Room for the keys and values of a whole context, one part for each block."""
    import torch

    class Cache:
        def __init__(self) -> None:
            self.length = 0
            self.keys, self.values = torch.empty(2, 1, config.heads, config.context, config.width // config.heads)

        def append(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            end = self.length + k.shape[2]
            self.keys[:, :, self.length:end], self.values[:, :, self.length:end] = k, v
            self.length = end
            return self.keys[:, :, :end], self.values[:, :, :end]
    return [Cache() for _ in range(config.layers)]


# ---- single operations ----------------------------------------------------------------------------------------------

@contextmanager
def chain() -> Iterator[Actions]:
    """`chain`, as on our side; one thread: there is nothing to share."""
    import torch
    w = torch.ones((4, 4), requires_grad=True)

    def run() -> None:
        chained(w).sum().backward()
        w.grad = None
    torch.set_num_threads(1)
    yield {"chain": run}


@contextmanager
def rules(shapes: Sequence[tuple[int, int]]) -> Iterator[Actions]:
    """Each of RULES and attention forward and backward on one thread, as on our side; each gives its value."""
    import torch
    from torch.nn import functional as F

    def forward(name: str, leaves: Sequence[torch.Tensor], t: torch.Tensor) -> torch.Tensor:
        x, w, gain, bias = leaves
        match name:
            case "gelu": return F.gelu(x)
            case "softmax": return F.softmax(x, dim=-1)
            case "layer_norm": return F.layer_norm(x, gain.shape, gain, bias)
            case "cross_entropy": return F.cross_entropy(x, t)
            case "dropout": return F.dropout(x, P)
            case _: return x @ w

    def action(name: str, arrays: dict[str, np.ndarray]) -> Callable[[], Any]:
        leaves = [torch.from_numpy(arrays[k]).requires_grad_() for k in ("x", "w", "gain", "bias")]
        t, g = torch.from_numpy(arrays["t"]), torch.from_numpy(arrays["g"])

        def run() -> Any:
            y = forward(name, leaves, t)
            y.backward(g if y.ndim else None)
            for leaf in leaves:
                leaf.grad = None
            return y
        return run
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield {rule_name(name, shape): action(name, rule_arrays(*shape)) for name in RULES for shape in shapes} | {
        f"attention {ATTENTION_SHAPE}": attention_and_back(*ATTENTION_SHAPE)}
    torch.set_num_threads(before)


@contextmanager
def attending(lengths: Sequence[int], tokens: int, heads: int, width: int) -> Iterator[Actions]:
    """`T`, for each length: causal attention over `tokens` tokens in windows of T, on all cores."""
    with all_cores():
        yield {str(T): attention_and_back(tokens // T, heads, T, width) for T in lengths}


def attention_and_back(B: int, H: int, T: int, K: int) -> Callable[[], Any]:
    """Causal scaled_dot_product_attention and its gradients, (B, H, T, K) each; gives the value."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention
    arrays, gradient = attention_arrays(B, H, T, K)
    q, k, v = (torch.from_numpy(a).requires_grad_() for a in arrays)
    g = torch.from_numpy(gradient)

    def run() -> Any:
        y = scaled_dot_product_attention(q, k, v, is_causal=True)
        y.backward(g)
        for leaf in (q, k, v):
            leaf.grad = None
        return y
    return run

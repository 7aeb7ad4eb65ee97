"""The CUDA kernels, run on the CPU: each against the plain rule in double precision, in both orders of its threads.

What may be off is what rounding allows. A number that is stored is off by at most u of itself: 2⁻²⁴ in float32, 2⁻⁸ in
bfloat16. Before that come sums in float32, each addition off by 2⁻²⁴ of what is added up. The compiler for GPUs is
asked in test_cuda_compiles.py, what the emulator itself does in test_emulator.py.
"""

import functools

import numpy as np
import pytest

from tinygrad_tfm import emulator, ops, optim
from tinygrad_tfm.emulator import BARRIER
from tinygrad_tfm.kernels import cuda_source
from tinygrad_tfm.kernels.cuda_source import source
from tinygrad_tfm.ops.network import attention_pattern
from tinygrad_tfm.random import drop_below, random_bits, random_mask
from tinygrad_tfm.tensor import pull

pytest.importorskip("ml_dtypes", reason="NumPy has no bfloat16: pip install 'tinygrad_tfm[test]'")
pytestmark = pytest.mark.skipif(not emulator.COMPILER, reason="the kernels run on the CPU only with g++, on Linux")

BF16 = np.dtype("bfloat16")
U = {"float32": 2**-24, "bfloat16": 2**-8}                         # half of the gap between 1 and the next number
REALS = pytest.mark.parametrize("real", U)
KEY = 0x1234_5678_9ABC_DEF1                                        # all of its bits matter


@functools.cache
def module(name, real="float32", **constants):
    return emulator.Module(source(name, real, **constants))


@pytest.fixture(params=[False, True], ids=["in order", "reversed"])
def launch(request):
    return functools.partial(call, reversed=request.param)


def call(module, kernel, grid, block, reversed=False, without=-1, **given):
    """Run a kernel; without=i leaves out the i-th barrier of its file."""
    function = module.get_function(kernel)
    function(grid, block, function.kernel.arguments(**given), reversed=reversed, without=without)


def normal(*shape, seed=0, dtype=np.float32, scale=1.0):
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) * scale).astype(dtype)


def unset(*shape, dtype=np.float32):
    """An array that a kernel has to write: NaNs."""
    return np.full(shape, np.nan, dtype)


def double(*arrays):
    return [a.astype(np.float64) for a in arrays]


def close(found, exact, terms=0.0, additions=0, inner=0.0):
    """|found − exact| ≤ what rounding allows: `additions` in float32 of `terms`, then once to be stored. `inner` is
    what roundings before that add up to, where a kernel has any."""
    before = additions * U["float32"] * np.abs(terms) + inner
    allowed = before + U[str(found.dtype)] * (np.abs(exact) + before)
    error = np.abs(found.astype(np.float64) - exact)
    off = ~(error <= allowed)                                      # so that a NaN is off
    assert not off.any(), (f"{off.sum()} of {off.size} numbers are off, by up to "
                           f"{(error / (allowed + 1e-300)).max():.3g} times what is allowed")


@REALS
@pytest.mark.parametrize("D, rows, blocks", [(384, 7, 2), (128, 1, 1), (64, 13, 3), (70, 5, 2)])
def test_layer_norm_and_its_way_back(launch, real, D, rows, blocks):
    """Blocks of two warps, so that rows are left over, or warps are. What is added is dropped at odd widths of rows."""
    p, key = (0.3, np.array([KEY], np.uint64)) if rows % 2 else (0, None)
    kernels, dtype, eps = module("layer_norm", real, WIDTH=D, DROP=drop_below(p) if p else 0), np.dtype(real), 1e-5
    drop = dict(key=key, keep_scale=1 / (1 - p))
    kept = random_mask(rows * D, p, KEY, np).reshape(rows, D) * np.float32(1 / (1 - p)) if p else 1
    x, delta, g, skip = (normal(rows, D, seed=seed, dtype=dtype, scale=3) for seed in range(4))
    gain, bias = 1 + normal(D, seed=4), normal(D, seed=5)
    h, y, gx, gdelta = (unset(rows, D, dtype=dtype), x.copy(), skip.copy(), unset(rows, D, dtype=dtype))
    mean, rstd = unset(rows), unset(rows)
    launch(kernels, "layer_norm", (blocks,), (64,), x=x, delta=delta, gain=gain, bias=bias, sum=h, y=y, mean=mean,
           rstd=rstd, eps=eps, rows=rows, **drop)
    np.testing.assert_array_equal(h, (x.astype(np.float32) + delta.astype(np.float32) * kept).astype(dtype))
    exact, back = ops.layer_norm(*double(h, gain, bias), eps=eps)
    H, G, SKIP = double(h, g, skip)
    sizes, s = np.abs(H) + np.abs(H).mean(1, keepdims=True), 1 / np.sqrt(H.var(1, keepdims=True) + eps)
    depth = D // 32 + 16                                           # additions one after another, and what else is done
    close(mean, H.mean(1), np.abs(H).mean(1), depth)
    close(rstd, s[:, 0], s[:, 0] * (sizes * s).max(1), depth)
    close(y, exact, sizes * s * np.abs(gain) + np.abs(bias), depth)

    shares, ggain, gbias = unset(blocks, 2, D), unset(D), unset(D)
    launch(kernels, "layer_norm_backward", (blocks,), (64,), g=g, h=h, gain=gain, mean=mean, rstd=rstd, skip=gx, gx=gx,
           gdelta=gdelta, shares=shares, rows=rows, **drop)
    launch(kernels, "layer_norm_weights", (1,), (64,), shares=shares, ggain=ggain, gbias=gbias, blocks=blocks)
    np.testing.assert_array_equal(gdelta == 0, (gx == 0) | (kept == 0))
    close(gdelta, double(gx)[0] * kept, np.abs(double(gx)[0]), 2, U[real] * np.abs(double(gx)[0]) * 2)
    exact, exact_gain, exact_bias = pull(back, G)
    N, A = (H - H.mean(1, keepdims=True)) * s, np.abs(G * gain)
    along = np.abs(N) * (A * np.abs(N)).mean(1, keepdims=True)
    grown = 1 + sizes * s                                          # an error of h is so much larger as one of n
    close(gx, SKIP + exact, np.abs(SKIP) + s * (A + A.mean(1, keepdims=True) + along) * grown.max(), depth)
    close(ggain, exact_gain.sum(0), (np.abs(G) * sizes * s).sum(0), depth + rows)
    close(gbias, exact_bias.sum(0), np.abs(G).sum(0), rows + 4)


@REALS
def test_layer_norm_of_x_alone(launch, real):
    x, gain = normal(3, 64, dtype=real), 1 + normal(64, seed=1)
    y, gx, h = (unset(3, 64, dtype=x.dtype) for _ in range(3))
    mean, rstd, shares, ggain = unset(3), unset(3), unset(1, 2, 64), unset(64)
    kernels = module("layer_norm", real, WIDTH=64, DROP=0)
    none = dict(key=None, keep_scale=1)
    launch(kernels, "layer_norm", (1,), (32,), x=x, delta=None, gain=gain, bias=None, sum=h, y=y, mean=mean,
           rstd=rstd, eps=0.1, rows=3, **none)
    np.testing.assert_array_equal(h, x)
    exact, back = ops.layer_norm(*double(x, gain), eps=0.1)
    close(y, exact, np.abs(x.astype(float)).max() * np.abs(gain), 40)
    launch(kernels, "layer_norm_backward", (1,), (32,), g=y, h=x, gain=gain, mean=mean, rstd=rstd, skip=None, gx=gx,
           gdelta=None, shares=shares, rows=3, **none)
    launch(kernels, "layer_norm_weights", (1,), (32,), shares=shares, ggain=ggain, gbias=None, blocks=1)
    exact, exact_gain, _ = pull(back, *double(y))
    close(gx, exact, 20, 40)
    close(ggain, exact_gain.sum(0), 40, 40)


@REALS
@pytest.mark.parametrize("n, blocks", [(1, 1), (1000, 2), (70, 9)])
def test_gelu_and_its_way_back(launch, real, n, blocks):
    x, g = normal(n, dtype=real, scale=3), normal(n, seed=1, dtype=real)
    y, gx = unset(n, dtype=x.dtype), unset(n, dtype=x.dtype)
    exact, back = ops.gelu(*double(x))
    launch(module("gelu", real), "gelu", (blocks,), (64,), x=x, y=y, n=n)
    close(y, exact, x.astype(float), 8)
    launch(module("gelu", real), "gelu_backward", (blocks,), (64,), x=x, g=g, gx=gx, n=n)
    [exact] = pull(back, *double(g))
    close(gx, exact, g.astype(float) * (2 + x.astype(float) ** 2), 8)


@REALS
@pytest.mark.parametrize("n, p, key", [(1001, 0.2, KEY), (1, 0.5, 3), (64, 1 - 1e-9, KEY), (500, 0.0, 2**63 - 1),
                                       (8, float(random_bits(1, KEY, np)[0] >> 16) / 2**16, KEY)])     # just kept
def test_dropout_drops_what_python_drops(launch, real, n, p, key):
    x = np.where(normal(n) == 0, 1, normal(n)).astype(real)
    y = unset(n, dtype=x.dtype)
    drop, keep_scale = drop_below(p), 1 / (1 - p)
    launch(module("dropout", real), "dropout", (2,), (64,), x=x, key=np.array([key], np.uint64), y=y, drop=drop,
           keep_scale=keep_scale, n=n)
    np.testing.assert_array_equal(y != 0, random_mask(n, p, key, np))
    close(y, ops.dropout(*double(x), p=p, key=key)[0], y.astype(float), 2)


@REALS
@pytest.mark.parametrize("in_place", [True, False])
def test_cross_entropy_with_a_padded_vocabulary(launch, real, in_place):
    rows, V, stride = 7, 65, 128
    padded = normal(rows, stride, dtype=real, scale=5)
    targets = np.array([3, 64, -100, 0, 8, -100, 31])
    logits, loss = padded[:, :V].astype(np.float64), unset(rows)
    g = padded if in_place else unset(rows, stride, dtype=padded.dtype)
    launch(module("cross_entropy", real), "cross_entropy", (2,), (64,), logits=padded, targets=targets,
           counted=np.array([5], np.float32), g=g, loss=loss, rows=rows, vocab=V, stride=stride, ignore_index=-100)
    exact, back = ops.cross_entropy(logits, targets=targets)
    assert not loss[targets == -100].any() and not g[targets == -100].any() and not g[:, V:].any()
    close(loss.sum(), exact, np.abs(logits).max() + 5, 20)
    [exact] = pull(back, np.float64(1))
    close(g[:, :V], exact, 0.2 * (1 + np.abs(logits)), 30)         # an error of a logit is one of its exponential


def test_a_target_outside_the_vocabulary_gives_no_number(launch):
    logits, loss = normal(2, 5), unset(2)
    launch(module("cross_entropy"), "cross_entropy", (1,), (32,), logits=logits, targets=np.array([5, 1]),
           counted=np.array([2], np.float32), g=unset(2, 5), loss=loss, rows=2, vocab=5, stride=5, ignore_index=-100)
    assert np.isnan(loss).tolist() == [True, False]


@REALS
def test_embedding_is_exact(launch, real):
    ids, V, D = np.array([3, 0, 4, 1, 1, 2]), 5, 12
    table, y = normal(V + 2, D)[1:-1], unset(6, D, dtype=np.dtype(real))         # before it and behind are numbers, too
    given = dict(ids=ids, table=table, y=y, V=V, D=D, n=y.size)
    launch(module("embedding", real), "embedding", (2,), (32,), **given)
    np.testing.assert_array_equal(y, table[ids].astype(real))
    ids[3], ids[2] = V + 2**32, -1                                 # its lower half would be a row
    launch(module("embedding", real), "embedding", (2,), (32,), **given)
    assert np.isnan(y).all(-1).tolist() == [False, False, True, True, False, False]


def masks(B, H, T, S):
    random = np.random.default_rng([B, H, T, S]).random
    for shape in [(B, H, T, S), (B, 1, 1, S), (T, S)]:
        mask = random(shape) < 0.6
        mask[(0,) * (mask.ndim - 1)] &= shape[-2] == 1             # a query that may look nowhere
        yield mask


@REALS
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("B, H, T, S", [(2, 3, 5, 70), (1, 1, 1, 1), (1, 2, 33, 33)])
def test_softmax_and_its_way_back(launch, real, causal, B, H, T, S):
    kernels, scale, n = module("softmax", real), 0.3, B * H * T
    x, g = (normal(B, H, T, S, seed=seed, dtype=real, scale=4) for seed in (0, 1))
    [X, G] = double(x, g)
    for mask in [None, *masks(B, H, T, S)]:
        y, gx = unset(B, H, T, S, dtype=x.dtype), unset(B, H, T, S, dtype=x.dtype)
        strides = [0] * 3 if mask is None else np.broadcast_to(mask, x.shape).strides[:3]
        launch(kernels, "softmax", (2,), (64,), x=x, mask=mask, y=y, scale=scale, nothing=0, causal=causal,
               heads=H, T=T, S=S, rows=n, **dict(zip(["mask_batch", "mask_head", "mask_query"], strides, strict=True)))
        exact = attention_pattern(X, np.eye(S), mask=mask, causal=causal, scale=scale)
        close(y, exact, exact * (1 + np.abs(X).max()), S // 32 + 20)
        launch(kernels, "softmax_backward", (2,), (64,), y=y, g=g, gx=gx, scale=scale, S=S, rows=n)
        Y = y.astype(np.float64)
        exact = scale * Y * (G - (G * Y).sum(-1, keepdims=True))
        close(gx, exact, Y * (np.abs(G) + (np.abs(G) * Y).sum(-1, keepdims=True)), S // 32 + 12)


@pytest.mark.parametrize("nothing", [0, np.nan])
def test_softmax_in_its_own_place_and_of_a_row_that_vanishes(launch, nothing):
    x, S = normal(3, 40), 40
    x[1] = -np.inf
    y, exact = x.copy(), ops.softmax(x[::2].astype(float))[0]
    launch(module("softmax"), "softmax", (1,), (64,), x=y, mask=None, y=y, scale=1, nothing=nothing, causal=False,
           mask_batch=0, mask_head=0, mask_query=0, heads=1, T=1, S=S, rows=3)
    close(y[::2], exact, exact * 4, 20)
    np.testing.assert_array_equal(y[1], nothing)
    g = gx = normal(3, 40, seed=1)
    other = unset(3, 40)
    launch(module("softmax"), "softmax_backward", (1,), (64,), y=y, g=g.copy(), gx=other, scale=1, S=S, rows=3)
    launch(module("softmax"), "softmax_backward", (1,), (64,), y=y, g=g, gx=gx, scale=1, S=S, rows=3)
    np.testing.assert_array_equal(gx, other)


@pytest.mark.parametrize("step", [1, 2, 1000, 100_000])
@pytest.mark.parametrize("decay", [0.1, 0.0])
def test_adamw_reads_what_changes_from_memory(launch, step, decay):
    n, settings = 203, dict(eps=1e-3, decay=decay)
    w, g, mean, square = normal(n), normal(n, seed=1), normal(n, seed=2, scale=0.1), np.abs(normal(n, seed=3))
    lr, factor, betas = (np.array(v, np.float32) for v in (1e-2, 0.7, (0.9, 0.999)))
    W, G, M, Q = double(w, g, mean, square)
    optim.adamw(W, G, M, Q, scale=float(factor), lr=float(lr), betas=betas.tolist(), step=step, **settings)
    before = w.copy()
    launch(module("adamw"), "adamw", (2,), (64,), w=w, g=g, mean=mean, square=square, lr=lr.reshape(1),
           step=np.array([step], np.int32), factor=factor.reshape(1), beta1=float(betas[0]), beta2=float(betas[1]),
           n=n, **settings)
    close(mean, M, np.abs(M) + np.abs(G), 4)
    close(square, Q, Q + G * G, 4)
    close(w, W, np.abs(before) + np.abs(W - before) * 20, 4)


@pytest.mark.parametrize("n, blocks", [(1, 1), (1000, 3), (5000, 70)])
def test_the_norm_of_all_gradients(n, blocks):
    parts, found = (normal(n), normal(7, seed=1)), []
    for reversed in (False, True):
        shares, norm = unset(blocks + 1), unset(1)
        for g, count, first in zip(parts, (blocks, 1), (1, 0)):
            call(module("norm"), "sum_of_squares", (count,), (64,), reversed, g=g, shares=shares, first=first, n=g.size)
        call(module("norm"), "gradient_norm", (1,), (64,), reversed, shares=shares, norm=norm, n=blocks + 1)
        exact = np.linalg.norm(np.concatenate(parts).astype(np.float64))
        close(norm[0], exact, exact, n // (64 * blocks) + 14)
        found.append(norm[0])
    assert found[0] == found[1]                                    # to the last bit, in whatever order blocks run


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_norm_that_is_no_number_is_seen(launch, wrong):
    shares, norm = np.array([1, wrong], np.float32), unset(1)
    launch(module("norm"), "gradient_norm", (1,), (32,), shares=shares, norm=norm, n=2)
    np.testing.assert_array_equal(norm[0], wrong)


class Attention:
    """One call of the kernels of attention, forward and back; if T = S then on parts of one packed array."""

    def __init__(self, B, H, T, S, causal, p=0.0, K=64, key=KEY, scale=None):
        self.p, self.key, self.causal, self.sizes = p, key, causal, (B, H, T, S, K)
        self.stride = (3 if T == S else 1) * H * K
        self.q, self.k, self.v = self.three()
        for i, a in enumerate((self.q, self.k, self.v)):
            a[...] = normal(*a.shape, seed=i)
        self.g = normal(B, T, H, K, seed=1, dtype=BF16)
        self.scale = float(np.float32(K ** -0.5 if scale is None else scale))

    @property
    def kernels(self):
        return module("attention", HEAD=self.sizes[-1], DROP=drop_below(self.p))

    def three(self):
        B, H, T, S, K = self.sizes
        if T == S:
            return unset(B, T, 3, H, K, dtype=BF16).transpose(2, 0, 1, 3, 4)
        return [unset(B, n, H, K, dtype=BF16) for n in (T, S, S)]

    def run(self, **how):
        B, H, T, S, K = self.sizes
        y, lse, delta = unset(B, T, H, K, dtype=BF16), unset(B, H, T), unset(B, H, T)
        gq, gk, gv = self.three()
        sizes = dict(scale=self.scale, keep_scale=1 / (1 - self.p), causal=self.causal, H=H, T=T, S=S,
                     stride=self.stride, key=np.array([self.key], np.uint64) if self.p else None)
        inputs = dict(q=self.q, k=self.k, v=self.v)
        call(self.kernels, "attention", (B * H, T // 64), (128,), y=y, lse=lse, **inputs, **sizes, **how)
        call(self.kernels, "attention_delta", (2,), (96,), y=y, g=self.g, delta=delta, H=H, T=T, rows=B * T * H, **how)
        inputs |= dict(g=self.g, lse=lse, delta=delta)
        call(self.kernels, "attention_gq", (B * H, T // 64), (128,), gq=gq, **inputs, **sizes, **how)
        call(self.kernels, "attention_gkv", (B * H, S // 64), (128,), gk=gk, gv=gv, **inputs, **sizes, **how)
        return y, gq, gk, gv

    @functools.cached_property
    def exact(self):
        """Value and gradients by the plain rule in float64, and for each what roundings on the way may add up to:
        weights become bf16 before they meet v and g, their gradients before they meet k and q, and delta is a sum
        over y as it is stored."""
        q, k, v, g = (a.swapaxes(1, 2).astype(np.float64) for a in (self.q, self.k, self.v, self.g))
        settings = dict(causal=self.causal, scale=self.scale)
        y, back = ops.attention(q, k, v, p=self.p, key=self.key, **settings)
        pattern, u = attention_pattern(q, k, mask=None, **settings), 1.01 * U["bfloat16"]    # 1.01: and all in float32
        kept = random_mask(pattern.size, self.p, self.key, np).reshape(pattern.shape) / (1 - self.p)
        near_y = u * ((pattern * kept) @ np.abs(v))
        near_delta = (np.abs(g) * (u * np.abs(y) + near_y)).sum(-1, keepdims=True)
        h = (g @ v.swapaxes(-1, -2)) * kept
        gs = pattern * (h - (g * y).sum(-1, keepdims=True))
        near_gs = u * np.abs(gs) + pattern * (near_delta + 2**-18 * np.abs(h))
        near = [near_y, self.scale * near_gs @ np.abs(k), self.scale * near_gs.swapaxes(-1, -2) @ np.abs(q),
                u * (pattern * kept).swapaxes(-1, -2) @ np.abs(g)]
        return [(a.swapaxes(1, 2), e.swapaxes(1, 2)) for a, e in zip([y, *pull(back, g)[:3]], near, strict=True)]

    def check(self, results):
        for found, (exact, near) in zip(results, self.exact, strict=True):
            close(found, exact, exact, 64, inner=near)


CALLS = [Attention(1, 2, 128, 128, True), Attention(1, 1, 64, 192, True, p=0.3), Attention(2, 1, 128, 64, False),
         Attention(1, 3, 128, 128, True, p=0.2, K=32), Attention(1, 1, 64, 128, False, p=0.6, K=32, scale=0.5),
         Attention(1, 1, 64, 64, True, K=16)]


@pytest.mark.parametrize("attention", CALLS, ids=lambda a: f"{a.sizes} causal={a.causal} p={a.p}")
@pytest.mark.parametrize("reversed", [False, True], ids=["in order", "reversed"])
def test_attention_and_its_way_back(attention, reversed):
    attention.check(attention.run(reversed=reversed))


@pytest.mark.parametrize("K", [64, 32])
def test_attention_drops_the_very_weights_that_python_drops(launch, K):
    """With all scores equal and values that are rows of the identity, y shows the weights of K keys."""
    B, H, T, S, p = 2, 2, 64, 128, 0.4
    call_of = Attention(B, H, T, S, False, p=p, K=K)
    zeros, seen = np.zeros((B, T, H, K), BF16), []
    for first in range(0, S, K):
        v = np.zeros((B, S, H, K), BF16)
        v[:, first:first + K] = np.eye(K)[:, None]
        y = unset(B, T, H, K, dtype=BF16)
        launch(call_of.kernels, "attention", (B * H, 1), (128,), q=zeros, k=np.zeros((B, S, H, K), BF16), v=v,
               key=np.array([KEY], np.uint64), y=y, lse=unset(B, H, T), scale=1.0, keep_scale=1 / (1 - p), causal=False,
               H=H, T=T, S=S, stride=H * K)
        seen.append(y.swapaxes(1, 2))
    weights = np.concatenate(seen, -1).astype(np.float32)
    np.testing.assert_array_equal(weights != 0, random_mask(B * H * T * S, p, KEY, np).reshape(B, H, T, S))
    assert set(weights[weights != 0]) == {np.float32(np.float32(1 / S / (1 - p)).astype(BF16))}


def layer_norm(**how):
    x, gain, shares = normal(6, 64), np.ones(64, np.float32), unset(2, 2, 64)
    call(module("layer_norm", WIDTH=64, DROP=0), "layer_norm_backward", (2,), (96,), g=x, h=x, gain=gain,
         gx=unset(6, 64), gdelta=None, mean=np.zeros(6, np.float32), rstd=np.ones(6, np.float32), skip=None,
         shares=shares, key=None, keep_scale=1, rows=6, **how)
    close(shares.sum(0), np.stack([(x.astype(float) ** 2).sum(0), x.astype(float).sum(0)]), (x * x + 1).sum(0), 12)


def norm(**how):
    g, shares = normal(500), unset(2)
    call(module("norm"), "sum_of_squares", (2,), (128,), g=g, shares=shares, first=0, n=500, **how)
    close(shares.sum(), (g.astype(float) ** 2).sum(), 500, 12)


def cross_entropy(**how):
    logits = np.tile(np.arange(64, dtype=np.float32) / 8, (2, 1))
    loss, exact = unset(2), ops.cross_entropy(logits.astype(float)[:1], targets=np.array([62]))[0]
    call(module("cross_entropy"), "cross_entropy", (1,), (64,), logits=logits, targets=np.full(2, 62),
         counted=np.ones(1, np.float32), g=logits, loss=loss, rows=2, vocab=64, stride=64, ignore_index=-100, **how)
    close(loss, exact, 20, 20)


def attention(**how):
    CALLS[0].check(CALLS[0].run(**how))


USES = {"layer_norm": layer_norm, "norm": norm, "cross_entropy": cross_entropy, "attention": attention}
BARRIERS = {name: len(BARRIER.findall((cuda_source.FOLDER / f"{name}.cu").read_text("utf-8"))) for name in USES}


@pytest.mark.parametrize("name, barrier", [(name, i) for name, count in BARRIERS.items() for i in range(count)])
def test_without_any_one_barrier_some_order_of_the_threads_goes_wrong(name, barrier):
    right = 0
    for reversed in (False, True):
        USES[name](reversed=reversed)
        try:
            USES[name](reversed=reversed, without=barrier)
            right += 1
        except (AssertionError, RuntimeError):
            pass
    assert right < 2, f"{name}.cu does not need its barrier {barrier}"


def test_every_barrier_of_every_kernel_is_tried():
    texts = [path.read_text("utf-8") for path in cuda_source.FOLDER.iterdir()]
    assert sum(BARRIERS.values()) == sum(len(BARRIER.findall(text)) for text in texts)
    assert BARRIERS["attention"] == 9

"""
What attention costs
====================

Every token meets every other: twice the text is four times the work and, written down as the
equation stands, four times the memory. Eight ways to attend, all behind one signature, are run
forward and back on longer and longer texts, and the exponents are read off.
"""

import time

import numpy as np
from picture import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, RED, SKY, apart, options, plt, save
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import tinygrad_tfm as tg
from tinygrad_tfm import nn
from tinygrad_tfm.bench.measure import exponent
from tinygrad_tfm.nn import efficient

chosen = options(__file__, __doc__)
SIZES = [512, 1024, 2048] if chosen.quick else [512, 1024, 2048, 4096, 8192]
SHAPE = WIDTH, HEADS = 64, 4
NEAR = 64                              # neighbours, mixtures, features, buckets: what each has instead of n
ENOUGH = 0.05 if chosen.quick else 0.5                             # seconds to measure a point, at least

# %%
# Eight ways to attend
# --------------------
# The first two are one attention. Written as it stands, softmax(q·kᵀ/√K)·v makes a matrix of n by n
# weights and keeps it for the way back. Its faster twin, which the library takes unless told not
# to, goes through the matrix in pieces and computes them again on the way back. `blockwise` does
# that as a short rule to read. `local` sees near tokens only, Reformer those that a hash finds; the
# others replace the matrix by something that n does not square.

WAYS = {"dense": (RED, lambda n: nn.Attention(*SHAPE)),
        "dense, fused": (ORANGE, lambda n: nn.Attention(*SHAPE)),
        "blockwise": (INK, lambda n: efficient.BlockwiseAttention(*SHAPE, block=128)),
        "Reformer": (PURPLE, lambda n: efficient.ReformerAttention(*SHAPE, buckets=NEAR, window=NEAR)),
        "local": (GREEN, lambda n: efficient.LocalAttention(*SHAPE, window=NEAR)),
        "Performer": (SKY, lambda n: efficient.PerformerAttention(*SHAPE, features=NEAR)),
        "Linformer": (GREY, lambda n: efficient.LinformerAttention(*SHAPE, rank=NEAR, context=n)),
        "linear": (BLUE, lambda n: efficient.LinearAttention(*SHAPE))}
GOALS = {"dense": (2, 2), "dense, fused": (2, 1), "blockwise": (2, 1)}             # of time, of memory; else 1 and 1
LONGEST = {"dense": 4096}                                          # at 8,192 it would keep more than 1 GB

# %%
# To measure
# ----------
# Time is that of forward and back, the best of several, on one core. Memory is what the ways back
# hold on to between the two: `saved_memory` stands at the engine's gate and counts it, so that it
# is the same on every machine.


def cost(attention, n):
    """Seconds of a text of n tokens, forward and back, and the bytes kept in between."""
    x = tg.Tensor(np.random.default_rng(1).standard_normal((1, n, WIDTH), dtype=np.float32), requires_grad=True)
    with tg.watch.saved_memory() as ledger:
        y = attention(x)
    kept = ledger.total
    del y, ledger
    seconds = []
    while sum(seconds) < ENOUGH or len(seconds) < 3:
        start = time.perf_counter()
        attention(x).sum().backward()
        seconds.append(time.perf_counter() - start)
    return min(seconds), kept


tg.manual_seed(1)
measured = {}
points = [(name, n) for name in WAYS for n in SIZES if n <= LONGEST.get(name, n)]
with threadpool_limits(limits=1, user_api="blas"), tqdm(total=sum(n for _, n in points), unit="token") as bar:
    for name, n in points:
        with tg.fused(name != "dense"):
            measured.setdefault(name, []).append((n, *cost(WAYS[name][1](n), n)))
        bar.update(n)

# %%
# The exponents
# -------------
# If a cost is c·nᵖ, its logarithm is a straight line over that of n, and p is the slope. Weights
# are kept too, whatever n, which makes the exponents of memory a little smaller than the equation's.
# Those of time are one machine's on one day, within some tenths of what the equation says.


def slopes(name):
    """The exponents of time and memory."""
    n, seconds, kept = zip(*measured[name], strict=True)
    return exponent(n, seconds), exponent(n, kept)


print(f"\n{'':14}{'n':>7}{'ms':>10}{'MiB kept':>10}{'time ∝ n^':>12}{'goal':>6}{'memory ∝ n^':>13}{'goal':>6}")
for name in WAYS:
    n, seconds, kept = measured[name][-1]
    (p, q), (p_goal, q_goal) = slopes(name), GOALS.get(name, (1, 1))
    print(f"{name:14}{n:7,}{1e3 * seconds:10.1f}{kept / 2**20:10.1f}{p:12.2f}{p_goal:6}{q:13.2f}{q_goal:6}")
for name in "linear", "blockwise":
    found = slopes(name)[1]
    assert abs(found - 1) < 0.1
    print(f"memory of {name}: exponent {found:.2f}, the goal is 1 ± 0.1: reached")
assert slopes("dense")[1] > 1.8

# %%
# As a picture
# ------------
# On logarithmic axes the slope is the exponent. What is dense rises twice as steeply in time,
# whoever computes it; what it keeps is squared only for the one who writes the matrix down. The
# lines that are not dense lie apart by factors that n does not change, and for short texts those
# decide.


def draw(ax, which, title, unit, factor):
    """One kind of cost over n, each line with its name and exponent at its end."""
    lines = {name: np.array([(point[0], point[which]) for point in points]).T for name, points in measured.items()}
    for name, (n, costs) in lines.items():
        ax.loglog(n, costs / unit, "o-", color=WAYS[name][0], ms=4)
    inside = [name for name in lines if lines[name][0][-1] == SIZES[-1]]
    heights = apart(np.log([lines[name][1][-1] / unit for name in inside]), np.log(factor))
    for name, height in zip(inside, np.exp(heights), strict=True):
        label(ax, SIZES[-1] * 1.15, height, name, which, va="center")
    for name in lines.keys() - set(inside):
        label(ax, lines[name][0][-1] * 0.85, lines[name][1][-1] / unit, name, which, ha="right", va="center")
    ax.set(title=title, xlim=(SIZES[0] * 0.85, SIZES[-1] * (SIZES[-1] / SIZES[0]) ** 0.75))
    ax.set_xticks(SIZES, [f"{n:,}" for n in SIZES])
    ax.set_xlabel("tokens n", x=0.28)
    ax.yaxis.set_major_formatter(lambda cost, _: f"{cost:,g}")
    ax.spines["bottom"].set_bounds(SIZES[0], SIZES[-1])
    ax.minorticks_off()


def label(ax, x, y, name, which, **where):
    """The name of a line, with its exponent."""
    ax.text(x, y, f"{name}: $n^{{{slopes(name)[which - 1]:.2f}}}$", color=WAYS[name][0], **where)


figure, axes = plt.subplots(1, 2, figsize=(12, 5.4))
draw(axes[0], 1, "Milliseconds, forward and back", 1e-3, 1.5)
draw(axes[1], 2, "MiB kept for the way back", 2**20, 1.3)
save(figure, chosen.out / "costs.png")

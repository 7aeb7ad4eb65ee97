"""
A kernel, thread by thread
==========================

A GPU runs one short text, a kernel, in thousands of threads at once, too fast for anyone to watch.
Here the library's kernels run on the CPU, one thread after another, so that one can: GELU, the sum
over the threads of a warp, and a sum over two warps that is wrong as soon as nobody waits.
"""

import sys

import numpy as np
from picture import BLUE, GREEN, GREY, INK, ORANGE, RED, SKY, options, plt, save

import tinygrad_tfm as tg
from tinygrad_tfm import emulator, functional as F
from tinygrad_tfm.kernels.cuda_source import FOLDER, source, source_of

chosen = options(__file__, __doc__)
if not emulator.COMPILER:
    print("skipped: to run kernels on the CPU takes the compiler g++, on Linux")
    sys.exit()

# %%
# A first kernel
# --------------
# The text says what a single thread does. Numbers are dealt out like cards: the first thread takes
# number 0, the next takes number 1, and when everybody has had one the first takes its second.


def excerpt(file, begins):
    """One function of a CUDA file, from these words to its closing brace."""
    text = (FOLDER / file).read_text("utf-8")
    start = text.index(begins)
    return text[start:text.index("\n}", start) + 2]


def run(text, name, threads, blocks=1, how=None, **arguments):
    """Compile a text and run its kernel `name` in that many blocks of so many threads."""
    function = emulator.Module(text).get_function(name)
    function((blocks,), (threads,), function.kernel.arguments(**arguments), **how or {})


print(excerpt("gelu.cu", 'extern "C"') + "\n")
x = np.random.default_rng(1).standard_normal(1000).astype(np.float32)
results = []
for blocks, threads in (1, 32), (3, 256):
    y = np.full_like(x, np.nan)
    run(source("gelu"), "gelu", threads, blocks, x=x, y=y, n=x.size)
    results.append(y)
with tg.fused(False):
    by_numpy = F.gelu(tg.Tensor(x)).numpy()
assert np.allclose(results[0], by_numpy, rtol=1e-5, atol=1e-6)
print(f"GELU of 1,000 numbers by 32 threads: off from NumPy's by at most {abs(y - by_numpy).max():.0e}")
assert (results[0] == results[1]).all()
print("by 3 blocks of 256 threads: the very same numbers")

# %%
# Thirty-two who meet
# -------------------
# Threads go in warps of 32, whose lanes can look at each other's registers: that is a shuffle. Lane
# i adds what lane i ± 16 has, then what lane i ± 8 has, then 4, 2, 1. After five additions each of
# the 32 has the sum of all. A shuffle is a meeting: nobody goes on until all have come.

SUM = """
#include "warp.cuh"

extern "C" __global__ void __launch_bounds__(32)
sum_of_a_warp(const float* x, float* y) { y[lane()] = warp_sum(x[lane()]); }
"""
print(f"\n{excerpt('warp.cuh', '__device__ inline float warp_sum')}\n")
x, y, trace = np.arange(32, dtype=np.float32), np.full(32, np.nan, np.float32), []
run(source_of(SUM), "sum_of_a_warp", 32, how=dict(trace=trace), x=x, y=y)
assert (y == x.sum()).all()
print(f"0 + 1 + … + 31 = {x.sum():g}; found in all {(y == x.sum()).sum()} lanes\n")

# %%
# The trace lists every moment in which a thread begins, arrives at a meeting, goes on or ends. A
# processor has one thread at a time, so each *turn* is a pair: somebody starts, and somebody stops.
# The table says in which turn a lane came to each meeting. Who comes last need not wait, and so is
# the first at the next one.


def turns(trace):
    """By thread: its turns, each as (number of the turn, what stopped it)."""
    found = {}
    for turn, stop in enumerate(trace[1::2]):
        found.setdefault(32 * stop.warp + stop.lane, []).append((turn, stop.event))
    return found


print("lane" + "".join(f"{f'± {o}':>8}" for o in (16, 8, 4, 2, 1)) + f"{'ends':>8}")
for lane, mine in turns(trace).items():
    if lane in (0, 1, 2, 29, 30, 31):
        print(f"{lane:>4}" + "".join(f"{turn:>8}" for turn, _ in mine))
    elif lane == 3:
        print("   …")

# %%
# A sum over more than a warp
# ---------------------------
# Lanes of different warps cannot shuffle. `block_sum` lets each warp lay its sum into memory that
# the block shares, waits at a barrier, `__syncthreads`, and adds up what lies there.

print(f"\n{excerpt('norm.cu', '__device__ inline float block_sum')}\n")
x = np.arange(1, 65, dtype=np.float32)
exact, traces = float((x**2).sum()), {}
print(f"1² + 2² + … + 64² = {exact:,.0f}, by two warps:")
print(f"{'':22}{'first to last':>15}{'last to first':>15}")
for label, without in ("with the barrier", -1), ("without it", 0):
    found = []
    for backwards in (False, True):
        shares, trace = np.full(1, np.nan, np.float32), []
        run(source("norm"), "sum_of_squares", 64, how=dict(without=without, reversed=backwards, trace=trace),
            g=x, shares=shares, first=0, n=x.size)
        found.append(float(shares[0]))
        traces.setdefault(label, trace)                           # that of the first order is drawn below
    print(f"{label:22}" + "".join(f"{f'{result:,.0f}':>15}" for result in found))
    assert (found == [exact, exact]) == (without == -1)

# %%
# Without the barrier the first warp runs through before the second has begun, and reads a place
# where nobody has written: the emulator fills shared memory with NaNs, a GPU leaves there what was
# there before. In the other order the result is right, by luck: the warp that needs both sums comes
# last. On a GPU the order is nobody's choice, so a missing barrier may be right a thousand times.
#
# Who runs when, who waits
# ------------------------
# Threads from top to bottom, turns from left to right. A turn is black; before it the thread waited
# for its warp or, at the barrier, for its block. In the lower half warp 0 comes to where the barrier
# was just as early, and nothing holds it there.

WAITS = {"shuffle": SKY, "syncthreads": ORANGE}
GAP = 9                                                       # rows between the warps, for words


def row(thread):
    return thread + GAP * (thread // 32)


def mark(ax, turn, thread, text, color):
    """A ring around a turn, and words above it."""
    ax.plot(turn + 0.5, row(thread), "o", ms=9, mfc="white", mec=color, mew=2.5, zorder=3)
    ax.text(turn - 6, row(thread) - 2 - thread % 32, text, color=color, weight="bold", va="bottom")


def draw(ax, trace, title):
    """Every thread's turns, and between them what it waits for; who writes warp 1's sum, and who reads it."""
    found = turns(trace)
    for thread, mine in found.items():
        for (turn, event), (following, _) in zip(mine, mine[1:], strict=False):
            ax.barh(row(thread), following - turn - 1, 1, left=turn + 1, color=WAITS[event], alpha=0.3, lw=0)
        ax.barh(row(thread), 1, 1, left=[turn for turn, _ in mine], color=INK, lw=0)
    writes = found[32][5][0]                                  # the sixth turn of the second warp's first lane
    reads = [turn for turn, event in found[1] if event == "shuffle"][5]
    mark(ax, writes, 32, "thread 32 writes share[1]", GREEN)
    mark(ax, reads, 1, "thread 1 reads share[1]" + ", too early" * (reads < writes), BLUE if writes < reads else RED)
    ax.set(title=title, ylim=(row(63) + 2, -8), xlim=(-5, None), yticks=[row(15.5), row(47.5)],
           yticklabels=["warp 0", "warp 1"])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


figure, axes = plt.subplots(2, 1, figsize=(10.5, 8.2), sharex=True)
draw(axes[0], traces["with the barrier"], "With the barrier warp 0 waits until warp 1 has been there")
draw(axes[1], traces["without it"], "Without it warp 0 is done before warp 1 begins")
axes[0].text(375, row(15.5), "waits for its block,\nat the barrier", ha="center", va="center")
axes[1].text(0, row(47.5), "black: a thread's turn\nblue: it waits for its warp, at a shuffle\n"
             "orange: it waits for its block", color=GREY, va="center", linespacing=1.5)
axes[1].set_xlabel("turn")
save(figure, chosen.out / "turns.png")

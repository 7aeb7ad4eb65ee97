"""
The bottleneck
==============

Before there was attention, an encoder had to pass on all it read in one vector of fixed size. Here
three models of equal size say digits backwards: one with such a vector, one that may look back
at what was read, and a transformer. Longer and longer rows show what a vector holds.
"""

import numpy as np
from picture import BLUE, GREEN, GREY, INK, RED, options, plt, save
from tqdm import trange

import tinygrad_tfm as tg
from tinygrad_tfm import nn
from tinygrad_tfm.data import START, STOP
from tinygrad_tfm.decoding import greedy
from tinygrad_tfm.models import RecurrentSeq2Seq, Transformer
from tinygrad_tfm.parallel import one_blas_thread

chosen = options(__file__, __doc__)
one_blas_thread()                                    # products this small lose time when they are shared
LONGEST, STEPS, SEEDS, ASKED = (4, 150, 1, 50) if chosen.quick else (16, 1000, 2, 200)
BATCH = 64

# %%
# The task
# --------
# Digits are drawn by chance, so nothing can be guessed: to say sixteen of them backwards is to have
# kept sixteen. Ids 0, 1 and 2 are padding, start and stop; a digit d is the id d + 3.

VOCABULARY = 13


def draw(rows, length, rng):
    """Sources (B, S), and their targets: the same backwards, between start and stop (B, S + 2)."""
    source = rng.integers(3, VOCABULARY, (rows, length))
    ends = np.ones((rows, 1), int)
    return source, np.concatenate([START * ends, source[:, ::-1], STOP * ends], axis=1)


# %%
# Three models
# ------------
# The first two are the same recurrent network, an encoder that reads both ways and a decoder that
# starts from one vector of what was read (Sutskever et al. 2014). The second may also compare its
# state with every place of the source, and mix what it finds there (Bahdanau et al. 2014). The third
# has nothing but attention (Vaswani et al. 2017). Widths are such that all have the same size.


def fixed():
    return RecurrentSeq2Seq(VOCABULARY, VOCABULARY, width=80)


def additive():
    return RecurrentSeq2Seq(VOCABULARY, VOCABULARY, width=67, attention=nn.AdditiveAttention)


def transformer():
    return Transformer(VOCABULARY, layers=2, heads=4, width=48, pre_norm=True)


MODELS = {"one vector": fixed, "looking back": additive, "transformer": transformer}
COLORS = {"one vector": RED, "looking back": BLUE, "transformer": GREEN}
for name, build in MODELS.items():
    print(f"{name:13} {build().size():,} parameters")

# %%
# Training
# --------
# The same rows in the same order for each, of every length up to the longest. A recurrent model puts
# the start symbol in front by itself, a transformer is given it with the target.


def loss_of(model, source, target):
    return model.loss(source, None, target[:, 1:] if isinstance(model, RecurrentSeq2Seq) else target)


def train(model, seed, label):
    rng = np.random.default_rng(seed)
    optimizer = tg.optim.AdamW(model.parameters(), betas=(0.9, 0.98), decay=0.01)
    for step in trange(STEPS, unit="step", desc=f"{label:13} seed {seed}"):
        loss_of(model, *draw(BATCH, rng.integers(1, LONGEST + 1), rng)).backward()
        optimizer.lr = tg.optim.warmup_cosine(step, peak=3e-3, floor=1.5e-4, warmup=STEPS // 10, total=STEPS)
        optimizer.step(tg.optim.clip_factor(tg.optim.global_norm(optimizer.parameters), limit=1.0))
        optimizer.zero_grad()


# %%
# The examination
# ---------------
# New rows of each length, the same for all. A row counts if it is right from the first digit to the
# last, and ends where it should.


def write(model, source, limit):
    if isinstance(model, RecurrentSeq2Seq):
        return model.greedy(source, limit=limit)
    return greedy(model, source, limit=limit)


def examine(model):
    """By length, the share of rows said backwards without a mistake."""
    rng, shares = np.random.default_rng(99), []
    for length in lengths:
        source, _ = draw(ASKED, length, rng)
        shares.append(np.mean([written == row for written, row in
                               zip(write(model, source, length + 1), source[:, ::-1].tolist(), strict=True)]))
    return shares


lengths = np.arange(1, LONGEST + 1)
trained, shares = {}, {name: [] for name in MODELS}
for seed in range(SEEDS):
    for name, build in MODELS.items():
        tg.manual_seed(seed)
        trained[name] = build()
        train(trained[name], seed, name)
        shares[name].append(examine(trained[name]))

# %%
# What a vector holds
# -------------------
# One vector does well until it is full. Where that is depends on its size and on how long it was
# taught, but that it is somewhere does not: the row grows, and the vector stays. Who looks back needs
# to keep nothing but the place where he is. The transformer is not full but unfinished: with twice
# the steps it got 97 of a hundred of the longest rows right.

means = {name: np.mean(each, axis=0) for name, each in shares.items()}                       # (lengths,)
print(f"\nright from end to end, of {SEEDS} × {ASKED} rows of each length")
shown = sorted({1, *range(4, LONGEST + 1, 4), LONGEST})
print(f"{'digits':13}" + "".join(f"{length:>8}" for length in shown))
for name, mean in means.items():
    print(f"{name:13}" + "".join(f"{mean[length - 1]:8.0%}" for length in shown))
gap = means["looking back"][-1] - means["one vector"][-1]
print(f"at {LONGEST} digits looking back is {100 * gap:+.0f} points ahead of one vector (goal: more than +50)")
for name, mean in means.items():
    failing = lengths[mean < 0.5]
    print(f"{name:13}" + (f"fails more often than not from {failing[0]} on" if len(failing) else "holds to the end"))

# %%
# Where it looks
# --------------
# The second model writes a row of digits it has not seen. Each line sums to 1 and says where it
# looked before it wrote that digit: it found out by itself that backwards means from the end. To look
# next to a digit may do, for each place was read in passing by those beside it.

source, target = draw(1, min(LONGEST, 12), np.random.default_rng(7))
weights = trained["looking back"].alignment(source, None, target[:, 1:])[0]                  # (T, S)

figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), width_ratios=(1.45, 1))
for name, mean in means.items():
    left.plot(lengths, 100 * mean, "o-", ms=4, color=COLORS[name])
    left.fill_between(lengths, 100 * np.min(shares[name], axis=0), 100 * np.max(shares[name], axis=0),
                      color=COLORS[name], alpha=0.18, lw=0)
left.set(xlabel="digits to be said backwards", ylabel="rows without a mistake (%)", ylim=(-3, 108),
         xlim=(0.5, LONGEST + 0.5), xticks=shown, title="One vector holds so much and no more")
for spot, (name, color) in enumerate(COLORS.items()):
    left.text(0.03, 0.3 - 0.07 * spot, f"{name}, {MODELS[name]().size() / 1000:.0f} k parameters", color=color,
              weight="bold", transform=left.transAxes)
left.text(0.03, 0.05, f"line: mean of {SEEDS} seeds, band: their range", color=GREY, transform=left.transAxes)
digits = [str(i - 3) for i in source[0]]
right.imshow(weights, cmap="Blues", vmin=0, vmax=1.15)
for (t, s), weight in np.ndenumerate(weights):
    if weight >= 0.1:
        right.text(s, t, f"{weight:.1f}".removeprefix("0"), ha="center", va="center", fontsize=8,
                   color="white" if weight > 0.6 else INK)
right.set_xticks(range(len(digits)), digits)
right.set_yticks(range(len(digits) + 1), [*digits[::-1], "(stop)"])
right.xaxis.tick_top()
right.tick_params(length=0)
right.spines[:].set_visible(False)
right.set_title("Looking back: where, for each digit written", pad=10)
right.set_xlabel("read", color=GREY)
right.set_ylabel("written", color=GREY)
save(figure, chosen.out / "bottleneck.png")

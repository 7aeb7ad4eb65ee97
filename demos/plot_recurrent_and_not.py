"""
Recurrent, and not
==================

Before transformers a network read a text token by token and carried what it knew along. RNN, GRU,
LSTM and a decoder, all of one size, learn the same characters; then each is asked how much its
prediction depends on a character read long before.
"""

import time

import numpy as np
from picture import BLUE, GREEN, GREY, ORANGE, RED, apart, options, plt, save
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import tinygrad_tfm as tg
from tinygrad_tfm import functional as F, nn
from tinygrad_tfm.models import Decoder, DecoderConfig, RecurrentLM
from tinygrad_tfm.text import CharTokenizer, baselines, corpus, random_batch, split

chosen = options(__file__, __doc__)
T, BATCH, STEPS, WIDTH = (32, 8, 60, 16) if chosen.quick else (64, 16, 1200, 48)

book = corpus("python-docs" if chosen.quick else "tinyshakespeare")
tokenizer = CharTokenizer.from_text(book.text)
train, validation = split(tokenizer.encode(book.text), T)
V = tokenizer.size

# %%
# Four models of one size
# -----------------------
# A recurrent network has one matrix for what comes in and one for what it remembers, a GRU three
# of each, an LSTM four. So that all have as many parameters, the simple ones are wider.


def decoder(width):
    return Decoder(DecoderConfig(V, T, layers=2, heads=4, width=width, std=0.1))


def recurrent(cell, width):
    return RecurrentLM(V, width, cell=cell)


def of_size(size, cell):
    """The recurrent model whose size is nearest."""
    width = min(range(8, 300, 2), key=lambda width: abs(recurrent(cell, width).size() - size))
    tg.manual_seed(1)
    return recurrent(cell, width)


COLORS = {"RNN": RED, "GRU": ORANGE, "LSTM": GREEN, "decoder": BLUE}
tg.manual_seed(1)
models = {"decoder": decoder(WIDTH)}
for name, cell in ("RNN", nn.RNNCell), ("GRU", nn.GRUCell), ("LSTM", nn.LSTMCell):
    models[name] = of_size(models["decoder"].size(), cell)
models = {name: models[name] for name in COLORS}
print(f"{book.name}\n" + "\n".join(f"{name:8} {model.embed.weight.shape[1]:4} wide, {model.size():7,} parameters"
                                   for name, model in models.items()))

# %%
# How far back?
# -------------
# A model is run on what its embedding gives, and the gradient of the last character's loss with
# respect to that has a row for each character read. Its length, over many windows, says how much
# the prediction would change if the character k steps back were a little different. It is given in
# parts of that of the last character read, k = 0.


class Probe(nn.Module):
    """An embedding whose result is kept, to ask for its gradient."""

    def __init__(self, embed):
        self.embed, self.seen = embed, None

    def forward(self, ids):
        self.seen = tg.Tensor(self.embed(ids).data, requires_grad=True)
        return self.seen

    def unembed(self, x):
        return self.embed.unembed(x)


def reach(model):
    """The root mean square of ∂(last loss)/∂(embedding k steps back), k = 0 … T − 1, in parts of the first."""
    x, y = random_batch(validation, 64, T, np.random.default_rng(2))
    embed = model.embed
    model.embed = probe = Probe(embed)
    F.cross_entropy(model(x)[:, -1], targets=y[:, -1]).backward()
    model.embed = embed
    model.zero_grad()
    gradient = probe.seen.grad.astype(float)                       # the squares are too small for single precision
    norms = np.sqrt((gradient**2).mean(axis=(0, 2)))[::-1]
    return norms / norms[0]


# %%
# Training
# --------
# The same windows, the same schedule, the same number of characters for each.


def evaluate(model):
    """The mean loss over 128 windows of the validation text, always the same ones."""
    with tg.no_grad():
        return model.loss(*random_batch(validation, 128, T, np.random.default_rng(3))).item()


curves, seconds, newborn, trained = {}, {}, {}, {}
with threadpool_limits(limits=1, user_api="blas"), tqdm(total=STEPS * len(models), unit="step") as bar:
    for name, model in models.items():
        bar.set_description(name)
        newborn[name] = reach(model)
        rng, optimizer = np.random.default_rng(1), tg.optim.AdamW(model.parameters(), betas=(0.9, 0.99), decay=0.1)
        curves[name], start = [(0, evaluate(model))], time.perf_counter()
        for step in range(STEPS):
            model.loss(*random_batch(train, BATCH, T, rng)).backward()
            optimizer.lr = tg.optim.warmup_cosine(step, peak=5e-3, floor=5e-4, warmup=STEPS // 20, total=STEPS)
            optimizer.step(scale=tg.optim.clip_factor(tg.optim.global_norm(optimizer.parameters), limit=1.0))
            optimizer.zero_grad()
            bar.update()
            if (step + 1) % (STEPS // 12) == 0:
                curves[name].append(((step + 1) * BATCH * T, evaluate(model)))
        seconds[name] = time.perf_counter() - start
        trained[name] = reach(model)

# %%
# What was found
# --------------
# On its way back a gradient passes every step between and is multiplied by the same matrix each
# time, so that it fades as a power does; the gates of an LSTM let far more of it pass. In the
# decoder it is one step from any character to any other.
#
# What reaches far need not win. What decides the next character mostly stands just before it, which
# recurrent networks are built to know and the decoder has to learn: it starts late, and catches up.

bigram = baselines(train, validation, V)["bigram"]
FAR = [1, 4, 16, T - 1]
print(f"\nfrequencies of pairs of characters: {bigram:.3f} nats a character")
print(f"{'':8}{'nats':>7}{'seconds':>9}   gradient k steps back, new" + " " * 12 + "trained")
print(" " * 24 + 2 * ("".join(f"{f'k={k}':>9}" for k in FAR) + "  "))
for name in models:
    print(f"{name:8}{curves[name][-1][1]:7.3f}{seconds[name]:9.1f}"
          + "".join("".join(f"{norms[name][k]:9.1e}" for k in FAR) + "  " for norms in (newborn, trained)))
ratio = trained["decoder"][T - 1] / trained["RNN"][T - 1]
print(f"{T - 1} steps back the trained decoder has {ratio:.0e} times the gradient of the trained RNN")
best, last = (f(models, key=lambda name: curves[name][-1][1]) for f in (min, max))
print(f"{STEPS * BATCH * T:,} characters read, the loss of {best} is lowest, that of {last} highest")


def label(ax, x, ends, least, to_axis=lambda height: height):
    """The names of the lines, beside their ends."""
    for name, height in zip(ends, apart(list(ends.values()), least), strict=True):
        ax.text(x, to_axis(height), name, color=COLORS[name], weight="bold", va="center")


figure, axes = plt.subplots(1, 3, figsize=(13.5, 4.8))
for name, curve in curves.items():
    axes[0].plot(*zip(*curve[1:], strict=True), "o-", ms=3.5, color=COLORS[name])
low, high = (f(loss for curve in curves.values() for _, loss in curve[1:]) for f in (min, max))
label(axes[0], STEPS * BATCH * T * 1.03, {name: curve[-1][1] for name, curve in curves.items()}, 0.05 * (high - low))
axes[0].set(title="Loss, nats a character", xlabel="characters read", xlim=(0, STEPS * BATCH * T * 1.27))
axes[0].xaxis.set_major_formatter(lambda n, _: f"{n:,.0f}")
axes[0].set_xticks(np.linspace(0, STEPS * BATCH * T, 3))
axes[0].spines["bottom"].set_bounds(0, STEPS * BATCH * T)
floor = min(norms[name].min() for norms in (newborn, trained) for name in models) / 2
for ax, norms, title in (axes[1], newborn, "Gradient k characters back: new"), (axes[2], trained, "… and trained"):
    for name in models:
        ax.semilogy(np.arange(T), norms[name], color=COLORS[name])
    label(ax, T * 1.02, {name: np.log10(norms[name][-3:].mean()) for name in models}, -0.05 * np.log10(floor),
          lambda height: 10**height)
    ax.set(title=title, xlabel="distance k", xlim=(0, T * 1.3), ylim=(floor, 3), xticks=np.arange(0, T + 1, T // 4))
    ax.axhline(1, color=GREY, lw=1, ls=":", zorder=0)
    ax.spines["bottom"].set_bounds(0, T)
    ax.minorticks_off()
save(figure, chosen.out / "reach.png")

"""
Where a token stands, and beyond
================================

Attention does not know the order of its tokens; six schemes tell it. The same small decoder learns
the same text with each of them, in windows of one length. Then it reads windows four times as long:
which scheme still works at positions and distances that training never showed?
"""

import numpy as np
from picture import BLUE, GREY, INK, ORANGE, PURPLE, RED, apart, options, plt, save
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import tinygrad_tfm as tg
from tinygrad_tfm import functional as F
from tinygrad_tfm.models import Decoder, DecoderConfig
from tinygrad_tfm.text import CharTokenizer, corpus, random_batch, split

chosen = options(__file__, __doc__)
L, STEPS, BATCH = (16, 60, 8) if chosen.quick else (32, 1000, 16)
LONG = 4 * L

# %%
# Six schemes
# -----------
# Learned and sinusoidal vectors are added to the stream: they say which place a token has. Sinusoids
# are of size 1 and would drown small embeddings, which their paper therefore scales by √D. Rotary
# turns queries and keys, relative biases and ALiBi add to the scores: they say how far two tokens
# are apart. Without any scheme a causal decoder is not quite lost, for its tokens see the more of
# them the later they come.

SCHEMES = {"none": GREY, "learned": INK, "sinusoidal": RED, "rotary": ORANGE, "relative": PURPLE, "alibi": BLUE}

book = corpus("python-docs" if chosen.quick else "tinyshakespeare")
tokenizer = CharTokenizer.from_text(book.text)
train, validation = split(tokenizer.encode(book.text), LONG)
print(f"{book.name}: windows of {L} characters to learn from, of {LONG} to be tested on")


def model_with(scheme):
    """A decoder for windows of 4·L, but with learned vectors for L places only; sinusoids get scaled embeddings."""
    tg.manual_seed(1)
    return Decoder(DecoderConfig(vocab=tokenizer.size, context=L if scheme == "learned" else LONG, layers=2, heads=4,
                                 width=64, positions=scheme, scale_embedding=scheme == "sinusoidal", std=0.1))


# %%
# Training
# --------
# Each model starts from the same seed and sees the same windows in the same order.


def learn(model, bar):
    """AdamW over the same random windows, with a warm-up and a cosine."""
    rng = np.random.default_rng(1)
    optimizer = tg.optim.AdamW(model.parameters(), betas=(0.9, 0.99), decay=0.1)
    for step in range(STEPS):
        model.loss(*random_batch(train, BATCH, L, rng)).backward()
        optimizer.lr = tg.optim.warmup_cosine(step, peak=5e-3, floor=5e-4, warmup=STEPS // 20, total=STEPS)
        optimizer.step(scale=tg.optim.clip_factor(tg.optim.global_norm(optimizer.parameters), limit=1.0))
        optimizer.zero_grad()
        bar.update()


# %%
# Longer than ever before
# -----------------------
# The same characters are to be foretold every time, the last L/2 of a long window; what changes is
# how much of the text before them a model may read. Learned vectors end at L, and the library says
# so instead of making something up.

LENGTHS = [L, 3 * L // 2, 2 * L, 3 * L, LONG]
ids = validation[:1 + (len(validation) - 1) // LONG * LONG]
TEXTS, TARGETS = ids[:-1].reshape(-1, LONG), ids[1:].reshape(-1, LONG)[:, -L // 2:]


def loss_at(model, length):
    """The mean of −log p of the last L/2 characters, read from the last `length` characters."""
    total = 0.0
    with tg.no_grad():
        for i in range(0, len(TEXTS), 16):
            logits = model(TEXTS[i:i + 16, -length:])[:, -L // 2:]
            total += F.cross_entropy(logits, targets=TARGETS[i:i + 16]).item() * len(logits)
    return total / len(TEXTS)


found = {}
with threadpool_limits(limits=1, user_api="blas"), tqdm(total=STEPS * len(SCHEMES), unit="step") as bar:
    for scheme in SCHEMES:
        bar.set_description(scheme)
        model = model_with(scheme)
        learn(model, bar)
        found[scheme] = [loss_at(model, length) for length in LENGTHS if length <= model.config.context]
        if scheme == "learned":
            try:
                model(TEXTS[:1])
            except ValueError as error:
                refusal = str(error)

# %%
# Who extrapolates
# ----------------
# More to read can only help somebody who understands it: a scheme extrapolates if the loss does not
# rise. Vectors of places never seen, and turns by angles never seen, are noise to a model, however
# smooth their formula. Relative biases have a number for all that is far, but here the far begins
# at 128, and the numbers between were never trained. What ALiBi takes from a score grows with the
# distance, so that what is beyond hardly counts: it is spared the harm, and has no gain.

print(f"\nlearned: {refusal}\n\ncharacters read" + "".join(f"{length:>9}" for length in LENGTHS) + "     rise")
for scheme, losses in found.items():
    rise = f"{losses[-1] - losses[0]:+9.3f}" if len(losses) > 1 else ""
    print(f"{scheme:15}" + "".join(f"{loss:9.3f}" for loss in losses) + rise)
rises = {scheme: losses[-1] - losses[0] for scheme, losses in found.items() if len(losses) > 1}
order = sorted(rises, key=rises.get)
print(f"with {LONG // L} times the text the loss of {order[0]} rises least, by {rises[order[0]]:.3f} nats, "
      f"that of {order[-1]} most, by {rises[order[-1]]:.3f}")
print(f"gain by more text: {', '.join(scheme for scheme in order if rises[scheme] < 0) or 'none'}")

figure, ax = plt.subplots(figsize=(9, 5.2))
ends = {scheme: found[scheme][-1] for scheme in rises}
span = max(ends.values()) - min(ends.values())
heights = dict(zip(ends, apart(list(ends.values()), 0.05 * span), strict=True))
for scheme, losses in found.items():
    ax.plot(LENGTHS[:len(losses)], losses, "o-", color=SCHEMES[scheme], ms=5)
    if scheme in ends:
        ax.text(LONG + L / 16, heights[scheme], f"{scheme} {rises[scheme]:+.2f}", va="center",
                color=SCHEMES[scheme], weight="bold")
ax.text(L * 0.9, found["learned"][0], "learned:\nno further", color=SCHEMES["learned"], weight="bold", va="center",
        ha="right")
ax.axvline(L, color=GREY, lw=1, ls=":", zorder=0)
ax.margins(y=0.12)
ax.text(L * 1.05, 0.96, "trained at this length", color=GREY, va="center", transform=ax.get_xaxis_transform())
ax.set(title="The same characters, foretold from more and more text before them", xlabel="characters read",
       ylabel="loss (nats a character)", xticks=LENGTHS, xlim=(0, LONG * 1.25))
ax.spines["bottom"].set_bounds(L, LONG)
save(figure, chosen.out / "beyond.png")

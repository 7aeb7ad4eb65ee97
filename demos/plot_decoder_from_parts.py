"""
A decoder from parts, trained on Shakespeare
============================================

A character-level GPT in forty lines, from parts of `nn`, with the whole training loop in view.
After a minute or two on two cores it spells short words and knows how a speech begins and where a
line ends.
"""

import math

import numpy as np
from picture import BLUE, GREY, INK, RED, options, plt, save
from tqdm import tqdm

import tinygrad_tfm as tg
from tinygrad_tfm import functional as F, nn
from tinygrad_tfm.parallel import DataParallel, suggested_workers
from tinygrad_tfm.text import CharTokenizer, baselines, corpus, random_batch, split, windows

chosen = options(__file__, __doc__)
CONTEXT, BATCH, STEPS = (32, 8, 120) if chosen.quick else (64, 12, 1440)
LAYERS, HEADS, WIDTH, PEAK = (1, 2, 32, 1e-2) if chosen.quick else (2, 4, 128, 3e-3)

# %%
# The text
# --------
# Characters become numbers, nine tenths of the text are for training. Three losses say how good a
# model without attention is: one that knows nothing, ln V; one that knows how frequent each
# character is; one that knows how frequent each pair is.

book = corpus("python-docs" if chosen.quick else "tinyshakespeare")
tokenizer = CharTokenizer.from_text(book.text)
train, validation = split(tokenizer.encode(book.text), CONTEXT)
compare = baselines(train, validation, tokenizer.size)
print(f"{book.name}: {len(book.text):,} characters, {tokenizer.size} different ones")

# %%
# The model
# ---------
# A stream of vectors runs through the model, one per character. Each block reads it, normalised,
# and adds to it: first what attention gathers from other positions, then what the feed-forward
# network makes of it at each position alone. Parameters are found by walking over the attributes.


class Block(nn.Module):
    def __init__(self, width, heads):
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.feed_forward = nn.FeedForward(width)

    def forward(self, x):
        x = x + self.attention(self.norm1(x), causal=True)
        return x + self.feed_forward(self.norm2(x))


class Decoder(nn.Module):
    """Ids (B, T) → logits (B, T, V) of the character that follows at each position."""

    def __init__(self, vocab, context, layers, heads, width):
        self.embed = nn.Embedding(vocab, width)
        self.positions = nn.LearnedPositions(context, width)
        self.blocks = [Block(width, heads) for _ in range(layers)]
        self.norm = nn.LayerNorm(width)

    def forward(self, ids):
        x = self.embed(ids) + self.positions(ids.shape[-1])
        for block in self.blocks:
            x = block(x)
        return self.embed.unembed(self.norm(x))                  # the embedding's weights once more

    def loss(self, ids, targets):
        return F.cross_entropy(self(ids), targets=targets)


tg.manual_seed(1)
model = Decoder(tokenizer.size, CONTEXT, LAYERS, HEADS, WIDTH)
print(f"{model.size():,} parameters")

# %%
# Training
# --------
# A batch, the loss, its gradient, a step; the learning rate rises, then falls along a cosine.
# `parallel.backward(x, y)` is `model.loss(x, y).backward()`, done by one worker per core, each for
# its share of the batch, and with the gradients summed.


def evaluate():
    """The mean loss per character over the validation text, of which a quick run takes a tenth."""
    pairs = list(windows(validation, CONTEXT, 32))[::10 if chosen.quick else 1]
    total = sum(float(parallel.loss(x, y)) * x.size for x, y in pairs)
    return total / sum(x.size for x, _ in pairs)


rng = np.random.default_rng(1)
optimizer = tg.optim.AdamW(model.parameters(), betas=(0.9, 0.99), decay=0.1)
curve = []
with DataParallel(model, suggested_workers(BATCH, CONTEXT, "cpu")) as parallel:
    checks = [(0, evaluate())]
    for step in tqdm(range(STEPS), unit="step"):
        x, y = random_batch(train, BATCH, CONTEXT, rng)
        loss = parallel.backward(x, y)
        norm = tg.optim.global_norm(model.parameters())
        optimizer.lr = tg.optim.warmup_cosine(step, peak=PEAK, floor=PEAK / 30, warmup=STEPS // 20, total=STEPS)
        optimizer.step(scale=tg.optim.clip_factor(norm, limit=1.0))
        optimizer.zero_grad()
        curve.append(float(loss))
        if (step + 1) % (STEPS // 6) == 0:
            checks.append((step + 1, evaluate()))

final = checks[-1][1]
for name, value in compare.items():
    print(f"{name:10} {value:.3f} nats a character")
print(f"{'decoder':10} {final:.3f} nats a character on the validation text")

# %%
# The curve, beside what simpler models reach
# -------------------------------------------
# It starts at ln V, falls at once to the frequencies of single characters, then past those of
# pairs: from there on, what is learnt needs to look further back than one character.


def smooth(values, width):
    """The running mean, so that the noise of single batches does not hide the course."""
    return np.convolve(values, np.ones(width) / width, mode="valid")


figure, ax = plt.subplots(figsize=(8, 4.8))
for name, label in [("uniform", f"ln V = ln {tokenizer.size}"),
                    ("unigram", "frequency of characters"), ("bigram", "frequency of pairs")]:
    ax.axhline(compare[name], color=GREY, lw=1, ls="--")
    ax.text(STEPS, compare[name] + 0.03, f"{label}: {compare[name]:.2f}", color=GREY, ha="right")
width = max(1, STEPS // 100)
ax.plot(np.arange(width - 1, STEPS) + 1, smooth(curve, width), color=BLUE, lw=1.5)
ax.plot(*zip(*checks, strict=True), "o-", color=RED, markersize=5, lw=1.5)
ax.text(STEPS * 0.72, checks[4][1] + 0.09, "validation", color=RED, weight="bold")
ax.text(STEPS * 0.7, checks[4][1] - 0.3, "training", color=BLUE, weight="bold", ha="right")
ax.set(xlabel=f"steps of {BATCH * CONTEXT:,} characters", ylabel="loss (nats a character)",
       ylim=(min(final, *curve) - 0.1, math.log(tokenizer.size) + 0.3),
       title=f"{model.size():,} parameters on {book.name}: {final:.2f} after {STEPS:,} steps")
ax.tick_params(colors=INK)
save(figure, chosen.out / "loss.png")

# %%
# It writes
# ---------
# The model says how likely each character is to come next; one is drawn, and it is asked again. The
# window slides when it is full. (`generate.py` does this faster, with a cache.)


def write(prompt, count, temperature=0.8):
    """A continuation of the prompt."""
    ids = list(tokenizer.encode(prompt))
    with tg.no_grad():
        for _ in range(count):
            logits = model(np.array([ids[-CONTEXT:]])).numpy()[0, -1]
            p = np.exp((logits - logits.max()) / temperature)
            ids.append(rng.choice(len(p), p=p / p.sum()))
    return tokenizer.decode(ids)


print("\n" + write("The " if chosen.quick else "ROMEO:\n", 60 if chosen.quick else 400))
assert final < compare["unigram" if chosen.quick else "bigram"]

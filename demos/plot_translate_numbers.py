"""
Numbers, from English into French
=================================

Ninety-two is *quatre-vingt-douze* in French: four twenties and twelve. The transformer of 2017, at
a small size, learns from nine thousand pairs how a number is said in the other language, and then
says those that it never saw. Its cross-attention shows where it looked while it wrote.
"""

import itertools
import sys

import numpy as np
from picture import BLUE, GREY, INK, options, plt, save
from tqdm import tqdm

import tinygrad_tfm as tg
from tinygrad_tfm import data, nn
from tinygrad_tfm.decoding import beam_search, greedy
from tinygrad_tfm.models import Transformer
from tinygrad_tfm.parallel import one_blas_thread

chosen = options(__file__, __doc__)
one_blas_thread()                                    # products this small lose time when they are shared
STEPS, WIDTH, BATCH = (60, 32, 64) if chosen.quick else (800, 64, 128)
GOAL = 0.99

# %%
# The pairs
# ---------
# All numbers below ten thousand, spelt by the package num2words. A tenth of them, drawn by chance,
# is put aside. Both languages share one vocabulary, in which a word takes the sign before it along.

try:
    train_pairs, test_pairs = data.numbers_in_words("fr")
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit()
shown = next(pair for pair in test_pairs if pair[1].count("quatre") == 3)
tokenizer = data.WordTokenizer.from_texts(itertools.chain(*train_pairs, *test_pairs))
print(f"{len(train_pairs):,} pairs to learn from, {len(test_pairs):,} to be asked, {tokenizer.size} words")
for english, french in test_pairs[:3]:
    print(f"  {english} → {french}")
test_pairs = test_pairs[:100] if chosen.quick else test_pairs

# %%
# The model
# ---------
# An encoder reads the English words, all at once. A decoder writes the French ones from left to
# right: each of its blocks looks first at what has been written, then, by cross-attention, at what
# was read. Every word of either language is a row of one table, as is every word that can be said.

tg.manual_seed(1)
model = Transformer(tokenizer.size, layers=2, heads=4, width=WIDTH, pre_norm=True)
print(f"{model.size():,} parameters")

# %%
# Training
# --------
# While it learns, the decoder is given the true words so far and asked for the next: teacher
# forcing, which answers every position of a sentence in one pass. Pairs of equal length go together,
# so that little is padded. After a quarter of the way it is asked for the first time.


def batches():
    lengths = [tuple(len(tokenizer.encode(text)) for text in pair) for pair in train_pairs]
    while True:
        for part in data.buckets(lengths, BATCH):
            yield data.pair_batch([train_pairs[i] for i in part], tokenizer)


def by_greedy(source, mask):
    return greedy(model, source, mask, limit=14)


def by_beam(source, mask):
    return [hypotheses[0].ids for hypotheses in beam_search(model, source, mask, limit=14, beam=4)]


def say(pairs, way):
    """What is said for each English text. Nobody gives the true words now."""
    source, mask, _ = data.pair_batch(pairs, tokenizer)
    return [tokenizer.decode(ids) for ids in way(source, mask)]


optimizer = tg.optim.AdamW(model.parameters(), betas=(0.9, 0.98), decay=0.01)
with tqdm(itertools.islice(batches(), STEPS), total=STEPS, unit="step") as bar:
    for step, (source, mask, target) in enumerate(bar):
        if step == STEPS // 4:
            early = say(test_pairs, by_greedy)
        loss = model.loss(source, mask, target)
        loss.backward()
        optimizer.lr = tg.optim.warmup_cosine(step, peak=3e-3, floor=1.5e-4, warmup=STEPS // 8, total=STEPS)
        optimizer.step(tg.optim.clip_factor(tg.optim.global_norm(optimizer.parameters), limit=1.0))
        optimizer.zero_grad()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}")
print(f"loss of the last batch: {loss.item():.4f} nats a word; who only guesses pays {np.log(tokenizer.size):.2f}")

# %%
# What it says
# ------------
# Greedy takes the likeliest word each time. Beam search follows the four likeliest beginnings, and
# so can still give up one that began well. What counts is the whole number, to the letter. Numbers
# below a hundred come late: only one pair in a hundred is of that kind.


def report(label, said):
    """How many are right, and of either kind a few to look at."""
    kinds = {"right": [], "wrong": []}
    for (english, french), text in zip(test_pairs, said, strict=True):
        kinds["right" if text == french else "wrong"].append((english, french, text))
    right = len(kinds["right"])
    small = sum("hundred" not in english and "thousand" not in english for english, _, _ in kinds["wrong"])
    print(f"\n{label}: {right:,} of {len(said):,} right, {right / len(said):.1%} (goal: {GOAL:.0%})"
          + f"; {small} of the {len(said) - right} others are below a hundred" * (right < len(said)))
    for kind, found in kinds.items():
        for english, french, text in found[:4]:
            print(f"  {kind}: {english} → {text[:50]}" + f" (it is {french})" * (kind == "wrong"))


report("greedy, a quarter of the way", early)
report("greedy, at the end", say(test_pairs, by_greedy))
report("beam of 4, at the end", say(test_pairs, by_beam))

# %%
# Where it looked
# ---------------
# A block is built from parts and takes any attention: here one that keeps its weights. The true
# words are put in once more. Row t of the weights belongs to the moment in which word t was chosen.


class Watched(nn.Module):
    """An attention that remembers where it looked last, (B, H, T, S)."""

    def __init__(self, attention):
        self.attention = attention

    def forward(self, x, memory, mask=None, cache=None):
        self.seen = self.attention.pattern(x, memory, mask=mask)
        return self.attention(x, memory, mask=mask, cache=cache)


for block in model.decoder.blocks:
    block.cross = Watched(block.cross)


def looks(pairs):
    """The weights of all heads of all blocks, (B, 8, T, S), and the words of both sides, (B, S) and (B, T)."""
    source, mask, target = data.pair_batch(pairs, tokenizer)
    with tg.no_grad():
        model(source, mask, target[:, :-1])
    words, seen = np.array(tokenizer.words), [block.cross.seen for block in model.decoder.blocks]
    return np.concatenate(seen, axis=1), words[source], words[target[:, 1:]]


# %%
# Some words have one counterpart only: *cent* is "hundred", *trente* is "thirty". How often is that
# the word a head looks at most while it writes? The best head is chosen by numbers that were learnt
# from, and judged by those that were not.

COUNTERPART = {"mille": "thousand", "cent": "hundred", "vingt": "twenty", "trente": "thirty",
               "quarante": "forty", "cinquante": "fifty"}


def aligned(pairs):
    """By head: the share of such words that looked most at their counterpart; and the share by chance."""
    weights, source, target = looks(pairs)
    hits, chance = [], []
    for french, english in COUNTERPART.items():
        for b, t in np.argwhere(np.char.strip(target, " ") == french):
            counterpart = np.char.strip(source[b], " ") == english
            hits.append(counterpart[weights[b, :, t].argmax(axis=1)])
            chance.append(counterpart.sum() / (source[b] != data.SYMBOLS[data.PAD]).sum())
    return np.mean(hits, axis=0), np.mean(chance)


learnt, _ = aligned(train_pairs[:1000])
best = learnt.argmax()
share, chance = aligned(test_pairs)
HEADS = [f"block {i // 4 + 1}, head {i % 4 + 1}" for i in range(len(share))]
print(f"\nlooked most at the counterpart (by chance: {chance:.0%})")
for i, name in enumerate(HEADS):
    print(f"  {name} {share[i]:6.1%}" + ("  the best where it learnt" if i == best else ""))

# %%
# One number, word by word
# ------------------------
# Three times *quatre*, each for another reason: one counts thousands; one, with *vingt*, is an
# eighty, four twenties; one is the four at the end. The same word, and three places to look at.

weights, source, target = looks([shown])
words = [word.strip(" ") for word in source[0]]
written = [word.strip(" ") for word in target[0][:-1]] + ["(stop)"]
figure = plt.figure(figsize=(12, 6.2))
left, right = figure.subfigures(1, 2, width_ratios=(1.1, 1))
ax = left.subplots()
ax.imshow(weights[0, best], cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
for (t, s), weight in np.ndenumerate(weights[0, best]):
    if weight >= 0.05:
        ax.text(s, t, f"{weight:.2f}".removeprefix("0"), ha="center", va="center", fontsize=9,
                color="white" if weight > 0.6 else INK)
ax.set_xticks(range(len(words)), words, rotation=40, ha="left", rotation_mode="anchor")
ax.set_yticks(range(len(written)), written)
ax.xaxis.tick_top()
ax.tick_params(length=0)
ax.spines[:].set_visible(False)
ax.set_title(f"Where {HEADS[best]} looked while it wrote", pad=14)
ax.set_xlabel("read, in English; each row sums to 1", color=GREY)
for i, ax in enumerate(right.subplots(2, 4).flat):
    ax.imshow(weights[0, i], cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
    ax.set_title(f"{HEADS[i].replace(', ', chr(10))}", fontsize=10, color=BLUE if i == best else INK,
                 weight="bold" if i == best else None)
    ax.set_xlabel(f"{share[i]:.0%}", color=BLUE if i == best else GREY)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(visible=True, color=BLUE if i == best else "#CCCCCC", linewidth=2 if i == best else 0.8)
right.suptitle("All eight heads; in percent, how often the counterpart is looked at most", fontsize=11, x=0.01,
               ha="left")
save(figure, chosen.out / "alignment.png")

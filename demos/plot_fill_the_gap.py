"""
A missing letter, and who may look behind it
============================================

An encoder that was trained to fill gaps sees the text on both sides of them; a decoder sees what
stands before. Both learn the same Shakespeare, at the same size and for as many steps, and are asked
for the same missing letters. A decoder can use the far side too, if one is ready to let it read the
text once for every letter there is: how good is that?
"""

from functools import partial

import numpy as np
from picture import BLUE, GREY, ORANGE, options, plt, save
from tqdm import tqdm

import tinygrad_tfm as tg
from tinygrad_tfm import functional as F, nn
from tinygrad_tfm.generate import evaluating
from tinygrad_tfm.models import Decoder, DecoderConfig, MaskedLM, TokenEncoder
from tinygrad_tfm.models.encoder import masked
from tinygrad_tfm.parallel import DataParallel
from tinygrad_tfm.text import CharTokenizer, corpus, random_batch, split

chosen = options(__file__, __doc__)
STEPS, SEEDS, ASKED = (30, 2, 20) if chosen.quick else (1200, 3, 1000)
T, BATCH, WIDTH, LAYERS, HEADS, SHARE = 32, 32, 64, 2, 4, 0.25
BEFORE = 24                                          # letters before a gap; what is left of T comes behind it
BEHIND = [0, 1, 2, 3, 5, T - 1 - BEFORE]             # how many of those may be read

# %%
# Two models, one block
# ---------------------
# The blocks are the same, but for `causal` and how their first weights are drawn. Both know the
# distance between two letters (T5's relative biases), the encoder in both directions. A letter is any
# sign here, a space too. The encoder has one token more, GAP, and learns from a quarter of the
# letters: most of them are hidden, some exchanged, some left (`masked`). A decoder learns from each.

book = corpus("python-docs" if chosen.quick else "tinyshakespeare")
tokenizer = CharTokenizer.from_text(book.text)
train, validation = split(tokenizer.encode(book.text), T)
V = GAP = tokenizer.size


def encoder():
    """Reads both sides, and is trained to say what stood in the gaps."""
    distance = nn.RelativeBias(HEADS, buckets=64)            # 32 a way, as many as the decoder has
    return MaskedLM(TokenEncoder(V + 1, T, LAYERS, HEADS, WIDTH, positions=lambda T, D: distance,
                                 attention=partial(nn.Attention, positions=distance)))


def decoder():
    """Reads from left to right, and is trained to say what comes next."""
    return Decoder(DecoderConfig(V, T, LAYERS, HEADS, WIDTH, bias=True, positions="relative", std=0.1))


def learn(model, batch, rng, bar):
    """AdamW with a warm-up and a cosine; two workers share each batch, and each averages over its own gaps."""
    optimizer = tg.optim.AdamW(model.parameters(), betas=(0.9, 0.99), decay=0.1)
    with DataParallel(model, workers=2) as parallel:
        for step in range(STEPS):
            parallel.backward(*batch(rng))
            optimizer.lr = tg.optim.warmup_cosine(step, peak=5e-3, floor=5e-4, warmup=STEPS // 20, total=STEPS)
            optimizer.step(scale=tg.optim.clip_factor(tg.optim.global_norm(optimizer.parameters), limit=1.0))
            optimizer.zero_grad()
            bar.update()


def gaps(rng):
    """Windows with gaps, and what belongs there."""
    return masked(random_batch(train, BATCH, T, rng)[0], rng, vocab=V, substitute=GAP, share=SHARE)


def continuations(rng):
    """Windows, and what follows each letter."""
    return random_batch(train, BATCH, T, rng)


# %%
# Three ways to find a letter
# ---------------------------
# The encoder reads the window once. So does the decoder, and what it says at the letter before the
# gap is its guess from the left. The third way is Bayes' rule: put each of the V letters in, have the
# decoder tell how likely the whole window then is, and compare. It takes V readings for one gap, and
# for two gaps V².

starts = np.random.default_rng(0).integers(0, len(validation) - T, ASKED)
texts = np.stack([validation[start:start + T] for start in starts])
truth = texts[:, BEFORE]


def log_probabilities(model, ids):
    """log p of every letter at every place, a thousand windows at a time.     (N, T) → (N, T, V)"""
    with evaluating(model), tg.no_grad():
        return np.concatenate([F.log_softmax(model(ids[i:i + 1000])[..., :V]).data for i in range(0, len(ids), 1000)])


def from_both_sides(model):
    """log p of each letter in the gap, by the number of letters read behind it.     (N, V) each"""
    asked = texts.copy()
    asked[:, BEFORE] = GAP
    return [log_probabilities(model, asked[:, :BEFORE + 1 + n])[:, BEFORE] for n in BEHIND]


def letter_by_letter(model):
    """By Bayes, up to a number that all letters share: log p(letter | before) + Σ log p(each behind | those before)."""
    scores = np.empty((len(BEHIND), ASKED, V))
    for letter in range(V):
        asked = texts.copy()
        asked[:, BEFORE] = letter
        said = log_probabilities(model, asked)[:, BEFORE - 1:-1]
        terms = np.take_along_axis(said, asked[:, BEFORE:, None], axis=-1)[..., 0]
        scores[:, :, letter] = terms.cumsum(axis=1).T[BEHIND]
    return list(scores)


def right(scores):
    """The share of the gaps whose likeliest letter is the true one."""
    return float((scores.argmax(axis=-1) == truth).mean())


shares = {"encoder": [], "decoder, all letters": []}         # by seed, by BEHIND
with tqdm(total=2 * STEPS * SEEDS, unit="step") as bar:
    for seed in range(SEEDS):
        for name, make, batch, ask in (("encoder", encoder, gaps, from_both_sides),
                                       ("decoder, all letters", decoder, continuations, letter_by_letter)):
            bar.set_description(f"{name[:7]}, seed {seed}")
            tg.manual_seed(seed)
            model = make()
            learn(model, batch, np.random.default_rng(seed), bar)
            shares[name].append([right(scores) for scores in ask(model)])
found = {name: 100 * np.array(rows) for name, rows in shares.items()}
found["decoder"] = found["decoder, all letters"][:, :1]                                # nothing behind: one reading

# %%
# What the far side is worth
# --------------------------
# One reading against one, both sides beat one; the first two letters behind the gap bring most
# of that lead. A decoder that reads the window with every letter in the gap's place is far ahead of
# both. It was asked for four times as many letters in as many steps, and it computes V times as much
# for an answer: which of the two counts for more is not measured here. With nothing behind the gap
# the encoder is the worst of all; in training the text rarely ended in a gap.
#
# `±` is the standard error of the mean over the seeds. All were asked the same thousand gaps; another
# thousand would move each figure by about 1.5 points.


def mean_and_error(values):
    """The mean over the seeds, and its standard error."""
    return values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(SEEDS)


print(f"{book.name}: {ASKED:,} gaps, {BEFORE} letters before and {BEHIND[-1]} behind each; seeds 0 to {SEEDS - 1}")
for name, readings in (("decoder", 1), ("encoder", 1), ("decoder, all letters", V)):
    mean, error = mean_and_error(found[name][:, -1])
    print(f"{name:21}{readings:4} reading{'s' if readings > 1 else ' '} {mean:5.1f}% ± {error:.1f} right")
ahead, error = mean_and_error((found["encoder"] - found["decoder"])[:, -1])
print("letters behind".ljust(21) + "".join(f"{n:7}" for n in BEHIND))
for name in ("encoder", "decoder, all letters"):
    print(f"{name:21}" + "".join(f"{share:7.1f}" for share in found[name].mean(axis=0)))
print(f"in one reading the encoder is {ahead:+.1f} ± {error:.1f} points ahead of the decoder; the goal is to be ahead: "
      f"{'reached' if ahead > 2 * error else 'missed'}")

figure, ax = plt.subplots(figsize=(9, 5.2))
for name, color, words in (("decoder, all letters", ORANGE, f"decoder,\n{V} readings"),
                           ("encoder", BLUE, "encoder,\n1 reading")):
    mean, error = mean_and_error(found[name])
    ax.errorbar(BEHIND, mean, error, fmt="o-", color=color, ms=5, capsize=3)
    ax.text(BEHIND[-1] + 0.2, mean[-1], words, color=color, weight="bold", va="center")
mean, error = mean_and_error(found["decoder"][:, 0])
ax.fill_between([0, BEHIND[-1]], mean - error, mean + error, color=GREY, alpha=0.3, lw=0)
ax.text(BEHIND[-1] + 0.2, mean, "decoder,\n1 reading", color=GREY, weight="bold", va="center")
ax.set(title=f"A missing letter, found from {BEFORE} letters before it and some behind it",
       xlabel="letters read behind the gap", ylabel="right (%)", xticks=BEHIND, xlim=(-0.2, BEHIND[-1] + 1.6))
ax.spines["bottom"].set_bounds(0, BEHIND[-1])
save(figure, chosen.out / "gaps.png")

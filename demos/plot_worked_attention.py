"""
One attention step, worked by hand
==================================

A decoder is about to write the French word for "cat". It asks six English words, described by four
numbers each, which of them it should listen to. The example is a lecture's; its figures stand
beside ours. They were rounded to two places on the way, and here one can see what that does.
"""

import numpy as np
from picture import BLUE, GREY, INK, ORANGE, options, plt, save

import tinygrad_tfm as tg
from tinygrad_tfm import functional as F

chosen = options(__file__, __doc__)

# %%
# Query, keys, values
# -------------------
# The four numbers mean: is it an animal, an action, an object, something definite? A key says what
# a word offers to be found by, a value what it gives when it is found.

WORDS = ["the", "cat", "sat", "on", "the", "mat"]
MEANING = ["animal", "action", "object", "definite"]
QUERY = np.array([[0.9, 0.1, 0.2, 0.3]])                                               # (1, K)
KEYS = np.array([[0.0, 0.0, 0.0, 1.0],
                 [1.0, 0.0, 0.3, 0.0],
                 [0.0, 1.0, 0.0, 0.0],
                 [0.0, 0.0, 0.0, 0.0],
                 [0.0, 0.0, 0.0, 1.0],
                 [0.0, 0.0, 1.0, 0.0]])                                                # (S, K)
VALUES = np.array([[0.1, 0.0, 0.0, 0.8],
                   [0.9, 0.0, 0.1, 0.7],
                   [0.0, 0.9, 0.0, 0.3],
                   [0.0, 0.0, 0.5, 0.0],
                   [0.0, 0.0, 0.0, 0.9],
                   [0.0, 0.0, 0.9, 0.6]])                                              # (S, K)

# %%
# Four lines of arithmetic
# ------------------------
# Likeness, divided by √K; exponentials, divided by their sum; a mean of the values with these
# weights. `F.attention` is the same in one step.

scores = QUERY @ KEYS.T                                                                # (1, S)
scaled = scores / np.sqrt(4)
weights = np.exp(scaled) / np.exp(scaled).sum()
output = weights @ VALUES                                                              # (1, K)

ours = F.attention(tg.Tensor(QUERY), tg.Tensor(KEYS), tg.Tensor(VALUES))
assert np.allclose(ours.numpy(), output, rtol=0, atol=1e-15)

# %%
# Beside the lecture
# ------------------
# Scores and scaled scores are exact in the lecture. From the exponentials on it keeps two places
# and goes on with what is left: its weights agree with ours to the places given, but the output is
# a sum of rounded weights.

LECTURE = {"scores": [0.30, 0.96, 0.10, 0.00, 0.30, 0.20],
           "scaled": [0.15, 0.48, 0.05, 0.00, 0.15, 0.10],
           "exponentials": [1.16, 1.62, 1.05, 1.00, 1.16, 1.11],
           "weights": [0.16, 0.23, 0.15, 0.14, 0.16, 0.16],
           "output": [0.223, 0.135, 0.237, 0.574]}
OURS = {"scores": scores[0], "scaled": scaled[0], "exponentials": np.exp(scaled[0]),
        "weights": weights[0], "output": output[0]}


def row(numbers, places=4):
    return " ".join(f"{number:8.{places}f}" for number in numbers)


print(f"{'':22}" + " ".join(f"{word:>8}" for word in WORDS))
for name in ("scores", "scaled", "exponentials", "weights"):
    print(f"{name:13}lecture  {row(LECTURE[name], 2)}\n{'':13}exact    {row(OURS[name])}")
print(f"{'':22}" + " ".join(f"{word:>8}" for word in MEANING))
print(f"{'output':13}lecture  {row(LECTURE['output'], 3)}\n{'':13}exact    {row(OURS['output'])}")
for name in ("scores", "scaled", "exponentials", "weights"):
    half = 1e-9 if name in ("scores", "scaled") else 0.005 + 1e-9
    assert np.abs(OURS[name] - LECTURE[name]).max() <= half

# %%
# That it is the rounding, and nothing else, is easily checked: our arithmetic with the lecture's
# weights gives the lecture's output. In its summary the output is rounded once more, to
# [0.22, 0.14, 0.24, 0.57], and then three of four figures differ from the exact ones in the last
# place given. Round at the end, not on the way.

again = np.array(LECTURE["weights"]) @ VALUES
assert np.allclose(again, LECTURE["output"], rtol=0, atol=1e-12)
print("the lecture's rounded weights give exactly its output: the difference is rounding alone")
print(f"to two places: lecture [0.22, 0.14, 0.24, 0.57], exact {np.round(output[0], 2).tolist()}")

# %%
# The whole table as a picture: the query is compared with every key, the weights say how much of
# every value goes into the output.

figure, axes = plt.subplots(1, 3, figsize=(11, 4.8), width_ratios=(4, 3.4, 4))
LABELS = [f"{word}{mark}" for word, mark in zip(WORDS, "₁   ₂ ", strict=True)]


def table(ax, rows, extra, extra_label, first, title):
    """A heat map of one row per word and, apart from them, one more row on top or at the bottom."""
    gap = np.full((1, 4), np.nan)
    shown = np.vstack([extra, gap, rows] if first else [rows, gap, extra])
    ax.imshow(shown, cmap="Blues", vmin=0, vmax=1.35, aspect="auto")
    for (i, j), number in np.ndenumerate(shown):
        if np.isfinite(number):
            apart = i == (0 if first else 7)
            color = "white" if number > 0.85 else INK if number > 0 else GREY
            ax.text(j, i, f"{number:.3f}" if apart and not first else f"{number:.1f}", color=color,
                    ha="center", va="center", weight="bold" if apart else None)
    names = [extra_label, "", *LABELS] if first else [*LABELS, "", extra_label]
    ax.set_yticks(range(8), names)
    ax.set_xticks(range(4), MEANING)
    ax.set_title(title)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


table(axes[0], KEYS, QUERY, "query", True, "1. Compare the query with each key")
table(axes[2], VALUES, output, "output", False, "3. Mix the values")
at = np.arange(6)
axes[1].barh(at - 0.19, weights[0], 0.36, color=BLUE)
axes[1].barh(at + 0.19, LECTURE["weights"], 0.36, color=ORANGE)
axes[1].text(0.004, -0.18, "exact", va="center", color="white")
axes[1].text(0.004, 0.2, "lecture", va="center")
for i, (exact, rounded) in enumerate(zip(weights[0], LECTURE["weights"], strict=True)):
    axes[1].text(exact - 0.003, i - 0.18, f"{exact:.3f}", va="center", ha="right", color="white")
    axes[1].text(rounded - 0.003, i + 0.2, f"{rounded:.2f}", va="center", ha="right")
axes[1].axvline(1 / 6, color=GREY, lw=1, ls=":", zorder=0)
axes[1].text(1 / 6, -0.62, " 1/6: no preference", color=GREY)
axes[1].set(yticks=at, yticklabels=LABELS, xlim=(0, 0.27), ylim=(5.6, -0.95),
            xlabel="weight", title="2. Weights that sum to 1")
save(figure, chosen.out / "worked_attention.png")

# %%
# What the example shows, and what it does not
# --------------------------------------------
# "cat" is heard most, but only with 0.23 where indifference would be 0.17: most of the output comes
# from words that nobody asked for, and "definite" is its largest number, not "animal". Scores below
# 1 cannot do better. A query of the same direction, eight times as long, decides.

print(f"weight of 'cat': {weights[0, 1]:.3f}; with no preference it would be {1 / 6:.3f}")
for factor in (1, 2, 4, 8, 16):
    loud = F.softmax(tg.Tensor(factor * scaled)).numpy()
    mixed = loud[0] @ VALUES
    print(f"query × {factor:<3} weight of 'cat' {loud[0, 1]:.3f}, "
          f"output {row(mixed, 3)}, largest: {MEANING[mixed.argmax()]}")

# %%
# Another query gets another answer: asking for an action finds "sat".

action = F.softmax(tg.Tensor(np.array([[0.1, 0.9, 0.1, 0.1]]) @ KEYS.T / 2)).numpy()[0]
print(f"asking for an action: most heard is '{WORDS[action.argmax()]}' ({action.max():.3f})")

# %%
# A slip of the same lecture
# --------------------------
# For raw scores of 2.1, 0.3, −0.5 and 1.8 it gives the weights 0.58, 0.10, 0.04 and 0.28. Weights
# of a softmax have the ratio exp(difference): the first and the last differ by 0.3, so their ratio
# is 1.35, not 2.07.

slip = F.softmax(tg.Tensor(np.array([2.1, 0.3, -0.5, 1.8]))).numpy()
print(f"softmax of [2.1, 0.3, -0.5, 1.8]: lecture [0.58, 0.10, 0.04, 0.28], "
      f"exact {np.round(slip, 3).tolist()}")

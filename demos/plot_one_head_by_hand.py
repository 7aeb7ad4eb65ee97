"""
One head of attention by hand
=============================

Causal self-attention of a single head, forward and back, in array operations one can read; then the
same numbers from `F.attention` and from `nn.Attention`. And an experiment: what becomes of the
scores, of the softmax and of its gradient without the division by √K.
"""

import math

import numpy as np
from picture import BLUE, GREY, RED, options, plt, save

import tinygrad_tfm as tg
from tinygrad_tfm import functional as F

chosen = options(__file__, __doc__)
rng = np.random.default_rng(4)

# %%
# Tokens and weights
# ------------------
# Eight tokens, each a vector of width D. With one head, the head is as wide as the model: K = D.

TOKENS = "To be , or not to be :".split()
T, D = len(TOKENS), 16
x = rng.standard_normal((T, D))                                                        # (T, D)
w_query, w_key, w_value = rng.standard_normal((3, D, D)) / math.sqrt(D)                # (D, K) each

# %%
# Forward
# -------
# Every token asks (q), offers (k) and gives (v). A token may look at itself and at what came
# before it: the scores of later ones are set to −∞, which the exponential turns into exactly 0.

q, k, v = x @ w_query, x @ w_key, x @ w_value                                          # (T, K) each
scores = q @ k.T / math.sqrt(D)                                                        # (T, T)
past = np.tril(np.ones((T, T), dtype=bool))
masked = np.where(past, scores, -np.inf)
exps = np.exp(masked - masked.max(axis=-1, keepdims=True))            # shifted: no overflow
pattern = exps / exps.sum(axis=-1, keepdims=True)                                      # (T, T)
heads = pattern @ v                                                                    # (T, K)

# %%
# Back
# ----
# Let g be the gradient of some loss with respect to the output. The product hands it to the
# pattern and to the values. The softmax subtracts the mean of a row's gradients under its weights,
# since weights that sum to 1 cannot all grow. The first product hands it to queries and keys.

g = rng.standard_normal((T, D))
g_v = pattern.T @ g
g_pattern = g @ v.T
g_scores = pattern * (g_pattern - (g_pattern * pattern).sum(axis=-1, keepdims=True))
g_q = g_scores @ k / math.sqrt(D)
g_k = g_scores.T @ q / math.sqrt(D)

# %%
# The same by the library
# -----------------------
# First the rule, with its gradients; then the module, given our weights. A module's last step mixes
# the heads once more (W_O): with the identity in its place, nothing is changed.

queries, keys, values = (tg.Tensor(a, requires_grad=True) for a in (q, k, v))
out = F.attention(queries, keys, values, causal=True)
out.backward(g)
pairs = {"output": (out.numpy(), heads), "gradient of q": (queries.grad, g_q),
         "gradient of k": (keys.grad, g_k), "gradient of v": (values.grad, g_v)}
for name, (theirs, ours) in pairs.items():
    print(f"F.attention, {name:14} differs from ours by at most {np.abs(theirs - ours).max():.1e}")
    assert np.allclose(theirs, ours, rtol=0, atol=1e-13)

attention = tg.nn.Attention(width=D, heads=1, bias=False).to(dtype=np.float64)
for linear, weight in [(attention.query, w_query), (attention.key, w_key),
                       (attention.value, w_value), (attention.out, np.eye(D))]:
    linear.weight.data[...] = weight
batch = tg.Tensor(x[None])                                                             # (1, T, D)
assert np.allclose(attention(batch, causal=True).numpy()[0], heads, rtol=0, atol=1e-13)
assert np.allclose(attention.pattern(batch, causal=True)[0, 0], pattern, rtol=0, atol=1e-13)
print("nn.Attention with one head gives the same output and the same pattern")

# %%
# Rows are those who look, columns those who are looked at. The last picture has a row for each
# token's new vector: the mean of the values it may see.

def heat(ax, numbers, title, cmap, limit, columns, label):
    image = ax.imshow(numbers, cmap=cmap, vmin=-limit if cmap == "PuOr" else 0, vmax=limit)
    ax.set_box_aspect(1)
    ax.set_aspect("auto")
    ax.set_yticks(range(T), TOKENS)
    ax.set_title(title)
    ax.set_xlabel(label)
    if columns:
        ax.set_xticks(range(T), TOKENS)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.figure.colorbar(image, ax=ax, shrink=0.75, pad=0.02, ticks=[-limit, 0, limit]
                       if cmap == "PuOr" else [0, limit / 2, limit]).outline.set_visible(False)


figure, axes = plt.subplots(2, 2, figsize=(10, 9))
extreme = math.ceil(np.abs(scores).max())
heat(axes[0, 0], scores, "1. Scores q·kᵀ/√K", "PuOr", extreme, True, "looked at")
heat(axes[0, 1], masked, "2. The future masked with −∞", "PuOr", extreme, True, "looked at")
heat(axes[1, 0], np.where(past, pattern, np.nan), "3. Softmax: every row sums to 1", "Blues", 1.0,
     True, "looked at")
heat(axes[1, 1], heads, "4. Output: weights · values", "PuOr", math.ceil(np.abs(heads).max()),
     False, "component of the vector")
axes[0, 1].set_facecolor("#E4E4E4")
axes[1, 0].set_facecolor("#E4E4E4")
axes[0, 0].set_ylabel("looks")
axes[1, 0].set_ylabel("looks")
for i, j in zip(*np.nonzero(past), strict=True):
    axes[1, 0].text(j, i, f"{pattern[i, j]:.2f}", ha="center", va="center", fontsize=9,
                    color="white" if pattern[i, j] > 0.55 else "black")
save(figure, chosen.out / "one_head.png")

# %%
# What √K is for
# --------------
# A score is a sum of K products. With components of variance 1 it has variance K, so wider heads
# have larger scores, and a softmax of large scores gives nearly all weight to one key. There it is
# flat: the choice is made, and little gradient comes through to change it. Divided by √K the scores
# keep variance 1. Rows differ widely, so the gradient is shown as the middle row, with the band
# in which the middle four fifths of the rows lie.

widths = [4, 16, 64, 256] if chosen.quick else [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
rows, S = (200 if chosen.quick else 1000), 64


def measure(K, scale):
    """Variance of the scores, mean of the largest weight, quantiles of the rows' gradients."""
    q, k = rng.standard_normal((rows, 1, K)), rng.standard_normal((rows, S, K))
    scores = tg.Tensor((q @ k.swapaxes(1, 2))[:, 0] * scale, requires_grad=True)       # (rows, S)
    pattern = F.softmax(scores)
    pattern.backward(rng.standard_normal(pattern.shape))
    sizes = np.sqrt((scores.grad**2).mean(axis=-1))                                    # (rows,)
    return scores.data.var(), pattern.data.max(axis=-1).mean(), *np.quantile(sizes, [0.5, 0.1, 0.9])


plain = np.array([measure(K, 1.0) for K in widths]).T
divided = np.array([measure(K, K**-0.5) for K in widths]).T
print(f"\n{'':6}{'variance of scores':>24}{'largest of 64':>24}{'gradient, middle row':>24}")
print(f"{'K':>6}" + 3 * f"{'q·k':>14}{'q·k/√K':>10}")
for K, bad, good in zip(widths, plain.T, divided.T, strict=True):
    print(f"{K:6}{bad[0]:14.2f}{good[0]:10.2f}{bad[1]:14.2f}{good[1]:10.2f}"
          f"{bad[2]:14.6f}{good[2]:10.6f}")

figure, axes = plt.subplots(1, 3, figsize=(11.5, 4.2))
titles = ["Variance of the scores", "Largest of 64 weights", "Gradient of a row of scores"]
for numbers, color, mark in [(plain, RED, "o-"), (divided, BLUE, "s-")]:
    for ax, line in zip(axes, numbers, strict=False):
        ax.plot(widths, line, mark, color=color)
    axes[2].fill_between(widths, numbers[3], numbers[4], color=color, alpha=0.18, lw=0)
for ax, title in zip(axes, titles, strict=True):
    ax.set_xscale("log", base=2)
    ax.set(title=title, xlabel="width of the head K")
    ax.xaxis.set_major_formatter(lambda K, _: f"{K:g}")
    ax.set_xticks([4, 16, 64, 256] + [1, 1024] * (not chosen.quick))
    ax.minorticks_off()
axes[0].set_yscale("log")
axes[0].text(16, 60, "q·k", color=RED, ha="center", weight="bold")
axes[0].text(64, 1.5, "q·k/√K", color=BLUE, ha="center", weight="bold")
axes[1].set_ylim(0, 1)
axes[2].set_yscale("log")
axes[2].set_ylabel("root mean square")
axes[2].text(0.05, 0.08, "line: the middle row\nband: 10 % to 90 % of rows",
             transform=axes[2].transAxes, color=GREY)
save(figure, chosen.out / "why_sqrt_k.png")
variance, largest, gradient = plain[:3, -1]
print(f"at K = {widths[-1]}: without √K the scores have variance {variance:.0f}, the largest "
      f"weight is {largest:.2f} and the middle row's gradient {divided[2, -1] / gradient:.0f} "
      "times smaller")

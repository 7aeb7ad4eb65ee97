"""
A tour of autograd
==================

One small function, x·x + x, is differentiated three ways: by hand, by finite differences and by the
engine. Then the graph that the engine walked is drawn, with the gradients on its edges, and
differentiated once more.
"""

import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path
from picture import BLUE, GREEN, GREY, INK, ORANGE, RED, options, plt, save

import tinygrad_tfm as tg
from tinygrad_tfm import functional as F

chosen = options(__file__, __doc__)

# %%
# By hand
# -------
# The sum rule and the product rule give f′(x) = 2x + 1. At 3 that is 7.


def f(x):
    return x * x + x


by_hand = 2 * 3.0 + 1
print(f"by hand:               f(3) = {f(3.0):g},  f'(3) = {by_hand:g}")

# %%
# By finite differences
# ---------------------
# A difference quotient needs no calculus, only two values of f. It is never right, though: a wide
# step sees the curve bend, and a narrow one subtracts two numbers that are almost equal, so that
# mostly rounding errors are left. And a function of a million weights would need a million of them.

steps = 10.0 ** np.arange(-14, 0)
forward = (f(3 + steps) - f(3)) / steps
central = (f(3 + steps) - f(3 - steps)) / (2 * steps)
best = np.abs(forward - by_hand).argmin()
print(f"by finite differences: f'(3) ≈ {forward[best]:.9f} with the best step, {steps[best]:g}")

# %%
# By the engine
# -------------
# The same text, `f`, run on a Tensor. Each operation leaves a node that knows the way back;
# `backward` walks over the nodes once and multiplies by the chain rule. No step size, no rounding
# beyond that of the operations themselves.

x = tg.Tensor(3.0, requires_grad=True)
f(x).backward()
print(f"by the engine:         f'(3) = {x.grad:g}")
assert x.grad == by_hand

figure, ax = plt.subplots(figsize=(7, 4.2))
ax.loglog(steps, np.abs(forward - by_hand) + 1e-17, "o-", color=RED)
ax.loglog(steps, np.abs(central - by_hand) + 1e-17, "s-", color=BLUE)
ax.set(xlabel="step h", ylabel="error of the derivative", ylim=(1e-17, 3),
       title="Finite differences of x·x + x at 3: every step has its error")
ax.text(6e-5, 3e-3, "(f(3+h) − f(3)) / h", color=RED, ha="right")
ax.text(4e-7, 3e-12, "(f(3+h) − f(3−h)) / 2h,\nwith rounding errors only,\n"
                     "as f is a parabola", color=BLUE, va="center", ha="right")
ax.text(1.5e-14, 4e-17, "the engine: error 0", color=GREEN, va="bottom", weight="bold")
ax.axhline(2e-17, color=GREEN)
save(figure, chosen.out / "finite_differences.png")

# %%
# What the engine walked
# ----------------------
# `tensor.node.parents` is the whole graph: no other book is kept. A node is made after the nodes
# it was made from, so its time is later than theirs. Sorting by time, newest first, is therefore an
# order in which nothing is visited before everything that leads to it: no search for such an order.
#
# The numbers are seen by standing at the engine's gate. A watcher is told the name of every step
# and may look at what it gives: values on the way forward and, under a name with a prime, gradients
# of the inputs on the way back. Steps come in the order of the nodes, so the two fit together.


class Recorder:
    """A watcher that keeps the values of the steps, and the gradients that each sends on."""

    def __init__(self):
        self.values, self.gradients, self.names = [], [], []

    def __call__(self, name, step):
        result = step()
        if name.endswith("'"):
            self.gradients.append(result)
            self.names.append(name)
        else:
            self.values.append(result[0])
        return result


def newest_first(root):
    """All nodes that lead to this one, the latest first."""
    found, todo = {root}, [root]
    while todo:
        new = {parent for parent in todo.pop().parents if parent} - found
        found |= new
        todo += new
    return sorted(found, key=lambda node: -node.time)


def record(function, at):
    """Run a function forward and back under watch.

    Returns its nodes, newest first, the value of each, and for each edge (child, parent, gradient).
    """
    x, recorder = tg.Tensor(at, requires_grad=True), Recorder()
    with tg.watching(recorder):
        y = function(x)
        nodes = newest_first(y.node)
        parents = {node: node.parents for node in nodes}          # backward will free the graph
        y.backward()
    steps = [node for node in nodes if parents[node]]
    values = dict(zip(steps, reversed(recorder.values), strict=True)) | {x.node: x.data}
    edges = [(node, parent, g) for node, sent in zip(steps, recorder.gradients, strict=True)
             for parent, g in zip(parents[node], sent, strict=True) if parent]
    return nodes, values, edges, recorder.names


# %%
# In the picture time runs upwards, so every arrow of the way back points down. What arrives at a
# node is added up there before the node passes anything on.

def draw(ax, title, function, at):
    """Nodes in the order of their making, edges with the gradients that went along them."""
    nodes, values, edges, _ = record(function, at)
    row = {node: -i for i, node in enumerate(nodes)}
    arrived = {node: sum(g for _, to, g in edges if to is node) for node in nodes}
    arrived[nodes[0]] = 1.0
    for node in nodes:
        leaf, y = node is nodes[-1], row[node]
        name = f"{len(nodes) + y}.  {'x' if leaf else node.name}, shape {node.shape}"
        ax.add_patch(FancyBboxPatch((-1, y - 0.22), 2, 0.44, boxstyle="round,pad=0.08",
                                    fc="#E3F0F9" if leaf else "white", ec=BLUE, lw=1.5))
        ax.text(0, y, f"{name}\nvalue {values[node]:g}", ha="center", va="center", linespacing=1.4)
        ax.text(-1.25, y, f"gradient\n{arrived[node]:g}", ha="right", va="center",
                color=GREEN if leaf else INK, weight="bold" if leaf else "normal")
    for lane, (child, parent, g) in lanes(edges, row):
        arc(ax, row[child] - 0.1, row[parent] + 0.1, 0.8 + 0.8 * lane, f"{g:g}")
    ax.set(xlim=(-2.4, 3.9), ylim=(-4.4, 0.75))
    ax.text(-1.08, 0.5, title, fontsize=12)
    ax.axis("off")


def lanes(edges, row):
    """A lane for each edge, the short ones inside, so that edges over the same rows keep apart."""
    taken = []
    for edge in sorted(edges, key=lambda edge: row[edge[0]] - row[edge[1]]):
        top, bottom = row[edge[0]], row[edge[1]]
        lane = next(i for i in range(99) if not any(
            i == j and bottom < t and b < top for j, t, b in taken))
        taken.append((lane, top, bottom))
        yield lane, edge


def arc(ax, top, bottom, reach, label):
    """An arrow from one row down to another, bulging to the right."""
    start, corners = 1.1, [(0, top), (reach, top), (reach, bottom), (0, bottom)]
    path = Path([(start + x, y) for x, y in corners], [Path.MOVETO] + 3 * [Path.CURVE4])
    ax.add_patch(FancyArrowPatch(path=path, arrowstyle="-|>", mutation_scale=14, color=ORANGE,
                                 lw=1.8))
    ax.text(start + 0.75 * reach, (top + bottom) / 2, label, ha="center", va="center",
            bbox=dict(boxstyle="round,pad=0.15", fc="white", ec="none"))


def diamond(x):
    s = x * 3
    return (s + 1) * (s * s)


figure, axes = plt.subplots(1, 2, figsize=(10.5, 6.2))
draw(axes[0], "x·x + x at 3", f, 3.0)
draw(axes[1], "(s + 1)·(s·s) with s = 3x, at x = 2", diamond, 2.0)
axes[0].text(-1.08, -2.7, "Numbered as they were made;\nthe walk goes from top to bottom.\n"
             "On an arrow: the gradient that\na step sends to an input.\n"
             "Beside a node: the sum of what arrives,\ncomplete before the walk gets there.",
             color=GREY, va="top", linespacing=1.5)
save(figure, chosen.out / "graph.png")

nodes, _, edges, visited = record(diamond, 2.0)
assert all(child.time > parent.time for child, parent, _ in edges)
print("the way back of (s + 1)·(s·s):", ", ".join(visited))
print("every node is younger than its parents, so newest first is an order that works")

# %%
# What a poor order costs
# -----------------------
# Passing on each gradient as it arrives, without waiting for the others, gives the same sums. But
# a node is then visited once for each *path* that leads to it. Where a value is used twice again
# and again, paths double at each step.


def paths(node):
    """How many visits it takes to follow every path to its end."""
    return 1 + sum(paths(parent) for parent in node.parents if parent)


doublings = 10 if chosen.quick else 18
y = tg.Tensor(1.0, requires_grad=True)
for _ in range(doublings):
    y = y + y
print(f"{doublings} doublings: {paths(y.node):,} visits path by path, "
      f"{len(newest_first(y.node))} newest first")

# %%
# Two inputs, many steps
# ----------------------
# The example in micrograd's README, which prints 24.7041, 138.8338 and 645.5773 there.

a, b = tg.Tensor(-4.0, True, dtype="float64"), tg.Tensor(2.0, True, dtype="float64")
c = a + b
d = a * b + b**3
c = c + c + 1
c = c + 1 + c + (-a)
d = d + d * 2 + F.relu(b + a)
d = d + 3 * d + F.relu(b - a)
e = c - d
g = e**2 / 2.0
g = g + 10.0 / e**2
g.backward()
print(f"micrograd's example:   g = {g.item():.4f},  ∂g/∂a = {a.grad:.4f},  ∂g/∂b = {b.grad:.4f}")

# %%
# Once more
# ---------
# `tg.grad` turns a function into its derivative, and the derivative into the second one: the rules
# are simply run again, on Tensors. The parabola's is 2 everywhere; tanh shows more.

print(f"second derivative:     f''(3) = {tg.grad(tg.grad(f))(3.0).item():g}")


def derivative(function):
    """The derivative at many places at once: they do not meet, so the gradient of the sum is it."""
    return tg.grad(lambda x: function(x).sum())


points = np.linspace(-3.5, 3.5, 281)
figure, ax = plt.subplots(figsize=(7, 4.2))
curve = F.tanh
for name, color, at in [("tanh", INK, (2.6, 1.1)), ("first", BLUE, (0.2, 1.07)),
                        ("second", GREEN, (-1.5, 0.85)), ("third", RED, (0.55, -1.8))]:
    ax.plot(points, curve(tg.Tensor(points)).numpy(), color=color)
    ax.text(*at, name, color=color, weight="bold")
    curve = derivative(curve)
ax.axhline(0, color=GREY, lw=0.8)
ax.set(xlabel="x", ylabel="value", ylim=(-2.3, 1.5),
       title="tanh and its derivatives, all by the engine")
save(figure, chosen.out / "derivatives.png")

"""
Your own operation in ten lines
===============================

An operation is one function on arrays: it returns its value and the way back. Here swish with a
slope that is learnt, y = x·σ(βx), is written, checked, used in a network, timed, and differentiated
twice. No file of the library is touched.
"""

import numpy as np
from picture import GREY, RED, options, plt, save

import tinygrad_tfm as tg
from tinygrad_tfm import nn
from tinygrad_tfm.backend import namespace
from tinygrad_tfm.testing import check_rule

chosen = options(__file__, __doc__)

# %%
# The rule
# --------
# Two inputs, so two ways back: ∂y/∂x = σ + βy(1 − σ) and ∂y/∂β = xy(1 − σ). The slope is one
# number for all of x; the engine sums its gradient, the rule need not know. `namespace` gives
# NumPy, CuPy, or the library's own functions, so that the same text runs on a GPU and is
# differentiated again.


def swish(x, slope):
    """y = x·σ(βx), σ by way of tanh, which cannot overflow."""
    s = 0.5 * namespace(x).tanh(0.5 * slope * x) + 0.5
    y = x * s
    return y, (lambda g: g * (s + slope * y * (1 - s)),
               lambda g: g * (x * y * (1 - s)))


# %%
# The check
# ---------
# `check_rule` compares the way back, and the way back of the way back, with finite differences.
# Break it on purpose (say, forget the slope in the first line) and it says which gradient is wrong.

rng = np.random.default_rng(0)
check_rule(swish, rng.standard_normal((4, 5)), np.array(1.5))
print("check_rule: the gradients and the second derivatives of swish are right")


def forgetful(x, slope):
    y, (_, back_slope) = swish(x, slope)
    s = 0.5 * namespace(x).tanh(0.5 * slope * x) + 0.5
    return y, (lambda g: g * (s + y * (1 - s)), back_slope)


try:
    check_rule(forgetful, rng.standard_normal((4, 5)), np.array(1.5))
except AssertionError as error:
    print(f"with the slope forgotten in one place: {str(error).splitlines()[0]}")

# %%
# The function and its derivatives
# --------------------------------
# `lift` makes a function on Tensors of the rule. `tg.grad` gives its derivative, and that one's.
# The steeper the slope, the closer to ReLU, whose second derivative is a spike at 0.

op = tg.lift(swish)
print("second derivative at 0 (it is β/2):",
      [round(tg.grad(tg.grad(op))(0.0, slope).item(), 6) for slope in (0.5, 1.0, 2.0, 4.0)])


def derivative(function):
    """∂/∂x at many places at once: they do not meet, so the gradient of the sum is it."""
    return tg.grad(lambda x, slope: function(x, slope).sum())


points = np.linspace(-4, 4, 401)
slopes = {0.5: "#9ECAE1", 1.0: "#4292C6", 2.0: "#2166AC", 4.0: "#08306B"}
figure, axes = plt.subplots(1, 3, figsize=(11.5, 4))
curve = op
for ax, title in zip(axes, ["x·σ(βx)", "first derivative", "second derivative"], strict=True):
    for slope, color in slopes.items():
        ax.plot(points, curve(tg.Tensor(points), slope).numpy(), color=color)
        ax.plot([], [], color=color, label=f"β = {slope:g}")
    ax.set(title=title, xlabel="x")
    ax.axhline(0, color=GREY, lw=0.8, zorder=0)
    curve = derivative(curve)
axes[0].set_ylim(-1.2, 4.2)
axes[0].legend(loc="upper left")
save(figure, chosen.out / "swish.png")

# %%
# In a network
# ------------
# A module whose attribute is a Tensor with a gradient: that is a parameter, and nothing has to be
# registered. `FeedForward` takes any function of a Tensor as its activation, and a module is one.


class Swish(nn.Module):
    def __init__(self, slope=1.0):
        self.slope = tg.Tensor(slope, requires_grad=True)

    def forward(self, x):
        return op(x, self.slope)


tg.manual_seed(1)
network = nn.Sequential(nn.Linear(1, 16), nn.FeedForward(16, 32, activation=Swish()),
                        nn.Linear(16, 1))
slope = network[1].activation.slope
print("parameters:", ", ".join(name for name, _ in network.named_parameters()))

x = np.linspace(-1, 1, 128, dtype=np.float32)[:, None]
target = np.sign(np.sin(5 * x)) * np.abs(np.sin(5 * x)) ** 0.3       # waves with steep flanks
optimizer = tg.optim.Adam(network.parameters())
steps = 200 if chosen.quick else 2000
losses, course = [], []
with tg.watch.timed() as timer:
    for step in range(steps):
        optimizer.lr = tg.optim.warmup_cosine(step, peak=0.03, floor=0, warmup=50, total=steps)
        loss = tg.functional.mse(network(tg.Tensor(x)), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        course.append(slope.item())

# %%
# A watcher saw every operation, ours among them under its own name, and its way back with a prime.

print(timer)
assert timer.calls["swish"] == timer.calls["swish'"] == len(losses)
print(f"loss {losses[0]:.3f} → {losses[-1]:.4f}, slope {course[0]:.2f} → {course[-1]:.2f}")

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
left.plot(x, target, color=GREY, lw=4, alpha=0.5, label="to be learnt")
left.plot(x, network(tg.Tensor(x)).numpy(), color="#08306B", label="network")
left.legend(loc="upper left")
left.set(xlabel="x", ylabel="y", title="A network with swish", ylim=(-1.3, 1.6),
         xticks=[-1, -0.5, 0, 0.5, 1])
right.plot(course, color=RED)
right.set(xlabel="step", ylabel="slope β", title="The slope is learnt with the weights",
          xticks=np.linspace(0, steps, 5))
save(figure, chosen.out / "learnt_slope.png")

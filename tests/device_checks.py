"""What must hold on a device as it does on the host. Which CuPy is behind it, these checks do not know.

tests/test_device.py runs them on the stand-in, at every run; tests/gpu/ on a GPU. The host's numbers come from the
plain rules where the comparison is exact.
"""

import cases
import numpy as np
import pytest
from drawn import normal

import tinygrad_tfm as tg
from tinygrad_tfm import functional as F, ops, optim
from tinygrad_tfm.backend import to_device
from tinygrad_tfm.generate import Sampling, generate
from tinygrad_tfm.random import rng
from tinygrad_tfm.text import CharTokenizer, random_batch

TEXT = "".join(f"{n} times {n} is {n * n}.\n" for n in range(400))
TOKENIZER = CharTokenizer.from_text(TEXT)
TINY = dict(context=16, layers=2, heads=2, width=16)
SHAPES = {                                             # what a decoder may be made of, and with dropout or without
    "gpt": {},
    "dropout": dict(dropout=0.2),
    "original": dict(dropout=0.1, positions="sinusoidal", tied=False, bias=True, activation="relu", pre_norm=False,
                     scale_embedding=True),
    "silu": dict(activation="silu"),
    "gelu_tanh": dict(activation="gelu_tanh", bias=True),
    "rotary": dict(positions="rotary"),
    "relative": dict(positions="relative"),
    "alibi": dict(positions="alibi"),
    "none": dict(positions="none")}
OPTIMIZERS = {
    "adamw": lambda parameters: optim.AdamW(parameters, 1e-2, betas=(0.9, 0.99), decay=0.1),
    "adam": lambda parameters: optim.Adam(parameters, 1e-2),
    "sgd": lambda parameters: optim.SGD(parameters, 0.1),
    "momentum": lambda parameters: optim.SGD(parameters, 0.1, momentum=0.9)}


# ---- rules ----------------------------------------------------------------------------------------------------------

# Every call of tests/cases.py, by its rule; and arithmetic with Python's numbers, which stand on no device.
RULES = {row.rule.__name__: [(row.rule, *call) for call in row.calls] for row in cases.ROWS}
NUMBERS = {f"{rule.__name__}, a number on the {side}": (rule, inputs, {}, 2)
           for rule in (ops.add, ops.sub, ops.mul, ops.div, ops.power, ops.maximum, ops.minimum)
           for side, inputs in (("right", (cases.A, 2.0)), ("left", (2.0, cases.A)))}
RULES |= {name: [call] for name, call in NUMBERS.items()}


def moved(x, device):
    """Arrays on the device, also inside the tuple of an index."""
    if isinstance(x, tuple):
        return tuple(moved(part, device) for part in x)
    return to_device(x, device) if isinstance(x, np.ndarray) else x


def prepared(call, device, dtype):
    """The op of a call, its inputs as leaves on the device, and its settings there."""
    rule, inputs, settings, _ = call
    print(rule.__name__, *inputs, settings)            # shown if the check fails
    leaves = [tg.Tensor(x, True, dtype, device) if isinstance(x, np.ndarray | np.generic) else x for x in inputs]
    return tg.lift(rule), leaves, {name: moved(value, device) for name, value in settings.items()}


def weights(shape, device, dtype, seed=3):
    """Numbers to weigh a value with, so that its gradient is not everywhere the same."""
    return tg.Tensor(normal(*shape, seed=seed), dtype=dtype, device=device)


def on_host(tensors, device):
    """The arrays in host memory; all must have been on the device."""
    assert all(x.device == device for x in tensors)
    return [x.numpy() for x in tensors]


def value_and_gradients(call, device, dtype):
    op, leaves, settings = prepared(call, device, dtype)
    y = op(*leaves, **settings)
    leaves = [x for x in leaves if isinstance(x, tg.Tensor)]
    y.backward(weights(y.shape, device, y.dtype).data)
    return on_host([y, *(tg.Tensor(x.grad) for x in leaves)], device)


def second_derivatives(call, device, dtype):
    """∂/∂x Σ v·(∂/∂x Σ w·y) for each input."""
    op, leaves, settings = prepared(call, device, dtype)
    found = []
    for i, leaf in enumerate(leaves):
        def weighted(x, i=i):
            y = op(*leaves[:i], x, *leaves[i + 1:], **settings)
            return (y * weights(y.shape, device, y.dtype)).sum()

        def weighted_gradient(x, weighted=weighted):
            return (tg.grad(weighted)(x) * weights(x.shape, device, x.dtype, seed=4)).sum()
        if isinstance(leaf, tg.Tensor):
            found.append(tg.grad(weighted_gradient)(leaf))
    return on_host(found, device)


def same(found, expected, dtype):
    """The dtypes are the same, and the numbers are but for the order of additions."""
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        assert a.dtype == b.dtype and a.shape == b.shape
        tolerance = 1e-5 if dtype == "float32" else 1e-12
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def rule_gives_the_hosts_numbers(name, dtype):
    """Value and gradients, in the host's precision, with the twins of either and without."""
    for call in RULES[name]:
        with tg.fused(False):
            expected = value_and_gradients(call, "cpu", dtype)
            same(value_and_gradients(call, "cuda", dtype), expected, dtype)
        with tg.fused():
            same(value_and_gradients(call, "cpu", dtype), expected, dtype)
            same(value_and_gradients(call, "cuda", dtype), expected, dtype)


def rule_gives_the_hosts_second_derivatives(name):
    for call in RULES[name]:
        if call[-1] == 2:
            same(second_derivatives(call, "cuda", "float64"), second_derivatives(call, "cpu", "float64"), "float64")


def rules_without_a_row():
    """The rules that stand behind `functional` and behind Tensor's methods, less those that the table has."""
    lifted = [*vars(F).values(), *(getattr(x, "__func__", x) for x in vars(tg.Tensor).values())]
    return {op.rule.__name__ for op in lifted if hasattr(op, "rule")} - RULES.keys()


# What is made of rules: functions and methods of Tensors, from one tensor of shape (3, 4) and ids of shape (3,).
COMPOSED = {
    "split": lambda x, ids: F.stack([part.sum() for part in F.split(x, 2, axis=1)]),
    "sort": lambda x, ids: F.sort(x, axis=1),
    "topk": lambda x, ids: F.topk(x, 2, axis=1)[0],
    "topk, indices": lambda x, ids: F.topk(x, 2, axis=1)[1] * x.sum(),
    "one_hot": lambda x, ids: F.one_hot(ids, 4) * x,
    "where": lambda x, ids: F.where(x > 0, x, 0.1 * x),
    "concatenate": lambda x, ids: F.concat([x, x * 2], axis=-1),
    "einsum": lambda x, ids: F.einsum("ij,kj", x, x),
    "operators": lambda x, ids: 1 - (2 / (abs(x) + 1) - x ** 2) @ x.T + -x.sum(),
    "comparisons": lambda x, ids: x * (x > 0.5) + x * (x <= -0.5) + x * (x == x.max()),
    "index by a tensor": lambda x, ids: x[ids] * x[ids, ids][:, None],
    "iteration": lambda x, ids: F.stack(list(x))[1:],
    "methods": lambda x, ids: (x.reshape(2, 6).transpose().swapaxes(0, 1).clip(-1, 1).cumsum(0).squeeze() + x.std()
                               + x.min() + x.prod()),
    "precision": lambda x, ids: (x.astype("float64") / 3).astype(x.dtype),
}


def composition_gives_the_hosts_numbers(name):
    found = {}
    for device in ("cpu", "cuda"):
        x, ids = tg.Tensor(cases.A, True, device=device), tg.Tensor(np.array([2, 0, 2]), device=device)
        y = COMPOSED[name](x, ids)
        (y * weights(y.shape, device, y.dtype)).sum().backward()
        found[device] = on_host([y, tg.Tensor(x.grad)], device)
    same(found["cuda"], found["cpu"], "float64")


# ---- training -------------------------------------------------------------------------------------------------------

def decoder(device, dtype=None, **shape):
    """A small decoder, its first weights the same on any device."""
    tg.manual_seed(1)
    config = tg.models.DecoderConfig(vocab=TOKENIZER.size, **TINY | shape)
    return tg.models.Decoder(config).to(device, dtype=dtype)


class Training:
    """A decoder on a device, its optimiser and the text; `step` is the whole training step as `train` does it.

    Making one starts the random numbers afresh.
    """

    def __init__(self, device, optimizer="adamw", dtype=None, total=8, batch=8, **shape):
        self.model, self.total, self.count, self.batch = decoder(device, dtype, **shape), total, 0, batch
        self.ids = to_device(TOKENIZER.encode(TEXT), device)
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.peak = self.optimizer.lr

    def step(self):
        """The loss before the step and the norm of its gradient, on the device, unread."""
        self.optimizer.lr = optim.warmup_cosine(self.count, self.peak, 0.1 * self.peak, 3, self.total)
        x, y = random_batch(self.ids, self.batch, self.model.config.context, rng())
        loss = self.model.loss(x, y)
        loss.backward()
        norm = optim.global_norm(self.model.parameters())
        self.optimizer.step(scale=optim.clip_factor(norm, 0.5))
        self.optimizer.zero_grad()
        self.count += 1
        return loss.data, norm

    def run(self):
        """Losses and norms of all the steps, read at the end."""
        found = [self.step() for _ in range(self.total)]
        return np.array([[float(loss), float(norm)] for loss, norm in found])


def training_gives_the_hosts_losses(shape, optimizer="adamw", dtype=None, rel=1e-6):
    """Also with dropout: the masks are the same on any device."""
    host = Training("cpu", optimizer, dtype, **SHAPES[shape])
    with tg.fused(False):
        expected = host.run()
    device = Training("cuda", optimizer, dtype, **SHAPES[shape])
    found = device.run()
    np.testing.assert_allclose(found, expected, rtol=rel)
    assert len({*expected[:, 0]}) == host.total and (expected[:, 1] > 0.5).any()           # it moved, and was clipped
    return host, device


def twenty_steps_lower_the_loss(optimizer="adamw"):
    training = Training("cuda", optimizer, total=20)
    losses = training.run()[:, 0]
    assert losses[-3:].mean() < losses[:3].mean() - 0.1


def nothing_is_float64():
    """Every value and gradient of a training step, what the optimiser keeps, and the weights after it."""
    seen = set()

    def look(name, step):
        result = step()
        seen.update((name, str(x.dtype)) for x in tg.watch.arrays_in(result) if x.dtype.kind == "f")
        return result
    for shape in SHAPES.values():
        training = Training("cuda", **shape)
        with tg.watching(look):
            loss, norm = training.step()
        kept = [a for arrays in training.optimizer.state.values() for a in arrays]
        weights = [x.data for _, x in training.model.named_tensors()]
        seen |= {("optimiser", str(a.dtype)) for a in (loss, norm, optim.clip_factor(norm, 1.0), *kept, *weights)}
    assert {name for name, _ in seen} >= {"matmul", "matmul'", "attention'", "cross_entropy", "gelu'", "dropout"}
    assert [name for name, dtype in sorted(seen) if dtype != "float32"] == []


# ---- generation -----------------------------------------------------------------------------------------------------

def generation_gives_the_hosts_tokens(cached):
    """Within the context and beyond it, from the same seed."""
    found = {}
    for device in ("cpu", "cuda"):
        model = decoder(device)
        for p in model.parameters():
            p.data *= 5                                # fresh weights find all tokens about equally likely
        tokens = generate(model, [1, 2, 3], 40, Sampling(temperature=0.8, top_k=9), np.random.default_rng(5), cached)
        found[device] = list(tokens)
    assert found["cuda"] == found["cpu"] and len(set(found["cpu"])) > 4
    return found["cuda"]


# ---- mixed devices --------------------------------------------------------------------------------------------------

def ones(*shape, device="cuda", dtype="float32"):
    return tg.Tensor(np.ones(shape), dtype=dtype, device=device)


MIXED = {
    "add": lambda: ones(2) + ones(2, device="cpu"),
    "add, host first": lambda: ones(2, device="cpu") + ones(2),
    "add, NumPy's array": lambda: ones(2) + np.ones(2),
    "add, NumPy's array first": lambda: np.ones(2) + ones(2),
    "mul": lambda: ones(2, 2) * ones(2, device="cpu"),
    "matmul": lambda: ones(2, 2) @ ones(2, 2, device="cpu"),
    "maximum": lambda: F.maximum(ones(2), ones(2, device="cpu")),
    "mse": lambda: F.mse(ones(2), ones(2, device="cpu")),
    "layer_norm": lambda: F.layer_norm(ones(3, 2), ones(2, device="cpu")),
    "concat": lambda: F.concat([ones(2, device="cpu"), ones(2)]),
    "stack": lambda: F.stack([ones(2), ones(2, device="cpu")]),
    "einsum": lambda: F.einsum("i,i", ones(2), ones(2, device="cpu")),
    "attention": lambda: F.attention(ones(1, 3, 4), ones(1, 3, 4, device="cpu"), ones(1, 3, 4)),
    "matmul, a layer's": lambda: tg.nn.Linear(2, 2)(ones(3, 2)),
}
MIXED_SETTINGS = {
    "embedding": lambda: F.embedding(ones(3, 2), ids=np.array([0, 1])),
    "embedding, ids on the device": lambda: F.embedding(ones(3, 2, device="cpu"), ids=ones(2, dtype="int64")),
    "embedding, a decoder's": lambda: decoder("cuda")(np.array([[0, 1]])),
    "cross_entropy": lambda: F.cross_entropy(ones(3, 2), targets=np.array([0, 1, 0])),
    "binary_cross_entropy": lambda: F.binary_cross_entropy(ones(3), targets=np.ones(3)),
    "where": lambda: F.where(np.array([True, False]), ones(2), 0.0),
    "getitem": lambda: ones(2)[np.array([0])],
    "take_along_axis": lambda: F.take_along_axis(ones(2), indices=np.array([0]), axis=0),
    "attention": lambda: F.attention(ones(1, 3, 4), ones(1, 3, 4), ones(1, 3, 4), mask=np.ones((3, 3), bool)),
}


def mixing_names_the_op_the_devices_and_the_cure(name, mixes=MIXED):
    with pytest.raises(TypeError) as caught:
        mixes[name]()
    said = str(caught.value)
    assert said.startswith(name.split(",")[0] + ":") and "on cuda" in said and "on cpu" in said
    assert ".to('cuda')" in said

"""Products in TF32, and what flows between layers in bf16: near enough to float32, and stored as they should be.

On the stand-in, kernels on the emulator, products in NumPy's imitation of cuBLASLt. What bf16 may be off by is 2⁻⁸ of a
number, once for every time that it is stored.
"""

import sys

import device_checks as checks
import numpy as np
import pytest
import standin
from test_twins import BIAS, GAIN, heads, ids, normal

import tinygrad_tfm as tg
from tinygrad_tfm import functional as F, kernels, ops
from tinygrad_tfm.backend import to_device
from tinygrad_tfm.emulator import COMPILER
from tinygrad_tfm.kernels import cuda, cuda_attention
from tinygrad_tfm.kernels.precision import PRECISIONS, bfloat16
from tinygrad_tfm.tensor import lift
from tinygrad_tfm.train import TrainConfig

ml_dtypes = pytest.importorskip("ml_dtypes", reason="NumPy has no bfloat16: pip install 'tinygrad_tfm[test]'")
pytestmark = pytest.mark.skipif(not COMPILER, reason="kernels run on the CPU only with g++, on Linux")
BF16 = np.dtype(ml_dtypes.bfloat16)
U = 2**-8


@pytest.fixture(autouse=True)
def cupy():
    with standin.install() as cupy:
        yield cupy


def leaf(x, dtype=np.float32):
    """A leaf on the device, float32, and what an op is given: its copy in bf16 behind a cast that has a way back."""
    x = tg.Tensor(x.astype(BF16).astype(np.float32) if dtype == BF16 else x, True, np.float32, "cuda")
    return x, cast(x) if dtype == BF16 else x


@lift
def cast(x):
    return x.astype(BF16), (lambda g: g.astype(np.float32),)


LOW, HIGH = BF16, np.dtype(np.float32)
TILES = heads(64, 128, K=32, B=1)
CALLS = [                                              # rule, inputs and how each is stored, settings, value's dtype
    ("matmul", [(normal(5, 6), LOW), (normal(6, 4), HIGH)], {}, LOW),
    ("matmul", [(normal(5, 6), HIGH), (normal(6, 4), HIGH)], {}, LOW),
    ("matmul", [(normal(2, 5, 6), LOW), (normal(6, 4), HIGH)], {}, LOW),
    ("matmul", [(normal(2, 5, 6), LOW), (normal(2, 6, 4), LOW)], {}, LOW),
    ("add", [(normal(5, 6), LOW), (normal(5, 6), LOW)], {}, LOW),
    ("add", [(normal(2, 5, 6), LOW), (normal(5, 6), HIGH)], {}, LOW),
    ("add", [(normal(6), HIGH), (normal(2, 5, 6), LOW)], {}, LOW),
    ("add", [(normal(5, 6), HIGH), (normal(5, 6), HIGH)], {}, HIGH),
    ("add", [(normal(5, 1), LOW), (normal(5, 6), HIGH)], {}, HIGH),
    ("gelu", [(normal(5, 7), LOW)], {}, LOW),
    ("layer_norm", [(normal(5, 24), LOW), (GAIN, HIGH), (BIAS, HIGH)], {}, LOW),
    ("layer_norm", [(normal(5, 7), LOW), (GAIN[:7], HIGH), (BIAS[:7], HIGH)], {}, HIGH),
    ("dropout", [(normal(5, 7), LOW)], {"p": 0.3, "key": 5}, LOW),
    ("softmax", [(normal(5, 7), LOW)], {}, LOW),
    ("softmax", [(normal(5, 7), LOW)], {"axis": 0}, HIGH),
    ("embedding", [(normal(13, 6), HIGH)], {"ids": ids((4, 5))}, LOW),
    ("cross_entropy", [(normal(6, 13), LOW)], {"targets": ids((6,))}, HIGH),
    ("attention", [(a, LOW) for a in TILES], {"causal": True}, LOW),
    ("attention", [(a, LOW) for a in TILES], {"p": 0.3, "key": 9}, LOW),
    ("attention", [(a, LOW) for a in heads(5, 7)], {"causal": True, "p": 0.3, "key": 9}, HIGH),
    ("attention", [(a, LOW) for a in TILES], {"mask": np.ones((64, 128), bool)}, HIGH),
    ("relu", [(normal(5, 7), LOW)], {}, HIGH),
    ("mean", [(normal(5, 7), LOW)], {"axis": -1}, HIGH),
    ("mul", [(normal(5, 7), LOW), (normal(7), HIGH)], {}, HIGH),
    ("swapaxes", [(normal(5, 7), LOW)], {"axis1": 0, "axis2": 1}, LOW),
    ("reshape", [(normal(5, 7), LOW)], {"shape": (35,)}, LOW)]


CASES = pytest.mark.parametrize("name, inputs, settings, stored", [
    pytest.param(*call, id=f"{call[0]}-{i}") for i, call in enumerate(CALLS)])


@CASES
def test_values_and_gradients_are_off_by_what_bf16_is_off_by(name, inputs, settings, stored):
    off_by_what_bf16_is_off_by(name, inputs, settings, stored)


def off_by_what_bf16_is_off_by(name, inputs, settings, stored):
    """Also on a GPU: tests/gpu."""
    rule = getattr(ops, name)
    leaves, given = zip(*(leaf(x, dtype) for x, dtype in inputs))
    with tg.precision("bf16"), standin.count_syncs() as waited:
        y = lift(rule)(*given, **{key: to_device(v, "cuda") if isinstance(v, np.ndarray) else v
                                  for key, v in settings.items()})
        assert y.dtype == stored
        weights = normal(*y.shape, seed=9).astype(BF16).astype(np.float32)
        y.backward(to_device(weights, "cuda").astype(y.dtype))
    assert waited.value == 0, waited.where
    exact = [tg.Tensor(x.numpy(), True, np.float64) for x in leaves]
    want = lift(rule)(*exact, **settings)
    want.backward(weights.astype(np.float64))
    assert all(x.grad.dtype == np.float32 and x.grad.shape == x.shape for x in leaves)
    for a, b in zip([y.numpy(), *(x.grad.get() for x in leaves)], [want.numpy(), *(x.grad for x in exact)]):
        a = a.astype(np.float64)
        # Rounded are the factors, the value, the gradient: a few times U of the largest that is added up.
        assert np.abs(a - b).max() <= 4 * U * max(1, np.abs(b).max()), name


def test_a_product_of_many_is_summed_in_float32():
    """65,536 ones: a sum in bf16 would end at 256."""
    n = 1 << 16
    ones = tg.Tensor(np.ones((1, n)), True, np.float32, "cuda"), tg.Tensor(np.ones((n, 1)), True, np.float32, "cuda")
    with tg.precision("bf16"):
        assert (ones[0] @ ones[1]).item() == n
        bias = tg.Tensor(np.zeros(3), True, np.float32, "cuda")
        (cast(tg.Tensor(np.ones((4096, 3)), device="cuda")) + bias).sum().backward()
    assert bias.grad.tolist() == [4096] * 3


REFUSED_BY_TILES = {                                   # what is near to what attention.cu is made for
    "lengths of queries": heads(63, 128, K=32, B=1), "lengths of keys": heads(64, 127, K=32, B=1),
    "width": heads(64, 128, K=16, B=1), "values of another width": heads(64, 128, K=32, B=1, V=64),
    "three axes": tuple(a[0] for a in TILES)}


@pytest.mark.parametrize("name", REFUSED_BY_TILES)
def test_what_tiles_are_not_made_for_goes_by_products(name, launched):
    q, k, v = (to_device(a.astype(BF16), "cuda") for a in REFUSED_BY_TILES[name])
    with tg.precision("bf16"):
        y = F.attention(q, k, v)
    assert launched["softmax"] == 1 and not launched["attention"] and y.dtype == np.float32
    exact, _ = ops.attention(*(a.astype(BF16).astype(np.float64) for a in REFUSED_BY_TILES[name]))
    np.testing.assert_allclose(y.numpy(), exact, atol=1e-5)
    with pytest.raises(ValueError, match="attention by tiles takes heads of 32 or 64"):
        cuda_attention._by_tiles(q, k, v, False, 1.0, 0.0, 0)


def test_tiles_need_bf16_throughout_and_causal_ones_as_many_keys(launched):
    q, k, v = (to_device(a.astype(BF16), "cuda") for a in heads(128, 64, K=32, B=1))
    with tg.precision("bf16"):
        F.attention(q, k, v, causal=True), F.attention(q, k.astype(np.float32), v), F.attention(q, k, v)
    assert launched["attention"] == 1


def test_tf32_rounds_the_factors_of_products_and_of_attention():
    x, w = normal(70, 50), normal(50, 30)
    q, k, v = heads(33, 40)
    for name, f in {"matmul": lambda: tg.Tensor(x, device="cuda") @ tg.Tensor(w, device="cuda"),
                    "attention": lambda: F.attention(*(tg.Tensor(a, device="cuda") for a in (q, k, v)))}.items():
        exact = f().numpy()
        with tg.precision("tf32"):
            gap = np.abs(f().numpy() - exact).max() / np.abs(exact).max()
        assert 2**-16 < gap < 2**-9, name


def test_a_weights_gradient_is_not_rounded_to_bf16():
    w = tg.Tensor(normal(6, 4), True, np.float32, "cuda")
    with tg.precision("bf16"):
        (tg.Tensor(normal(5, 6), device="cuda") @ w).sum().backward()
    assert (w.grad.get().view(np.uint32) & 0xFFFF).any()


def test_an_op_of_nothing_has_its_own_error():
    with tg.precision("bf16"), pytest.raises(ValueError, match="names 1 inputs, 0 were given"):
        F.einsum("i->i")


def test_without_ml_dtypes_it_is_told_before_anything_is_made(monkeypatch):
    bfloat16.cache_clear()
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match=r"precision 'bf16' needs the package ml_dtypes.*tinygrad_tfm\[cuda13\]"):
        TrainConfig(precision="bf16", device="cuda")
    bfloat16.cache_clear()


@pytest.mark.parametrize("name", ["float16", "", "fp32"])
def test_another_precision_is_refused(name):
    with pytest.raises(ValueError, match=f"precision is one of float32, tf32, bf16, not '{name}'"), tg.precision(name):
        pass
    with pytest.raises(ValueError, match="precision is one of"):
        TrainConfig(precision=name, device="cuda")


def test_a_cpu_knows_one_precision():
    x, w = (tg.Tensor(normal(*shape)) for shape in ((3, 4), (4, 5)))
    with tg.precision("bf16"):
        assert (x @ w).dtype == np.float32 and np.array_equal((x @ w).numpy(), x.numpy() @ w.numpy())
    with pytest.raises(ValueError, match="'tf32' is for a GPU.*--device cuda, or --precision float32"):
        TrainConfig(precision="tf32")


def test_by_the_plain_rules_all_is_float32():
    with tg.precision("bf16"), tg.fused(False):
        model = checks.decoder("cuda")
        assert model(to_device(np.array([[1, 2]]), "cuda")).dtype == np.float32


def test_a_nan_in_bf16_is_found():
    x = tg.Tensor(np.array([[1.0, np.nan]]), device="cuda", dtype=np.float32)
    with tg.precision("bf16"), pytest.raises(tg.watch.NaNFound, match="NaN in matmul"), tg.watch.find_nan():
        x @ tg.Tensor(np.ones((2, 2)), device="cuda", dtype=np.float32)


# ---- training -------------------------------------------------------------------------------------------------------

SHAPE = dict(context=64, layers=1, heads=2, width=64, dropout=0.1)


def losses(precision):
    with tg.precision(precision):
        training = checks.Training("cuda", total=6, batch=2, **SHAPE)
        return training, training.run()


@pytest.fixture(scope="module")
def curves():
    with standin.install(), standin.count_launches() as launched:
        found = {name: losses(name) for name in PRECISIONS}
    return found, launched


def test_the_loss_curves_agree(curves):
    """TF32 keeps 10 bits of a factor, bf16 7 of everything that flows. Six steps, with dropout and clipping."""
    curves_agree({name: run[:, 0] for name, (_, run) in curves[0].items()})


def curves_agree(found):
    """Also on a GPU: tests/gpu."""
    exact = found["float32"]
    assert exact[-1] < exact[0] - 0.2
    assert 0 < np.abs(found["tf32"] - exact).max() < 2**-10 * exact[0]
    assert 2**-14 < np.abs(found["bf16"] - exact).max() < 2**-7 * exact[0]


def test_weights_and_what_the_optimizer_keeps_are_float32(curves):
    for training, _ in curves[0].values():
        kept = [a for arrays in training.optimizer.state.values() for a in arrays]
        assert {a.dtype for a in [*kept, *(p.data for p in training.model.parameters())]} == {np.dtype(np.float32)}


def test_in_bf16_attention_goes_by_tiles(curves):
    _, launched = curves
    assert launched["attention"] == launched["attention_gkv"] == 6 and launched["softmax"] == 2 * 6


def test_what_flows_is_bf16_and_no_weights_are_kept():
    """Of a step in bf16 the ledger holds less than two thirds of the bytes that one in float32 keeps."""
    kept = {}
    for name in ("float32", "bf16"):
        with tg.precision(name):
            model = checks.decoder("cuda", **SHAPE)
            x = to_device(np.zeros((2, 64), int), "cuda")
            with tg.watch.saved_memory() as ledger:
                model.loss(x, x)
            kept[name] = sum(ledger.bytes.values())
    assert kept["bf16"] < 0.5 * kept["float32"]


def test_generation_in_bf16_gives_the_same_tokens_cached_and_not(launched):
    model, found = checks.decoder("cuda"), []
    for p in model.parameters():
        p.data *= 5                                    # fresh weights find all tokens about equally likely
    with tg.precision("bf16"):
        for cached in (True, False):
            found.append(list(tg.generate.generate(model, [1, 2, 3], 12, cached=cached,
                                                   rng=np.random.default_rng(5))))
    assert found[0] == found[1] and len(set(found[0])) > 3 and launched["softmax"]


def test_a_model_of_everything_trains_in_bf16():
    for shape in checks.SHAPES.values():
        runs = []
        for name in ("bf16", "float32"):
            with tg.precision(name):
                runs.append(checks.Training("cuda", total=3, **shape).run()[:, 0])
        assert 0 < np.abs(runs[0] - runs[1]).max() < 2**-6 * runs[1][0], shape


def test_moving_rules_are_named_as_they_are():
    assert {name for name in kernels.MOVES if hasattr(ops, name)} == kernels.MOVES


def test_bf16_is_known_by_its_dtype():
    assert cuda.is_bf16(np.ones(2, BF16)) and not any(map(cuda.is_bf16, (np.ones(2), 1.0, None, F)))

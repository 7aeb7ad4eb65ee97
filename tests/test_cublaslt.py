"""Products through cuBLASLt on the stand-in, where NumPy multiplies by address (standin_cublaslt.py).

Matrices lie in every way and are of every type, against float64; which algorithm is kept; and what happens where the
library is missing. On a GPU: gpu/test_products.py.
"""

import ctypes
import warnings
from functools import partial

import numpy as np
import pytest
import standin
from products import BF16, BFLOAT16, FLOAT32, LAYOUTS, TYPES, Numbers, bound, exact, numbers

from tinygrad_tfm.kernels import cublaslt
from tinygrad_tfm.kernels.cublaslt import Library, library, product


@pytest.fixture(autouse=True)
def cp(monkeypatch):
    monkeypatch.setattr(cublaslt, "WORKSPACE", 4096)               # a race fills it many times
    monkeypatch.setattr(cublaslt, "LARGE", 1)
    monkeypatch.setattr(cublaslt, "ALIGNED", 16)                   # as NumPy's memory always is; CuPy's is to 512
    with standin.install() as cupy:
        yield cupy


@pytest.fixture
def fake(cp):
    """The imitation that multiplies in this test."""
    return cublaslt.library().functions


# ---- numbers --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", LAYOUTS)
def test_products(cp, fake, name, kind):
    make_a, make_b, copied = LAYOUTS[name]
    dtype, wanted, tf32 = TYPES[kind]
    x = Numbers(cp, dtype)
    a, b = make_a(x), make_b(x)
    y = product(a, b, dtype=wanted, tf32=tf32)
    assert y.shape == (*a.shape[:-1], b.shape[-1]) and y.flags.c_contiguous
    assert y.dtype == (BF16 if kind == "bfloat16" else np.float32)
    assert (np.abs(exact(y) - exact(a) @ exact(b)) <= bound(a, b, kind)).all()
    [second, first, out] = fake.calls[-1].addresses
    assert ["a"] * (first != a.data.ptr) + ["b"] * (second != b.data.ptr) == list(copied)
    assert out == y.data.ptr
    np.testing.assert_array_equal(exact(product(a.copy(), b.copy(), dtype=wanted, tf32=tf32)), exact(y))


def test_tf32_rounds_the_factors_and_float32_does_not(cp):
    a, b = (cp.full((1, 1), value, np.float32) for value in (1 + 2.0**-12, 1 + 2.0**-11))
    assert product(a, b).item() == np.float32((1 + 2.0**-12) * (1 + 2.0**-11))
    assert product(a, b, tf32=True).item() == 1 + 2.0**-10


def test_sums_of_bfloat16_are_not_rounded_between(cp):
    ones = cp.ones((1, 1000), BF16)                                # where 256 + 1 is 256
    assert product(ones, ones.T, dtype="float32").item() == 1000
    assert product(ones, ones.T).dtype == BF16 and float(product(ones, ones.T).item()) == 1000


def test_the_result_is_rounded_once(cp):
    a, b = numbers(cp, 30, 70, dtype="bfloat16"), numbers(cp, 70, 20, dtype="bfloat16")
    np.testing.assert_array_equal(exact(product(a, b)), exact(product(a, b, dtype="float32").astype(BF16)))


@pytest.mark.parametrize("a, b", [((0, 3), (3, 2)), ((2, 3), (3, 0)), ((2, 0), (0, 3)), ((0, 2, 3), (0, 3, 2)),
                                  ((4, 2, 0), (4, 0, 3))])
def test_nothing_to_multiply(cp, fake, a, b):
    a, b = cp.ones(a, np.float32), cp.ones(b, np.float32)
    y = product(a, b)
    np.testing.assert_array_equal(y.get(), np.zeros((*a.shape[:-1], b.shape[-1])))
    y += 5
    assert product(a, b, onto=y) is y
    np.testing.assert_array_equal(y.get(), np.full(y.shape, 5))
    assert product(a.astype(BF16), b.astype(BF16)).dtype == BF16 and not fake.calls


# ---- added onto -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind, onto", [("float32", "float32"), ("tf32", "float32"), ("bfloat16", "bfloat16"),
                                        ("bfloat16 to float32", "float32")])
@pytest.mark.parametrize("part", [lambda x: x(3, 4, 5), lambda x: x(5, 6, 9)[1:4, 1:5, 2:7],
                                  lambda x: x(4, 3, 5).swapaxes(0, 1), lambda x: x(3, 6, 5)[:, 1:5]],
                         ids=["whole", "part", "heads side by side", "rows"])
@pytest.mark.parametrize("algorithms", [1, 3])
def test_onto(cp, fake, kind, onto, part, algorithms):
    fake.algorithms = algorithms                                   # several race; it is added once for all that
    a, b = (numbers(cp, 3, *sizes, dtype=TYPES[kind][0]) for sizes in [(4, 6), (6, 5)])
    x = Numbers(cp, onto)
    whole = []
    y = part(lambda *shape: whole.append(x(*shape)) or whole[0])
    before, others, elsewhere = exact(y), whole[0].copy(), y.copy()
    assert product(a, b, onto=y, tf32=TYPES[kind][2]) is y
    product(a, b, onto=elsewhere, tf32=TYPES[kind][2])
    np.testing.assert_array_equal(exact(elsewhere), exact(y))
    limit = bound(a, b, kind) + FLOAT32 * np.abs(exact(y)) * 1.01 + BFLOAT16 * np.abs(exact(y)) * (onto == "bfloat16")
    assert (np.abs(exact(y) - before - exact(a) @ exact(b)) <= limit).all()
    assert (exact(y) != before).any() and fake.calls[-1].beta == 1
    y[...] = 0                                                     # and nothing is written between and beside
    part(lambda *shape: others)[...] = 0
    np.testing.assert_array_equal(exact(whole[0]), exact(others))


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "bfloat16 to float32"])
def test_into_a_place_whatever_was_there(cp, fake, kind):
    a, b = (numbers(cp, *sizes, dtype=TYPES[kind][0]) for sizes in [(4, 6), (6, 5)])
    expected = product(a, b, dtype=TYPES[kind][1])
    room = cp.full((6, 5), np.nan, np.float32).astype(expected.dtype)
    assert product(a, b, into=room[1:5]) is not room and fake.calls[-1].beta == 0
    np.testing.assert_array_equal(exact(room[1:5]), exact(expected))
    assert np.isnan(exact(room[::5])).all()
    assert not product(a[:, :0], b[:0], into=room[1:5]).get().astype(np.float32).any()


def test_onto_a_row_whose_steps_mean_nothing(cp):
    row = cp.zeros(5, np.float32)
    product(cp.ones((1, 3), np.float32), cp.ones((3, 5), np.float32), onto=row[None])
    np.testing.assert_array_equal(row.get(), np.full(5, 3))


def test_onto_a_transposed_array_or_one_that_repeats_is_refused(cp):
    a, b = numbers(cp, 2, 4, 6), numbers(cp, 2, 6, 5)
    for onto in [cp.zeros((2, 5, 4), np.float32).swapaxes(1, 2), cp.zeros((2, 4, 10), np.float32)[..., ::2],
                 cp.broadcast_to(cp.zeros((4, 5), np.float32), (2, 4, 5))]:
        for place in ({"onto": onto}, {"into": onto}):
            with pytest.raises(ValueError, match="rows must be in one piece"):
                product(a, b, **place)
    with pytest.raises(ValueError, match=r"shape \(2, 4, 5\) has no place in an array of shape \(4, 5\)"):
        product(a, b, onto=cp.zeros((4, 5), np.float32))


@pytest.mark.parametrize("a, b", [((3,), (3, 2)), ((2, 3), (4, 2)), ((2, 2, 3), (3, 2)), ((2, 2, 3), (3, 3, 2))])
def test_shapes_that_do_not_multiply(cp, a, b):
    with pytest.raises(ValueError, match="do not multiply: .* equal leading axes"):
        product(cp.ones(a, np.float32), cp.ones(b, np.float32))


@pytest.mark.parametrize("a, b, settings", [
    ("float32", "bfloat16", {}), ("float32", "float32", {"dtype": "bfloat16"}), ("float64", "float64", {}),
    ("float32", "float32", {"onto": "bfloat16"}), ("bfloat16", "bfloat16", {"onto": "float32", "dtype": "bfloat16"}),
    ("bfloat16", "bfloat16", {"dtype": "float16"})])
def test_types_that_do_not_multiply(cp, a, b, settings):
    settings = {name: cp.ones((2, 2), value) if name == "onto" else value for name, value in settings.items()}
    with pytest.raises(TypeError, match="float32"):
        product(cp.ones((2, 2), a), cp.ones((2, 2), b), **settings)


def test_an_array_of_the_host_is_refused(cp):
    with pytest.raises(TypeError, match="one here is in the host's memory"):
        product(np.ones((2, 2), np.float32), cp.ones((2, 2), np.float32))
    with pytest.raises(TypeError, match="one here is in the host's memory"):
        product(*[cp.ones((2, 2), np.float32)] * 2, onto=np.ones((2, 2), np.float32))


# ---- plans ----------------------------------------------------------------------------------------------------------

def test_a_plan_is_made_once_for_a_kind(cp, fake):
    plans = cublaslt.library().plans
    x = partial(numbers, cp)
    product(x(4, 6), x(6, 5))
    [plan] = plans.values()
    product(x(4, 6, seed=1), x(6, 5, seed=1))
    assert list(plans.values()) == [plan]
    room = cp.zeros(100, np.float32)
    for count, call in enumerate([
            lambda: product(x(4, 6), x(6, 5), tf32=True), lambda: product(x(4, 6), x(6, 5), onto=x(4, 5)),
            lambda: product(x(6, 4).T, x(6, 5)), lambda: product(x(5, 6), x(6, 5)),
            lambda: product(x(4, 8)[:, :6], x(6, 5)),
            lambda: product(x(4, 6, dtype="bfloat16"), x(6, 5, dtype="bfloat16")),
            lambda: product(x(4, 6, dtype="bfloat16"), x(6, 5, dtype="bfloat16"), dtype="float32"),
            lambda: product(x(1, 4, 6), x(1, 6, 5), tf32=True), lambda: product(x(2, 4, 6), x(2, 6, 5))], 2):
        call()
        call()
        assert len(plans) == (count if count < 9 else count - 1)   # a batch of one is no other kind
    product(room[1:25].reshape(4, 6), x(6, 5))                      # begins 4 bytes on
    assert sorted({kind[0].alignment for kind in plans})[0] == 4


def test_the_fastest_algorithm_is_kept(cp, fake, monkeypatch):
    fake.algorithms, times, taken = 3, {1: [9, 5, 1, 3], 2: [99, 2, 2, 9], 3: [0, 4, 4, 4]}, []

    def elapsed(begin, end):
        taken.append(fake.calls[-1].algorithm)
        return times[taken[-1]].pop(0)
    monkeypatch.setattr(cp.cuda, "get_elapsed_time", elapsed)
    with standin.count_syncs() as waited:
        product(numbers(cp, 4, 6), numbers(cp, 6, 5))
        assert taken == [1] * 4 + [2] * 4 + [3] * 4 and waited.value == 12
        assert fake.calls[-1].algorithm == 2                       # medians, without the first: 3, 2, 4
        waited.reset()
        product(numbers(cp, 4, 6), numbers(cp, 6, 5))
        assert len(fake.calls) == 14 and fake.calls[-1].algorithm == 2 and not waited.value


def test_a_small_product_is_not_worth_a_race(cp, fake, monkeypatch):
    fake.algorithms = 3
    monkeypatch.setattr(cublaslt, "LARGE", 4 * 6 * 5)
    product(numbers(cp, 4, 6), numbers(cp, 6, 4))
    assert [call.algorithm for call in fake.calls] == [1]
    product(numbers(cp, 4, 6), numbers(cp, 6, 5))
    assert {call.algorithm for call in fake.calls} == {1, 2, 3}


def test_who_is_refused_loses_the_race_and_if_all_are_it_is_told(cp, fake, monkeypatch):
    fake.algorithms, real = 3, Library.multiply
    refused = {1, 3}

    def multiply(self, plan, *rest):
        if plan.algorithm.algorithm[0] in refused:
            raise RuntimeError("refused")
        real(self, plan, *rest)
    monkeypatch.setattr(Library, "multiply", multiply)
    product(numbers(cp, 4, 6), numbers(cp, 6, 5))
    assert {call.algorithm for call in fake.calls} == {2}
    refused.update(range(10))
    with pytest.raises(RuntimeError, match=r"float32 \(4, 7\) times \(7, 5\) in float32: refused"):
        product(numbers(cp, 4, 7), numbers(cp, 7, 5))


def test_no_race_while_a_graph_is_recorded(cp, fake, monkeypatch):
    fake.algorithms = 3
    with standin.count_syncs() as waited, monkeypatch.context() as recording:
        recording.setattr(cp.cuda.runtime, "streamIsCapturing", lambda stream: True)
        product(numbers(cp, 4, 6), numbers(cp, 6, 5))
        assert [call.algorithm for call in fake.calls] == [1] and not waited.value
    product(numbers(cp, 4, 6), numbers(cp, 6, 5))                  # what was recorded is what is done from now on
    assert [call.algorithm for call in fake.calls] == [1, 1]


def test_it_goes_by_the_current_stream(cp, fake, monkeypatch):
    stream = cp.cuda.Stream(non_blocking=True)
    stream.ptr = 77
    monkeypatch.setattr(cp.cuda, "get_current_stream", lambda: stream)
    product(numbers(cp, 4, 6), numbers(cp, 6, 5))
    assert fake.calls[-1].stream == 77


def test_a_product_may_be_kept_and_done_later(cp, fake):
    steps = []
    fake.run = steps.append
    a, b, y = numbers(cp, 4, 6), numbers(cp, 6, 5), cp.zeros((4, 5), np.float32)
    product(a, b, onto=y)
    assert not exact(y).any()
    [step] = steps
    step(), step()
    np.testing.assert_allclose(exact(y), 2 * exact(a) @ exact(b), rtol=1e-5)


# ---- the library ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("status, words", [*cublaslt.STATUS.items(), (99, "no words")])
def test_a_failure_names_the_product(cp, fake, status, words):
    fake.cublasLtMatmul = lambda *arguments: status
    with pytest.raises(RuntimeError) as error:
        product(numbers(cp, 4, 6), numbers(cp, 6, 5))
    for part in ("float32 (4, 6) times (6, 5) in float32", words, f"status {status} of cublasLtMatmul"):
        assert part in str(error.value)


def test_no_algorithm(cp, fake):
    fake.algorithms = 0
    with pytest.raises(RuntimeError, match="times .* has no algorithm"):
        product(numbers(cp, 4, 6), numbers(cp, 6, 5))


@pytest.fixture
def without(cp, monkeypatch):
    """The library is missing."""
    def load():
        raise OSError("libcublasLt.so.13: cannot open\nand where it was looked for")
    monkeypatch.setattr(cublaslt, "load", load)
    monkeypatch.setattr(cublaslt, "library", library)              # the real one, in place of the stand-in's
    for kept in (library, cublaslt._warn):
        kept.cache_clear()
    yield
    for kept in (library, cublaslt._warn):
        kept.cache_clear()


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("leading", [(), (2, 3)])
def test_without_the_library_cupy_multiplies_and_says_so_once(cp, without, kind, leading):
    dtype, wanted, tf32 = TYPES[kind]
    a, b = (numbers(cp, *leading, *sizes, dtype=dtype) for sizes in [(4, 6), (6, 5)])
    with pytest.warns(RuntimeWarning, match=r'cannot open\. CuPy .*pip install "cupy-cuda13x\[ctk\]"') as warned:
        y = product(a, b, dtype=wanted, tf32=tf32)
    assert len(warned) == 1 and warned[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = product(a, b, dtype=wanted, onto=y.copy(), tf32=tf32)
    limit = bound(a, b, kind)
    assert y.dtype == again.dtype == (BF16 if kind == "bfloat16" else np.float32)
    assert (np.abs(exact(y) - exact(a) @ exact(b)) <= limit).all()
    limit = limit + np.abs(exact(again)) * (FLOAT32 + BFLOAT16 * (kind == "bfloat16")) * 1.01
    assert (np.abs(exact(again) - exact(y) - exact(a) @ exact(b)) <= limit).all()


def test_cupy_alone_has_no_batches_in_bfloat16(cp):
    x = cp.ones((2, 3, 3), BF16)
    with pytest.raises(TypeError):
        x @ x


def test_what_is_missing(cp, without):
    assert cublaslt.missing() == "cuBLASLt cannot be used: libcublasLt.so.13: cannot open"


def test_nothing_is_missing(cp):
    assert cublaslt.missing() == ""


def test_a_proposal_has_the_size_that_the_header_gives_it():
    assert ctypes.sizeof(cublaslt.Algorithm) == 96
    assert [getattr(cublaslt.Algorithm, name).offset for name in ("workspace", "status", "waves", "reserved")] == [
        64, 72, 76, 80]


def test_the_real_library_understands_what_it_is_told():
    """All but the heuristic's answer, for which it needs a GPU."""
    try:
        functions = cublaslt.load()
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"no cuBLASLt: {str(error).splitlines()[0]}")

    class Told(Library):
        def __init__(self):
            self.functions, self.handle, self.asked = functions, ctypes.c_void_p(), False

        def call(self, name, *arguments):
            self.asked = name == "cublasLtMatmulAlgoGetHeuristic"
            if not self.asked:
                super().call(name, *arguments)

    library = Told()
    layout = cublaslt.Layout("bfloat16", 4, 4, 9, 5, 36, True, 2)
    with pytest.raises(RuntimeError, match="no algorithm"):
        library.proposals(layout, layout, layout._replace(dtype="float32", transposed=False), False)
    assert library.asked
    with pytest.raises(RuntimeError, match="status 7 of cublasLtMatmulPreferenceSetAttribute"):
        library.make("MatmulPreference", attributes=[(cublaslt.ALIGNMENTS[0], ctypes.c_uint64(16))])


# ---- the imitation is strict ----------------------------------------------------------------------------------------

REFUSED = {
    "an attribute that is not known": lambda lt: lt.make("MatmulDesc", 68, 0, attributes=[(7, ctypes.c_int32(1))]),
    "a value of another size": lambda lt: lt.make("MatmulDesc", 68, 0, attributes=[(3, ctypes.c_int64(1))]),
    "columns closer than they are long": lambda lt: lt.make("MatrixLayout", 0, 4, 3, 3, attributes=[]),
    "a type that is not known": lambda lt: lt.make("MatrixLayout", 2, 4, 3, 4, attributes=[]),
    "sizes that do not fit": lambda lt: propose(lt, first={"cols": 5}),
    "a result of another size": lambda lt: propose(lt, result={"rows": 3}),
    "batches that differ": lambda lt: propose(lt, second={"batch": 2, "stride": 20}),
    "a result written twice": lambda lt: propose(lt, *[{"batch": 2}] * 3),
}
FITS = (cublaslt.Layout("float32", 6, 4, 6, 1, 0, False, 16), cublaslt.Layout("float32", 5, 6, 5, 1, 0, False, 16),
        cublaslt.Layout("float32", 5, 4, 5, 1, 0, False, 16))


def propose(lt, first={}, second={}, result={}):                   # noqa: B006
    return lt.proposals(*(x._replace(**other) for x, other in zip(FITS, (first, second, result))), False)


def test_the_imitation_takes_what_fits(cp):
    assert len(propose(cublaslt.library())) == 1


@pytest.mark.parametrize("what", REFUSED)
def test_the_imitation_refuses(cp, what):
    with pytest.raises(RuntimeError, match="status 7"):
        REFUSED[what](cublaslt.library())


def test_the_imitation_knows_a_plan_for_other_addresses(cp):
    lt, x = cublaslt.library(), cp.zeros(100, np.float32)
    [plan] = propose(lt)
    a, b, out = x[:24], x[24:54], x[54:74]                         # not aligned as FITS says
    with pytest.raises(AssertionError, match="not aligned"):
        lt.multiply(plan, a, b, out, False)


def test_types_that_the_imitation_does_not_multiply(cp):
    with pytest.raises(RuntimeError, match="status 15"):
        propose(cublaslt.library(), *[{"dtype": "float32"}] * 2, {"dtype": "bfloat16"})

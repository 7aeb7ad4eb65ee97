"""Products by the real cuBLASLt: every layout and type, added in place, and recorded in a graph."""

import numpy as np
import pytest
from products import FLOAT32, LAYOUTS, TYPES, Numbers, bound, exact

from tinygrad_tfm.kernels import cublaslt
from tinygrad_tfm.kernels.cublaslt import product

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]
LARGE = {"a layer": (lambda x: x(4096, 384), lambda x: x(384, 1536), ""),
         "its weights' gradient": (lambda x: x(4096, 384).T, lambda x: x(4096, 1536), ""),
         "its input's gradient": (lambda x: x(4096, 1536), lambda x: x(384, 1536).T, ""),
         "scores": (lambda x: x(96, 256, 64), lambda x: x(96, 256, 64).swapaxes(1, 2), ""),
         # 65 characters: rows begin where no vector of numbers does
         "logits": (lambda x: x(4096, 384), lambda x: x(65, 384).T, ""),
         "the table's gradient": (lambda x: x(4096, 65).T, lambda x: x(4096, 384), ""),
         "its input's": (lambda x: x(4096, 65), lambda x: x(65, 384), "")}


def test_the_library_is_found():
    assert cublaslt.missing() == ""


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", LAYOUTS | LARGE)
def test_products(cupy, name, kind):
    make_a, make_b, _ = (LAYOUTS | LARGE)[name]
    dtype, wanted, tf32 = TYPES[kind]
    x = Numbers(cupy, dtype)
    a, b = make_a(x), make_b(x)
    y = product(a, b, dtype=wanted, tf32=tf32)
    assert (np.abs(exact(y) - exact(a) @ exact(b)) <= bound(a, b, kind, rounding=2)).all()
    again = product(a, b, dtype=wanted, tf32=tf32)
    np.testing.assert_array_equal(exact(again), exact(y))
    if y.dtype == np.float32:
        product(a, b, onto=again, tf32=tf32)
        limit = bound(a, b, kind, rounding=2) + 2 * FLOAT32 * np.abs(exact(again))
        assert (np.abs(exact(again) - exact(y) - exact(a) @ exact(b)) <= limit).all()


@pytest.mark.parametrize("kind", TYPES)
def test_a_recorded_product_follows_its_factors(cupy, kind):
    stream, pool = cupy.cuda.Stream(non_blocking=True), cupy.cuda.MemoryPool()
    dtype, wanted, tf32 = TYPES[kind]
    with stream, cupy.cuda.using_allocator(pool.malloc):
        x = Numbers(cupy, dtype)
        a, b = x(8, 70, 64), x(8, 50, 64).swapaxes(1, 2)
        eager = product(a, b, dtype=wanted, tf32=tf32)
        stream.begin_capture()
        recorded = product(a, b, dtype=wanted, tf32=tf32)
        graph = stream.end_capture()
        graph.launch(stream)
        stream.synchronize()
        np.testing.assert_array_equal(exact(recorded), exact(eager))
        a *= 2
        graph.launch(stream)
        stream.synchronize()
        np.testing.assert_array_equal(exact(recorded), 2 * exact(eager))

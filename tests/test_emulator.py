"""The emulator itself: what it catches, what it tells of every thread, and its words for learners.

Whether our kernels are right is asked in test_cuda_kernels.py.
"""

import threading
from collections import Counter

import numpy as np
import pytest

from tinygrad_tfm import emulator
from tinygrad_tfm.kernels.cuda_source import source, source_of

pytestmark = pytest.mark.skipif(not emulator.COMPILER, reason="kernels run on the CPU only with g++, on Linux")

ODD = """
#include "warp.cuh"
extern "C" __global__ void __launch_bounds__(64)
writes_beyond(float* x, int n) { x[threadIdx.x] = n; }
extern "C" __global__ void __launch_bounds__(64)
reads_beyond(const float* x, float* y, int n) { y[threadIdx.x] = x[threadIdx.x + 1]; }
extern "C" __global__ void __launch_bounds__(64)
waits_for_its_warp(float* x, int n) { if (threadIdx.x == 1) __syncthreads(); else __syncwarp(); }
extern "C" __global__ void __launch_bounds__(64)
shared_is_unset(float* x, int n) { __shared__ float s[64]; x[threadIdx.x] = s[threadIdx.x]; s[threadIdx.x] = 1; }
extern "C" __global__ void __launch_bounds__(64)
meets(float* x, int n) {
    x[thread()] = warp_max(x[thread()], 2);
    __syncthreads();
    __syncwarp();
}
"""


@pytest.fixture(scope="module")
def odd():
    return emulator.Module(source_of(ODD))


def call(module, kernel, grid, block, trace=None, reversed=False, without=-1, **given):
    function = module.get_function(kernel)
    function(grid, block, function.kernel.arguments(**given), trace=trace, reversed=reversed, without=without)


def test_it_catches_what_a_gpu_would_let_pass(odd):
    x = np.zeros(8, np.float32)
    call(odd, "writes_beyond", (1,), (8,), x=x, n=3)
    assert (x == 3).all()
    with pytest.raises(RuntimeError, match="writes_beyond wrote outside an array of shape \\(7,\\)"):
        call(odd, "writes_beyond", (1,), (8,), x=np.zeros(7, np.float32), n=3)
    y = np.full(8, np.nan, np.float32)
    call(odd, "reads_beyond", (1,), (8,), x=x, y=y, n=0)
    assert np.isnan(y).tolist() == [False] * 7 + [True]
    with pytest.raises(RuntimeError, match="waits_for_its_warp: threads wait for each other in vain"):
        call(odd, "waits_for_its_warp", (1,), (2,), x=x, n=0)
    x = np.zeros(64, np.float32)
    call(odd, "shared_is_unset", (2,), (64,), x=x, n=0)
    assert np.isnan(x).all()


def test_it_refuses_what_a_gpu_would_refuse_or_misread(odd):
    x = np.zeros(64, np.float32)
    with pytest.raises(ValueError, match="writes_beyond takes 64 threads a block, not 65"):
        call(odd, "writes_beyond", (1,), (65,), x=x, n=0)
    kernel = odd.get_function("writes_beyond")
    with pytest.raises(TypeError, match="writes_beyond: n: CuPy would not pass 3 as meant"):
        kernel((1,), (8,), (x, 3))
    with pytest.raises(ValueError, match="does not lie in one piece"):
        kernel((1,), (8,), (np.asfortranarray(np.zeros((8, 8), np.float32)), np.int32(3)))


def test_every_thread_begins_meets_the_others_goes_on_and_ends(odd):
    trace, x = [], np.arange(64, dtype=np.float32)
    call(odd, "meets", (2,), (32,), trace, x=x, n=0)
    assert x.tolist() == [i | 1 for i in range(64)]
    one = [m.event for m in trace if m[:3] == (1, 0, 7)]
    assert one == ["begins", "shuffle", "goes on", "syncthreads", "goes on", "syncwarp", "goes on", "ends"]
    assert Counter(m.event for m in trace) == {"begins": 64, "shuffle": 64, "syncthreads": 64, "syncwarp": 64,
                                               "goes on": 192, "ends": 64}
    assert [m.block for m in trace] == sorted(m.block for m in trace)


@pytest.mark.parametrize("reversed", [False, True])
def test_the_last_to_arrive_goes_on_at_once_and_the_first_after_it(odd, reversed):
    trace, lanes = [], list(range(32))[::-1 if reversed else 1]
    call(odd, "meets", (1,), (32,), trace, reversed=reversed, x=np.zeros(32, np.float32), n=0)
    arrivals = [(0, 0, lane, event) for lane in lanes for event in ("begins", "shuffle")]
    assert trace[:67] == [*arrivals, (0, 0, lanes[-1], "goes on"), (0, 0, lanes[-1], "syncthreads"),
                          (0, 0, lanes[0], "goes on")]


def test_at_a_barrier_everybody_waits_for_everybody(odd):
    """The texts' barriers are numbered from 0: that of `meets` is the third."""
    for without, begun in (-1, 64), (2, 32):                       # without it one warp is through by itself
        trace = []
        call(odd, "meets", (1,), (64,), trace, without=without, x=np.zeros(64, np.float32), n=0)
        events = [m.event for m in trace]
        assert events[:events.index("ends")].count("begins") == begun


def test_what_happened_is_told_of_threads_that_wait_in_vain_too(odd):
    trace = []
    with pytest.raises(RuntimeError, match="in vain"):
        call(odd, "waits_for_its_warp", (1,), (3,), trace, x=np.zeros(3, np.float32), n=0)
    assert [m[2:] for m in trace] == [(0, "begins"), (0, "syncwarp"), (1, "begins"), (1, "syncthreads"),
                                      (2, "begins"), (2, "syncwarp")]


def test_a_trace_changes_no_number_and_is_left_alone_by_the_next_run(odd):
    results, trace = [], []
    for asked in (trace, None):
        x = np.random.default_rng(0).standard_normal(64).astype(np.float32)
        call(odd, "meets", (2,), (32,), asked, x=x, n=0)
        results.append((x.tolist(), len(trace)))
    assert results[0] == results[1] and len(trace) == 64 * 8


def test_bf16_rounds_as_numpys():
    bf16 = pytest.importorskip("ml_dtypes", reason="NumPy has no bfloat16: pip install 'tinygrad_tfm[test]'").bfloat16
    x = np.random.default_rng(0).integers(0, 2**32, 4096, dtype=np.uint32).view(np.float32)
    ties = np.array([0, -0.0, np.inf, -np.inf, 1 + 2**-8, 1 + 3 * 2**-8, 3.4e38], np.float32)
    x = np.concatenate([x[~np.isnan(x)], ties])
    ids, y = np.zeros(1, np.int64), np.full(len(x), np.nan, bf16)
    call(emulator.Module(source("embedding", "bfloat16")), "embedding", (1,), (128,), ids=ids, table=x, y=y, V=1,
         D=len(x), n=len(x))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(y.view(np.uint16) & 0x7FFF, x.astype(bf16).view(np.uint16) & 0x7FFF)


def test_a_text_that_is_no_kernel_is_returned_with_the_compilers_words():
    wrong = 'extern "C" __global__ void __launch_bounds__(32)\ntypo(float* x) {\n    x[0] = thred();\n}\n'
    with pytest.raises(RuntimeError, match="g\\+\\+ does not accept this kernel:\n(.*\n)*yours.cu:3.*thred"):
        emulator.Module(source_of(wrong))


def test_without_a_compiler_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(emulator, "COMPILER", None)
    with pytest.raises(RuntimeError, match="takes the compiler g\\+\\+, on Linux: apt install g\\+\\+"):
        emulator.Module(source("gelu"))


def test_two_threads_take_turns(odd):
    found = []

    def work():
        x = np.random.default_rng(0).standard_normal(64).astype(np.float32)
        call(odd, "meets", (4,), (32,), None, x=x, n=0)
        found.append(x.tolist())
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and found == found[:1] * 8

"""The GPU for the tests in this folder, as TINYGRAD_TFM_GPU says: "stand-in", the stand-in, which tests the tests;
"required", no test may be skipped for want of a GPU; "without-pool", each array has memory of its own besides, so that
compute-sanitizer sees who reads beyond its array."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import standin

from tinygrad_tfm.gpu import cuda


@pytest.fixture(scope="session", autouse=True)
def cupy():
    """CuPy with a GPU that it has been seen to find; without one, the tests are skipped with its word."""
    wanted = os.environ.get("TINYGRAD_TFM_GPU", "")
    if wanted == "stand-in":
        with standin.install() as module:
            yield module
        return
    try:
        module = cuda()
    except (ImportError, RuntimeError) as error:
        if wanted in ("required", "without-pool"):
            raise
        pytest.skip(str(error))
    if wanted == "without-pool":
        module.cuda.set_allocator(None)
    yield module

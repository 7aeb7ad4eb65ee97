"""The GPU for the tests in this folder; with TINYGRAD_TFM_GPU=stand-in the stand-in, which tests the tests."""

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
    if os.environ.get("TINYGRAD_TFM_GPU") == "stand-in":
        with standin.install() as module:
            yield module
        return
    try:
        module = cuda()
    except (ImportError, RuntimeError) as error:
        pytest.skip(str(error))
    yield module

"""What several test files share."""

import os

import pytest

from tinygrad_tfm import tensor
from tinygrad_tfm.kernels import precision


@pytest.fixture(scope="session")
def torch():
    """PyTorch, to compare with. Without it such tests are skipped, unless TINYGRAD_TFM_ORACLE=required."""
    try:
        import torch
    except ImportError:
        if os.environ.get("TINYGRAD_TFM_ORACLE") == "required":
            raise
        pytest.skip("PyTorch is not installed: pip install 'tinygrad_tfm[oracle]'")
    torch.set_num_threads(1)                                            # at these sizes more threads only wait
    return torch


@pytest.fixture
def launched():
    """How often each kernel has been launched in this test, on the stand-in."""
    import standin
    with standin.count_launches() as counter:
        yield counter


@pytest.fixture(autouse=True)
def switches_are_put_back():
    """No test leaves the engine's switches other than it found them."""
    switches = (tensor._recording, tensor._keep_inputs, tensor._fused, tensor._watchers, tensor.scope,
                precision._precision)
    before = [switch.get() for switch in switches]
    yield
    assert [switch.get() for switch in switches] == before

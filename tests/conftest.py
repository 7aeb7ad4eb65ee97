"""What several test files share."""

import os

import pytest


@pytest.fixture(scope="session")
def torch():
    """PyTorch, to compare with. Without it such tests are skipped, unless TINYGRAD_TFM_ORACLE=required."""
    try:
        import torch
    except ImportError:
        if os.environ.get("TINYGRAD_TFM_ORACLE") == "required":
            raise
        pytest.skip("PyTorch is not installed: pip install 'tinygrad_tfm[oracle]'")
    return torch

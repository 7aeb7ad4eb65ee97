"""Numbers, tensors and weights drawn for tests: always the same, and none of them special."""

import numpy as np

import tinygrad_tfm as tg


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def leaf(*shape, seed=0):
    return tg.Tensor(normal(*shape, seed=seed), requires_grad=True)


def lively(module):
    """In double precision, with weights large enough that every part matters to the last digits."""
    rng = np.random.default_rng(4)
    module.to(dtype="float64")
    for _, x in module.named_parameters():
        x.data += 0.3 * rng.standard_normal(x.shape)
    return module

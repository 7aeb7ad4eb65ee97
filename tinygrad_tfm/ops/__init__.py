"""Floor 2: every operation, as a rule on arrays.

A rule takes arrays by position and settings by keyword. It returns its value and the way back: either one function
from the gradient of the value to the gradients of all inputs, or a tuple with one function per input, so that an
input which needs no gradient keeps nothing alive.

    def mul(a, b):
        return a * b, (lambda g: g * b, lambda g: g * a)

Rules know nothing of tensors, graphs or devices, and never undo broadcasting: a gradient has the shape of the
*broadcast* input, and the engine sums it back on the edge. They are written with what arrays and Tensors share
(operators, `.sum(axis=…)`, `namespace(x).exp`), so the same text, run on Tensors, differentiates a second time.

`elementwise` is where to start, `network` holds softmax, norms, losses and attention. Read next: `tensor.py`.
"""

from .elementwise import (
    absolute, add, astype, clip, cos, div, erf, exp, gelu, gelu_tanh, identity, log, log1p, maximum, minimum,
    mul, neg, power, relu, rsqrt, sigmoid, silu, sin, softplus, sqrt, sub, tanh, where,
)
from .network import (
    attention, binary_cross_entropy, cross_entropy, dropout, embedding, layer_norm, log_softmax, mse, nll,
    rms_norm, softmax,
)
from .products import einsum, matmul, outer
from .reductions import cumsum, logsumexp, mean, reduce_max, reduce_min, reduce_prod, reduce_sum, std, var
from .shapes import (
    broadcast_to, concat, expand_dims, flip, getitem, pad, place, repeat, reshape, roll, squeeze, stack,
    swapaxes, take_along_axis, transpose, tril, triu,
)

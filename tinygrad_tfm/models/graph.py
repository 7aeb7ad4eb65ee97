"""Graphs: nodes are tokens, and edges are where they may look. Without order there are no positions.

What a node's place in the graph is, a structural encoding says instead, made from the edges alone.
"""

from collections.abc import Callable
from typing import Any

from .. import functional as F
from ..backend import DEFAULT_DTYPE, Array, namespace
from ..errors import positive
from ..nn import EncoderBlock, LayerNorm, Linear, Module
from ..tensor import Tensor, as_array


def with_itself(adjacency: Array) -> Array:
    """The mask under which a node sees its neighbours and itself.     (B, N, N) bool → (B, N, N)"""
    xp = namespace(adjacency)
    return adjacency | xp.eye(adjacency.shape[-1], dtype=bool)


def everyone(adjacency: Array) -> Array:
    """The mask under which a node sees all others, neighbours or not (and padding): to measure what edges are worth."""
    return namespace(adjacency).ones_like(adjacency)


def structure(adjacency: Array, steps: int, dtype: Any = DEFAULT_DTYPE) -> Array:
    """ln(1 + degree), then how likely a walk of 2 … `steps` + 1 random steps ends where it began: (RW^k)ᵢᵢ, RW = D⁻¹A.

    (B, N, N) bool → (B, N, 1 + steps). The same for a node however nodes are numbered, which eigenvectors with their
    free signs are not. (Dwivedi et al. 2021, arXiv:2110.07875)
    """
    xp, edges = namespace(adjacency), adjacency.astype(dtype)
    degree = edges.sum(axis=-1)
    walk = edges / xp.maximum(degree, 1)[..., None]
    power, columns = walk, [xp.log1p(degree)]
    for _ in range(steps):
        power = power @ walk
        columns.append(xp.diagonal(power, axis1=-2, axis2=-1))
    return xp.stack(columns, axis=-1)


class GraphTransformer(Module):
    """logits = norm(blocks(x·E + structure(A)·S + b))·W + c for every node, each block under the mask A + I.

    features (B, N, C), adjacency (B, N, N) bool → (B, N, classes); A[i, j] says that i looks at j. After L blocks a
    node knows the features of those up to L edges away. A graph is padded with nodes without edges, which nobody sees.
    `sees` makes the mask.
    (Dwivedi & Bresson 2020, arXiv:2012.09699, §2; A in softmax as in Veličković et al. 2017, arXiv:1710.10903, §2.1)

    Raises TypeError for an adjacency that is not boolean, ValueError for one of another shape.
    """

    def __init__(self, inputs: int, classes: int, layers: int, heads: int, width: int, *, steps: int = 8,
                 sees: Callable[[Array], Array] = with_itself, **block: Any):
        positive("GraphTransformer", layers=layers, steps=steps)
        self.steps = steps
        self.sees = sees
        self.embed = Linear(inputs, width)
        self.structure = Linear(1 + steps, width, bias=False)
        self.blocks = [EncoderBlock(width, heads, **block) for _ in range(layers)]
        self.norm = LayerNorm(width)
        self.head = Linear(width, classes)

    def forward(self, features: Any, adjacency: Any) -> Tensor:
        x, edges = Tensor(as_array(features)), as_array(adjacency)
        if edges.dtype != bool:
            raise TypeError(f"an adjacency is boolean, True where an edge is, not {edges.dtype}")
        B, N = x.shape[:2]
        if edges.shape != (B, N, N):
            raise ValueError(f"the adjacency of {B} graphs of {N} nodes is {(B, N, N)}, not {edges.shape}")
        x = self.embed(x)
        x = x + self.structure(Tensor(structure(edges, self.steps, x.dtype)))
        allowed = self.sees(edges)[:, None]                             # the same for all heads
        for block in self.blocks:
            x = block(x, mask=allowed)
        return self.head(self.norm(x))

    def loss(self, features: Any, adjacency: Any, targets: Any) -> Tensor:
        """Mean cross-entropy in nats of the nodes' classes (B, N); a target of −100 does not count."""
        return F.cross_entropy(self(features, adjacency), targets=targets)

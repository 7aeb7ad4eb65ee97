"""Two encoders, one space: CLIP. A picture and its name come to lie close, and naming a class is enough to find it.

What the encoders are is left open: a `Classifier` is one, its "classes" being the axes of the space.
"""

import math
from typing import Any

from .. import functional as F
from ..backend import namespace
from ..nn import Module, init
from ..tensor import Tensor

SHARPEST = 100.0                                            # CLIP's scores are scaled by no more (§2.5)


def normalised(x: Tensor) -> Tensor:
    """x/|x| along the last axis, so that a product of two is the cosine of their angle.     (..., D) → (..., D)"""
    return x * F.rsqrt((x * x).sum(axis=-1, keepdims=True) + 1e-12)


def contrastive_loss(a: Tensor, b: Tensor, scale: Any = 1.0) -> Tensor:
    """y = ½·(CE(s) + CE(sᵀ)), s = scale·a·bᵀ, the target of row i being i.     (B, D), (B, D) → ()

    Each a is to find its b among all of the batch, and each b its a. (InfoNCE, van den Oord et al. 2018,
    arXiv:1807.03748, eq. 4; both ways: Radford et al. 2021, fig. 3)

    Raises ValueError if a and b are not pairs.
    """
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"contrastive_loss: row i of a belongs to row i of b, but they are {a.shape} and {b.shape}")
    scores, pairs = a @ b.T * scale, namespace(a.data).arange(len(a))
    return (F.cross_entropy(scores, targets=pairs) + F.cross_entropy(scores.T, targets=pairs)) * 0.5


class ContrastivePair(Module):
    """scores = e^τ·a·bᵀ, a = image(x)/|image(x)|, b = text(ids)/|text(ids)|.     (B images), (C texts) → (B, C)

    `image` and `text` are encoders that give one vector of the same D each. τ is trained and starts from e^τ = 1/0.07;
    e^τ is 100 at most. To classify, write down the names of the classes: the best score in a row names the image, and
    no class need have been trained as such. (CLIP: Radford et al. 2021, arXiv:2103.00020, §2.3–2.5, §3.1)
    """

    def __init__(self, image: Module, text: Module):
        self.image = image
        self.text = text
        self.log_scale = Tensor(init.zeros().data + math.log(1 / 0.07), requires_grad=True)

    def scale(self) -> Tensor:
        """e^τ, by which cosines are multiplied: the inverse of a temperature."""
        return F.exp(F.minimum(self.log_scale, math.log(SHARPEST)))

    def embed(self, images: Any, ids: Any, mask: Any = None) -> tuple[Tensor, Tensor]:
        """Images and texts as points on the unit sphere: (B, D) and (C, D). The mask (C, T) is the texts'."""
        return normalised(self.image(images)), normalised(self.text(ids, mask))

    def forward(self, images: Any, ids: Any, mask: Any = None) -> Tensor:
        a, b = self.embed(images, ids, mask)
        return a @ b.T * self.scale()

    def loss(self, images: Any, ids: Any, mask: Any = None) -> Tensor:
        """The contrastive loss in nats of a batch in which image i and text i are a pair."""
        return contrastive_loss(*self.embed(images, ids, mask), self.scale())

"""The vision transformer: an image is a sequence of small squares, and an encoder reads it as it would a text."""

from typing import Any

from .. import functional as F
from ..errors import positive
from ..nn import EncoderBlock, LayerNorm, LearnedPositions, Linear, Module, init
from ..tensor import Tensor, as_array
from .encoder import Classifier, Encoder, first_token


def patches(images: Tensor, side: int) -> Tensor:
    """Images cut into squares, each a row of its pixels, from left to right and top to bottom.

    (B, height, width) or (B, height, width, C) → (B, N, side²·C). Raises ValueError if squares do not fill the image.
    """
    B, height, width, *channels = images.shape
    if height % side or width % side:
        raise ValueError(f"patches: an image of {height} × {width} cannot be cut into squares of {side}")
    row = side * (channels[0] if channels else 1)
    grid = images.reshape(B, height // side, side, width // side, row).swapaxes(2, 3)
    return grid.reshape(B, -1, side * row)


class Patches(Module):
    """x = [cls; patches·E + b]: a trained vector first, then one for each square of the image.

    (B, height, width) or (B, height, width, C) → (B, 1 + N, D). (Dosovitskiy et al. 2020, arXiv:2010.11929, eq. 1)
    """

    def __init__(self, side: int, width: int, channels: int = 1):
        positive("Patches", side=side, width=width, channels=channels)
        self.side = side
        self.project = Linear(side * side * channels, width)
        self.cls = init.normal(1, 1, width)

    def forward(self, images: Any) -> Tensor:
        x = self.project(patches(Tensor(as_array(images)), self.side))
        return F.concat([F.broadcast_to(self.cls, (len(x), 1, x.shape[2])), x], axis=1)


def VisionTransformer(image: int, patch: int, classes: int, layers: int, heads: int, width: int, *, channels: int = 1,
                      positions: Module | None = None, pre_norm: bool = True, dropout: float = 0.0,
                      **block: Any) -> Classifier:
    """An encoder of square patches whose first position, the trained one, gives the answer.

    images (B, image, image[, channels]) → (B, classes). `positions` gives 1 + N of them, N = (image/patch)², and is
    learned unless given. (Dosovitskiy et al. 2020, arXiv:2010.11929, §3.1)
    """
    positive("VisionTransformer", image=image, patch=patch, layers=layers)
    positions = positions or LearnedPositions(1 + (image // patch) ** 2, width)
    blocks = [EncoderBlock(width, heads, pre_norm=pre_norm, dropout=dropout, **block) for _ in range(layers)]
    norm = LayerNorm(width) if pre_norm else None
    encoder = Encoder(Patches(patch, width, channels), positions, blocks, norm, dropout)
    return Classifier(encoder, width, classes, pool=first_token)

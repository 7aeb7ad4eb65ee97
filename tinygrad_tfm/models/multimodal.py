"""One sequence of two kinds: the squares of an image, then the words of a question. The encoder is the one of texts."""

from typing import Any

from .. import functional as F
from ..backend import namespace
from ..errors import positive
from ..nn import Embedding, EncoderBlock, LayerNorm, LearnedPositions, Module
from ..tensor import Tensor, as_array
from .encoder import Classifier, Encoder, first_token
from .vision import Patches


class ImageAndText(Module):
    """x = [cls; patches; tokens], each made a vector of D by its own kind's part.   images, (B, T) → (B, 1 + N + T, D)

    Raises ValueError if there is not one text for each image.
    """

    def __init__(self, image: Module, text: Module):
        self.image = image
        self.text = text

    def forward(self, both: tuple[Any, Any]) -> Tensor:
        images, words = self.image(both[0]), self.text(both[1])
        if len(images) != len(words):
            raise ValueError(f"each image has its text, here are {len(images)} images and {len(words)} texts")
        return F.concat([images, words], axis=1)


class Answerer(Module):
    """P(answer | image, question) = softmax(classifier([cls; image; question])).     images, (B, T) → (B, answers)

    The mask (B, T) is the question's, True where a token stands; the image's `seen` tokens are never hidden. Which half
    a token belongs to is known from its position. (ViLT: Kim et al. 2021, arXiv:2102.03334, §3.1; there a vector for
    the kind is added too.)
    """

    def __init__(self, classifier: Classifier, seen: int):
        self.classifier = classifier
        self.seen = seen

    def forward(self, images: Any, ids: Any, mask: Any = None) -> Tensor:
        if mask is not None:
            question = as_array(mask)
            xp = namespace(question)
            mask = xp.concatenate([xp.ones((len(question), self.seen), bool), question], axis=1)
        return self.classifier((images, ids), mask)

    def loss(self, images: Any, ids: Any, targets: Any, mask: Any = None) -> Tensor:
        """Mean cross-entropy in nats of the answers (B,)."""
        return F.cross_entropy(self(images, ids, mask), targets=targets)


def ImageQuestion(image: int, patch: int, vocab: int, context: int, answers: int, layers: int, heads: int, width: int,
                  *, channels: int = 1, dropout: float = 0.0, **block: Any) -> Answerer:
    """The usual parts: squares of `patch` of a square image, up to `context` tokens of a question, pre-norm blocks.

    Positions are learned, one table for the whole sequence; the trained first token gives the answer.
    """
    positive("ImageQuestion", image=image, patch=patch, context=context, layers=layers)
    seen = 1 + (image // patch) ** 2
    embed = ImageAndText(Patches(patch, width, channels), Embedding(vocab, width))
    blocks = [EncoderBlock(width, heads, dropout=dropout, **block) for _ in range(layers)]
    encoder = Encoder(embed, LearnedPositions(seen + context, width), blocks, LayerNorm(width), dropout)
    return Answerer(Classifier(encoder, width, answers, pool=first_token), seen)

"""Floor 6: models, each a short composition of the blocks in `nn/`."""

from .decoder import Decoder, DecoderConfig
from .encoder import Classifier, Encoder, MaskedLM, TokenEncoder
from .recurrent import RecurrentLM, RecurrentSeq2Seq
from .seq2seq import CrossDecoder, EncoderDecoder, Transformer
from .vision import VisionTransformer

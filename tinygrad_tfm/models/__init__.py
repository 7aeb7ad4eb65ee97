"""Floor 6: models, each a short composition of the blocks in `nn/`."""

from .contrastive import ContrastivePair, contrastive_loss
from .decoder import Decoder, DecoderConfig
from .encoder import Classifier, Encoder, MaskedLM, TokenEncoder
from .graph import GraphTransformer
from .multimodal import Answerer, ImageQuestion
from .recurrent import RecurrentLM, RecurrentSeq2Seq
from .seq2seq import CrossDecoder, EncoderDecoder, Transformer
from .series import Forecaster, frames, spectrogram
from .vision import VisionTransformer

"""Floor 6: models, each a short composition of the blocks in `nn/`."""

from .decoder import Decoder, DecoderConfig
from .recurrent import RecurrentLM, RecurrentSeq2Seq

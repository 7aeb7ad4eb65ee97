"""Floor 5: layers with weights. `module` finds the weights, `layers` are the small parts, `attention` and `blocks`
put a transformer together, `positions` says where a token stands, `init` draws the first weights. `recurrent` and
`additive` are what there was before: networks that carry a state, and the first attention. Cheaper ways to attend stand
in `efficient/`, imported by who wants them."""

from . import init
from .additive import AdditiveAttention, AttendingCell, Memory
from .attention import Attention
from .blocks import Block, DecoderBlock, EncoderBlock, FeedForward
from .cache import KVCache
from .layers import Dropout, Embedding, LayerNorm, Linear, RMSNorm, Sequential
from .module import Module
from .positions import (
    ALiBi,
    LearnedPositions,
    NoPositions,
    Positions,
    RelativeBias,
    Rotary,
    SinusoidalPositions,
    SinusoidalPositions2D,
)
from .recurrent import GRU, LSTM, RNN, Bidirectional, Cell, GRUCell, LSTMCell, Recurrent, RNNCell, State

from .interface import Encoder as Encoder
from .interface import EncoderKind as EncoderKind
from .interface import EncoderOutput as EncoderOutput
from .systems.table import SYSTEMS as SYSTEMS
from .table import ENCODERS as ENCODERS
from .table import build_encoder as build_encoder
from .table import encoder_options as encoder_options

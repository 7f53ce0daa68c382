from .blocks import run_blocks as run_blocks
from .maps import Settings as Settings
from .record import TokensRecord as TokensRecord
from .run import chosen_places as chosen_places
from .run import demo_record as demo_record
from .run import run_tokens as run_tokens

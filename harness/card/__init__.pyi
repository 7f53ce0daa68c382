from .make import make_card as make_card
from .make import measured as measured
from .verify import AGREE as AGREE
from .verify import DIFFERS as DIFFERS
from .verify import DISAGREE as DISAGREE
from .verify import compare_times as compare_times
from .verify import named as named
from .verify import verify_card as verify_card

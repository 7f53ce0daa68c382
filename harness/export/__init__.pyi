from .parts import named_tensors as named_tensors
from .run import Settings as Settings
from .run import export as export
from .run import relative_errors as relative_errors
from .session import RUNTIMES as RUNTIMES
from .session import Session as Session
from .session import check_packages as check_packages
from .session import make_session as make_session

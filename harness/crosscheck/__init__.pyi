from .run import COUNTERS as COUNTERS
from .run import REASONS as REASONS
from .run import cross_check as cross_check
from .run import cross_check_record as cross_check_record
from .run import crosscheck_subject as crosscheck_subject

from .check import check_paper as check_paper
from .plan import Plan as Plan
from .plan import read_plan as read_plan
from .values import paper_values as paper_values

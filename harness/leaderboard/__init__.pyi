from .rows import distinct_models as distinct_models
from .rows import leaderboard as leaderboard
from .rows import usual_size as usual_size

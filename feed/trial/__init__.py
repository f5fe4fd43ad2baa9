"""Who is better, champion or challenger: the paired, always-valid test between two versions. Pure.

    examples ─► evidence (rows shown by chance) ─► Scorer x 2 ─► calibration ─► difference ─► confidence sequence ─► verdict

`Comparison` accumulates, `judge` decides a trial, `judge_return` whether a promoted version goes back, `level` says how sure a
promotion must be. `LastSeen` is the catalogue that rankings are made over.
"""

from feed.trial.catalogue import LOOKBACK, LastSeen
from feed.trial.comparison import Comparison, Outcome
from feed.trial.levels import level
from feed.trial.scoring import Scorer
from feed.trial.verdict import Verdict, give_up, judge, judge_return

__all__ = ["LOOKBACK", "Comparison", "LastSeen", "Outcome", "Scorer", "Verdict", "give_up", "judge", "judge_return", "level"]

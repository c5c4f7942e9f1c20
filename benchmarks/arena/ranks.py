"""Mean ranks with their critical difference (Demsar 2006): Friedman's test, then Nemenyi's.

Takes one value for every rule on every table, lower is better; gives mean ranks, and how far apart two must lie.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import friedmanchisquare, rankdata, studentized_range

ALPHA = 0.05
Array = NDArray[np.float64]


def mean_ranks(values_NR: Array) -> Array:
    """Return every rule's mean rank over the tables; ties share theirs."""
    return rankdata(values_NR, axis=1).mean(axis=0)


def critical_difference(num_rules: int, num_tables: int, alpha: float = ALPHA) -> float:
    """Return Nemenyi's critical difference of mean ranks."""
    quantile = float(studentized_range.ppf(1 - alpha, num_rules, np.inf)) / math.sqrt(2)
    return quantile * math.sqrt(num_rules * (num_rules + 1) / (6 * num_tables))


def friedman_p(values_NR: Array) -> float:
    """Return the chance of ranks as different as these where no rule differs; 1 where all values are equal.

    The test wants three rules: nan for two.
    """
    if values_NR.shape[1] < 3:  # noqa: PLR2004 - what Friedman's test needs
        return math.nan
    if np.ptp(values_NR, axis=1).max() == 0:
        return 1.0
    return float(friedmanchisquare(*values_NR.T).pvalue)

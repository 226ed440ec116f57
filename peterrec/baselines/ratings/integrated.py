"""Koren's integrated model: biases, SVD++ and the learned neighbourhood in one sum."""

from typing import ClassVar

from peterrec.baselines.ratings.learned import Learned


class Integrated(Learned):
    """All three tiers, learned together (Koren, KDD 2008, §5, eq. 16)."""

    has_factors: ClassVar[bool] = True
    implicit: ClassVar[bool] = True
    has_neighbours: ClassVar[bool] = True
    # as in the paper (a seventh there) slower than alone: the many weights of neighbours would fit what factors can say
    neighbour_rate: ClassVar[float] = 0.1

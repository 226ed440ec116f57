"""Koren's integrated model: biases, SVD++ and the learned neighbourhood in one sum."""

from typing import ClassVar

from peterrec.baselines.ratings.learned import Learned


class Integrated(Learned):
    """All three tiers, learned together (Koren, KDD 2008, §5, eq. 16)."""

    has_factors: ClassVar[bool] = True
    implicit: ClassVar[bool] = True
    has_neighbours: ClassVar[bool] = True

"""A neighbourhood whose weights are learned, for all users together."""

from typing import ClassVar

from peterrec.baselines.ratings.learned import Learned


class Neighbourhood(Learned):
    """μ + b_u + b_i + |R^k(i;u)|^−½ Σ (r_uj − b_uj) w_ij + |N^k(i;u)|^−½ Σ c_ij (Koren, KDD 2008, §3, eq. 10).

    The b_uj are those of `BiasBaseline` and stay as they are; weights are kept for the k most similar items of each
    item alone.
    """

    has_neighbours: ClassVar[bool] = True

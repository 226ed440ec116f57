"""SVD++: latent factors of a user that also follow from what the user chose."""

from typing import ClassVar

from peterrec.baselines.ratings.learned import Learned


class SVDPlusPlus(Learned):
    """μ + b_u + b_i + q_i · (p_u + |N(u)|^−½ Σ_{j∈N(u)} y_j) (Koren, KDD 2008, §4, eq. 15).

    N(u) are the rated items, the predicted one among them in training, as published, and those of `Ratings.implicit`.
    """

    has_factors: ClassVar[bool] = True
    implicit: ClassVar[bool] = True

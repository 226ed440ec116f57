"""Latent factors beside the biases, known as SVD."""

from typing import ClassVar

from peterrec.baselines.ratings.learned import Learned


class LatentFactors(Learned):
    """μ + b_u + b_i + q_i · p_u (Koren, KDD 2008, §2.3)."""

    has_factors: ClassVar[bool] = True

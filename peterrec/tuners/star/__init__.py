"""STAR: weights shared by all domains, frozen or trained too, times a factor a domain (Sheng et al., CIKM 2021)."""

from peterrec.tuners.star.config import StarConfig
from peterrec.tuners.star.domain_layer import domains_told_apart
from peterrec.tuners.star.layer import StarLayer
from peterrec.tuners.star.model import StarModel
from peterrec.tuners.star.norm import StarNorm
from peterrec.tuners.star.partitioned_norm import PartitionedNorm
from peterrec.tuners.star.star_linear import StarLinear, add_star

__all__ = [
    "PartitionedNorm",
    "StarConfig",
    "StarLayer",
    "StarLinear",
    "StarModel",
    "StarNorm",
    "add_star",
    "domains_told_apart",
]

"""STAR: the frozen weights, shared by all domains, times a factor a domain (Sheng et al., CIKM 2021)."""

from peterrec.tuners.star.config import StarConfig
from peterrec.tuners.star.layer import StarLayer
from peterrec.tuners.star.model import StarModel
from peterrec.tuners.star.norm import StarNorm

__all__ = ["StarConfig", "StarLayer", "StarModel", "StarNorm"]

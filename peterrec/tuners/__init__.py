"""Tuners: peft methods for user encoders. Importing this package makes them known to peft."""

from peterrec.tuners.patch import PatchConfig, PatchLayer, PatchModel
from peterrec.tuners.patch.config import NAME as PATCH
from peterrec.tuners.registration import register
from peterrec.tuners.star import StarConfig, StarLayer, StarModel, StarNorm
from peterrec.tuners.star.config import NAME as STAR

register(PATCH, PatchConfig, PatchModel)
register(STAR, StarConfig, StarModel)

__all__ = ["PatchConfig", "PatchLayer", "PatchModel", "StarConfig", "StarLayer", "StarModel", "StarNorm"]

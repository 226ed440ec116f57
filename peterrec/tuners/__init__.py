"""Tuners: peft methods for user encoders. Importing this package makes them known to peft."""

from peterrec.tuners.patch import PatchConfig, PatchLayer, PatchModel
from peterrec.tuners.patch.config import NAME
from peterrec.tuners.registration import register

register(NAME, PatchConfig, PatchModel)

__all__ = ["PatchConfig", "PatchLayer", "PatchModel"]

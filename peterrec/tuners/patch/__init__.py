"""Model patches: small bottlenecks inside a frozen encoder (PeterRec, SIGIR 2020)."""

from peterrec.tuners.patch.config import PatchConfig
from peterrec.tuners.patch.layer import PatchLayer
from peterrec.tuners.patch.model import PatchModel
from peterrec.tuners.patch.norm import NormLayer

__all__ = ["NormLayer", "PatchConfig", "PatchLayer", "PatchModel"]

"""User encoders: item sequence in, one hidden state a position and one vector a user out."""

from transformers import AutoConfig, AutoModel

from peterrec.encoders.config import NextItNetConfig
from peterrec.encoders.nextitnet import NextItNet

AutoConfig.register(NextItNetConfig.model_type, NextItNetConfig, exist_ok=True)
AutoModel.register(NextItNetConfig, NextItNet, exist_ok=True)

__all__ = ["NextItNet", "NextItNetConfig"]

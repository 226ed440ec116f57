"""User encoders: item sequence in, one hidden state a position and one vector a user out."""

from transformers import AutoConfig, AutoModel

from peterrec.encoders.dupn import DUPN
from peterrec.encoders.dupn_config import DUPNConfig
from peterrec.encoders.grec import GRec
from peterrec.encoders.grec_config import GRecConfig
from peterrec.encoders.loading import ENCODERS
from peterrec.encoders.nextitnet import NextItNet
from peterrec.encoders.nextitnet_config import NextItNetConfig
from peterrec.encoders.pooled import PooledItems
from peterrec.encoders.pooled_config import PooledConfig
from peterrec.encoders.sasrec import SASRec
from peterrec.encoders.sasrec_config import SASRecConfig

for _config, _model in ENCODERS.values():
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)

__all__ = [
    "DUPN",
    "DUPNConfig",
    "GRec",
    "GRecConfig",
    "NextItNet",
    "NextItNetConfig",
    "PooledConfig",
    "PooledItems",
    "SASRec",
    "SASRecConfig",
]

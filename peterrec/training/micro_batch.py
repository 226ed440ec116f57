"""How much of a batch is computed at a time."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from peterrec.encoders.base import UserEncoder
from peterrec.training.settings import TrainingSettings

CACHE_BYTES = 2**22  # of one layer's activations: what processors keep in the cache that their cores share


def micro_batch(model: nn.Module, settings: TrainingSettings, *, encoder: UserEncoder | None = None) -> int | None:
    """The most positions (users × length) of a piece; None: a batch is computed whole.

    Pieces serve a processor's cache; other devices compute batches whole unless the settings say otherwise. Batches
    that go through a batch norm are never cut, since its statistics are those of a piece.
    """
    if any(isinstance(module, _BatchNorm) for module in model.modules()):
        return None
    if settings.micro_batch:
        return settings.micro_batch
    if next(model.parameters()).device.type != "cpu":
        return None
    base = model if encoder is None else encoder
    assert isinstance(base, UserEncoder)
    return max(CACHE_BYTES // (base.config.hidden_size * base.dtype.itemsize), 1)
